"""One parameter group on its way into the store.

The reading thread fills a buffer from git's pipe and hands it over; a worker brings it into logical order, hashes
it, and asks the record. Only a group that the record does not hold is encoded and written: large ones chunk by
chunk, side by side. A group larger than its share of the memory budget goes through an unlinked temporary file, and
so does its encoded form.
"""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError, Future
from concurrent.futures import wait as wait_all
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from theta_daemon import dtypes
from theta_daemon.errors import CheckpointError
from theta_daemon.metadata import lsh
from theta_daemon.metadata.digest import Digest
from theta_daemon.metadata.digest import digest as digest_of
from theta_daemon.metadata.entries import LFS_VERSION, NO_HASH, Entry
from theta_daemon.pipelines.order import gathered, to_logical
from theta_daemon.pipelines.spool import Spool
from theta_daemon.pipelines.value import parameter_name, remember
from theta_daemon.store import payload as payloads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from theta_daemon.formats.parts import Tensor, Window
    from theta_daemon.formats.source import Source
    from theta_daemon.metadata.entries import Name
    from theta_daemon.pipelines.baseline import Baseline
    from theta_daemon.pipelines.services import Services

_STEP = 1 << 20  # bytes read and checksummed at a time: they stay in the processor's cache
_BUDGET_SHARE = 4  # a group may hold this fraction of the budget in memory; it and its encoded form fit then
_WINDOW = 16 << 20  # bytes of a spooled group that are hashed before they are forgotten
_MOST_SPOOLED = 2  # groups at a time: one is read while the other is stored, and the disk holds no third


@dataclass(frozen=True, slots=True)
class View:
    """A tensor within another's bytes that is to be stored as a group of its own as well."""

    index: int
    name: Name
    tensor: Tensor
    window: Window


@dataclass(frozen=True, slots=True)
class Stored:
    """A group that is safe in the store: its metadata entry and the digest of its value."""

    entry: Entry
    digest: str


class GroupStore:
    """Reads parameter groups and stores them in the workers, within the pool's budget."""

    def __init__(self, services: Services, baseline: Baseline) -> None:
        self._services = services
        self._baseline = baseline
        self._futures: dict[int, Future[Stored]] = {}
        self._failed: list[BaseException] = []
        self._in_memory = services.settings.memory_limit // _BUDGET_SHARE
        self._may_spool = threading.Semaphore(_MOST_SPOOLED)
        self._closed = threading.Event()

    def read(
        self,
        index: int,
        name: Name,
        tensor: Tensor,
        source: Source,
        seen: Callable[[memoryview], None],
        views: Sequence[View] = (),
    ) -> None:
        """Take the group's bytes from `source`, showing each piece to `seen`, and hand them to the workers.

        `views` are tensors within these bytes that are stored as groups of their own as well.
        Raises TruncatedError when the source ends early, and whatever an earlier group met in the workers.
        """
        if self._failed:
            raise self._failed[0]
        size = dtypes.nbytes(tensor.dtype, tensor.shape)
        spool = None
        try:
            if size > self._in_memory:
                raw, done, spool = self._spooled(source, size, seen)
            else:
                raw, done = self._buffered(source, size, seen)
        except CheckpointError as error:
            error.at(parameter=parameter_name(name))
            raise
        gathering = [(view, *self._gather(raw, view)) for view in views]
        self._start(index, name, tensor, raw, done, spool)
        for view, value, release in gathering:
            self._start(view.index, view.name, replace(view.tensor, axes=None), value, release)

    def results(self) -> dict[int, Stored]:
        """Wait for every group; raises the first failure, in file order."""
        return {index: future.result() for index, future in self._futures.items()}

    def close(self) -> None:
        """Wait until no worker uses a buffer any more; what `results` has not waited for is given up."""
        self._closed.set()
        wait_all(self._futures.values())

    def _buffered(
        self, source: Source, size: int, seen: Callable[[memoryview], None]
    ) -> tuple[memoryview, Callable[[], None]]:
        """Return the group's bytes in a buffer of the budget, and what gives it back."""
        weight = 2 * size  # the value and its encoded form
        self._services.pool.budget.acquire(weight)
        buffer = self._services.buffers.take(size)

        def give_back() -> None:
            self._services.buffers.give(buffer)
            self._services.pool.budget.release(weight)

        try:
            for start in range(0, size, _STEP):
                piece = buffer[start : start + _STEP]
                source.readinto(piece)
                seen(piece)
        except BaseException:
            give_back()
            raise
        return buffer, give_back

    def _gather(self, raw: memoryview, view: View) -> tuple[memoryview, Callable[[], None]]:
        value = gathered(raw, view.tensor.dtype, view.tensor.shape, view.window)
        weight = 2 * len(value)
        # Not waited for: the group that it is a view of holds budget that only its own end gives back.
        self._services.pool.budget.take(weight)
        return value, partial(self._services.pool.budget.release, weight)

    def _spooled(
        self, source: Source, size: int, seen: Callable[[memoryview], None]
    ) -> tuple[memoryview, Callable[[], None], Spool]:
        """Return the group's bytes in a file, what is to be called at their end, and the file."""
        self._may_spool.acquire()
        try:
            spool = Spool(self._services.settings.temporary, size)
            step = memoryview(bytearray(_STEP))
            for start in range(0, size, _STEP):
                piece = step[: min(size - start, _STEP)]
                source.readinto(piece)
                seen(piece)
                spool.append(piece)
            return spool.view(), self._may_spool.release, spool
        except BaseException:
            self._may_spool.release()
            raise

    def _start(
        self,
        index: int,
        name: Name,
        tensor: Tensor,
        raw: memoryview,
        done: Callable[[], None],
        spool: Spool | None = None,
    ) -> None:
        future: Future[Stored] = Future()
        future.set_running_or_notify_cancel()

        def finished(result: Future[Stored]) -> None:
            done()
            error = result.exception()
            if error is not None:
                self._failed.append(error)

        future.add_done_callback(finished)
        task = _Group(self._services, self._baseline, name, tensor, raw, spool, self._closed, future)
        self._services.pool.submit(task.run)
        # Last: Ctrl-C or SIGTERM may end this at any point, and `close` must not wait for what nobody will do.
        self._futures[index] = future


