"""Parameter groups on their way out of the store: decoded and verified by the workers, ahead of whoever writes them.

One job makes one large group, its chunks side by side, or several small ones that follow each other in the file: a
future for each of a thousand biases would cost more than the biases. Groups that are smaller still are made by the
thread that asks for them: reading a file is a handful of system calls, and threads that make nothing but those fight
for Python's lock (measured: 7400 groups of 35 KB took 1.2 s with two workers, 0.8 s so). What others need too is
shared (cache/values.py).
A group that is too large for memory is never whole there: large.py.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING

from theta_daemon import dtypes
from theta_daemon.errors import ThetaError
from theta_daemon.formats.layout import GroupOp
from theta_daemon.frozen import Frozen
from theta_daemon.metadata.digest import digest as digest_of
from theta_daemon.pipelines.known import content_key
from theta_daemon.pipelines.large import Large
from theta_daemon.pipelines.tolerance import verify_replayed
from theta_daemon.pipelines.value import locate, open_value, verify
from theta_daemon.workers.ahead import Job

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from theta_daemon.cache.values import Value
    from theta_daemon.formats.layout import Group, Layout
    from theta_daemon.metadata.entries import Entry, Metadata, Name
    from theta_daemon.pipelines.chains import Chain
    from theta_daemon.pipelines.services import Services
    from theta_daemon.store.payload import Chunk
    from theta_daemon.workers.buffers import Buffers

_BATCH_BYTES = 1 << 20
_BATCH_GROUPS = 64
_HANDED_OVER = 128 << 10  # bytes that a group of a job must have, on average, to be worth another thread
_OVERHEAD = 1 << 10  # memory that a group costs besides its bytes


class Wanted(Frozen):
    """A parameter group that a file needs, where `group` says in which order its bytes stand there."""

    group: Group
    entry: Entry
    size: int
    chain: Chain | None = None

    @property
    def weight(self) -> int:
        """Bytes of memory that it takes to make it."""
        weight = (self.size if self.group.axes is None else 2 * self.size) + _OVERHEAD
        if self.chain is None:
            return weight
        return weight + min(sum(update.size for update in self.chain.updates), self.size)

    @property
    def key(self) -> str:
        """What names the value among all values."""
        return content_key(self.entry, self.chain)


class Loaded(Frozen):
    """The values of a job, in order, each in pieces; `release` gives their memory back."""

    values: Sequence[Sequence[memoryview] | Large]
    release: Callable[[], None]


def wanted(layout: Layout, metadata: Metadata, chains: Mapping[Name, Chain]) -> list[Wanted]:
    """Return the groups that fill the holes of `layout`, in the order of the file; `chains` are those of increments."""
    found = []
    for op in layout.ops:
        if isinstance(op, GroupOp):
            group = layout.groups[op.index]
            entry = metadata.entries[group.name]
            size = dtypes.nbytes(entry.dtype, entry.shape)
            found.append(Wanted(group, entry, size, chains.get(group.name)))
    return found


def batches(services: Services, groups: Iterable[Wanted]) -> Iterator[list[Wanted]]:
    """Yield `groups` in the parts that are loaded together: small neighbours, or a single one."""
    batch: list[Wanted] = []
    held = 0
    for each in groups:
        is_large = _is_large(services, each)
        if batch and (is_large or held + each.size > _BATCH_BYTES or len(batch) == _BATCH_GROUPS):
            yield batch
            batch, held = [], 0
        if is_large:
            yield [each]
        else:
            batch.append(each)
            held += each.size
    if batch:
        yield batch


def jobs(services: Services, groups: Iterable[Wanted]) -> Iterator[Job[Loaded]]:
    """Yield the jobs that load `groups`; small neighbours share one."""
    for batch in batches(services, groups):
        yield _large_job(services, batch[0]) if _is_large(services, batch[0]) else _job(services, batch)


def now(services: Services, batch: Sequence[Wanted]) -> Loaded:
    """Return a batch, loaded by this thread, which is none of the pool's; only chunks of one group are left to these.

    Raises UnsupportedError, MissingObject, CorruptObject; a value that is too large for memory does so when it is read.
    """
    if _is_large(services, batch[0]):
        return _large(services, batch[0])
    task = _Load(services, batch)
    task.run()
    return task.future.result()


def weight(services: Services, batch: Sequence[Wanted]) -> int:
    """Return the bytes of memory that it takes to make a batch; a value that is too large for it takes all there is."""
    most = max(services.ahead.window, services.ahead.most)
    return most if _is_large(services, batch[0]) else sum(each.weight for each in batch)


def is_worth_a_thread(batch: Sequence[Wanted]) -> bool:
    """Tell whether one more thread would help: making many small groups is mostly Python's work."""
    return sum(each.size for each in batch) >= _HANDED_OVER * len(batch)


