"""Smudge: metadata comes in, the checkpoint goes out, piece by piece.

First a plan is made of what git holds: which layout, which parameter groups, whether all their objects are here. What
is not is fetched before anything else, all of it at once (store/fetch.py). Then the workers decode and verify groups
ahead of the reader, in the order of the layout, within the window (load.py), while literals, checksums and values are
passed on. No format is read and no framework imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from theta_daemon.errors import MetadataError, MissingObject, ThetaError
from theta_daemon.formats.emit import emit
from theta_daemon.formats.layout import OpaqueOp
from theta_daemon.formats.source import Source
from theta_daemon.frozen import Frozen
from theta_daemon.metadata import objects, packs, text
from theta_daemon.metadata.digest import digest
from theta_daemon.metadata.entries import Metadata, ObjectRef
from theta_daemon.pipelines.chains import chains
from theta_daemon.pipelines.large import Large
from theta_daemon.pipelines.load import Loaded, Wanted, jobs, wanted
from theta_daemon.pipelines.skeleton import Skeleton, skeleton
from theta_daemon.pipelines.value import parameter_name

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from theta_daemon.formats.source import Readable
    from theta_daemon.metadata.entries import Name
    from theta_daemon.pipelines.chains import Chain
    from theta_daemon.pipelines.services import Services
    from theta_daemon.store.fetch import Batch
    from theta_daemon.workers.ahead import Stream

_STEP = 1 << 20

Piece = bytes | memoryview


class Held(Frozen):
    """The metadata that git holds for a file, as it stands and as what it says."""

    data: bytes
    metadata: Metadata


class Lacking(Frozen):
    """What a file needs and is not here, each with the parameter group that needs it, None for the file as a whole.

    More may turn out to be missing once these have come: what a layout says, what git-theta's updates build on.
    """

    path: bytes
    held: Held
    objects: Mapping[ObjectRef, Name | None]


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


def answer(
    services: Services, path: bytes, source: Source, prefetch: Callable[[], None] | None = None
) -> Iterator[Piece]:
    """Do what `smudge` does; `prefetch` asks for what other files will need, where this one must wait anyway."""
    try:
        held = read(services, path, source)
    except ThetaError as error:
        raise error.at(path=path) from None
    yield from fill(services, path, held, prefetch) if isinstance(held, Held) else held


def fill(services: Services, path: bytes, held: Held, prefetch: Callable[[], None] | None = None) -> Iterator[Piece]:
    """Yield the checkpoint that metadata describes; otherwise as `answer`."""
    try:
        found = complete(services, path, held, prefetch)
        stream = start(services, found)
        yield from write(services, found, stream)
    except ThetaError as error:
        error.at(path=path)
        raise


def complete(services: Services, path: bytes, held: Held, prefetch: Callable[[], None] | None = None) -> Plan:
    """Return the plan for what git holds, once all that was missing has been fetched.

    Raises what `smudge` raises, but for values that turn out to be corrupt.
    """
    asked: set[ObjectRef] = set()
    while isinstance(found := plan(services, path, held), Lacking):
        batch = want(services, found, asked)
        if prefetch is not None:
            prefetch()
        services.fetcher.wait([batch])
        require(found, batch)
    return found


def want(services: Services, lacking: Lacking, asked: set[ObjectRef]) -> Batch:
    """Ask for what a file lacks; `asked` is what was asked for and came before, and is added to.

    Raises MissingObject where all of it had come already: somebody takes it away as fast as it is fetched.
    """
    new = [ref for ref in lacking.objects if ref not in asked]
    if not new:
        oid = next(iter(lacking.objects)).oid
        raise MissingObject(f"object {oid} was fetched and is missing again", hint="run the command again")
    asked.update(new)
    packed = packs.worthwhile(packs.of(lacking.held.metadata), set(new))
    return services.fetcher.want(new, packed, hashed=False)  # whatever is built of them is verified: see value.py


def require(lacking: Lacking, batch: Batch) -> None:
    """Raise the error of the first object that did not come, if any, naming the parameter group that needs it."""
    failed = [ref for ref in lacking.objects if ref in batch.failed]
    if not failed:
        return
    error, name = batch.failed[failed[0]], lacking.objects[failed[0]]
    groups = len({lacking.objects[ref] for ref in failed} - {None})
    message = error.message
    if len(failed) > 1:
        what = f"{groups} of {len(lacking.held.metadata.entries)} parameter groups" if groups else "the file"
        message += f" ({len(failed)} objects that {what} need are missing)"
    # Other files may need the same object: each error says where it is.
    raise type(error)(message, parameter=None if name is None else parameter_name(name), hint=error.hint)


def read(services: Services, path: bytes, source: Source) -> Held | Iterator[Piece]:
    """Read all of `source`; return the metadata that it is, or, for anything else, the pieces to answer with."""
    data = _head(source)
    with services.trace.stage("parse metadata", len(data)):
        kind = services.parsed.get(text.read, digest(data), lambda: data)
    if isinstance(kind, Metadata):
        return iter((data,)) if services.selection.leaves(path) else Held(data, kind)
    if kind is text.Kind.OTHER and data.lstrip().startswith(b"{") and b'"lfs_metadata"' in data:
        raise MetadataError("the metadata is damaged", hint="restore it from another commit")
    return _unchanged(services, path, source, data, kind)


def plan(services: Services, path: bytes, held: Held) -> Plan | Lacking:
    """Return the plan for what git holds, and note that it is smudged for `path`; or what is missing for it.

    Raises what `smudge` raises, but for values that turn out to be corrupt.
    """
    trace, metadata = services.trace, held.metadata
    if metadata.file is not None and not services.store.contains(metadata.file.layout.oid, metadata.file.layout.size):
        with trace.stage("look for objects"):
            return Lacking(path, held, _named_and_missing(services, metadata))
    with trace.stage("read layout"):
        frame = skeleton(services, path, metadata)
    with trace.stage("look for objects"):
        found = chains(services, path, metadata.entries)
        missing = _missing(services, metadata, frame, found)
    if missing:
        return Lacking(path, held, missing)
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


def write(
    services: Services, plan: Plan, stream: Stream[Loaded], between: Callable[[], None] | None = None
) -> Iterator[Piece]:
    """Yield the file, from the groups that `start` began to load; `between` is called now and then."""
    values = _values(services, stream, between)
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


def _values(
    services: Services, stream: Stream[Loaded], between: Callable[[], None] | None
) -> Iterator[Iterable[memoryview]]:
    while not stream.is_done:
        if between is not None:
            between()
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


def _named_and_missing(services: Services, metadata: Metadata) -> Mapping[ObjectRef, Name | None]:
    """Return what metadata names and is not here, the layout first."""
    found: dict[ObjectRef, Name | None] = {ObjectRef(each.oid, each.size): None for each in objects.of_file(metadata)}
    for name, entry in metadata.entries.items():
        for each in objects.of_entry(name, entry):
            found.setdefault(ObjectRef(each.oid, each.size), name)
    return {ref: name for ref, name in found.items() if not services.store.contains(ref.oid, ref.size)}


def _missing(
    services: Services, metadata: Metadata, frame: Skeleton, found: Mapping[Name, Chain]
) -> Mapping[ObjectRef, Name | None]:
    """Return what the file needs and is not here."""
    store = services.store
    missing: dict[ObjectRef, Name | None] = {
        ref: None for ref in _opaque(metadata, frame) if not store.contains(ref.oid, ref.size)
    }
    for name, entry in metadata.entries.items():
        if not store.contains(entry.oid, entry.size):
            missing.setdefault(ObjectRef(entry.oid, entry.size), name)
    # One object may hold the changes of all groups, and is then mostly one `Update` in all chains: a look at ten
    # thousands of them takes longer than one at their objects.
    updates = {id(update): (name, update) for name, chain in found.items() for update in chain.updates}
    behind = {ObjectRef(update.oid, update.size): name for name, update in updates.values()}
    behind |= {chain.base: name for name, chain in found.items()}
    for ref, name in behind.items():
        if ref not in missing and not store.contains(ref.oid, ref.size):
            missing[ref] = name
    return missing


def _opaque(metadata: Metadata, frame: Skeleton) -> Sequence[ObjectRef]:
    """Return the objects that fill the opaque chunks of the layout: none where it is the canonical form."""
    if metadata.file is None or frame.made or not any(type(op) is OpaqueOp for op in frame.layout.ops):
        return ()
    return metadata.file.opaque
