"""Ctrl-C and its kind, heard where nothing is half done.

Python raises KeyboardInterrupt between any two steps of the main thread: also between the call that made a temporary
file and the statement that remembers to remove it, and in the middle of removing it. SIGTERM ends the process at once,
with all its temporary files left. Where files are made, both wait:

    with Interrupts() as interrupts:
        ...                                         # no signal is heard here,
        interrupts.hear(lambda: event.wait())       # but here: KeyboardInterrupt ends the wait
    ...                                             # what came meanwhile does now what it would have done at once

A signal that the caller ignores (nohup) stays ignored. Blocks may stand in each other: the inner one hands on to the
outer one what came. In other threads than the main one nothing is raised, and a block does nothing.
"""

from __future__ import annotations

import signal
import threading
from typing import TYPE_CHECKING, Self, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType

_T = TypeVar("_T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Interrupts:
    """A block in which signals that end the process wait, until its end or the next `hear`."""

    def __init__(self) -> None:
        self._came: int | None = None
        self._is_heard = False
        self._before: dict[signal.Signals, Callable[[int, FrameType | None], object] | int] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                before = signal.getsignal(number)
                if callable(before) or before == signal.SIG_DFL:
                    self._before[number] = before
                    signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        self._is_heard = False
        for number, before in self._before.items():
            signal.signal(number, before)
        if self._came is not None:
            signal.raise_signal(self._came)

    def hear(self, work: Callable[[], _T]) -> _T:
        """Do `work`, which leaves nothing behind wherever it is interrupted. Raises KeyboardInterrupt."""
        self._is_heard = True
        try:
            if self._came is not None:
                raise KeyboardInterrupt
            return work()
        finally:
            self._is_heard = False

    def _note(self, number: int, _frame: FrameType | None) -> None:
        self._came = self._came or number
        if self._is_heard:
            self._is_heard = False
            raise KeyboardInterrupt
