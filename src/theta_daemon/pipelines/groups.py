"""Parameter groups on their way from git's pipe to the workers.

The reading thread mostly reads and checksums: it fills one buffer after the other, and hands each to the
workers (`storing.py`) while the next fills. Every hand-over has its price, so small groups share a buffer and a
hand-over. Groups that are smaller still are stored by the reading thread: a new object is a dozen system calls, and
threads that make nothing but those fight for Python's lock (measured: 7400 groups of 35 KB took 3.5 s with two workers,
2.2 s with one, 1.85 s so).

Whether a large group has changed is known at its end. One of which the record knows no other value is stored in any
case, and so encoded while it arrives (`streaming.py`). Any other that is larger than its share of the memory budget
goes into an unlinked temporary file while it is hashed, and is encoded from there only if it has changed.
"""

from __future__ import annotations

import threading
from concurrent.futures import wait as wait_all
from functools import partial
from typing import TYPE_CHECKING

from theta_daemon import dtypes
from theta_daemon.errors import CheckpointError
from theta_daemon.metadata.digest import Digest
from theta_daemon.pipelines.encoding import Encoding
from theta_daemon.pipelines.spool import Spool
from theta_daemon.pipelines.storing import Batch, Bytes, Member, Stored, Storing
from theta_daemon.pipelines.streaming import Streaming
from theta_daemon.pipelines.value import parameter_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from theta_daemon.formats.parts import Tensor
    from theta_daemon.formats.source import Source
    from theta_daemon.metadata.entries import Name
    from theta_daemon.pipelines.baseline import Baseline
    from theta_daemon.pipelines.services import Services

_LARGE = 4 << 20  # bytes from which on a group is worth more than one piece of work
_PIECE = 2 << 20  # bytes that are hashed and spooled at a time
_STEP = 1 << 20  # bytes read and checksummed at a time: they stay in the processor's cache
_BATCH = 2 << 20  # bytes of small groups that are handed over together
_HANDED_OVER = 256 << 10  # bytes that a group of a batch must have, on average, to be worth another thread
# Workers up to which the reading thread itself hashes what may be unchanged: git is busy too, and the bytes are in this
# core's cache (measured on two cores: `git status` takes 10 % less).
_MOST_COMPARED = 2
_AHEAD = 2  # buffers for each worker: one in work, one that waits; more would only be cold memory
_MOST_SPOOLED = 2  # groups at a time: one is read while the other is stored, and the disk holds no third


