"""Which objects of the store metadata names."""

from __future__ import annotations

from typing import TYPE_CHECKING

from theta_daemon.frozen import Frozen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from theta_daemon.metadata.entries import Entry, Metadata


class NamedObject(Frozen):
    """An object, its size in bytes, and the parameter group that needs it (None: the file as a whole)."""

    oid: str
    size: int
    parameter: str | None


def of_entry(name: tuple[str, ...], entry: Entry) -> Iterator[NamedObject]:
    """Yield what is needed to rebuild one parameter group: its object, and those it builds on."""
    parameter = "/".join(name)
    yield NamedObject(entry.oid, entry.size, parameter)
    for update in entry.replay:
        yield NamedObject(update.oid, update.size, parameter)


def of(metadata: Metadata) -> Iterator[NamedObject]:
    """Yield everything that is needed to rebuild a checkpoint; an object may come more than once."""
    for name, entry in metadata.entries.items():
        yield from of_entry(name, entry)
    yield from of_file(metadata)


def of_file(metadata: Metadata) -> Iterator[NamedObject]:
    """Yield what belongs to the file as a whole: its layout and its opaque bytes."""
    if metadata.file is not None:
        for found in (metadata.file.layout, *metadata.file.opaque):
            yield NamedObject(found.oid, found.size, None)
