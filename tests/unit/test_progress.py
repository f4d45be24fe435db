"""What is shown of long work: a bar on a terminal, lines elsewhere, nothing of short work, and never at its cost."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from types import SimpleNamespace

import pytest

from tests.support.terminal import Terminal, on_screen, terminal
from theta_daemon import progress
from theta_daemon.progress import SILENT, Screen, hidden, is_unwanted, meter

AT_ONCE = {"bar_after": 0.0, "bar_every": 0.01, "line_after": 0.0, "line_every": 0.01}


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TERM", "xterm")
    yield
    assert not any(thread.name == "progress" for thread in threading.enumerate()), "a thread did not end"


@pytest.fixture
def screen() -> Iterator[Terminal]:
    with terminal() as opened:
        yield opened


class Log:
    """A standard error that is a pipe."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        self.text = ""

    def wait_for(self, what: str) -> str:
        while what not in self.text:
            self.text += os.read(self.reading, 1 << 16).decode()
        return self.text

    def everything(self) -> str:
        os.set_blocking(self.reading, False)
        with suppress(BlockingIOError):
            while data := os.read(self.reading, 1 << 16).decode():
                self.text += data
        return self.text


@pytest.fixture
def log() -> Iterator[Log]:
    opened = Log()
    yield opened
    os.close(opened.reading)
    os.close(opened.writing)