def _is_large(services: Services, each: Wanted) -> bool:
    return each.weight > services.settings.largest_in_memory


def _large(services: Services, each: Wanted) -> Loaded:
    return Loaded([Large(services, each.group, each.entry, each.size, each.chain)], _nothing)


def _large_job(services: Services, each: Wanted) -> Job[Loaded]:
    def start() -> Future[Loaded]:
        future: Future[Loaded] = Future()
        future.set_result(_large(services, each))
        return future

    # All that there is: nothing else is held while it is on its way, since it uses a window of its own.
    return Job(weight(services, [each]), start)


def _job(services: Services, groups: Sequence[Wanted]) -> Job[Loaded]:
    def start() -> Future[Loaded]:
        task = _Load(services, groups)
        if is_worth_a_thread(groups):
            services.pool.submit(task.run)
            return task.future
        task.run()
        error = task.future.exception()
        if error is not None and not isinstance(error, Exception):
            raise error  # Ctrl-C
        return task.future

    return Job(weight(services, groups), start)


class _Slab:
    """Memory for several values that is given back when the last of those who use it does so."""

    def __init__(self, buffers: Buffers, size: int) -> None:
        self.view = buffers.take(size)
        self._buffers = buffers
        self._users = 1
        self._lock = threading.Lock()

    def part(self) -> tuple[Callable[[], None], bool]:
        """Count one more user; return what gives back, and that it is a part."""
        with self._lock:
            self._users += 1
        return self.give_back, True

    def give_back(self) -> None:
        """Count one user less."""
        with self._lock:
            self._users -= 1
            left = self._users
        if not left:
            self._buffers.give(self.view)


