"""The two descriptors that lead to git, and nothing of what flows through them.

Reads take up to 1 MiB in one system call into one buffer that is used again and again; writes gather up to 64 pieces
in one. git's pipes hold 64 KiB: both are widened to 1 MiB where the system lets us, so that git and we can work at the
same time.
"""

from __future__ import annotations

import fcntl
import os
import select
from contextlib import suppress
from typing import TYPE_CHECKING

from theta_daemon.errors import ThetaError

if TYPE_CHECKING:
    from collections.abc import Sequence

READ_SIZE = 1 << 20
PIPE_SIZE = 1 << 20  # what Linux allows everyone (/proc/sys/fs/pipe-max-size)
MAX_PIECES = 64


class ChannelError(ThetaError):
    """A descriptor to git cannot be read or written: the session is over."""


class GitGone(ChannelError):
    """Nobody reads our output any more: there is nobody left to tell either."""


class Channel:
    """Reads one descriptor and writes another; they stay the caller's to close."""

    def __init__(self, reading: int, writing: int) -> None:
        self._reading = reading
        self._writing = writing
        self._buffer = memoryview(bytearray(READ_SIZE))
        for descriptor in (reading, writing):
            _widen(descriptor)

    def read(self) -> memoryview:
        """Return the next bytes, as many as have arrived (at least one; none at the end); valid until the next read.

        Raises ChannelError.
        """
        return self._buffer[: self.readinto(self._buffer)]

    def readinto(self, view: memoryview, /) -> int:
        """Read the next bytes into the front of `view`; return their number, 0 at the end. Raises ChannelError."""
        return self.scatter([view])

    def scatter(self, views: Sequence[memoryview]) -> int:
        """Read the next bytes into `views`, one after the other; return their number, 0 at the end.

        Raises ChannelError.
        """
        while True:
            try:
                return os.readv(self._reading, views)
            except BlockingIOError:  # somebody who shares the descriptor made it non-blocking
                _wait(self._reading, select.POLLIN)
            except OSError as error:
                raise ChannelError(f"cannot read the input: {error.strerror}") from error

    def write(self, pieces: Sequence[bytes | bytearray | memoryview]) -> None:
        """Write all pieces in their order; the pieces may be used again when it returns.

        Raises GitGone where nobody reads any more, ChannelError for every other failure.
        """
        for start in range(0, len(pieces), MAX_PIECES):
            batch = pieces[start : start + MAX_PIECES]
            left = sum(map(len, batch)) - self._writev(batch)
            while left:  # a short write: a signal, a pipe that does not block, a file system that is nearly full
                batch = _tail(batch, left)
                left -= self._writev(batch)

    def is_abandoned(self) -> bool:
        """Whether nobody can read any more what is written; never waits. For work that takes long before it writes."""
        poll = select.poll()
        poll.register(self._writing, 0)
        return bool(poll.poll(0))

    def _writev(self, pieces: Sequence[bytes | bytearray | memoryview]) -> int:
        while True:
            try:
                return os.writev(self._writing, pieces)
            except BlockingIOError:
                _wait(self._writing, select.POLLOUT)
            except BrokenPipeError as error:
                raise GitGone("nobody reads the output") from error
            except OSError as error:
                raise ChannelError(f"cannot write the output: {error.strerror}") from error


def _tail(pieces: Sequence[bytes | bytearray | memoryview], size: int) -> list[memoryview]:
    """Return the last `size` bytes of `pieces`, as slices."""
    tail: list[memoryview] = []
    for piece in reversed(pieces):
        if not size:
            break
        tail.append(memoryview(piece)[-size:])
        size -= len(tail[-1])
    return tail[::-1]


def _wait(descriptor: int, event: int) -> None:
    poll = select.poll()
    poll.register(descriptor, event)
    poll.poll()


def _widen(descriptor: int) -> None:
    command = getattr(fcntl, "F_SETPIPE_SZ", None)  # Linux only
    if command is None:
        return
    with suppress(OSError):  # not a pipe, or the user's quota of pipe memory is used up: only slower
        fcntl.fcntl(descriptor, command, PIPE_SIZE)
