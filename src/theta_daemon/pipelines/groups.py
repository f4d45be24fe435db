"""Parameter groups on their way from git's pipe to the workers.

The reading thread does nothing but read and checksum: it fills one buffer after the other, and hands each to the
workers (`storing.py`) while the next fills. Every hand-over has its price, so small groups share a buffer and a
hand-over. A group larger than its share of the memory budget goes through an unlinked temporary file (`spooling.py`).
"""

from __future__ import annotations

import threading
from concurrent.futures import wait as wait_all
from typing import TYPE_CHECKING

from theta_daemon import dtypes
from theta_daemon.errors import CheckpointError
from theta_daemon.pipelines.spooling import Spooling
from theta_daemon.pipelines.storing import Batch, Bytes, Member, Storing
from theta_daemon.pipelines.value import parameter_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from theta_daemon.formats.parts import Tensor
    from theta_daemon.formats.source import Source
    from theta_daemon.metadata.entries import Name
    from theta_daemon.pipelines.baseline import Baseline
    from theta_daemon.pipelines.services import Services
    from theta_daemon.pipelines.spool import Spool
    from theta_daemon.pipelines.storing import Stored

_STEP = 1 << 20  # bytes read and checksummed at a time: they stay in the processor's cache
_BATCH = 2 << 20  # bytes of small groups that are handed over together
_BUDGET_SHARE = 4  # a group may hold this fraction of the budget in memory; it and its encoded form fit then
_MOST_SPOOLED = 2  # groups at a time: one is read while the other is stored, and the disk holds no third


class GroupStore:
    """Reads parameter groups and stores them in the workers, within the pool's budget."""

    def __init__(self, services: Services, baseline: Baseline) -> None:
        self._services = services
        self._in_memory = services.settings.memory_limit // _BUDGET_SHARE
        self._storing = Storing(services, baseline, self._in_memory)
        self._open: _Buffer | None = None  # takes more groups
        self._futures: list[Future[dict[int, Stored]]] = []
        self._may_spool = threading.Semaphore(_MOST_SPOOLED)

    def read(
        self,
        index: int,
        name: Name,
        tensor: Tensor,
        source: Source,
        seen: Callable[[memoryview], None],
        views: Sequence[Member] = (),
    ) -> None:
        """Take the group's bytes from `source`, showing each piece to `seen`, and hand them to the workers.

        `views` are tensors within these bytes that are stored as groups of their own as well.
        Raises TruncatedError when the source ends early, and whatever an earlier group met in the workers.
        """
        if self._storing.failure is not None:
            raise self._storing.failure
        size = dtypes.nbytes(tensor.dtype, tensor.shape)
        members = (Member(index, name, tensor), *views)
        try:
            if size > self._in_memory:
                self._spool(members, source, size, seen)
            else:
                self._buffer(members, source, size, seen)
        except CheckpointError as error:
            error.at(parameter=parameter_name(name))
            raise

    def results(self) -> dict[int, Stored]:
        """Wait for every group; raises the first failure, in file order."""
        self._hand_over()
        stored: dict[int, Stored] = {}
        with self._services.trace.stage("wait for the workers"):
            for future in self._futures:
                stored |= future.result()
        return stored

    def close(self) -> None:
        """Wait until no worker uses a buffer any more; what `results` has not waited for is given up."""
        self._storing.give_up()
        if self._open is not None:
            self._open.release()
            self._open = None
        wait_all(self._futures)

    def _buffer(self, members: Sequence[Member], source: Source, size: int, seen: Callable[[memoryview], None]) -> None:
        buffer = self._open
        if buffer is None or buffer.room < size:
            self._hand_over()
            buffer = self._open = _Buffer(self._services, self._storing, max(size, min(_BATCH, self._in_memory)))
        target = buffer.take(size)
        with self._services.trace.stage("read from git", size):
            for start in range(0, size, _STEP):
                piece = target[start : start + _STEP]
                source.readinto(piece)
                seen(piece)
        buffer.batch.add(Bytes(target), members)
        if not buffer.room:
            self._hand_over()

    def _spool(self, members: Sequence[Member], source: Source, size: int, seen: Callable[[memoryview], None]) -> None:
        self._hand_over()
        self._may_spool.acquire()
        batch = Batch(self._storing, self._may_spool.release)

        def store(spool: Spool, digest: str) -> None:
            batch.add(Bytes(spool.view(), spool, digest), members)
            batch.run()

        try:
            spooling = Spooling(self._services, size)
            try:
                spooling.fill(source, seen)
                spooling.finish(store, batch.fail)
            except BaseException:
                spooling.give_up()
                raise
        except BaseException:
            self._may_spool.release()
            raise
        self._futures.append(batch.future)

    def _hand_over(self) -> None:
        if self._open is not None:
            buffer, self._open = self._open, None
            self._services.pool.submit(buffer.batch.run)
            # Last: Ctrl-C or SIGTERM may end this at any point, and `close` must not wait for what nobody will do.
            self._futures.append(buffer.batch.future)


class _Buffer:
    """Memory of the budget for the groups of a batch, one behind the other."""

    def __init__(self, services: Services, storing: Storing, size: int) -> None:
        self._services = services
        self._weight = 2 * size  # the values and their encoded form
        services.pool.budget.acquire(self._weight)
        self._memory = services.buffers.take(size)
        self.room = size
        self.batch = Batch(storing, self.release)

    def take(self, size: int) -> memoryview:
        """Return room for a group."""
        start = len(self._memory) - self.room
        self.room -= size
        return self._memory[start : start + size]

    def release(self) -> None:
        """Give everything back; nobody may use it any more."""
        memory, self._memory = self._memory, memoryview(b"")  # a view that is left here would keep it
        self._services.buffers.give(memory)
        self._services.pool.budget.release(self._weight)
