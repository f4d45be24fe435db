"""Content that takes long to store is shown on a terminal; nothing else is, and the content stays what it is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

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


def test_what_the_file_has_is_what_is_to_come(
    screen: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    size = LARGE + 4_000_000
    with open("a.pt", "wb") as file:
        file.truncate(2 * size)
    with watched(b"a.pt", Pieces(bytes(size)), shown=True, screen=at_once(screen.descriptor)) as content:
        everything(content)
        screen.wait_for("Storing a.pt:  50%|")


@pytest.mark.parametrize("path", [b"nowhere.pt", b"a\0.pt", b"pipe", b"folder"])
def test_what_is_no_file_has_no_size(
    screen: Terminal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: bytes
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")
    os.mkdir("folder")
    with watched(path, Pieces(bytes(LARGE + 1)), shown=True, screen=at_once(screen.descriptor)) as content:
        everything(content)
        assert "%" not in screen.wait_for("B/s]")


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
