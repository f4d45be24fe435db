"""Reusable memory.

Copying into freshly mapped pages runs at a third of the speed of copying into pages that are there
already, so the buffers of parameter groups go round: taken, filled, given back. They are mapped, not allocated: a
bytearray would first be filled with zeros, while no other thread can run.
"""

from __future__ import annotations

import mmap
import threading

_ROUND = 1 << 16
_PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS  # shared memory, the default, costs half as much again


class Buffers:
    """A free list of byte buffers, bounded by `keep` bytes; safe to use from any thread."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._kept = 0
        self._free: list[mmap.mmap] = []
        self._lock = threading.Lock()

    def take(self, size: int) -> memoryview:
        """Return a writable view of exactly `size` bytes with undefined content. Raises MemoryError."""
        with self._lock:
            best = None
            for index, buffer in enumerate(self._free):
                fits = size <= len(buffer) <= max(4 * size, _ROUND)
                if fits and (best is None or len(buffer) < len(self._free[best])):
                    best = index
            if best is not None:
                buffer = self._free.pop(best)
                self._kept -= len(buffer)
                return memoryview(buffer)[:size]
        try:
            return memoryview(mmap.mmap(-1, max(-(-size // _ROUND), 1) * _ROUND, flags=_PRIVATE))[:size]
        except OSError as error:
            raise MemoryError from error  # ENOMEM

    def give(self, view: memoryview) -> None:
        """Take back the memory of a view that `take` returned; the caller must not use it again."""
        buffer = view.obj
        if not isinstance(buffer, mmap.mmap):
            raise TypeError("only buffers of take() can be given back")
        with self._lock:
            if self._kept + len(buffer) <= self._keep:
                self._kept += len(buffer)
                self._free.append(buffer)
