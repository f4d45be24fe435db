"""A large group on its way through the workers, piece by piece, while the next pieces arrive.

The reading thread fills a few buffers in turn. The workers take the pieces in the order of the file, one at a time,
which is what hashing and spooling need; what may happen in any order (encoding) they then do side by side. So little
of the group is ever in memory, and when its last byte has come most of the work is done.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import CancelledError
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from theta_daemon.formats.source import Source
    from theta_daemon.pipelines.services import Services

_STEP = 1 << 20  # bytes read and checksummed at a time: they stay in the processor's cache
_SPARE = 2  # buffers more than workers: one is being filled, and one waits
_LIMIT_SHARE = 8  # all buffers together may take this fraction of the memory limit, but there are two at least


class Streaming:
    """Passes pieces of these `sizes` through the workers: `fill`, then `finish`, or `give_up` instead of either.

    `in_order` is called with each piece, in order, never two at a time. Then, where it is given, `aside` is called with
    the piece's number and the piece, from any thread. A piece is not valid after that. What they raise ends it.
    """

    def __init__(
        self,
        services: Services,
        sizes: Sequence[int],
        in_order: Callable[[memoryview], object],
        aside: Callable[[int, memoryview], object] | None = None,
    ) -> None:
        self._pool = services.pool
        self._sizes = sizes
        self.size = sum(sizes)
        self._in_order = in_order
        self._aside = aside
        self._failure: BaseException | None = None
        self._steps: deque[Callable[[], None]] = deque()
        self._working = threading.Lock()  # held by the worker that takes pieces in order
        self._lock = threading.Lock()
        self._under_way = 1  # pieces, and the reading of them
        self._then: Callable[[BaseException | None], object] = _nothing
        self._ended = threading.Event()

        largest = max(sizes, default=0)
        most = services.settings.memory_limit // _LIMIT_SHARE // max(largest, 1)
        count = min(services.pool.workers + _SPARE, max(most, 2), len(sizes))
        self._free: SimpleQueue[memoryview] = SimpleQueue()
        services.pool.budget.acquire(count * largest)
        buffers = [services.buffers.take(largest) for _ in range(count)]
        for buffer in buffers:
            self._free.put(buffer)

        def release() -> None:
            for buffer in buffers:
                services.buffers.give(buffer)
            buffers.clear()
            services.pool.budget.release(count * largest)

        self._release = release

    def fill(self, source: Source, seen: Callable[[memoryview], None]) -> None:
        """Take all pieces from `source`, showing every byte to `seen`.

        Raises TruncatedError, and what happened to an earlier piece.
        """
        for number, size in enumerate(self._sizes):
            buffer = self._free.get()
            if self._failure is not None:
                raise self._failure
            piece = buffer[:size]
            for start in range(0, size, _STEP):
                part = piece[start : start + _STEP]
                source.readinto(part)
                seen(part)
            with self._lock:
                self._under_way += 1
            self._steps.append(partial(self._take, number, buffer, piece))
            self._pool.submit(self._work)

    def finish(self, then: Callable[[BaseException | None], object]) -> None:
        """Have the workers go through what is left, and then call `then`, with what went wrong."""
        self._then = then
        self._pool.submit(self._done)

    def give_up(self) -> None:
        """Wait for the pieces that are under way; nothing new is begun."""
        self._failure = self._failure or CancelledError()
        self._work()  # in case that a piece could not be handed out
        self._done()
        self._ended.wait()

    def _work(self) -> None:
        # A step that is appended while another worker does the last one is seen by one of the two.
        while self._steps and self._working.acquire(blocking=False):
            try:
                while self._steps:
                    self._steps.popleft()()
            finally:
                self._working.release()

    def _take(self, number: int, buffer: memoryview, piece: memoryview) -> None:
        try:
            if self._failure is None:
                self._in_order(piece)
                if self._aside is not None:
                    self._pool.submit(partial(self._take_aside, self._aside, number, buffer, piece))
                    return
        except BaseException as error:  # noqa: BLE001 - it travels to the reading thread
            self._failure = error
        self._give_back(buffer)

    def _take_aside(
        self, aside: Callable[[int, memoryview], object], number: int, buffer: memoryview, piece: memoryview
    ) -> None:
        try:
            if self._failure is None:
                aside(number, piece)
        except BaseException as error:  # noqa: BLE001 - it travels to the reading thread
            self._failure = error
        self._give_back(buffer)

    def _give_back(self, buffer: memoryview) -> None:
        self._free.put(buffer)
        self._done()

    def _done(self) -> None:
        with self._lock:
            self._under_way -= 1
            if self._under_way:
                return
        self._release()
        self._ended.set()
        self._then(self._failure)


def _nothing(_: BaseException | None) -> None:
    """Nobody waits for the end."""
