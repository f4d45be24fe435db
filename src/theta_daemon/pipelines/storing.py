"""What the workers do with parameter groups: compare each with the record, and store what it does not hold.

A group is brought into logical order where the file has another, and hashed; that, and a look at the store, is all that
an unchanged group costs. Only what the record does not hold is encoded and written: large groups chunk by chunk, side
by side. What is too large for memory lies in spools and is walked over in windows; so does its encoded form.
"""

from __future__ import annotations

import threading
from collections import deque
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import TYPE_CHECKING

from theta_daemon import dtypes
from theta_daemon.frozen import Frozen
from theta_daemon.metadata.digest import Digest
from theta_daemon.metadata.digest import digest as digest_of
from theta_daemon.metadata.entries import LFS_VERSION, NO_HASH, Entry
from theta_daemon.pipelines.bundles import BUNDLED
from theta_daemon.pipelines.chains import is_found_by_name
from theta_daemon.pipelines.encoding import compressed, uncompressed
from theta_daemon.pipelines.increments import Increments
from theta_daemon.pipelines.known import remember
from theta_daemon.pipelines.order import gathered_pieces, window_of
from theta_daemon.pipelines.spool import WINDOW, Spool, windows
from theta_daemon.store import payload as payloads
from theta_daemon.updates.kinds import DENSE

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from theta_daemon.formats.parts import Tensor, Window
    from theta_daemon.metadata.entries import Name
    from theta_daemon.pipelines.baseline import Baseline
    from theta_daemon.pipelines.encoding import Encoding
    from theta_daemon.pipelines.increments import Increment
    from theta_daemon.pipelines.services import Services
    from theta_daemon.updates.exact_sparse import Changes

_COMPILER = 512 << 20  # memory limit from which on a compiler may have its 100 MiB
_MOST_SIGNING = 4  # threads that share a group's hash: each converts all its values


class Member(Frozen):
    """A tensor that is stored as a parameter group; `window` where it is a view, and so only a part of its bytes.

    `aliases` are the other names of the same tensor.
    """

    index: int
    name: Name
    tensor: Tensor
    window: Window | None = None
    aliases: tuple[Name, ...] = ()


class Stored(Frozen):
    """A group that is safe in the store: its metadata entry and the digest of its value.

    Or one that will be when its `changes` are written, with those of other groups; until then no object has a name.
    """

    entry: Entry
    digest: str
    changes: Changes | None = None


class Bytes(Frozen):
    """Bytes of a group; `spool` where they lie in one, and `digest` where it is known."""

    raw: memoryview
    spool: Spool | None = None
    digest: str | None = None

    def forget(self) -> None:
        """Give back their memory, where they need not stay in it."""
        if self.spool is not None:
            self.spool.forget(slice(0, len(self.raw)))


class Batch:
    """Groups that are stored one after the other; `future` has the result, by index.

    It has begun once `run` is in the pool. `release` is called before the future has its result.
    """

    def __init__(self, storing: Storing, release: Callable[[], None]) -> None:
        self._storing = storing
        self._release = release
        self._left: deque[tuple[int, Callable[[], Stored | Future[Stored]]]] = deque()
        self._stored: dict[int, Stored] = {}
        self.future: Future[dict[int, Stored]] = Future()
        self.future.set_running_or_notify_cancel()

    def __len__(self) -> int:
        """Return the number of groups that are left."""
        return len(self._left)

    def add(self, held: Bytes, members: Sequence[Member]) -> None:
        """Add a group, whose bytes are `held` in the order in which the file has them, and the views within it."""
        for member in members:
            self._left.append((member.index, partial(self._storing.store, held, member)))

    def add_encoded(self, encoding: Encoding) -> None:
        """Add a group that was encoded already."""
        self._left.append((encoding.member.index, encoding.write))

    def run(self) -> None:
        """Store what is left, up to a group whose chunks are encoded side by side: then the last of those goes on."""
        try:
            while self._left:
                _, store = self._left[0]
                stored = store()
                if isinstance(stored, Future):
                    stored.add_done_callback(self._go_on)
                    return
                self._note(stored)
            self._give_back()
        except BaseException as error:  # noqa: BLE001 - it travels to the waiting thread
            self.fail(error)
        else:
            self.future.set_result(self._stored)

    def fail(self, error: BaseException) -> None:
        """End without a result."""
        self._left.clear()
        self._storing.failure = self._storing.failure or error
        try:
            self._give_back()
        finally:
            self.future.set_exception(error)

    def _give_back(self) -> None:
        release, self._release = self._release, _nothing
        release()

    def _note(self, stored: Stored) -> None:
        index, _ = self._left.popleft()
        self._stored[index] = stored

    def _go_on(self, result: Future[Stored]) -> None:
        try:
            self._note(result.result())
            self._storing.services.pool.submit(self.run)
        except BaseException as error:  # noqa: BLE001 - it travels to the waiting thread
            self.fail(error)


