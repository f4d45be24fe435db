"""Which packs a file gets: those of its earlier versions where nothing in them has changed, else new ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

from theta_daemon.errors import ObjectError
from theta_daemon.metadata.packs import FEWEST, chunks
from theta_daemon.store import packs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from theta_daemon.metadata.entries import Metadata, ObjectRef
    from theta_daemon.metadata.packs import Chunk
    from theta_daemon.pipelines.services import Services


def packed(services: Services, metadata: Metadata, earlier: Iterable[Metadata]) -> Metadata:
    """Return `metadata` with its packs; none where it has no file entry, or few small objects, or none are wanted.

    The packs of `earlier` versions, the latest first, are taken where their members are the same: whoever has not all
    of them here must still come to the same metadata. A pack that cannot be made for that reason is left out.

    Raises RepositoryError for objects that cannot be read.
    """
    if metadata.file is None:
        return metadata
    found = chunks(metadata.entries) if services.settings.packs else []
    every = [(number, chunk) for number, chunk in enumerate(found) if len(chunk) >= FEWEST]
    known = _known(earlier) if every else {}
    named: list[tuple[int, ObjectRef]] = []
    for number, chunk in every:
        ref = known[chunk] if chunk in known else _made(services, chunk)
        if ref is not None:
            named.append((number, ref))
    if tuple(named) == metadata.file.packs:
        return metadata
    return metadata.replace(file=metadata.file.replace(packs=tuple(named)))


def _known(earlier: Iterable[Metadata]) -> dict[Chunk, ObjectRef | None]:
    """Return the pack of each chunk of the earlier versions, None where it has none."""
    found: dict[Chunk, ObjectRef | None] = {}
    for metadata in earlier:
        if metadata.file is not None:
            named = dict(metadata.file.packs)
            for number, chunk in enumerate(chunks(metadata.entries)):
                found.setdefault(chunk, named.get(number))
    return found


def _made(services: Services, chunk: Chunk) -> ObjectRef | None:
    try:
        with services.trace.stage("name packs", sum(ref.size for ref in chunk)):
            return packs.reference(services.store, chunk)
    except ObjectError:
        return None
