"""Changed parameter groups as updates of what HEAD holds: as small as the change, where that gives exactly its bits.

HEAD's entry is what an update builds on, because git-theta looks for the previous value there; the entry's `replay`
names everything that is needed, so it outlives that commit (protocol/replay.md). A chain that would become longer than
theta.maxChain, or whose updates would weigh more than half of their base, is cut: the value is stored dense again.

What is worked out is proved: the previous value is verified, and the update applied to it, before anything is written.
A group that HEAD does not have, or whose objects are not all here, is stored dense.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING

from theta_daemon.dtypes import nbytes
from theta_daemon.errors import CorruptObject, ObjectError, ThetaError, UnsupportedError
from theta_daemon.frozen import Frozen
from theta_daemon.metadata import text
from theta_daemon.metadata.digest import digest as digest_of
from theta_daemon.metadata.entries import Metadata, ObjectRef, Update
from theta_daemon.pipelines import dense
from theta_daemon.pipelines.bundles import changes_in
from theta_daemon.pipelines.chains import Chain, chains, is_found_by_name
from theta_daemon.pipelines.scratch import Scratch
from theta_daemon.updates.kinds import DENSE, EXACT_SPARSE, IA3, LOW_RANK, SPARSE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from theta_daemon.metadata.entries import Entry, Name
    from theta_daemon.pipelines.baseline import Baseline
    from theta_daemon.pipelines.services import Services
    from theta_daemon.updates.array import Array
    from theta_daemon.updates.exact_sparse import Changes

AUTO = "auto"
_SMALL = 64  # an update that is so much smaller than the value is not worth the search for a smaller one
_LEAST = 4 << 10  # bytes of a value whose dense object is hardly larger than an update
_WEIGHT_SHARE = 2  # updates may weigh this fraction of their base


class Base(Frozen):
    """What an update may build on: HEAD's entry, its commit, and what makes its value.

    `names` are all names of the tensor, which will have the update in common; `room` are the bytes that it may have:
    none where the chain is to be cut.
    """

    names: tuple[Name, ...]
    commit: str
    entry: Entry
    chain: Chain
    room: int

    @property
    def replay(self) -> tuple[Update, ...]:
        """What makes its value, for the entry of what builds on it: base first."""
        base = self.chain.base
        return (Update(DENSE, base.oid, base.size), *self.chain.updates)

    @property
    def suits_git_theta(self) -> bool:
        """Whether git-theta can read all of it."""
        return all(update.update_type != EXACT_SPARSE for update in self.chain.updates)


class Increment(Frozen):
    """An update of `nbytes` that makes a value of its base: either `changes`, or the arrays that were inferred."""

    base: Base
    update_type: str
    nbytes: int
    changes: Changes | None = None
    inferred: Mapping[str, Array] = MappingProxyType({})

    def arrays(self) -> Mapping[str, Array]:
        """Return what its object holds."""
        if self.changes is None:
            return self.inferred
        from theta_daemon.updates.bundle import pack

        return pack([(self.base.names, self.changes)])


class Head:
    """What HEAD holds of one path; read when it is first needed, from any thread."""

    def __init__(self, services: Services, path: bytes) -> None:
        self._services = services
        self._path = path
        self._lock = threading.Lock()
        self._known: tuple[str, Metadata] | None = None
        self._chains: Mapping[Name, Chain] = {}
        self._was_read = False

    @property
    def is_there(self) -> bool:
        """Whether HEAD holds metadata at the path. Raises RepositoryError where git cannot read HEAD."""
        with self._lock:
            if not self._was_read:
                self._read()
                self._was_read = True
        return self._known is not None

    def holds(self, name: Name) -> bool:
        """Whether HEAD has a parameter group of this name. Raises RepositoryError where git cannot read HEAD."""
        return self.is_there and self._known is not None and name in self._known[1].entries

    def base(self, names: tuple[Name, ...], dtype: str, shape: tuple[int, ...]) -> Base | None:
        """Return what an update of the group with these names may build on; None where HEAD has nothing like it.

        Raises RepositoryError where git cannot read HEAD.
        """
        if not self.is_there or self._known is None:
            return None
        name, *aliases = names
        commit, metadata = self._known
        entry = metadata.entries.get(name)
        if entry is None or (entry.dtype, entry.shape) != (dtype, shape):
            return None
        chain = self._chains.get(name)
        if chain is None:
            chain = Chain(name, dtype, shape, ObjectRef(entry.oid, entry.size), (), entry.digest is not None)
        if is_found_by_name(entry) and any(metadata.entries.get(alias) != entry for alias in aliases):
            return None  # the objects may hold changes of this name alone
        room = 0
        if len(chain.updates) < self._services.settings.max_chain:
            try:
                weight = sum(self._weight(chain, update) for update in chain.updates)
            except ObjectError:
                return None
            room = max(chain.base.size // _WEIGHT_SHARE - weight, 0)
        return Base(names, commit, entry, chain, room)

    def _weight(self, chain: Chain, update: Update) -> int:
        """Return what an update weighs: its object, or its share of one that it has in common with others."""
        if update.update_type != EXACT_SPARSE:
            return update.size
        ref = ObjectRef(update.oid, update.size)
        bundle = self._services.bundles.open(ref, nbytes(chain.dtype, chain.shape))
        return changes_in(bundle, ref, chain.name).nbytes

    def _read(self) -> None:
        found = self._services.record.head(self._path)
        if found is None:
            return
        kind = self._services.parsed.get(text.read, digest_of(found.data), lambda: found.data)
        if not isinstance(kind, Metadata):
            return
        try:
            self._chains = chains(self._services, self._path, kind.entries)
        except ThetaError as error:
            self._services.warn(self._path, f"all that changed is stored dense: {error}")
        else:
            self._known = found.origin, kind


def can_git_theta_follow(path: bytes) -> bool:
    """Whether git-theta 0.2.0 finds a file in an earlier commit: only at the top of the work tree (tried)."""
    return b"/" not in path


def previous(
    services: Services, base: Base, into: memoryview, forget: Callable[[int, int], None] | None = None
) -> None:
    """Write the verified value that an update builds on into `into`, with the bits that it has on every machine.

    Raises MissingObject, CorruptObject, UnsupportedError.
    """
    from theta_daemon.pipelines.replay import replay  # and with it numpy

    entry, chain = base.entry, base.chain
    if entry.digest is None:
        for ref in chain.objects():
            services.store.verify(ref, services.store.open(ref))
    replay(services, chain.replace(is_exact=True), into, forget)
    if entry.digest is not None and dense.digest(into, forget) != entry.digest:
        raise CorruptObject(f"object {entry.oid} does not hold the value that the metadata names")


class Increments:
    """Works out updates of the groups of one file, as the settings ask for them. Safe from the workers.

    Where the baseline is compatible, only types that git-theta can read are used. `refused` is the number of groups in
    HEAD whose new value the type that was asked for could not make.
    """

    def __init__(self, services: Services, baseline: Baseline) -> None:
        self._services = services
        self._baseline = baseline
        self._head = Head(services, baseline.path)
        self._lock = threading.Lock()
        self.refused = 0

    def find(
        self,
        names: tuple[Name, ...],
        dtype: str,
        shape: tuple[int, ...],
        value: memoryview,
        forget: Callable[[slice], None] | None = None,
    ) -> Increment | None:
        """Return the smallest update that makes `value`, and is worth it; None where it must be stored dense.

        `names` are all names of the tensor. Takes memory for a second value of its size, or a file of it where that is
        too much; `forget` gives back the memory of a part of `value`, where that is a file too. Raises RepositoryError.
        """
        wanted = self._services.settings.update_type
        if len(value) < _LEAST and wanted == AUTO:
            return None
        found = None
        base = self._head.base(names, dtype, shape)
        is_worth_it = base is not None and base.room and len(value) >= _LEAST
        if base is not None and is_worth_it and (not self._baseline.compatible or self._suits_git_theta(base)):
            with self._before(len(value)) as (before, forget_before):

                def forget_both(start: int, stop: int) -> None:
                    forget_before(start, stop)
                    if forget is not None:
                        forget(slice(start, stop))

                found = self._found(base, before, value, forget_both)
        if wanted != AUTO and (found is None or found.update_type != wanted) and self._head.holds(names[0]):
            with self._lock:
                self.refused += 1
        return found

    def _suits_git_theta(self, base: Base) -> bool:
        return base.suits_git_theta and can_git_theta_follow(self._baseline.path)

    def _found(
        self, base: Base, before: memoryview, value: memoryview, forget: Callable[[int, int], None]
    ) -> Increment | None:
        try:
            previous(self._services, base, before, forget)
        except (ObjectError, UnsupportedError):
            return None
        with self._services.trace.stage("work out updates", len(value)):
            return self._work_out(base, before, value, forget)

    def _work_out(
        self, base: Base, before: memoryview, value: memoryview, forget: Callable[[int, int], None]
    ) -> Increment | None:
        best, most = None, base.room
        for update_type in self._types():
            found = _inferred(base, update_type, before, value, most, forget)
            forget(0, len(before))
            if found is None:
                continue
            best = found
            if update_type == self._services.settings.update_type or best.nbytes * _SMALL <= len(value):
                break
            most = best.nbytes - 1
        return best

    def _types(self) -> Sequence[str]:
        """Return the types to try in turn: the one that was asked for, and then for the smallest."""
        wanted = self._services.settings.update_type
        types = (SPARSE if self._baseline.compatible else EXACT_SPARSE, IA3, LOW_RANK)
        return types if wanted == AUTO else (wanted, *(other for other in types if other != wanted))

    @contextmanager
    def _before(self, size: int) -> Iterator[tuple[memoryview, Callable[[int, int], None]]]:
        """Give room for the value that an update builds on, and what gives back the memory of a part of it."""
        services = self._services
        if size > services.settings.largest_in_memory:
            scratch = Scratch(services.settings.temporary, size)
            yield scratch.view, scratch.forget
            return
        # Not waited for: the value that it is compared with holds budget that only its own end gives back.
        services.pool.budget.take(size)
        buffer = services.buffers.take(size)
        try:
            yield buffer, _keep
        finally:
            services.buffers.give(buffer)
            services.pool.budget.release(size)


def _inferred(
    base: Base,
    update_type: str,
    before: memoryview,
    value: memoryview,
    most: int,
    forget: Callable[[int, int], None],
) -> Increment | None:
    chain = base.chain
    if update_type == EXACT_SPARSE:
        from theta_daemon.updates.exact_sparse import changes

        found = changes(before, value, chain.dtype, most, forget)
        return None if found is None else Increment(base, update_type, found.nbytes, found)
    from theta_daemon.updates.infer import infer

    arrays = infer(update_type, before, value, chain.dtype, chain.shape, most, forget)
    if arrays is None:
        return None
    return Increment(base, update_type, sum(len(array.raw) for array in arrays.values()), None, arrays)


def _keep(_start: int, _stop: int) -> None:
    """Memory that is no file's stays."""
