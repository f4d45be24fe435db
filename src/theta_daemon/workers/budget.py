"""A budget of bytes in flight.

Work is admitted by the bytes it holds, not by its number: a thousand biases or two embedding tables
cost what they weigh. One piece of work is always admitted, however large, so a budget smaller than a
single parameter group slows things down but cannot stop them.
"""

from __future__ import annotations

import threading


class ByteBudget:
    """Counts bytes in flight against a limit; safe to use from any thread."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._changed = threading.Condition()

    def acquire(self, size: int) -> None:
        """Wait until `size` bytes fit, or nothing at all is in flight."""
        with self._changed:
            self._changed.wait_for(lambda: self._fits(size))
            self._used += size

    def try_acquire(self, size: int) -> bool:
        """Take `size` bytes if they fit now (or nothing is in flight)."""
        with self._changed:
            if not self._fits(size):
                return False
            self._used += size
            return True

    def take(self, size: int) -> None:
        """Count `size` bytes that are in flight already, whether they fit or not."""
        with self._changed:
            self._used += size

    def release(self, size: int) -> None:
        """Give `size` bytes back."""
        with self._changed:
            self._used -= size
            self._changed.notify_all()

    def _fits(self, size: int) -> bool:
        return self._used == 0 or self._used + size <= self._limit