@pytest.fixture
def tried(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Return what is set as soon as something is to be written."""
    write, event = progress._Display._write, threading.Event()

    def trying(display: progress._Display, text: str) -> None:
        event.set()
        write(display, text)

    monkeypatch.setattr(progress._Display, "_write", trying)
    return event


def at_once(where: Terminal | Log) -> Screen:
    return Screen(where.descriptor if isinstance(where, Terminal) else where.writing, **AT_ONCE)


def test_a_bar(screen: Terminal) -> None:
    with meter("Fetching objects", 10, 4_000_000, screen=at_once(screen)) as shown:
        screen.wait_for("Fetching objects 0/10:   0%|")
        shown.advance(items=5, size=2_000_000)
        screen.wait_for("Fetching objects 5/10:  50%|")
        assert re.search(r"50%\|#+ +\| 2\.00M/4\.00M \[00:00<\d\d:\d\d, .*B/s\]", screen.text)


def test_the_bar_is_gone_at_the_end(screen: Terminal) -> None:
    with meter("Fetching objects", 10, 4_000_000, screen=at_once(screen)):
        screen.wait_for("Fetching objects")
    os.write(screen.descriptor, b"what git says next")
    assert on_screen(screen.everything()) == ["what git says next"]


def test_the_bar_is_gone_when_the_work_fails(screen: Terminal) -> None:
    with suppress(KeyError), meter("Fetching objects", 10, 0, screen=at_once(screen)):
        screen.wait_for("Fetching objects")
        raise KeyError
    assert on_screen(screen.everything()) == [""]


def test_no_line_of_a_terminal_is_exceeded(screen: Terminal) -> None:
    with meter("Storing " + "very/" * 100 + "model.pt", 3, 10**15, screen=at_once(screen)):
        screen.wait_for("model.pt 0/3:   0%|")
    written = screen.everything().split("\r")
    assert max(map(len, written)) == 99


@pytest.mark.parametrize(("columns", "shown"), [(0, 79), (1, 1), (2, 1), (20, 19), (40, 39), (1000, 999)])
@pytest.mark.parametrize("size", [0, 10**9], ids=["unknown", "known"])
def test_a_terminal_of_any_width(screen: Terminal, columns: int, shown: int, size: int) -> None:
    screen.resize(columns)
    with meter("Fetching objects", 3 if size else 0, size, screen=at_once(screen)) as told:
        told.advance(size=12345)
        screen.wait_for("\rFetching objects"[: shown + 1])
    lines = re.findall(r"[^\r]+", screen.everything())
    assert max(map(len, lines)) == shown
    assert on_screen(screen.text) == [""]


def test_names_of_wide_characters_do_not_exceed_a_line(screen: Terminal) -> None:
    screen.resize(40)
    with meter("Storing " + "\u6a21\u578b" * 40, 0, 10**9, screen=at_once(screen)):
        screen.wait_for("\u6a21")
    wide = [len(line) + sum(c > "\u2e80" for c in line) for line in re.findall(r"[^\r]+", screen.everything())]
    assert max(wide) == 39


def test_a_terminal_that_becomes_narrower(screen: Terminal) -> None:
    with meter("Fetching objects", 3, 10**9, screen=Screen(screen.descriptor, bar_after=0.0, bar_every=60.0)):
        screen.wait_for("B/s]")
        screen.everything_so_far()
        screen.resize(30)
    assert screen.everything() == "\r" + " " * 29 + "\r"


@pytest.mark.parametrize("lines", [True, False])
def test_a_terminal_that_cannot_write_a_line_anew(
    screen: Terminal, monkeypatch: pytest.MonkeyPatch, lines: bool
) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with meter("Fetching objects", 10, 0, lines=lines, screen=at_once(screen)) as shown:
        if lines:
            screen.wait_for("Fetching objects: 0 of 10, 0.00 items/s\r\n")
        else:
            assert shown is SILENT
    assert "\r" not in screen.everything().replace("\r\n", "\n")


def test_no_color(screen: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    with meter("Fetching objects", 10, 0, screen=at_once(screen)):
        screen.wait_for("Fetching objects")
    assert "\x1b" not in screen.everything()


def test_a_terminal_that_is_stopped(screen: Terminal, tried: threading.Event) -> None:
    termios.tcflow(screen.descriptor, termios.TCOOFF)  # Ctrl-S
    with meter("Fetching objects", 10, 0, screen=at_once(screen)) as shown:
        shown.advance(items=1)
        tried.wait(60)
        started = time.monotonic()
    assert time.monotonic() - started < 1.0
    termios.tcflow(screen.descriptor, termios.TCOON)


def test_a_terminal_that_nobody_reads(screen: Terminal, tried: threading.Event) -> None:
    os.set_blocking(screen.descriptor, False)
    with suppress(BlockingIOError):
        while True:
            os.write(screen.descriptor, bytes(4096))
    os.set_blocking(screen.descriptor, True)
    with meter("Fetching objects", 10, 0, screen=at_once(screen)) as shown:
        shown.advance(items=1)
        tried.wait(60)
        started = time.monotonic()
    assert time.monotonic() - started < 3.0


def test_how_much_there_is_need_not_be_known(screen: Terminal) -> None:
    with meter("Storing model.pt", 0, 0, screen=at_once(screen)) as shown:
        shown.advance(size=12_300_000)
        assert "%" not in screen.wait_for("Storing model.pt: 12.3MB [00:00, ")


def test_items_alone(screen: Terminal) -> None:
    with meter("Checking files", 4, 0, screen=at_once(screen)) as shown:
        shown.advance(items=1)
        screen.wait_for("Checking files:  25%|")
        assert "1/4 [" in screen.text


def test_more_than_was_said(screen: Terminal) -> None:
    with meter("Fetching objects", 1, 1000, screen=at_once(screen)) as shown:
        shown.expect(items=3, size=3000)
        shown.advance(items=1, size=1000)
        screen.wait_for("Fetching objects 1/4:  25%|")


def test_more_than_there_is(screen: Terminal) -> None:
    with meter("Fetching objects", 1, 1000, screen=at_once(screen)) as shown:
        shown.advance(items=3, size=3000)
        screen.wait_for("Fetching objects 3/1: 3.00kB")


def test_threads_count_together(screen: Terminal) -> None:
    with meter("Fetching objects", 4000, 40_000, screen=at_once(screen)) as shown:

        def work() -> None:
            for _ in range(1000):
                shown.advance(items=1, size=10)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        screen.wait_for("Fetching objects 4000/4000: 100%|")


def test_a_name_sends_nothing_to_the_terminal(screen: Terminal) -> None:
    with meter("Storing a\x1b]0;b\x07\n\udcff", 0, 0, screen=at_once(screen)):
        text = screen.wait_for("Storing a\\x1b]0;b\\x07\\n\\xff")
    assert not set(text) & {"\x1b", "\x07", "\n"}


def test_braces_in_a_name_are_no_format(screen: Terminal) -> None:
    with meter("Storing {bar}{n.__class__}", 1, 1, screen=at_once(screen)):
        screen.wait_for("Storing {bar}{n.__class__}")


def test_what_else_is_written_stays(screen: Terminal) -> None:
    with meter("Fetching objects", 10, 0, screen=at_once(screen)):
        screen.wait_for("Fetching objects")
        with hidden():
            os.write(screen.descriptor, b"a warning\n")
        before = screen.text
        screen.text = ""
        screen.wait_for("a warning\r\n")
        screen.wait_for("Fetching objects")
    assert on_screen(before + screen.everything()) == ["a warning", ""]


def test_what_is_written_within_what_is_written(screen: Terminal) -> None:
    with meter("Fetching objects", 10, 0, screen=at_once(screen)), hidden(), hidden():
        os.write(screen.descriptor, b"a warning\n")
    assert "a warning" in on_screen(screen.everything())


def test_only_the_outer_one_is_shown(screen: Terminal) -> None:
    with meter("Writing files", 10, 0, screen=at_once(screen)):
        with meter("Fetching objects", 10, 0, screen=at_once(screen)) as inner:
            assert inner is SILENT
            screen.wait_for("Writing files")
        screen.text = ""
        screen.wait_for("Writing files")
    assert "Fetching" not in screen.everything()


def test_one_after_the_other(screen: Terminal) -> None:
    for what in ("Reading metadata", "Fetching objects"):
        with meter(what, 10, 0, screen=at_once(screen)):
            screen.wait_for(what)


def test_short_work_shows_nothing(screen: Terminal, log: Log) -> None:
    for descriptor in (screen.descriptor, log.writing):
        with meter("Fetching objects", 10, 4000, screen=Screen(descriptor)) as shown:
            shown.advance(10, 4000)
    assert screen.everything() == log.everything() == ""


def test_nothing_where_it_is_not_wanted(screen: Terminal) -> None:
    with meter("Fetching objects", 10, 4000, shown=False, screen=at_once(screen)) as shown:
        assert shown is SILENT
        shown.advance(1, 1)
        shown.expect(1, 1)


def test_lines_where_there_is_no_terminal(log: Log) -> None:
    with meter("Fetching objects", 10, 4_000_000, screen=at_once(log)) as shown:
        log.wait_for("Fetching objects: 0 of 10, 0.00B of 4.00MB, 0.00B/s\n")
        shown.advance(items=5, size=2_000_000)
        log.wait_for("Fetching objects: 5 of 10, 2.00MB of 4.00MB, ")
        shown.advance(items=5, size=2_000_000)
    lines = log.everything().splitlines()
    assert re.fullmatch(r"Fetching objects: 10 of 10, 4\.00MB of 4\.00MB, \d.*B/s, done after \d\d:\d\d", lines[-1])
    assert "\r" not in log.text


def test_a_line_is_written_at_once_or_not_at_all(log: Log) -> None:
    with meter("Storing " + "\u6a21" * 10_000, 10, 0, screen=at_once(log)):
        log.wait_for("\n")
    assert 200 < max(len(line) for line in log.everything().splitlines()) < 400


def test_nothing_at_all_is_done(screen: Terminal, log: Log) -> None:
    for where in (screen, log):
        with meter("Fetching objects", 0, 0, screen=at_once(where)):
            where.wait_for("Fetching objects: 0.00B")


@pytest.mark.parametrize("step", [0.0, -1.0], ids=["stands", "goes back"])
def test_a_clock_that_does_not_go_on(screen: Terminal, log: Log, monkeypatch: pytest.MonkeyPatch, step: float) -> None:
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=count(1000.0, step).__next__))
    with meter("Fetching objects", 10, 1000, screen=at_once(screen)) as shown:
        shown.advance(1, 100)
        screen.wait_for("Fetching objects 1/10:  10%|")
        shown.advance(-1, -100)  # what came was not what was asked for
        screen.wait_for("Fetching objects 0/10:   0%|")
    with meter("Fetching objects", 10, 1000, screen=at_once(log)) as shown:
        log.wait_for("Fetching objects: 0 of 10")
        shown.advance(1, 100)
    assert "1 of 10, 100B of 1.00kB" in log.everything().splitlines()[-1]


def test_the_last_line_of_what_failed(log: Log) -> None:
    with suppress(KeyError), meter("Fetching objects", 10, 0, screen=at_once(log)):
        log.wait_for("Fetching objects: 0 of 10")
        raise KeyError
    assert "stopped after" in log.everything().splitlines()[-1]


def test_no_lines_where_only_a_bar_is_wanted(log: Log) -> None:
    with meter("Storing model.pt", 0, 0, lines=False, screen=at_once(log)) as shown:
        assert shown is SILENT


def test_the_log_of_long_work_is_short(log: Log) -> None:
    every = Screen(log.writing, line_after=0.0)  # as it is, but for the first line
    with meter("Fetching objects", 10, 0, screen=every) as shown:
        log.wait_for("\n")
        for _ in range(10):
            shown.advance(1)
    assert log.everything().count("\n") == 2


def test_a_closed_standard_error() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with meter("Fetching objects", 10, 0, screen=Screen(writing, **AT_ONCE)) as shown:
        shown.advance(1)
    os.close(writing)
    with meter("Fetching objects", 10, 0, screen=Screen(writing, **AT_ONCE)) as shown:
        shown.advance(1)


@pytest.mark.parametrize("blocking", [True, False])
def test_a_standard_error_that_nobody_reads(log: Log, blocking: bool) -> None:
    os.set_blocking(log.writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(log.writing, bytes(1 << 16))
    os.set_blocking(log.writing, blocking)
    with meter("Fetching objects", 10, 0, screen=at_once(log)) as shown:
        shown.advance(1)  # and the end of the block does not wait either


def test_no_thread_to_be_had(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuse)
        with meter("Fetching objects", 10, 0, screen=at_once(log)) as shown:
            shown.advance(1)
    with meter("Fetching objects", 10, 0, screen=at_once(log)):
        log.wait_for("Fetching")


def test_a_tqdm_that_does_not_work(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with meter("Fetching objects", 10, 0, screen=at_once(log)) as shown:
        shown.advance(1)
    assert log.everything() == ""


def test_short_work_imports_nothing() -> None:
    program = (
        "import sys\n"
        "from theta_daemon.progress import meter\n"
        "assert 'threading' not in sys.modules\n"
        "with meter('a', 1, 1) as shown: shown.advance(1, 1)\n"
        "assert 'tqdm' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-S", "-c", program], check=True, env={"PYTHONPATH": "src"})


# A session of its own with a terminal; shown on it, below a shell that has put it where `arguments` say.
PROGRAM = """
import fcntl, os, signal, subprocess, sys, termios
fcntl.ioctl(2, termios.TIOCSCTTY, 0)
settings = termios.tcgetattr(2)
settings[3] |= termios.TOSTOP
termios.tcsetattr(2, termios.TCSANOW, settings)
work = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdin=subprocess.PIPE, process_group=0)
work.stdin.close()
_, status = os.waitpid(work.pid, os.WUNTRACED)
os.killpg(work.pid, signal.SIGKILL) if os.WIFSTOPPED(status) else None
print("stopped" if os.WIFSTOPPED(status) else "ended with %d" % os.waitstatus_to_exitcode(status))
"""
WORK = """
import threading
from theta_daemon import progress
{patch}
look, looked = progress._Display._show_bar, threading.Event()
progress._Display._show_bar = lambda display: (look(display), looked.set())
screen = progress.Screen(bar_after=0.0, bar_every=0.01)
with progress.meter("Fetching objects", 10, 0, screen=screen) as shown:
    looked.wait(60)
    with progress.hidden():
        pass
