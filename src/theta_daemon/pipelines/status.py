"""What the tracked files of a work tree are, and which objects are missing for them.

Quick: what a file holds is asked of git, which goes by its times and size, for those alone that are no metadata; and
git is asked once for all of them.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from theta_daemon import dtypes
from theta_daemon.errors import ThetaError
from theta_daemon.formats import layout_codec
from theta_daemon.formats.layout import size as size_of
from theta_daemon.frozen import Frozen
from theta_daemon.history import index
from theta_daemon.metadata import objects, text
from theta_daemon.metadata.text import Kind
from theta_daemon.pipelines.services import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from collections.abc import Set as AbstractSet

    from theta_daemon.history.tracked import Tracked
    from theta_daemon.metadata.entries import Metadata
    from theta_daemon.pipelines.worktree import WorkTree
    from theta_daemon.settings import Settings
    from theta_daemon.store.objects import ObjectStore

_LAYOUT_LIMIT = 1 << 20  # bytes up to which a layout is read for nothing but the size of its file


class State(enum.StrEnum):
    """What a tracked file is in the work tree."""

    FULL = "full"  # what the index says
    METADATA = "metadata"  # the metadata itself
    MODIFIED = "modified"
    MISSING = "missing"
    SPARSE = "sparse"  # a sparse checkout leaves it out
    CONFLICT = "conflict"  # stages of an unfinished merge, or conflict markers


class Status(Frozen):
    """A file, by its path from the top of the work tree.

    `size` are the bytes of the checkpoint: of the file if it is one, else of the one that the metadata describes; None
    where it is not known. `lacking` are the objects, and their bytes, that this needs and that are not here.
    """

    path: bytes
    state: State
    size: int | None
    lacking: Mapping[str, int]


class _Described(Frozen):
    """What the blob of a file says: the bytes of the checkpoint, and the objects that are not here."""

    size: int | None
    lacking: Mapping[str, int]


_UNKNOWN = _Described(None, {})


def status(
    settings: Settings, tree: WorkTree, files: Sequence[Tracked], modified: Callable[[], AbstractSet[bytes]]
) -> Iterator[Status]:
    """Yield the status of each file; `modified` returns the paths of those that git takes for modified.

    Raises RepositoryError when git fails, OSError for a file that cannot be read.
    """
    store = open_store(settings)
    looks = index.looks(settings, (file.blob for file in files if file.blob is not None))
    described = {look.id: _described(store, look.data, look.size) for look in looks}
    changed: AbstractSet[bytes] | None = None
    for file in files:
        if file.blob is None:
            yield Status(file.path, State.CONFLICT, None, {})
            continue
        known = described.get(file.blob, _UNKNOWN)
        found = tree.look(file.path, file.blob)
        if found is None:
            yield Status(file.path, State.SPARSE if file.is_skipped else State.MISSING, known.size, known.lacking)
        elif found.data is not None and (kind := text.kind(found.data)) is not Kind.OTHER:
            state = State.METADATA if kind is Kind.METADATA else State.CONFLICT
            yield Status(file.path, state, known.size, known.lacking)
        else:
            changed = modified() if changed is None else changed
            state = State.MODIFIED if file.path in changed or not found.is_file else State.FULL
            yield Status(file.path, state, found.size if found.is_file else None, known.lacking)


def _described(store: ObjectStore, data: bytes | None, size: int) -> _Described:
    if data is None or text.kind(data) is not Kind.METADATA:
        return _Described(size, {})  # the checkpoint itself
    try:
        metadata = text.parse(data)
        wanted = {each.oid: each.size for each in objects.of(metadata)}
        lacking = {oid: size for oid, size in wanted.items() if not store.contains(oid, size)}
        return _Described(_size(store, metadata), lacking)
    except ThetaError:
        return _UNKNOWN  # what is wrong with it is for whoever needs it to say


def _size(store: ObjectStore, metadata: Metadata) -> int:
    """Return the bytes of the checkpoint; of its values alone where its layout is not here, or not quickly read."""
    file = metadata.file
    if file is not None and file.layout.size <= _LAYOUT_LIMIT and store.contains(file.layout.oid, file.layout.size):
        data = bytes(store.open(file.layout))
        store.verify(file.layout, memoryview(data))
        return size_of(layout_codec.decode(data))
    values = sum(dtypes.nbytes(entry.dtype, entry.shape) for entry in metadata.entries.values())
    return values + (0 if file is None else sum(ref.size for ref in file.opaque))
