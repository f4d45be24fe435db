"""A large group on its way through the workers, piece by piece, while the next pieces arrive.

The reading thread fills a few buffers in turn. The workers take the pieces in the order of the file, one at a time,
which is what hashing and spooling need; what may happen in any order (encoding) they then do side by side. So little
of the group is ever in memory, and when its last byte has come most is done.
"""

from __future__ import annotations

import threading
from collections import deque
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from theta_daemon.formats.source import Source
    from theta_daemon.pipelines.services import Services

_STEP = 1 << 20  # bytes read and checksummed at a time: they stay in the processor's cache
_SPARE = 2  # buffers more than workers: one that is filled, and one that waits


class Streaming:
    """Passes a group through the workers: `fill`, then `finish`; or `give_up`, whatever has happened before.

    `in_order` is called with each piece, in order and never twice at a time, and then, if there is one, `aside` with
    its number and the piece, from any thread.
    """

    def __init__(
        self,
        services: Services,
        sizes: Sequence[int],
        in_order: Callable[[memoryview], object],
        aside: Callable[[int, memoryview], object] | None = None,
    ) -> None:
        self._services = services
        self._sizes = sizes
        self._in_order = in_order
        self._aside = aside
        self._failure: BaseException | None = None
        self._steps: deque[Callable[[], None]] = deque()
        self._working = threading.Lock()  # held by the worker that takes pieces in order
        self._lock = threading.Lock()
        self._under_way = 1  # pieces, and the reading of them
        self._then: Callable[[], object] = self._release
        self._ended = threading.Event()
        size = max(sizes, default=0)
        count = min(services.pool.workers + _SPARE, len(sizes))
        self._weight = count * size
        services.pool.budget.acquire(self._weight)
        self._buffers = [services.buffers.take(size) for _ in range(count)]
        self._free: SimpleQueue[memoryview] = SimpleQueue()
        for buffer in self._buffers:
            self._free.put(buffer)
