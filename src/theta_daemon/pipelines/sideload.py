"""Updates that come from a file of their own: a LoRA adapter becomes a commit of the size of the adapter.

The checkpoint in the work tree is cleaned as ever; then the groups that updates are for get what their previous value,
HEAD's, and the update make. So these groups must be in the work tree as HEAD has them; all others are taken from it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from theta_daemon import dtypes
from theta_daemon.errors import ThetaError, UsageError, printable
from theta_daemon.formats.parts import Role
from theta_daemon.frozen import Frozen
from theta_daemon.metadata import text
from theta_daemon.metadata.digest import digest as digest_of
from theta_daemon.metadata.entries import LFS_VERSION, NO_HASH, Entry, Metadata
from theta_daemon.pipelines import dense
from theta_daemon.pipelines.baseline import Baseline
from theta_daemon.pipelines.clean import clean
from theta_daemon.pipelines.increments import Head, can_git_theta_follow, previous
from theta_daemon.pipelines.known import stored_digest
from theta_daemon.pipelines.packs import packed
from theta_daemon.pipelines.replay import apply
from theta_daemon.pipelines.skeleton import skeleton
from theta_daemon.pipelines.spool import windows
from theta_daemon.pipelines.value import locate, parameter_name
from theta_daemon.store import payload as payloads
from theta_daemon.store.arrays import encode_arrays
from theta_daemon.updates import steps
from theta_daemon.updates.kinds import DENSE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from theta_daemon.formats.source import Readable
    from theta_daemon.metadata.entries import Name
    from theta_daemon.pipelines.increments import Base
    from theta_daemon.pipelines.services import Services
    from theta_daemon.updates.array import Array

    Parameters = Mapping[Name, tuple[str, tuple[int, ...]]]
    Updates = Mapping[Name, tuple[str, Mapping[str, Array]]]
    Find = Callable[[Parameters, Callable[[Name, Array], bool]], Updates]

_MOST_LISTED = 10


class _File(Frozen):
    """A checkpoint in the work tree, as its metadata has it, and what HEAD holds in its place."""

    path: bytes
    metadata: Metadata
    head: Head


def sideload(services: Services, contents: Sequence[tuple[bytes, Readable]], find: Find) -> list[bytes]:
    """Return the metadata of each of `contents`, checkpoints by their paths, with updates applied.

    `find` gets dtype and shape of every parameter group of all of them (a model's shards), and what tells whether one
    has some value now; it returns type and arrays of each update.

    Raises UsageError where HEAD does not hold what an update builds on, or the work tree has changed it, or several
    files hold what an update names; whatever `find`, `clean` and `previous` raise.
    """
    files = [_read(services, path, content) for path, content in contents]
    places: dict[Name, list[_File]] = {}
    for file in files:
        for name in file.metadata.entries:
            places.setdefault(name, []).append(file)

    def holds(name: Name, value: Array) -> bool:
        entry = places[name][0].metadata.entries[name]
        return (entry.dtype, entry.shape, entry.digest) == (value.dtype, value.shape, digest_of(value.raw))

    entries = {name: each[0].metadata.entries[name] for name, each in places.items()}
    try:
        found = find({name: (entry.dtype, entry.shape) for name, entry in entries.items()}, holds)
    except UsageError as error:
        # Not as the error's path: where it says "the file", that is the one with the updates.
        error.message = f"updates for {_for(files)}: {error.message}"
        raise
    ambiguous = [name for name in found if len(places[name]) > 1]
    if ambiguous:
        raise UsageError(f"more than one of the files has what is to be updated: {_listed(ambiguous)}")
    updates = [{name: update for name, update in found.items() if places[name][0] is file} for file in files]
    return [_sideloaded(services, file, mine) for file, mine in zip(files, updates, strict=True)]


def _for(files: Sequence[_File]) -> str:
    first = printable(files[0].path)
    return first if len(files) == 1 else f"{first} and {len(files) - 1} more"


def _read(services: Services, path: bytes, content: Readable) -> _File:
    metadata = text.read(b"".join(clean(services, path, content)))
    if not isinstance(metadata, Metadata):
        raise UsageError("updates need a checkpoint in the work tree", path=path, hint="git checkout it first")
    head = Head(services, path)
    if not head.is_there:
        raise UsageError(
            "HEAD does not hold it, and updates build on what HEAD holds", path=path, hint="commit it first"
        )
    return _File(path, metadata, head)


def _sideloaded(services: Services, file: _File, updates: Updates) -> bytes:
    """Store the updates of one file; return its new metadata."""
    path, metadata = file.path, file.metadata
    updates = _with_aliases(services, path, metadata, updates)
    bases = _bases(services, path, metadata, file.head, updates)
    compatible = Baseline(services, path).compatible
    updated = {
        name: services.pool.submit(partial(_updated, services, path, bases[name], *update, compatible=compatible))
        for name, update in updates.items()
    }
    entries = dict(metadata.entries)
    for name, future in updated.items():
        entries[name] = future.result()
    cut = [name for name, (asked, _) in updates.items() if entries[name].update_type != asked]
    if cut:
        services.warn(
            path, f"stored whole, not as updates (too many, too heavy, or not for git-theta to read): {_listed(cut)}"
        )
    return text.serialize(packed(services, Metadata(entries, metadata.file), [metadata]))


def _with_aliases(services: Services, path: bytes, metadata: Metadata, updates: Updates) -> Updates:
    """Return the updates, and for each name that shares its tensor with one of them the same."""
    layout = skeleton(services, path, metadata, quiet=True).layout
    names = {index: [group.name] for index, group in enumerate(layout.groups) if group.role is Role.OWNER}
    for group in layout.groups:
        if group.role is Role.ALIAS and group.owner is not None:
            names[group.owner].append(group.name)
    found = dict(updates)
    for tied in names.values():
        named = [name for name in tied if name in updates]
        if (len(named) > 1 and len(named) < len(tied)) or any(updates[name] != updates[named[0]] for name in named):
            raise UsageError(f"{_listed(named)} are one tensor and cannot have several updates", path=path)
        found |= {name: updates[named[0]] for name in tied if named}
    return found


def _bases(services: Services, path: bytes, metadata: Metadata, head: Head, updates: Updates) -> dict[Name, Base]:
    """Return what each update builds on. Raises UsageError unless that is what the work tree holds."""
    bases: dict[Name, Base] = {}
    missing, changed = [], []
    for name in updates:
        entry = metadata.entries[name]
        base = head.base((name,), entry.dtype, entry.shape)
        if base is None:
            missing.append(name)
        elif not _same(services, path, name, entry, base.entry):
            changed.append(name)
        else:
            bases[name] = base
    if missing:
        raise UsageError(
            f"HEAD does not hold what is to be updated: {_listed(missing)}", path=path, hint="commit the file first"
        )
    if changed:
        raise UsageError(
            f"the work tree has changed what is to be updated: {_listed(changed)}",
            path=path,
            hint="commit the file as it is first, or check it out again",
        )
    return bases


def _same(services: Services, path: bytes, name: Name, one: Entry, other: Entry) -> bool:
    if one == other:
        return True
    digests = [entry.digest or stored_digest(services, path, name, entry) for entry in (one, other)]
    return digests[0] is not None and digests[0] == digests[1]


def _updated(
    services: Services, path: bytes, base: Base, update_type: str, arrays: Mapping[str, Array], *, compatible: bool
) -> Entry:
    """Store the update, or the value where the chain is to be cut, and return the new entry."""
    chain = base.chain
    try:
        with dense.room(services, dtypes.nbytes(chain.dtype, chain.shape)) as (value, forget):
            if update_type == DENSE:
                value[:] = arrays[payloads.NAME].raw
            else:
                previous(services, base, value, forget)
                apply([steps.prepare(update_type, arrays, chain.dtype, chain.shape)], chain.shape, value, forget)
            weight = sum(len(array.raw) for array in arrays.values())
            is_cut = (
                update_type == DENSE
                or weight > base.room
                or (compatible and not (base.suits_git_theta and can_git_theta_follow(path)))
            )
            if is_cut:
                ref = dense.write(services, value, chain.dtype, chain.shape, forget)
            else:
                ref = services.store.write(encode_arrays(arrays, services.codec))
            return Entry(
                shape=chain.shape,
                dtype=chain.dtype,
                hash=_signature(chain.dtype, value, forget) if compatible else NO_HASH,
                version=LFS_VERSION,
                oid=ref.oid,
                size=ref.size,
                update_type=DENSE if is_cut else update_type,
                last_commit=None if is_cut else base.commit,
                digest=dense.digest(value, forget),
                replay=() if is_cut else base.replay,
            )
    except ThetaError as error:
        locate(error, chain.name, base.entry)
        raise


def _signature(dtype: str, value: memoryview, forget: dense.Forget | None) -> tuple[int, ...]:
    from theta_daemon.metadata import lsh

    stream = lsh.Stream(dtype)
    for window in windows(slice(0, len(value))):
        stream.update(value[window])
        if forget is not None:
            forget(window.start, window.stop)
    return stream.signature()


def _listed(names: Sequence[Name]) -> str:
    listed = ", ".join(map(parameter_name, names[:_MOST_LISTED]))
    return listed if len(names) <= _MOST_LISTED else f"{listed} and {len(names) - _MOST_LISTED} more"