"""


@pytest.mark.parametrize(
    ("patch", "shown"), [("", ""), ("progress._is_in_foreground = lambda _: True", "Fetching objects")]
)
def test_in_the_background_nothing_stops_it(screen: Terminal, patch: str, shown: str) -> None:
    """Also where the shell puts it there between a look and what is written."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, WORK.format(patch=patch)],
        env={**os.environ, "PYTHONPATH": "src"},
        stdout=subprocess.PIPE,
        stderr=screen.descriptor,
        start_new_session=True,
        check=True,
    )
    assert done.stdout == b"ended with 0\n"
    written = screen.everything()
    assert shown in written if shown else not written


def test_it_goes_on_after_a_stop(screen: Terminal) -> None:
    program = (
        "import sys\n"
        "from theta_daemon.progress import Screen, meter\n"
        "with meter('Fetching objects', 10, 0, screen=Screen(bar_after=0.0, bar_every=0.01)) as shown:\n"
        "    sys.stdin.readline()\n"
        "    shown.advance(items=7)\n"
        "    sys.stdin.readline()\n"
    )
    work = subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": "src"},
        stdin=subprocess.PIPE,
        stderr=screen.descriptor,
    )
    assert work.stdin is not None
    screen.wait_for("0/10")
    work.send_signal(signal.SIGSTOP)
    os.waitpid(work.pid, os.WUNTRACED)
    work.send_signal(signal.SIGCONT)
    work.stdin.write(b"\n")
    work.stdin.flush()
    screen.wait_for("7/10")
    work.communicate(b"\n")
    assert work.returncode == 0
    assert on_screen(screen.everything()) == [""]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], False),
        (["checkout", "main"], False),
        (["clone", "--quiet", "url"], True),
        (["clone", "-q", "url"], True),
        (["checkout", "-fq", "main"], True),
        (["checkout", "--no-progress", "main"], True),
        (["checkout", "main", "--", "-q", "--quiet"], False),
        (["commit", "-mquery"], False),
        (["-query.pt"], False),
    ],
)
def test_what_git_was_asked_for(arguments: list[str], expected: bool) -> None:
    child = "from theta_daemon.progress import is_unwanted; print(is_unwanted())"
    program = f"import subprocess, sys; subprocess.run([sys.executable, '-S', '-c', {child!r}], check=True)"
    done = subprocess.run(
        [sys.executable, "-S", "-c", program, *arguments],
        env={"PYTHONPATH": "src"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{expected}\n"


def test_git_that_is_not_to_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getppid", lambda: 0)
    assert is_unwanted() is False
