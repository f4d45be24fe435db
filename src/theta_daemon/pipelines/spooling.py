"""A group that is too large for memory, on its way into a temporary file while the next bytes arrive.

The reading thread fills a few buffers in turn; the workers write and hash them, in the order of the file, one at a
time. So at its end the group's digest is known, and one that has not changed is never read again.
"""

from __future__ import annotations

import threading
from collections import deque
from functools import partial
from queue import SimpleQueue
from typing import TYPE_CHECKING

from theta_daemon.metadata.digest import Digest
from theta_daemon.pipelines.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Callable

    from theta_daemon.formats.source import Source
    from theta_daemon.pipelines.services import Services

_STEP = 1 << 20
_STEPS = 8  # buffers: enough that the reader seldom waits while the workers are at something else


class Spooling:
    """Spools one group of `size` bytes: `fill`, then `finish`; or, whatever happens before that, `give_up`."""

    def __init__(self, services: Services, size: int) -> None:
        self._services = services
        self._left = size
        self._digest = Digest()
        self._spool = Spool(services.settings.temporary, size)
        self._steps: deque[Callable[[], None]] = deque()
        self._working = threading.Lock()  # held by the worker that does the steps
        self._failure: BaseException | None = None
        self._weight = _STEPS * _STEP
        services.pool.budget.acquire(self._weight)
        self._buffers = [services.buffers.take(_STEP) for _ in range(_STEPS)]
        self._free: SimpleQueue[memoryview] = SimpleQueue()
        for buffer in self._buffers:
            self._free.put(buffer)

    def fill(self, source: Source, seen: Callable[[memoryview], None]) -> None:
        """Take the group's bytes from `source`, showing each piece to `seen`.

        Raises TruncatedError, and RepositoryError where an earlier piece could not be written.
        """
        while self._left:
            buffer = self._free.get()
            if self._failure is not None:
                raise self._failure
            piece = buffer[: min(self._left, _STEP)]
            source.readinto(piece)
            seen(piece)
            self._left -= len(piece)
            self._do(partial(self._keep, buffer, piece))

    def finish(self, then: Callable[[Spool, str], None], failed: Callable[[BaseException], None]) -> None:
        """Have the workers do the rest, and then call `then`, with the spool and the digest of its bytes."""

        def end() -> None:
            self._release()
            if self._failure is not None:
                failed(self._failure)
            else:
                then(self._spool, self._digest.hexdigest())

        self._do(end)

    def give_up(self) -> None:
        """Wait for the step that is being done, and forget the others."""
        self._steps.clear()
        with self._working:
            self._release()

    def _do(self, step: Callable[[], None]) -> None:
        self._steps.append(step)
        self._services.pool.submit(self._work)

    def _work(self) -> None:
        # A step that is appended while another worker does the last one is seen by one of the two.
        while self._steps and self._working.acquire(blocking=False):
            try:
                while self._steps:
                    self._steps.popleft()()
            finally:
                self._working.release()

    def _keep(self, buffer: memoryview, piece: memoryview) -> None:
        try:
            if self._failure is None:
                self._spool.append(piece)
                self._digest.update(piece)
        except BaseException as error:  # noqa: BLE001 - it travels to the reading thread
            self._failure = error
        finally:
            self._free.put(buffer)

    def _release(self) -> None:
        while self._buffers:
            self._services.buffers.give(self._buffers.pop())
        self._services.pool.budget.release(self._weight)
        self._weight = 0
