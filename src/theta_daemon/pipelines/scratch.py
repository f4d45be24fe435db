"""Memory that is too large to be memory: a file without a name, mapped to be written and read in any order.

The system can take its pages back at any time, but counts them as memory of this process until then; so whoever goes
through it says when to forget them.
"""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING

from theta_daemon.errors import RepositoryError, reason

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


class Scratch:
    """`size` bytes, at least one, in `directory`, which is made where it is missing; gone when nobody has the view.

    Raises RepositoryError where the disk has no room: all of it is taken at once, since a mapped page that cannot be
    written later would end the process.
    """

    def __init__(self, directory: Path, size: int) -> None:
        import tempfile  # takes longer to import than most commands have use for

        try:
            directory.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=directory, buffering=0) as file:
                os.posix_fallocate(file.fileno(), 0, size)
                self._mapped = mmap.mmap(file.fileno(), size)
        except OSError as error:
            raise RepositoryError(
                f"cannot spool a parameter group of {size} bytes: {reason(error)}",
                hint="make room, or raise theta.memoryLimit",
            ) from error
        self.view = memoryview(self._mapped)

    def forget(self, start: int, stop: int) -> None:
        """Give back the memory of a part; its bytes stay."""
        if hasattr(mmap, "MADV_DONTNEED"):
            start -= start % mmap.PAGESIZE
            self._mapped.madvise(mmap.MADV_DONTNEED, start, stop - start)


def beyond(most: int, directory: Path) -> Callable[[int], memoryview]:
    """Return what gives as many bytes as it is asked for: memory, and after `most` bytes files in `directory`.

    It raises RepositoryError where the disk has no room.
    """
    left = most

    def room(size: int) -> memoryview:
        nonlocal left
        if size > left:
            return Scratch(directory, size).view
        left -= size
        return memoryview(bytearray(size))

    return room