class Storing:
    """Stores groups of one file, in the workers. Groups of more than `in_memory` bytes are never whole in memory.

    `failure` is the first error that any batch met.
    """

    def __init__(self, services: Services, baseline: Baseline, in_memory: int) -> None:
        self.services = services
        self.failure: BaseException | None = None
        self._baseline = baseline
        self._in_memory = in_memory
        self._given_up = threading.Event()
        self.increments: Increments | None = None
        if services.settings.update_type != DENSE:
            self.increments = Increments(services, baseline)

    def give_up(self) -> None:
        """End soon: nobody wants the results any more."""
        self._given_up.set()

    def store(self, held: Bytes, member: Member) -> Stored | Future[Stored]:
        """Store one group, whose bytes (or its owner's) are `held` in the order in which the file has them."""
        self.go_on()
        tensor, window = member.tensor, member.window
        if window is None:
            if tensor.axes is None:
                return self._store(held, member)
            window = window_of(tensor.dtype, tensor.shape, tensor.axes)
        weight = 2 * min(dtypes.nbytes(tensor.dtype, tensor.shape), self._in_memory)
        budget = self.services.pool.budget
        # Not waited for: the bytes that it is made of hold budget that only their own end gives back.
        budget.take(weight)
        try:
            stored = self._store(self._logical(held, tensor, window), member)
        except BaseException:
            budget.release(weight)
            raise
        if isinstance(stored, Future):
            stored.add_done_callback(lambda _: budget.release(weight))
        else:
            budget.release(weight)
        return stored

    def write(
        self, pieces: Sequence[payloads.Piece], tensor: Tensor, digest: str, signature: tuple[int, ...] = NO_HASH
    ) -> Stored:
        """Write the payload of a value."""
        self.go_on()
        with self.services.trace.stage("write object", dtypes.nbytes(tensor.dtype, tensor.shape)):
            ref = self.services.store.write(pieces)
        entry = Entry(
            shape=tensor.shape,
            dtype=tensor.dtype,
            hash=signature,
            version=LFS_VERSION,
            oid=ref.oid,
            size=ref.size,
            update_type=DENSE,
            last_commit=None,
            digest=digest,
        )
        if self._baseline.compatible:
            remember(self.services, entry, digest)
        return Stored(entry, digest)

    def _write_update(self, increment: Increment, value: Bytes, digest: str) -> Stored:
        """Write the object of an update, or leave that to whoever bundles small ones."""
        from theta_daemon.store.arrays import encode_arrays  # and with it numpy

        self.go_on()
        chain, signature = increment.base.chain, list(NO_HASH)
        if self._baseline.compatible:
            for part in self._signing(value, chain.dtype, signature, side_by_side=False):
                part()
        ref = None
        if increment.changes is None or increment.nbytes > BUNDLED:
            with self.services.trace.stage("write object", increment.nbytes):
                ref = self.services.store.write(encode_arrays(increment.arrays(), self.services.codec))
        entry = Entry(
            shape=chain.shape,
            dtype=chain.dtype,
            hash=tuple(signature),
            version=LFS_VERSION,
            oid="" if ref is None else ref.oid,
            size=0 if ref is None else ref.size,
            update_type=increment.update_type,
            last_commit=increment.base.commit,
            digest=digest,
            replay=increment.base.replay,
        )
        return Stored(entry, digest, increment.changes if ref is None else None)

    @property
    def hashes_for_git_theta(self) -> bool:
        """Whether new groups get git-theta's hash, which takes longer than all else."""
        return self._baseline.compatible

    def compare(self, raw: memoryview, member: Member) -> Stored | Bytes:
        """Return what the record holds, where that is the group with these bytes; else the bytes, to be stored.

        Only worth it where the record has another value of the group, or this one.
        """
        tensor = member.tensor
        if tensor.axes is not None or not self._baseline.may_find_at_once(member.name, tensor.dtype, tensor.shape):
            return Bytes(raw)
        digest, known, is_there = self._compared(Bytes(raw), member)
        return Stored(known, digest) if known is not None and is_there else Bytes(raw, digest=digest)

    def is_new(self, member: Member) -> bool:
        """Whether a group must be encoded whatever its value is, and for nothing else but its bytes in this order."""
        tensor = member.tensor
        if tensor.axes is not None or self.services.codec.cname is None:
            return False
        return not self._baseline.compatible and not self._baseline.may_find(member.name, tensor.dtype, tensor.shape)

    def _logical(self, held: Bytes, tensor: Tensor, window: Window) -> Bytes:
        """Return the bytes, in logical order, of what lies in `held` as `window` says."""
        size = dtypes.nbytes(tensor.dtype, tensor.shape)
        most = size if size <= self._in_memory else max(self._in_memory // 2, WINDOW)
        pieces = gathered_pieces(held.raw, tensor.dtype, tensor.shape, window, most, held.forget)
        if size <= self._in_memory:
            return Bytes(next(pieces, memoryview(b"")))
        spool, digest = Spool(self.services.settings.temporary, size), Digest()
        for piece in pieces:
            self.go_on()
            spool.append(piece)
            digest.update(piece)
        return Bytes(spool.view(), spool, digest.hexdigest())

    def _store(self, value: Bytes, member: Member) -> Stored | Future[Stored]:
        """Store a group, whose bytes `value` are in logical order."""
        tensor = member.tensor
        digest, known, is_there = self._compared(value, member)
        if known is not None and is_there:
            return Stored(known, digest)
        if known is None and self.increments is not None:
            forget = None if value.spool is None else value.spool.forget
            increment = self.increments.find(
                (member.name, *member.aliases), tensor.dtype, tensor.shape, value.raw, forget
            )
            if increment is not None:
                return self._write_update(increment, value, digest)
        # Unknown, or known but gone from the stores: that is healed where the object comes out the same.
        plan = payloads.chunk_plan(tensor.dtype, tensor.shape, self.services.codec)
        parts, pieces = self._encoding(value, plan)
        signature = list(NO_HASH)
        if self._baseline.compatible and known is None:
            parts = [*self._signing(value, tensor.dtype, signature, side_by_side=len(parts) > 1), *parts]

        def write() -> Stored:
            stored = self.write(pieces(), tensor, digest, tuple(signature))
            return stored if known is None else Stored(known, digest)

        if len(plan.cells) > 1:
            return self.services.pool.fan_out(parts, write)
        for part in parts:
            part()
        return write()

    def _compared(self, value: Bytes, member: Member) -> tuple[str, Entry | None, bool]:
        """Return the digest of a group, the record's entry for it, if any, and whether the store has that."""
        tensor, trace = member.tensor, self.services.trace
        with trace.stage("digest", len(value.raw)):
            digest = value.digest or digest_of(value.raw)
        with trace.stage("compare with the record"):
            known = self._baseline.find(member.name, tensor.dtype, tensor.shape, digest, value.raw)
            if known is not None and member.aliases and not self._suits_aliases(known, member, digest):
                known = None
        return digest, known, known is not None and self.services.store.contains(known.oid, known.size)

    def _suits_aliases(self, known: Entry, member: Member, digest: str) -> bool:
        """Whether aliases may have this entry, whose objects may not know their names, or have entries of their own."""
        if not is_found_by_name(known):
            return True
        tensor = member.tensor
        return all(self._baseline.find(alias, tensor.dtype, tensor.shape, digest) for alias in member.aliases)

    def _encoding(
        self, value: Bytes, plan: payloads.ChunkPlan
    ) -> tuple[list[Callable[[], None]], Callable[[], Sequence[payloads.Piece]]]:
        """Return what encodes the chunks, in any order, and what then returns the payload's pieces."""
        slices = plan.slices
        if value.spool is None:
            chunks: list[payloads.Piece] = [b""] * len(slices)

            def encode(at: int) -> None:
                self.go_on()
                with self.services.trace.stage("compress", len(value.raw[slices[at]])):
                    chunks[at] = payloads.encode_chunk(value.raw[slices[at]], plan)

            return [partial(encode, at) for at in range(len(slices))], lambda: payloads.assemble(plan, chunks)
        if self.services.codec.cname is None:
            return [], partial(uncompressed, value.raw, value.spool, plan)
        source, target = value.spool, Spool(self.services.settings.temporary, len(value.raw))
        places = [slice(0)] * len(slices)

        def encode_spooled(at: int) -> None:
            self.go_on()
            with self.services.trace.stage("compress", len(value.raw[slices[at]])):
                places[at] = target.append(payloads.encode_chunk(value.raw[slices[at]], plan))
            source.forget(slices[at])

        return [partial(encode_spooled, at) for at in range(len(slices))], lambda: compressed(target, places, plan)

    def _signing(
        self, value: Bytes, dtype: str, signature: list[int], *, side_by_side: bool
    ) -> list[Callable[[], None]]:
        """Return what computes git-theta's hash into `signature`, in any order."""
        from theta_daemon.metadata import lsh  # and with it numpy

        def sign(planes: slice) -> None:
            stream = lsh.Stream(dtype, planes, may_compile=may_compile)
            for window in windows(slice(0, len(value.raw))):
                self.go_on()
                with self.services.trace.stage("hash for git-theta", len(value.raw[window])):
                    stream.update(value.raw[window])
                if value.spool is not None:
                    value.spool.forget(window)
            signature[planes] = stream.signature()

        may_compile = self.services.settings.memory_limit >= _COMPILER
        threads = min(self.services.pool.workers, _MOST_SIGNING) if side_by_side else 1
        share = -(-lsh.SIZE // (lsh.TOGETHER * threads)) * lsh.TOGETHER
        return [partial(sign, slice(start, start + share)) for start in range(0, lsh.SIZE, share)]

    def go_on(self) -> None:
        """Raise CancelledError where the file has failed, or the process is to end."""
        if self._given_up.is_set():
            raise CancelledError


def _nothing() -> None:
    """Nothing is left to give back."""
