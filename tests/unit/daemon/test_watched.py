"""Content that takes long to store is shown on a terminal; nothing else is, and the content stays what it is."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.streams import Pieces
from tests.support.terminal import Terminal, terminal
from theta_daemon.daemon.watched import LARGE, watched
from theta_daemon.formats.source import Readable
from theta_daemon.progress import Screen


@pytest.fixture
def screen() -> Iterator[Terminal]:
    with terminal() as opened:
        yield opened


def at_once(descriptor: int) -> Screen:
    return Screen(descriptor, bar_after=0.0, bar_every=0.01, line_after=0.0, line_every=0.01)


def everything(content: Readable) -> bytes:
    buffer = memoryview(bytearray(1 << 20))
    read = b""
    while size := content.readinto(buffer):
        read += buffer[:size]
    return read


def test_a_large_file(screen: Terminal) -> None:
    data = os.urandom(LARGE + 3_000_000)
    with watched(b"a\xff\n.pt", Pieces(data), shown=True, screen=at_once(screen.descriptor)) as content:
        assert everything(content) == data
        screen.wait_for("Storing a\\xff\\n.pt: 11.4MB [00:00, ")
    assert screen.everything().endswith("\r")


def test_a_small_file(screen: Terminal) -> None:
    data = os.urandom(LARGE)
    with watched(b"a.pt", Pieces(data), shown=True, screen=at_once(screen.descriptor)) as content:
        assert everything(content) == data
    assert screen.everything() == ""


def test_not_wanted() -> None:
    original = Pieces(b"abc")
    with watched(b"a.pt", original, shown=False) as content:
        assert content is original


def test_no_lines_for_what_git_started() -> None:
    reading, writing = os.pipe()
    with watched(b"a.pt", Pieces(bytes(LARGE + 1)), shown=True, screen=at_once(writing)) as content:
        everything(content)
    os.close(writing)
    assert os.read(reading, 1) == b""
    os.close(reading)