class _Load:
    """A job in the workers; the last of its steps resolves `future`."""

    def __init__(self, services: Services, groups: Sequence[Wanted]) -> None:
        self.future: Future[Loaded] = Future()
        self.future.set_running_or_notify_cancel()
        self._services = services
        self._groups = groups
        self._values: list[list[memoryview]] = []
        self._releases: list[Callable[[], None]] = []

    def run(self) -> None:
        """Do the work, or, for one group of many chunks, hand the chunks to the other workers."""
        try:
            if len(self._groups) == 1:
                self._one(self._groups[0])
                return
            slab = _Slab(self._services.buffers, sum(each.size for each in self._groups))
            self._releases.append(slab.give_back)
            at = 0
            for each in self._groups:
                self._small(each, slab, at)
                at += each.size
        except BaseException as error:  # noqa: BLE001 - it travels to the waiting thread
            self._fail(error)
        else:
            self.future.set_result(Loaded(self._values, self._release))

    def _small(self, each: Wanted, slab: _Slab, at: int) -> None:
        shared, key, trace = self._services.values, each.key, self._services.trace
        try:
            value = _shared(self._services, each)
            if value is None and each.chain is not None:
                view = slab.view[at : at + each.size]
                self._replayed(each, each.chain, view)
                value = shared.offer(key, view, *slab.part())
            elif value is None:
                with trace.stage("open object", each.entry.size):
                    stored, payload = open_value(self._services, each.entry, each.size)
                view = slab.view[at : at + each.size] if payload.raw is None else payload.raw
                if payload.raw is None:
                    with trace.stage("decode", each.size):
                        for chunk in payload.chunks:
                            chunk.decode_into(view)
                with trace.stage("verify", each.size):
                    verify(self._services, each.entry, stored, digest_of(view))
                value = shared.offer(key, view, *slab.part() if payload.raw is None else (_nothing, False))
        except ThetaError as error:
            locate(error, each.group.name, each.entry)
            raise
        self._finish(each, value.view, value.release)

    def _one(self, each: Wanted) -> None:
        try:
            key = each.key
            value = _shared(self._services, each)
            if value is None and each.chain is not None:
                value = self._one_replayed(each, each.chain)
            if value is not None:
                self._finish(each, value.view, value.release)
                self.future.set_result(Loaded(self._values, self._release))
                return
            with self._services.trace.stage("open object", each.entry.size):
                stored, payload = open_value(self._services, each.entry, each.size)
            release: Callable[[], None] = _nothing
            chunks: tuple[Chunk, ...] = ()
            view = payload.raw
            if view is None:
                view, chunks = self._services.buffers.take(each.size), payload.chunks
                release = partial(self._services.buffers.give, view)
        except ThetaError as error:
            locate(error, each.group.name, each.entry)
            raise
        if len(chunks) > 1:
            parts = [partial(self._decode, each, chunk, view) for chunk in chunks]
            last = partial(self._verified, each, key, stored, view, release)
            self._services.pool.fan_out(parts, last, into=self.future)
            return
        try:
            for chunk in chunks:
                self._decode(each, chunk, view)
        except BaseException:
            release()
            raise
        self.future.set_result(self._verified(each, key, stored, view, release))

    def _one_replayed(self, each: Wanted, chain: Chain) -> Value:
        view = self._services.buffers.take(each.size)
        release = partial(self._services.buffers.give, view)
        try:
            self._replayed(each, chain, view)
        except BaseException:
            release()
            raise
        return self._services.values.offer(each.key, view, release)

    def _replayed(self, each: Wanted, chain: Chain, into: memoryview) -> None:
        from theta_daemon.pipelines.replay import replay  # and with it numpy: most checkouts have no use for it

        for quick in (True, False):
            replay(self._services, chain, into, quick=quick)
            with self._services.trace.stage("verify", each.size):
                digest = digest_of(into)
            if digest == each.entry.digest or not chain.has_quick_way:
                break
        verify_replayed(self._services, each.entry, chain, into, digest)

    def _decode(self, each: Wanted, chunk: Chunk, into: memoryview) -> None:
        try:
            with self._services.trace.stage("decode", chunk.cell.stop - chunk.cell.start):
                chunk.decode_into(into)
        except ThetaError as error:
            locate(error, each.group.name, each.entry)
            raise

    def _verified(
        self, each: Wanted, key: str, stored: memoryview, view: memoryview, release: Callable[[], None]
    ) -> Loaded:
        try:
            with self._services.trace.stage("verify", each.size):
                verify(self._services, each.entry, stored, digest_of(view))
        except BaseException as error:
            release()
            if isinstance(error, ThetaError):
                locate(error, each.group.name, each.entry)
            raise
        value = self._services.values.offer(key, view, release)
        self._finish(each, value.view, value.release)
        return Loaded(self._values, self._release)

    def _finish(self, each: Wanted, view: memoryview, release: Callable[[], None]) -> None:
        group = each.group
        if group.axes is not None:
            from theta_daemon.pipelines.order import to_stored

            logical, view = view, to_stored(view, group.dtype, group.shape, group.axes)
            if view is not logical:
                release()
                release = _nothing
                self._services.store.require_unchanged(logical)
        self._values.append([view])
        if release is not _nothing:
            self._releases.append(release)

    def _release(self) -> None:
        # The future holds this object, and this object the future: what is not dropped here stays until the garbage
        # collector happens to come by, and it does not know that a few small objects hold most of the memory.
        self._values.clear()
        while self._releases:
            self._releases.pop()()

    def _fail(self, error: BaseException) -> None:
        self._release()
        self.future.set_exception(error)


def _shared(services: Services, each: Wanted) -> Value | None:
    value = services.values.get(each.key, each.size)
    if value is not None and each.chain is not None:
        services.values.forgo([each.chain.base_key])
    return value


def _nothing() -> None:
    """Nothing to give back."""
