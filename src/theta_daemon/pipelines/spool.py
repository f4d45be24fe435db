"""What does not fit into the memory budget: bytes in a file without a name, gone with the process however that ends.

They are read through a mapping. The system can take its pages back at any time, but counts them as memory of this
process until then; so whoever is through with a part forgets it.
"""

from __future__ import annotations

import mmap
import os
import threading
import weakref
from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, overload

from theta_daemon.errors import RepositoryError, reason

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_WRITE: Final = 1 << 20  # at a time: for more, Linux takes pages of 2 MiB, which virtual machines often have to clear

WINDOW: Final = 4 << 20
"""Bytes that are looked at before they are forgotten."""


class Spool:
    """Bytes of a parameter group of `size` bytes: appended, by any thread, then viewed.

    The file lies in `directory`, which is made where it is missing, and grows only with what is appended. Every method
    raises RepositoryError where the system refuses, above all where the disk is full.
    """

    def __init__(self, directory: Path, size: int) -> None:
        import tempfile  # takes longer to import than most commands have use for

        self._size = size
        self._end = 0
        self._lock = threading.Lock()
        self._mapped: mmap.mmap | None = None
        with self._explained():
            directory.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=directory, buffering=0)  # noqa: SIM115 - closed by the next line
        weakref.finalize(self, self._file.close)  # where no view is asked for: something failed

    def append(self, data: bytes | memoryview) -> slice:
        """Keep `data`, and return where in the view it will lie."""
        with self._lock:
            start = self._end
            self._end += len(data)
        rest, at = memoryview(data), start
        with self._explained():
            while rest:  # a disk that is nearly full takes less than it is given
                written = os.pwrite(self._file.fileno(), rest[:_WRITE], at)
                rest, at = rest[written:], at + written
        return slice(start, at)

    def view(self) -> memoryview:
        """Return all bytes, read-only; call it once, after the last of them was appended."""
        with self._explained(), self._file:
            if not self._end:
                return memoryview(b"")
            self._mapped = mmap.mmap(self._file.fileno(), self._end, access=mmap.ACCESS_READ)
        return memoryview(self._mapped)

    def forget(self, part: slice) -> None:
        """Give back the memory of a part of the view; reading it again takes longer, and is all the same."""
        if self._mapped is not None and hasattr(mmap, "MADV_DONTNEED"):
            start = part.start - part.start % mmap.PAGESIZE
            self._mapped.madvise(mmap.MADV_DONTNEED, start, part.stop - start)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise RepositoryError(
                f"cannot spool a parameter group of {self._size} bytes: {reason(error)}",
                hint="make room, or raise theta.memoryLimit",
            ) from error


def windows(whole: slice) -> list[slice]:
    """Cut a part of a spool's view into parts of WINDOW bytes; the last may be shorter."""
    return [slice(start, min(start + WINDOW, whole.stop)) for start in range(whole.start, whole.stop, WINDOW)]


class SpooledPieces(Sequence[bytes | memoryview]):
    """Bytes, and parts of a spool's view, in a row: a part is forgotten when the next piece is asked for.

    For one thread, which goes through it front to back, as often as it likes.
    """

    def __init__(self, spool: Spool, view: memoryview, pieces: Sequence[bytes | slice]) -> None:
        self._spool = spool
        self._view = view
        self._pieces = pieces
        self._last: slice | None = None

    def __len__(self) -> int:
        return len(self._pieces)

    @overload
    def __getitem__(self, index: int) -> bytes | memoryview: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[bytes | memoryview]: ...
    def __getitem__(self, index: int | slice) -> bytes | memoryview | Sequence[bytes | memoryview]:
        if isinstance(index, slice):
            return SpooledPieces(self._spool, self._view, self._pieces[index])
        if self._last is not None:
            self._spool.forget(self._last)
            self._last = None
        piece = self._pieces[index]
        if isinstance(piece, bytes):
            return piece
        self._last = piece
        return self._view[piece]
