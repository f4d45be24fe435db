"""Smudge: metadata comes in, the checkpoint goes out, piece by piece.

First a plan is made of what git holds: which layout, which parameter groups, whether all their objects are here. Then
the workers decode and verify groups ahead of the reader, in the order of the layout, within the window (load.py), while
literals, checksums and values are passed on. No format is read and no framework imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from theta_daemon.errors import MetadataError, MissingObject, ThetaError
from theta_daemon.formats.emit import emit
from theta_daemon.formats.layout import OpaqueOp
from theta_daemon.formats.source import Source
from theta_daemon.frozen import Frozen
from theta_daemon.metadata import text
from theta_daemon.metadata.digest import digest
from theta_daemon.metadata.entries import Metadata, ObjectRef
from theta_daemon.pipelines.chains import chains
from theta_daemon.pipelines.large import Large
from theta_daemon.pipelines.load import Loaded, Wanted, jobs, wanted
from theta_daemon.pipelines.skeleton import Skeleton, skeleton
from theta_daemon.pipelines.value import parameter_name

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from theta_daemon.formats.source import Readable
    from theta_daemon.metadata.entries import Name
    from theta_daemon.pipelines.chains import Chain
    from theta_daemon.pipelines.services import Services
    from theta_daemon.workers.ahead import Stream

_STEP = 1 << 20

Piece = bytes | memoryview


class Held(Frozen):
    """The metadata that git holds for a file, as it stands and as what it says."""

    data: bytes
    metadata: Metadata


class Plan(Frozen):
    """What a file is made of; every object of it was there when the plan was made."""

    path: bytes
    metadata: Metadata
    skeleton: Skeleton
    groups: Sequence[Wanted]


def smudge(services: Services, path: bytes, content: Readable) -> Iterator[Piece]:
    """Yield the checkpoint that the metadata in `content` describes; a piece is valid until the next is asked for.

    What is no metadata (a file committed before it was tracked) and metadata with conflict markers pass unchanged,
    with a warning: refusing would leave git's command half done.

    Raises MetadataError, MissingObject, CorruptObject, LayoutError, UnsupportedError; they name path and parameter.
    """
    return answer(services, path, source(services, content))


def source(services: Services, content: Readable) -> Source:
    """Return `content` as `answer` and `read` take it."""
    return Source(content, services.settings.temporary)


def answer(services: Services, path: bytes, source: Source) -> Iterator[Piece]:
    """Do what `smudge` does."""
    try:
        held = read(services, path, source)
        if not isinstance(held, Held):
            yield from held
            return
        found = plan(services, path, held)
        stream = start(services, found)
        yield from write(services, found, stream)
    except ThetaError as error:
        error.at(path=path)
        raise


def read(services: Services, path: bytes, source: Source) -> Held | Iterator[Piece]:
    """Read all of `source`; return the metadata that it is, or, for anything else, the pieces to answer with."""
    data = _head(source)
    with services.trace.stage("parse metadata", len(data)):
        kind = services.parsed.get(text.read, digest(data), lambda: data)
    if isinstance(kind, Metadata):
        return Held(data, kind)
    if kind is text.Kind.OTHER and data.lstrip().startswith(b"{") and b'"lfs_metadata"' in data:
        raise MetadataError("the metadata is damaged", hint="restore it from another commit")
    return _unchanged(services, path, source, data, kind)


def plan(services: Services, path: bytes, held: Held) -> Plan:
    """Return the plan for what git holds, and note that it is smudged for `path`.

    Raises what `smudge` raises, but for values that turn out to be corrupt.
    """
    trace, metadata = services.trace, held.metadata
    with trace.stage("read layout"):
        frame = skeleton(services, path, metadata)
    with trace.stage("look for objects"):
        found = chains(services, path, metadata.entries)
        _require_objects(services, metadata, frame, found)
    services.recent.remember(path, held.data)
    return Plan(path, metadata, frame, wanted(frame.layout, metadata, found))


def start(services: Services, plan: Plan) -> Stream[Loaded]:
    """Start to load the plan's groups, behind those of all plans that were started before."""
    services.values.expect(_keys(plan))
    return services.ahead.stream(jobs(services, plan.groups))


