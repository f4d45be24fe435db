"""Smudge: metadata comes in, the checkpoint goes out, piece by piece.

The layout says in which order literals and parameter groups follow each other; the workers decode and verify groups
ahead of the reader, in that order, within the budget. No format is read and no framework imported.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from theta_daemon import dtypes
from theta_daemon.errors import MetadataError, MissingObject, ThetaError
from theta_daemon.formats.emit import emit
from theta_daemon.formats.layout import GroupOp
from theta_daemon.formats.source import Source
from theta_daemon.metadata import text
from theta_daemon.pipelines.order import to_stored
from theta_daemon.pipelines.skeleton import skeleton
from theta_daemon.pipelines.value import Value, load, parameter_name
from theta_daemon.workers.pool import Job, ReadAhead

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from theta_daemon.formats.layout import Group, Layout
    from theta_daemon.formats.source import Readable
    from theta_daemon.metadata.entries import Metadata
    from theta_daemon.pipelines.services import Services

_STEP = 1 << 20


def smudge(services: Services, path: bytes, content: Readable) -> Iterator[bytes | memoryview]:
    """Yield the checkpoint that the metadata in `content` describes; a piece is valid until the next is asked for.

    What is no metadata (a file committed before it was tracked) and metadata with conflict markers pass unchanged,
    with a warning: refusing would leave git's command half done.

    Raises MetadataError, MissingObject, CorruptObject, LayoutError, UnsupportedError; they name path and parameter.
    """
    source = Source(content, services.settings.temporary)
    try:
        data = _head(source)
        kind = text.kind(data) if data else text.Kind.OTHER
        if kind is not text.Kind.METADATA:
            yield from _unchanged(services, path, source, data, kind)
            return
        metadata = text.parse(data)
        del source, content
        yield from _rebuild(services, path, metadata, data)
    except ThetaError as error:
        error.at(path=path)
        raise


def _head(source: Source) -> bytes:
    """Return the whole content where it may be metadata, else only its first bytes."""
    first = source.peek(64).lstrip()[:1]
    if first not in (b"{", b"<"):
        return b""
    pieces: list[bytes] = []
    size = 0
    while size <= text.MAX_SIZE and (piece := source.read_some(_STEP)):
        pieces.append(piece)
        size += len(piece)
    return b"".join(pieces)


def _unchanged(
    services: Services, path: bytes, source: Source, data: bytes, kind: text.Kind
) -> Iterator[bytes | memoryview]:
    # Git wants no answer before it has sent all: the daemon drains the content, so what is left of it is spooled.
    if kind is text.Kind.CONFLICT:
        services.warn(
            path,
            "the metadata holds conflict markers and is left as it is; take one side with "
            "'git checkout --ours -- FILE' or '--theirs', then 'git add' it",
        )
    elif data or source.peek(1):
        if data.lstrip().startswith(b"{") and b'"lfs_metadata"' in data:
            raise MetadataError("the metadata is damaged", hint="restore it from another commit")
        services.warn(path, "git holds this file itself, not theta metadata; 'git add --renormalize' converts it")
    if source.peek(1):
        source.spool()
    yield data
    while piece := source.read_some(_STEP):
        yield piece
    source.close()


def _rebuild(services: Services, path: bytes, metadata: Metadata, data: bytes) -> Iterator[bytes | memoryview]:
    frame = skeleton(services, path, metadata)
    layout = frame.layout
    _require_objects(services, metadata)
    services.recent.remember(path, data)
    ahead = ReadAhead(services.pool, _jobs(services, layout, metadata), depth=4 * services.pool.workers)
    current: list[Value] = []

    def group(_index: int) -> memoryview:
        while current:
            current.pop().release()
        value = ahead.next()
        current.append(value)
        return value.view

    def opaque(index: int) -> memoryview:
        if metadata.file is None or frame.made:
            return memoryview(frame.made[index])
        ref = metadata.file.opaque[index]
        view = services.store.open(ref)
        services.store.verify(ref, view)
        return view

    try:
        yield from emit(layout, group, opaque)
    finally:
        for late in ahead.close():
            late.add_done_callback(_release)
        while current:
            current.pop().release()


def _release(future: object) -> None:
    if future.exception() is None:  # type: ignore[attr-defined]
        future.result().release()  # type: ignore[attr-defined]


def _jobs(services: Services, layout: Layout, metadata: Metadata) -> Iterator[Job[Value]]:
    for op in layout.ops:
        if isinstance(op, GroupOp):
            group = layout.groups[op.index]
            entry = metadata.entries[group.name]
            weight = dtypes.nbytes(entry.dtype, entry.shape)
            yield Job(
                weight if group.axes is None else 2 * weight,
                partial(load, services, group.name, entry, _reorder(group)),
            )


def _reorder(group: Group) -> Callable[[memoryview], memoryview] | None:
    if group.axes is None:
        return None
    return lambda view: to_stored(view, group.dtype, group.shape, group.axes)


def _require_objects(services: Services, metadata: Metadata) -> None:
    """Raise MissingObject before the first byte when any object of the file is missing."""
    missing = [name for name, entry in metadata.entries.items() if not services.store.contains(entry.oid, entry.size)]
    if not missing:
        return
    first = metadata.entries[missing[0]]
    what = f"object {first.oid} is missing"
    if len(missing) > 1:
        what += f", and those of {len(missing) - 1} more of {len(metadata.entries)} parameter groups"
    raise MissingObject(
        what,
        parameter=parameter_name(missing[0]),
        hint="copy it into the lfs/objects directory from a clone that has it",
    )
