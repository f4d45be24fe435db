"""How far long work has come, for who is waiting.

On a terminal a bar that is wiped away at the end; elsewhere single lines, so few that the log of a CI run stays short.
Short work shows nothing. All of it goes to standard error and never makes the work fail or wait: what cannot be written
at once is left out.

At the bottom of all layers, so that everything may use it. Nothing is imported, and no thread runs, before something
is to be shown; tqdm, which makes the text, comes when it is.
"""

from __future__ import annotations

import os
import time
from _thread import allocate_lock
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final, Protocol

from theta_daemon.errors import printable
from theta_daemon.frozen import Frozen

if TYPE_CHECKING:
    from collections.abc import Iterator

_WINDOW: Final = 10.0  # seconds: the rate is that of the last ones
_COLUMNS: Final = 80  # where a terminal does not say how wide it is
_CHARSET: Final = " #"
_LONGEST: Final = 200  # characters of a name in a line: a line is written at once or not at all
_PATIENCE: Final = 1.0  # seconds, with a terminal that took only a part of a line


class Meter(Protocol):
    """Counts what is done of one piece of work; may be used from any thread."""

    def advance(self, items: int = 0, size: int = 0) -> None:
        """Tell that so many more items, and so many more bytes, are done."""

    def expect(self, items: int = 0, size: int = 0) -> None:
        """Tell that so many more are to come than was said."""


class Screen(Frozen):
    """Where it is shown and when: seconds since the work began, and between one look and the next."""

    descriptor: int = 2
    bar_after: float = 1.0
    bar_every: float = 0.2
    line_after: float = 2.0
    line_every: float = 10.0


class _Silent:
    def advance(self, items: int = 0, size: int = 0) -> None:
        """Show nothing."""

    def expect(self, items: int = 0, size: int = 0) -> None:
        """Show nothing."""


SILENT: Final[Meter] = _Silent()
STDERR: Final = Screen()

_one_at_a_time = allocate_lock()
_shown: _Display | None = None


@contextmanager
def meter(
    what: str, items: int, size: int, *, shown: bool = True, lines: bool = True, screen: Screen = STDERR
) -> Iterator[Meter]:
    """Show, until the block ends, how far `what` ("Fetching objects") has come: of `items` items, `size` bytes.

    What is 0 is not known; the bar counts bytes, and items where no byte is counted. Nothing is shown where `shown` is
    false, without a terminal where `lines` is false, and for work that is a part of other work that is shown.
    """
    global _shown
    if not shown or not (lines or _has_bar(screen.descriptor)) or not _one_at_a_time.acquire(blocking=False):
        yield SILENT
        return
    display = None
    try:
        with suppress(RuntimeError):  # no more threads
            display = _shown = _Display(what, items, size, screen)
        yield display or SILENT
        if display is not None:
            display.finished = True
    finally:
        try:
            if display is not None:
                display.close()
        finally:
            _shown = None
            _one_at_a_time.release()


def is_unwanted() -> bool:
    """Tell whether the git command that has started us shall say nothing: --quiet or --no-progress among its arguments.

    Git tells its filters nothing of it.
    """
    try:
        with open(f"/proc/{os.getppid()}/cmdline", "rb") as file:
            arguments = file.read(1 << 16).split(b"\0")
    except OSError:
        return False
    options = arguments[: arguments.index(b"--")] if b"--" in arguments else arguments
    return any(each in {b"--quiet", b"--no-progress"} or _is_q(each) for each in options)


def _is_q(argument: bytes) -> bool:
    """Tell whether an argument is -q, alone or beside one or two more letters: longer ones have a value, as -mquery."""
    return argument[:1] == b"-" and len(argument) < 5 and argument[1:].isalpha() and b"q" in argument


@contextmanager
def hidden() -> Iterator[None]:
    """Take away what is shown while something else is written to standard error; it comes back by itself."""
    display = _shown
    if display is None:
        yield
        return
    with display.lock:
        display.wipe()
        yield


