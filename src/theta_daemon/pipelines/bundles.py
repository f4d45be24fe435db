"""Objects with the changed elements of many parameter groups of a file: written, and read, once for all of them.

A fine-tune changes some hundred elements of each of some hundred groups: as an object each they would take more system
calls, and more round trips to a server, than bytes.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from theta_daemon.errors import CorruptObject
from theta_daemon.metadata.entries import ObjectRef
from theta_daemon.pipelines.scratch import beyond
from theta_daemon.pipelines.value import MOST_ARRAYS, SLACK
from theta_daemon.store.codec import MAX_EXPANSION

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from theta_daemon.metadata.entries import Name, Update
    from theta_daemon.pipelines.services import Services
    from theta_daemon.pipelines.storing import Stored
    from theta_daemon.store.objects import ObjectStore
    from theta_daemon.updates.bundle import Bundle, Run
    from theta_daemon.updates.exact_sparse import Changes


BUNDLED = 64 << 10
"""Bytes of changes up to which they share an object with others; more are worth one of their own."""

_MOST_RUNS = 2  # of updates that are gathered for all groups: a file mostly has one
_MOST = 1 << 20  # bytes of changes, and of names, in one object
_CREDIBLE = 4 * _MOST  # bytes of an object with the changes of more than one group


class Bundles:
    """The bundles that were used last, of at most `limit` bytes in memory; safe from any thread.

    Of one that has more than `most` bytes the rest lies in a file.
    """

    def __init__(self, store: ObjectStore, limit: int, most: int) -> None:
        self._store = store
        self._limit = limit
        self._most = most
        self._known: OrderedDict[str, Bundle] = OrderedDict()
        self._held = 0
        self._runs: OrderedDict[tuple[str, ...], Run | None] = OrderedDict()
        self._lock = threading.Lock()
        self._gathering = threading.Lock()

    def open(self, ref: ObjectRef, size: int) -> Bundle:
        """Return the bundle in an object, where it is credible that it changes a value of `size` bytes.

        Raises MissingObject, CorruptObject, RepositoryError.
        """
        with self._lock:
            known = self._known.get(ref.oid)
            if known is not None:
                self._known.move_to_end(ref.oid)
                return known
        bundle = self._read(ref, size)
        with self._lock:
            if ref.oid not in self._known:
                self._known[ref.oid] = bundle
                self._held += bundle.nbytes
            while self._held > self._limit:
                _, dropped = self._known.popitem(last=False)
                self._held -= dropped.nbytes
        return bundle

    def run(self, updates: Sequence[Update], size: int, most: int) -> Run | None:
        """Return what `updates`, one after the other, change in values like one of `size` bytes; raises as `open` does.

        The groups of a file mostly have the same updates, so what was gathered for one is kept for all; None where that
        would be more than `most` bytes.
        """
        oids = tuple([update.oid for update in updates])
        with self._gathering:  # whoever needs the same would only do the same work
            if oids not in self._runs:
                run = self._gather(updates, size, most)
                while len(self._runs) >= _MOST_RUNS:
                    self._runs.popitem(last=False)
                self._runs[oids] = run
            return self._runs[oids]

    def _gather(self, updates: Sequence[Update], size: int, most: int) -> Run | None:
        from theta_daemon.updates.bundle import Run  # and with it numpy: most checkouts have no use for it

        bundles = []
        held = 0
        for update in updates:
            bundle = self.open(ObjectRef(update.oid, update.size), size)
            held += bundle.nbytes + bundle.positions_nbytes
            if held > most:
                return None
            bundles.append(bundle)
        return Run(bundles)

    def _read(self, ref: ObjectRef, size: int) -> Bundle:
        from theta_daemon.store.arrays import open_arrays
        from theta_daemon.updates.bundle import unpack

        stored = self._store.open(ref)
        credible = min(MAX_EXPANSION * len(stored), max(MOST_ARRAYS * size, _CREDIBLE)) + SLACK
        return unpack(open_arrays(stored, credible, beyond(self._most, self._store.temporary)))


def changes_in(bundle: Bundle, ref: ObjectRef, name: Name) -> Changes:
    """Return the changes of one parameter group in the bundle of an object. Raises CorruptObject where it has none."""
    found = bundle.changes(name)
    if found is None:
        raise CorruptObject(f"object {ref.oid} holds no changes of this parameter group")
    return found


def write_bundles(
    services: Services, stored: Mapping[int, Stored], names: Callable[[int], Sequence[Name]]
) -> dict[int, Stored]:
    """Write the changes that wait in `stored`, by the groups' indices, and return all groups with their objects.

    `names` returns all names of a group. What goes into which object depends on the changes alone.
    """
    done = dict(stored)
    waiting: dict[int, Changes] = {}
    held = 0
    for index, each in sorted(stored.items()):
        if each.changes is None:
            continue
        from theta_daemon.updates.bundle import weight  # and with it numpy

        weighs = weight(names(index), each.changes)
        if held + weighs > _MOST:
            _write(services, waiting, names, done)
            waiting, held = {}, 0
        waiting[index] = each.changes
        held += weighs
    _write(services, waiting, names, done)
    return done


def _write(
    services: Services, waiting: Mapping[int, Changes], names: Callable[[int], Sequence[Name]], done: dict[int, Stored]
) -> None:
    if not waiting:
        return
    from theta_daemon.store.arrays import encode_arrays
    from theta_daemon.updates.bundle import pack

    arrays = pack([(names(index), changes) for index, changes in waiting.items()])
    with services.trace.stage("write object", sum(len(array.raw) for array in arrays.values())):
        ref = services.store.write(encode_arrays(arrays, services.codec))
    for index in waiting:
        entry = done[index].entry.replace(oid=ref.oid, size=ref.size)
        done[index] = done[index].replace(entry=entry, changes=None)
