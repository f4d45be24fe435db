from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.support.terminal import on_screen, terminal
from theta_daemon.daemon.report import Reporter
from theta_daemon.errors import MetadataError
from theta_daemon.progress import Screen, meter
from theta_daemon.trace import open_trace


class Lines:
    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()

    def read(self) -> str:
        return os.read(self.reading, 65536).decode()


@pytest.fixture
def lines() -> Iterator[Lines]:
    made = Lines()
    yield made
    os.close(made.reading)
    os.close(made.writing)


def raised(error: Exception) -> Exception:
    try:
        raise error
    except Exception as caught:  # noqa: BLE001 - so that it has a traceback
        return caught


def test_one_line(lines: Lines) -> None:
    error = MetadataError("it\nis damaged", parameter="a/b", hint="restore it")
    Reporter(descriptor=lines.writing).error(raised(error), b"dir/caf\xe9\n.r")
    assert lines.read() == "theta-daemon: error: dir/caf\\xe9\\n.r: parameter 'a/b': it is damaged; restore it\n"


def test_the_path_of_whoever_knew_it_first_stays(lines: Lines) -> None:
    Reporter(descriptor=lines.writing).error(MetadataError("is damaged", path=b"inner"), b"outer")
    assert lines.read() == "theta-daemon: error: inner: is damaged\n"


def test_no_memory_is_no_bug(lines: Lines) -> None:
    Reporter(descriptor=lines.writing).error(MemoryError(), b"a")
    assert lines.read() == "theta-daemon: error: a: not enough memory\n"


def test_a_bug_is_one_line_too(lines: Lines) -> None:
    Reporter(descriptor=lines.writing).error(raised(KeyError("x\ny")), b"a")
    assert lines.read() == (
        "theta-daemon: error: a: internal error: KeyError: 'x\\ny'; please report it, with what THETA_TRACE=1 adds\n"
    )


def test_the_trace(lines: Lines) -> None:
    Reporter(descriptor=lines.writing, trace=True).error(raised(KeyError("x")), b"a")
    assert "test_report.py" in lines.read()


def test_what_cannot_be_encoded_is_escaped(lines: Lines) -> None:
    Reporter(descriptor=lines.writing).error(MetadataError("\udcff"))
    assert lines.read() == "theta-daemon: error: \\udcff\n"


def test_nobody_listens() -> None:
    Reporter(descriptor=-1).error(MetadataError("is damaged"))


def test_a_bar_is_wiped_away_first() -> None:
    with terminal() as screen:
        shown = Screen(screen.descriptor, bar_after=0.0, bar_every=60.0)
        with meter("Storing a", 0, 0, screen=shown):
            screen.wait_for("Storing a")
            Reporter(descriptor=screen.descriptor).warning(b"a", "looks odd")
            open_trace("1", screen.descriptor).event("clean")
        first, second, last = on_screen(screen.everything())
    assert (first, last) == ("theta-daemon: warning: a: looks odd", "")
    assert second.endswith(" theta-daemon: clean")