class _Group:
    """The steps of one group in the workers; the last one resolves `future`."""

    def __init__(
        self,
        services: Services,
        baseline: Baseline,
        name: Name,
        tensor: Tensor,
        raw: memoryview,
        spool: Spool | None,
        closed: threading.Event,
        future: Future[Stored],
    ) -> None:
        self._services = services
        self._baseline = baseline
        self._name = name
        self._tensor = tensor
        self._raw = raw
        self._spool = spool  # where `raw` lies
        self._closed = closed  # set where nobody wants the result any more
        self._future = future

    def run(self) -> None:
        try:
            self._compare()
        except BaseException as error:  # noqa: BLE001 - it travels to the waiting thread
            self._future.set_exception(error)

    def _compare(self) -> None:
        self._go_on()
        tensor = self._tensor
        raw = to_logical(self._raw, tensor.dtype, tensor.shape, tensor.axes)
        digest = self._digest(raw)
        known = self._baseline.find(self._name, tensor.dtype, tensor.shape, digest)
        if known is not None and self._services.store.contains(known.oid, known.size):
            self._future.set_result(Stored(known, digest))
            return
        # Unknown, or known but gone from the stores: that is healed where the object comes out the same.
        plan = payloads.chunk_plan(tensor.dtype, tensor.shape, self._services.codec)
        slices = plan.slices
        chunks: list[payloads.Piece] = [b""] * len(slices)
        places = [slice(0)] * len(slices)
        spool, encoded = self._spool, None
        if spool is not None:
            encoded = Spool(self._services.settings.temporary, len(raw))

        def encode(at: int) -> None:
            self._go_on()
            chunk = payloads.encode_chunk(raw[slices[at]], plan)
            if spool is None or encoded is None:
                chunks[at] = chunk
            else:
                places[at] = encoded.append(chunk)
                spool.forget(slices[at])

        def write() -> Stored:
            if encoded is not None:
                view = encoded.view()
                chunks[:] = [view[place] for place in places]
            ref = self._services.store.write(payloads.assemble(plan, chunks))
            if known is not None:
                return Stored(known, digest)
            entry = Entry(
                shape=tensor.shape,
                dtype=tensor.dtype,
                hash=NO_HASH,
                version=LFS_VERSION,
                oid=ref.oid,
                size=ref.size,
                update_type="dense",
                last_commit=None,
                digest=digest,
            )
            if self._baseline.compatible:
                entry = replace(entry, hash=lsh.signature(raw, tensor.dtype))
                remember(self._services, entry, digest)
            return Stored(entry, digest)

        parts = [partial(encode, at) for at in range(len(slices))]
        self._services.pool.fan_out(parts, write, into=self._future)

    def _digest(self, raw: memoryview) -> str:
        if self._spool is None:
            return digest_of(raw)
        digest = Digest()
        for start in range(0, len(raw), _WINDOW):
            self._go_on()
            part = slice(start, min(start + _WINDOW, len(raw)))
            digest.update(raw[part])
            self._spool.forget(part)
        return digest.hexdigest()

    def _go_on(self) -> None:
        """Raise CancelledError where the file has failed, or the process is to end."""
        if self._closed.is_set():
            raise CancelledError