class _Display:
    """A meter, and the thread that shows it now and then; it begins at once and ends with `close`."""

    def __init__(self, what: str, items: int, size: int, screen: Screen) -> None:
        from threading import Event, Lock, RLock, Thread

        self.lock = RLock()  # of the screen; whoever counts does not wait for that
        self._counting = Lock()
        self.finished = False
        self._what = printable(what.encode("utf-8", "surrogateescape"))
        self._screen = screen
        self._done = [0, 0]  # items, bytes
        self._total = [items, size]
        self._started = time.monotonic()
        self._seen = [(self._started, 0)]
        self._is_bar = _has_bar(screen.descriptor)
        self._wiped = 0  # columns to be wiped
        self._lines = 0
        self._end = Event()
        self._thread = Thread(target=self._run, name="progress", daemon=True)
        self._thread.start()

    def advance(self, items: int = 0, size: int = 0) -> None:
        with self._counting:
            self._done[0] += items
            self._done[1] += size

    def expect(self, items: int = 0, size: int = 0) -> None:
        with self._counting:
            self._total[0] += items
            self._total[1] += size

    def close(self) -> None:
        """End the thread and leave nothing behind but lines."""
        self._end.set()
        self._thread.join(_PATIENCE)

    def wipe(self) -> None:
        """Take the bar away; the caller holds the lock."""
        if self._wiped and _is_in_foreground(self._screen.descriptor):
            self._write("\r" + " " * min(self._wiped, _width(self._screen.descriptor)) + "\r")
        self._wiped = 0

    def _run(self) -> None:
        screen = self._screen
        after, every = (screen.bar_after, screen.bar_every) if self._is_bar else (screen.line_after, screen.line_every)
        with suppress(Exception):  # the work goes on, whatever is wrong with what it is shown by
            while not self._end.wait(after):
                after = every
                with self.lock:
                    self._show_bar() if self._is_bar else self._show_line()
        with self.lock, suppress(Exception):
            self.wipe()
            if self._lines:
                self._show_line(ended=True)

    def _show_bar(self) -> None:
        from tqdm import tqdm
        from tqdm.utils import disp_len

        if not _is_in_foreground(self._screen.descriptor):
            return
        columns = _width(self._screen.descriptor)
        what = _shortened(self._what, max(columns // 3, 16))
        if self._total[0] and self._total[1]:
            what += f" {self._done[0]}/{self._total[0]}"
        unit, at = self._unit()
        text = tqdm.format_meter(
            self._done[at],
            self._total[at] or None,
            time.monotonic() - self._started,
            ncols=columns,
            prefix=what,
            ascii=_CHARSET,
            unit=unit,
            unit_scale=at == 1,
            rate=self._rate(at),
        )
        self._write("\r" + text + " " * (columns - disp_len(text)))
        self._wiped = columns

    def _show_line(self, *, ended: bool = False) -> None:
        from tqdm import tqdm

        elapsed = max(time.monotonic() - self._started, 1e-6)
        done, total = ([str(items), tqdm.format_sizeof(size, "B")] for items, size in (self._done, self._total))
        phrases = [
            f"{done[at]} of {total[at]}" if self._total[at] else done[at]
            for at in (0, 1)
            if self._total[at] or self._done[at]
        ]
        unit, at = self._unit()
        rate = self._done[at] / elapsed if ended else self._rate(at)
        phrases.append(f"{tqdm.format_sizeof(rate, unit)}/s")
        if ended:
            phrases.append(f"{'done' if self.finished else 'stopped'} after {tqdm.format_interval(elapsed)}")
        elif rate and self._done[at] < self._total[at]:
            phrases.append(f"{tqdm.format_interval((self._total[at] - self._done[at]) / rate)} left")
        self._write(f"{_shortened(self._what, _LONGEST)}: {', '.join(phrases)}\n")
        self._lines += 1

    def _unit(self) -> tuple[str, int]:
        """Return what is measured by: bytes, or items where nobody tells of bytes."""
        return ("B", 1) if self._total[1] or self._done[1] or not self._total[0] else (" items", 0)

    def _rate(self, at: int) -> float:
        now = time.monotonic()
        self._seen.append((now, self._done[at]))
        while len(self._seen) > 2 and self._seen[0][0] < now - _WINDOW:
            del self._seen[0]
        (then, before), (_, done) = self._seen[0], self._seen[-1]
        return (done - before) / max(now - then, 1e-6)

    def _write(self, text: str) -> None:
        from select import POLLOUT, poll
        from signal import SIG_BLOCK, SIG_SETMASK, SIGTTOU, pthread_sigmask

        with suppress(OSError):  # whoever closed it does not want to know
            ready = poll()
            ready.register(self._screen.descriptor, POLLOUT)
            if any(event & POLLOUT for _, event in ready.poll(0)):
                # It stops all of us where the shell has just put us into the background (stty tostop).
                before = pthread_sigmask(SIG_BLOCK, {SIGTTOU})
                try:
                    os.write(self._screen.descriptor, text.encode("utf-8", "backslashreplace"))
                finally:
                    pthread_sigmask(SIG_SETMASK, before)


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length // 3]}...{text[3 - length + length // 3 :]}"


def _has_bar(descriptor: int) -> bool:
    """Tell whether it is a terminal that can write a line anew."""
    return os.isatty(descriptor) and os.environ.get("TERM") != "dumb"


def _width(terminal: int) -> int:
    """Return how much fits into a line: in the last column some terminals begin a new one."""
    columns = 0
    with suppress(OSError):
        columns = os.get_terminal_size(terminal).columns
    return max((columns or _COLUMNS) - 1, 1)


def _is_in_foreground(terminal: int) -> bool:
    """Tell whether the shell has not put us into the background; then the terminal is somebody else's."""
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:  # it is not the terminal that we belong to
        return True
