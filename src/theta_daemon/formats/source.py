"""Exact, buffered reads over a stream that is read once, front to back.

Readers of formats see a checkpoint only through a `Source`. It never allocates what a file merely promises:
`read` grows with the bytes that arrive, `readinto` fills memory that the caller owns (straight from the stream,
but for what was already buffered). A format whose index comes last drains the rest into a temporary file with `spool`.
A source belongs to one thread; `SpooledTail.pread` may be called from any.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Protocol

from theta_daemon.errors import CheckpointError, RepositoryError, TruncatedError, reason

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PEEK_LIMIT = 1 << 20
_READ_AHEAD = 1 << 16  # about as much as copying costs no more than another system call would
_STEP = 1 << 20


class Readable(Protocol):
    """Where the bytes come from: a pipe, a packet stream, a file."""

    def readinto(self, view: memoryview, /) -> int:
        """Fill the front of the non-empty `view`; return the number of bytes, at least 1, or 0 at the end."""
        ...


class SpooledTail:
    """The rest of a stream in a temporary file that has no name: it is gone when closed, also by a crash."""

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        self._file = file
        self.start = start
        self.size = size

    def pread(self, offset: int, n: int) -> bytes:
        """Return exactly `n` bytes at the absolute file offset `offset`.

        Raises CheckpointError where the range begins before the spooled part, TruncatedError where it ends behind it.
        """
        if n < 0 or offset < self.start:
            raise CheckpointError(f"the file refers to {n} bytes at {offset}, before its own index")
        if offset + n > self.start + self.size:
            raise TruncatedError(f"the file refers to {n} bytes at {offset} but has only {self.start + self.size}")
        pieces = []
        at = offset - self.start
        while n:
            piece = os.pread(self._file.fileno(), n, at)
            if not piece:
                raise RepositoryError("a temporary file has shrunk", hint="something else writes to it")
            pieces.append(piece)
            at += len(piece)
            n -= len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


class Source:
    """Buffered exact reads over a `Readable`.

    `position` is the number of bytes consumed so far. `spool` puts its file into `spool_directory` and makes that where
    it is missing (None: the system's directory for temporary files).
    """

    def __init__(self, readable: Readable, spool_directory: Path | None = None) -> None:
        self._readable = readable
        self._spool_directory = spool_directory
        self._buffer = bytearray(_READ_AHEAD)
        self._start = 0  # what is buffered and unread: _buffer[_start:_end]
        self._end = 0
        self._tail: SpooledTail | None = None
        self._file: IO[bytes] | None = None
        self.position = 0

    def peek(self, n: int) -> bytes:
        """Return up to `n` (at most PEEK_LIMIT) bytes without consuming them; fewer only at the end."""
        if not 0 <= n <= PEEK_LIMIT:
            raise ValueError(f"cannot peek at {n} bytes")
        while self._end - self._start < n and self._fill(n):
            pass
        return bytes(memoryview(self._buffer)[self._start : min(self._start + n, self._end)])

    def read(self, n: int) -> bytes:
        """Return exactly `n` bytes; memory grows with what arrives.

        Raises TruncatedError where the stream ends first.
        """
        if n <= self._end - self._start:
            return self._take(n)
        needed = self.position + n
        steps = []
        while n:
            step = bytearray(min(n, _STEP))
            self._fill_view(memoryview(step), needed)
            steps.append(step)
            n -= len(step)
        return b"".join(steps)

    def read_some(self, limit: int) -> bytes:
        """Return 1 to `limit` bytes, whatever is there first; b"" at the end."""
        if limit < 1:
            raise ValueError(f"cannot read {limit} bytes")
        if self._start == self._end:
            self._fill(1)
        return self._take(min(limit, self._end - self._start))

    def readinto(self, view: memoryview) -> None:
        """Fill `view` (of bytes, contiguous) wholly.

        Raises TruncatedError where the stream ends first.
        """
        self._fill_view(view, self.position + len(view))

    def spool(self) -> SpooledTail:
        """Drain the rest of the stream into a temporary file and go on reading from there.

        A second call returns the same tail. Raises RepositoryError where the file cannot be written (a full disk).
        """
        if self._tail is None:
            with self._explained():
                if self._spool_directory is not None:
                    self._spool_directory.mkdir(parents=True, exist_ok=True)
                import tempfile  # a third of what this module costs to import, and most files are never spooled

                file = tempfile.TemporaryFile(dir=self._spool_directory, buffering=0)  # noqa: SIM115 - see close
            self._file = file
            size = 0
            for piece in self._rest():
                with self._explained():
                    _write_all(file.fileno(), piece)
                size += len(piece)
            file.seek(0)
            self._readable = file
            self._tail = SpooledTail(file, self.position, size)
        return self._tail

    def close(self) -> None:
        """Release the memory, and the temporary file, if there is one; nothing can be read afterwards."""
        self._buffer = bytearray()  # up to 1 MiB, and whoever holds this may be garbage for long before it is collected
        self._start = self._end = 0
        if self._file is not None:
            self._file.close()

    def _rest(self) -> Iterator[memoryview]:
        """Yield everything that has not been consumed, in pieces that are valid until the next."""
        yield memoryview(self._buffer)[self._start : self._end]
        self._start = self._end = 0
        block = memoryview(bytearray(_STEP))
        while got := self._readable.readinto(block):
            yield block[:got]

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RepositoryError(
                f"cannot keep the rest of the checkpoint in a temporary file: {reason(error)}",
                hint=f"make room in {self._spool_directory or 'the directory for temporary files'}",
            ) from error

    def _fill_view(self, view: memoryview, needed: int) -> None:
        """Fill `view`; `needed` is the size that the file must have for that, for the error."""
        done = 0
        while done < len(view):
            rest = len(view) - done
            buffered = min(rest, self._end - self._start)
            if buffered:
                view[done : done + buffered] = memoryview(self._buffer)[self._start : self._start + buffered]
                self._start += buffered
                got = buffered
            elif rest >= _READ_AHEAD:
                got = self._readable.readinto(view[done:])
            elif self._fill(1):
                continue
            else:
                got = 0
            if not got:
                raise TruncatedError(
                    f"the file ends after {self.position} bytes but needs at least {needed}",
                    hint="fetch or save it again",
                )
            done += got
            self.position += got

    def _take(self, n: int) -> bytes:
        piece = bytes(memoryview(self._buffer)[self._start : self._start + n])
        self._start += n
        self.position += n
        return piece

    def _fill(self, n: int) -> bool:
        """Read once, to have `n` bytes in the buffer, in which fewer are; False at the end.

        Reads no further ahead than it must: what follows may be a group's bytes, which are not to pass through here.
        """
        unread = self._end - self._start
        if n > len(self._buffer):
            grown = bytearray(n)
            grown[:unread] = self._buffer[self._start : self._end]
            self._buffer = grown
        elif self._start:
            self._buffer[:unread] = self._buffer[self._start : self._end]
        self._start, self._end = 0, unread
        got = self._readable.readinto(memoryview(self._buffer)[unread : max(n, _READ_AHEAD)])
        self._end += got
        return got > 0


def _write_all(descriptor: int, data: memoryview) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