class GroupStore:
    """Reads parameter groups and stores them in the workers, within the pool's budget."""

    def __init__(self, services: Services, baseline: Baseline) -> None:
        self._services = services
        self._in_memory = services.settings.largest_in_memory
        self._storing = Storing(services, baseline, self._in_memory)
        self._compares = services.pool.workers <= _MOST_COMPARED
        self._unchanged: dict[int, Stored] = {}
        self._open: _Buffer | None = None  # takes more groups
        self._futures: list[Future[dict[int, Stored]]] = []
        self._may_buffer = threading.Semaphore(_AHEAD * services.pool.workers + 1)
        self._may_spool = threading.Semaphore(_MOST_SPOOLED)

    def read(
        self,
        index: int,
        name: Name,
        tensor: Tensor,
        source: Source,
        seen: Callable[[memoryview], None],
        views: Sequence[Member] = (),
        aliases: Sequence[Name] = (),
    ) -> None:
        """Take the group's bytes from `source`, showing each piece to `seen`, and hand them to the workers.

        `views` are tensors within these bytes that are stored as groups of their own as well, `aliases` other names of
        the same tensor.
        Raises TruncatedError when the source ends early, and whatever an earlier group met in the workers.
        """
        if self._storing.failure is not None:
            raise self._storing.failure
        size = dtypes.nbytes(tensor.dtype, tensor.shape)
        member = Member(index, name, tensor, None, tuple(aliases))
        try:
            if size > _LARGE and not views and self._storing.is_new(member):
                self._encode(member, source, size, seen)
            elif size > self._in_memory:
                self._spool((member, *views), source, size, seen)
            else:
                self._buffer((member, *views), source, size, seen)
        except CheckpointError as error:
            error.at(parameter=parameter_name(name))
            raise

    def results(self) -> dict[int, Stored]:
        """Wait for every group; raises the first failure, in file order."""
        self._hand_over()
        stored = self._unchanged
        with self._services.trace.stage("wait for the workers"):
            for future in self._futures:
                stored |= future.result()
        return stored

    @property
    def refused(self) -> int:
        """Number of groups that could not be stored as updates of the type that was asked for."""
        return 0 if self._storing.increments is None else self._storing.increments.refused

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
            self._may_buffer.acquire()
            buffer = self._open = _Buffer(
                self._services, self._storing, max(size, min(_BATCH, self._in_memory)), self._may_buffer.release
            )
        target = buffer.take(size)
        with self._services.trace.stage("read from git", size):
            for start in range(0, size, _STEP):
                piece = target[start : start + _STEP]
                source.readinto(piece)
                seen(piece)
        held: Bytes | Stored = Bytes(target)
        if self._compares and len(members) == 1:
            held = self._storing.compare(target, members[0])
        if isinstance(held, Stored):
            self._unchanged[members[0].index] = held
            buffer.put_back(size)
            return
        buffer.batch.add(held, members)
        if not buffer.room:
            self._hand_over()

    def _encode(self, member: Member, source: Source, size: int, seen: Callable[[memoryview], None]) -> None:
        spooled = size > self._in_memory
        batch = self._begin(size, spooled=spooled)
        try:
            encoding = Encoding(self._storing, member, spooled=spooled)
            streaming = Streaming(self._services, encoding.sizes, encoding.take, encoding.encode)
            self._stream(batch, streaming, source, seen, partial(batch.add_encoded, encoding))
        except BaseException as error:
            batch.fail(error)
            raise

    def _spool(self, members: Sequence[Member], source: Source, size: int, seen: Callable[[memoryview], None]) -> None:
        batch = self._begin(size, spooled=True)
        digest = Digest()

        def take(piece: memoryview) -> None:
            spool.append(piece)
            digest.update(piece)

        def add() -> None:
            batch.add(Bytes(spool.view(), spool, digest.hexdigest()), members)

        try:
            spool = Spool(self._services.settings.temporary, size)
            sizes = [min(_PIECE, size - start) for start in range(0, size, _PIECE)]
            self._stream(batch, Streaming(self._services, sizes, take), source, seen, add)
        except BaseException as error:
            batch.fail(error)
            raise

    def _begin(self, size: int, *, spooled: bool) -> Batch:
        """Return a batch for one large group; waits until there is room for what will be kept of it."""
        self._hand_over()
        if spooled:
            self._may_spool.acquire()
            return Batch(self._storing, self._may_spool.release)
        budget = self._services.pool.budget
        budget.acquire(size)
        return Batch(self._storing, partial(budget.release, size))

    def _stream(
        self,
        batch: Batch,
        streaming: Streaming,
        source: Source,
        seen: Callable[[memoryview], None],
        add: Callable[[], None],
    ) -> None:
        """Pass a group through the workers, and have them run the batch, to which `add` then adds it."""

        def then(failure: BaseException | None) -> None:
            try:
                if failure is not None:
                    raise failure
                add()
            except BaseException as error:  # noqa: BLE001 - it travels to the waiting thread
                batch.fail(error)
            else:
                batch.run()

        try:
            with self._services.trace.stage("read from git", streaming.size):
                streaming.fill(source, seen)
        except Exception:  # Ctrl-C must not wait for what may never have been handed out
            self._storing.give_up()
            streaming.give_up()
            raise
        streaming.finish(then)
        self._futures.append(batch.future)

    def _hand_over(self) -> None:
        if self._open is not None:
            buffer, self._open = self._open, None
            if buffer.used > _HANDED_OVER * len(buffer.batch) or self._storing.hashes_for_git_theta:
                self._services.pool.submit(buffer.batch.run)
            else:
                buffer.batch.run()
            # Last: Ctrl-C or SIGTERM may end this at any point, and `close` must not wait for what nobody will do.
            self._futures.append(buffer.batch.future)


class _Buffer:
    """Memory of the budget for the groups of a batch, one behind the other."""

    def __init__(self, services: Services, storing: Storing, size: int, released: Callable[[], None]) -> None:
        self._services = services
        self._released = released
        self._weight = 2 * size  # the values and their encoded form
        services.pool.budget.acquire(self._weight)
        self._memory = services.buffers.take(size)
        self.room = size
        self.batch = Batch(storing, self.release)

    def put_back(self, size: int) -> None:
        """Take back the room of the group that was taken last."""
        self.room += size

    @property
    def used(self) -> int:
        """Bytes that were taken."""
        return len(self._memory) - self.room

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
        self._released()
