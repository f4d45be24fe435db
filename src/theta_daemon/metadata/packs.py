"""Packs: the small objects of a file once more, together in one, so that a clone needs few requests.

Each object is a request and a round trip of its own, and one of 30 KB takes as long as one of a megabyte. So the small
dense objects of a file are taken together by the order of their names, some megabytes each, and metadata names the
object that holds such a chunk (`store/packs.py` makes it and takes it apart). Which object is in which chunk follows
from names, dtypes and shapes alone: a change of one value changes one pack, and a change of an update none.

A pack is a convenience: whoever lacks one, or finds one stale, fetches the objects themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from theta_daemon.dtypes import nbytes
from theta_daemon.frozen import Frozen
from theta_daemon.metadata.entries import ObjectRef

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from theta_daemon.metadata.entries import Entry, Metadata, Name

SMALL: Final = 256 << 10
"""Bytes of the largest value whose object is packed."""

FULL: Final = 4 << 20
"""Bytes of the values in a chunk, at most."""

FEWEST: Final = 4
"""Objects in a chunk that is worth a pack."""

_DENSE: Final = "dense"

Chunk = tuple[ObjectRef, ...]


class Pack(Frozen):
    """An object with copies of others: `members`, as metadata has it; what is in it says the object itself."""

    ref: ObjectRef
    members: Chunk


def chunks(entries: Mapping[Name, Entry]) -> list[Chunk]:
    """Return the objects that go together, by the order of `entries`, which are sorted by name.

    Raises CheckpointError for shapes that no value has.
    """
    found: list[dict[ObjectRef, None]] = [{}]
    held = 0
    for entry in entries.values():
        first = entry.replay[0] if entry.replay else entry
        if first.update_type != _DENSE:
            continue
        size = nbytes(entry.dtype, entry.shape)
        ref = ObjectRef(first.oid, first.size)
        if size > SMALL or ref in found[-1]:
            continue
        if held + size > FULL:
            found.append({})
            held = 0
        found[-1][ref] = None
        held += size
    return [tuple(chunk) for chunk in found]


def of(metadata: Metadata) -> Iterator[Pack]:
    """Yield the packs that metadata names."""
    if metadata.file is None or not metadata.file.packs:
        return
    every = chunks(metadata.entries)
    for number, ref in metadata.file.packs:
        if number < len(every) and len(every[number]) >= FEWEST:
            yield Pack(ref, every[number])


def worthwhile(packs: Iterable[Pack], missing: Collection[ObjectRef]) -> Iterator[Pack]:
    """Yield those of `packs` that hold several of the `missing` objects, with those alone, and little else."""
    for pack in packs:
        members = tuple(ref for ref in pack.members if ref in missing)
        if len(members) >= FEWEST and 2 * sum(ref.size for ref in members) >= pack.ref.size:
            yield Pack(pack.ref, members)
