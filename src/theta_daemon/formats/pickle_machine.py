"""The state of a pickle while it is read, and the tables of what its opcodes do.

A handler gets the machine and the offset behind its opcode, and returns the offset behind its arguments. Lengths are
checked against the bytes that are left before anything is sliced; an index behind the end raises IndexError, which
the reader turns into an error of the file. Opcodes mean what Python's pickletools says; where the real unpickler would
import, call or set attributes, a value of `pickle_values` notes it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from theta_daemon.formats.pickle_values import PersistentId


class PickleError(ValueError):
    """The pickle breaks a rule; the reader makes it an error of the file."""


class Stop(Exception):
    """The STOP opcode; `at` is the offset behind it."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at


class Machine:
    """The state of one pickle being read. `marks` are the heights of the stack at which a MARK stands."""

    __slots__ = ("containers", "data", "marks", "memo", "persistent", "stack", "value")

    def __init__(self, data: bytes, containers: int) -> None:
        self.data = data
        self.containers = containers  # how many more may be made
        self.stack: list[object] = []
        self.marks: list[int] = []
        self.memo: dict[int, object] = {}
        self.persistent: list[PersistentId] = []
        self.value: object = None

    def count(self) -> None:
        """Take note that a container is made."""
        self.containers -= 1
        if self.containers < 0:
            raise PickleError("it makes more objects than its length explains")

    def take(self, at: int, n: int) -> bytes:
        """Return the `n` bytes at `at`."""
        if not 0 <= n <= len(self.data) - at:
            raise PickleError(f"a value of {n} bytes has only {len(self.data) - at}")
        return self.data[at : at + n]

    def line(self, at: int) -> tuple[str, int]:
        """Return the line at `at` and the offset behind it."""
        end = self.data.index(b"\n", at)
        return str(self.data[at:end], "utf-8"), end + 1

    def since_mark(self) -> list[object]:
        """Pop what stands above the topmost mark, and the mark."""
        height = self.marks.pop()
        values = self.stack[height:]
        del self.stack[height:]
        return values


Handler = Callable[[Machine, int], int]


class Opcodes:
    """A table of handlers; used as a decorator, it takes in a handler for an opcode."""

    def __init__(self) -> None:
        self.handlers: dict[int, Handler] = {}

    def __call__(self, code: bytes) -> Callable[[Handler], Handler]:
        """Return the decorator for `code`."""

        def take(handler: Handler) -> Handler:
            self.handlers[code[0]] = handler
            return handler

        return take
