"""Which objects of the store the metadata in git names, and where that metadata lies.

Metadata is known by its content, not by attributes: which files were tracked when an old commit was made is
written nowhere that could be trusted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from theta_daemon.cli import git
from theta_daemon.metadata import text
from theta_daemon.metadata.text import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from theta_daemon.metadata.entries import Entry, Metadata


@dataclass(frozen=True, slots=True)
class NamedObject:
    """An object, its size in bytes, and the parameter group that needs it (None: the file as a whole)."""

    oid: str
    size: int
    parameter: str | None


def staged(top: bytes | None = None) -> Iterator[tuple[str, bytes]]:
    """Yield (blob id, path) of the regular files in the index that have no conflict."""
    for row in git.items("ls-files", "-z", "--stage", directory=top):
        place, _, path = row.partition(b"\t")
        mode, blob, stage = place.split()
        if mode.startswith(b"100") and stage == b"0":
            yield blob.decode("ascii"), path


def contents(blobs: Iterable[str], limit: int = text.MAX_SIZE) -> Iterator[tuple[str, bytes]]:
    """Yield (blob id, content) of every blob that is small enough to be metadata (`limit` bytes), each once."""
    yield from git.blobs(list(dict.fromkeys(blobs)), limit)


def is_metadata(content: bytes) -> bool:
    """Tell whether a blob is metadata, whole or damaged."""
    return text.kind(content) is Kind.METADATA


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