def give_up(services: Services, plan: Plan, stream: Stream[Loaded]) -> None:
    """Take back what `start` began: nobody is going to write the file."""
    stream.close()
    services.values.forgo(_keys(plan))


def _keys(plan: Plan) -> Iterator[str]:
    """Yield what the plan asks the shared values for."""
    for each in plan.groups:
        yield each.key
        if each.chain is not None:
            yield each.chain.base_key


def write(services: Services, plan: Plan, stream: Stream[Loaded]) -> Iterator[Piece]:
    """Yield the file, from the groups that `start` began to load."""
    values = _values(services, stream)
    file, made = plan.metadata.file, plan.skeleton.made

    def group(_index: int) -> Iterable[memoryview]:
        return next(values)

    def opaque(index: int) -> memoryview:
        if file is None or made:
            return memoryview(made[index])
        ref = file.opaque[index]
        view = memoryview(bytes(services.store.open(ref)))  # ours, before it is verified: a mapped object may change
        services.store.verify(ref, view)
        return view

    try:
        yield from emit(plan.skeleton.layout, group, opaque)
        next(values, None)  # is through with the last one
    finally:
        stream.close()


def _values(services: Services, stream: Stream[Loaded]) -> Iterator[Iterable[memoryview]]:
    while not stream.is_done:
        with services.trace.stage("wait for values"):
            loaded = stream.next()
        for value in loaded.values:
            if isinstance(value, Large):
                yield value.pieces()
                continue
            yield value
            for view in value:
                services.store.require_unchanged(view)


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


def _unchanged(services: Services, path: bytes, source: Source, data: bytes, kind: text.Kind) -> Iterator[Piece]:
    # Git wants no answer before it has sent all: the daemon drains the content, so what is left of it is spooled.
    if kind is text.Kind.CONFLICT:
        services.warn(
            path,
            "the metadata holds conflict markers and is left as it is; take one side with "
            "'git checkout --ours -- FILE' or '--theirs', then 'git add' it",
        )
    elif data or source.peek(1):
        services.warn(path, "git holds this file itself, not theta metadata; 'git add --renormalize' converts it")
    if source.peek(1):
        source.spool()
    yield data
    while piece := source.read_some(_STEP):
        yield piece
    source.close()


def _require_objects(services: Services, metadata: Metadata, frame: Skeleton, found: Mapping[Name, Chain]) -> None:
    """Raise MissingObject before the first byte when any object of the file is missing."""
    hint = "copy it into the lfs/objects directory from a clone that has it"
    for ref in _opaque(metadata, frame):
        if not services.store.contains(ref.oid, ref.size):
            raise MissingObject(f"object {ref.oid} is missing", hint=hint)
    store = services.store
    missing = {
        name: ObjectRef(entry.oid, entry.size)
        for name, entry in metadata.entries.items()
        if not store.contains(entry.oid, entry.size)
    }
    # One object may hold the changes of all groups, and is then mostly one `Update` in all chains: a look at ten
    # thousands of them takes longer than one at their objects.
    updates = {id(update): (name, update) for name, chain in found.items() for update in chain.updates}
    behind = {ObjectRef(update.oid, update.size): name for name, update in updates.values()}
    behind |= {chain.base: name for name, chain in found.items()}
    missing |= {
        name: ref for ref, name in behind.items() if name not in missing and not store.contains(ref.oid, ref.size)
    }
    if not missing:
        return
    name, first = next(iter(missing.items()))
    what = f"object {first.oid} is missing"
    if len(missing) > 1:
        what += f", and those of {len(missing) - 1} more of {len(metadata.entries)} parameter groups"
    raise MissingObject(what, parameter=parameter_name(name), hint=hint)


def _opaque(metadata: Metadata, frame: Skeleton) -> Sequence[ObjectRef]:
    """Return the objects that fill the opaque chunks of the layout: none where it is the canonical form."""
    if metadata.file is None or frame.made or not any(type(op) is OpaqueOp for op in frame.layout.ops):
        return ()
    return metadata.file.opaque
