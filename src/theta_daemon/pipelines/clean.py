"""Clean: a checkpoint comes in, metadata goes out, and the store holds what changed.

The content is read once, front to back. A format reader names the parts; literals and checksums go to the layout
builder, and each parameter group's bytes into a buffer that a worker takes over (`groups.py`) while the next group
arrives. Nothing is answered before every object is stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from theta_daemon.dtypes import DTYPES, nbytes
from theta_daemon.errors import CheckpointError, ConflictError, MetadataError, ThetaError
from theta_daemon.formats import layout_codec, parts
from theta_daemon.formats.build import LayoutBuilder
from theta_daemon.formats.registry import format_of, read_checkpoint
from theta_daemon.formats.source import Source
from theta_daemon.metadata import names as naming
from theta_daemon.metadata import text
from theta_daemon.metadata.entries import FileEntry, Metadata
from theta_daemon.pipelines.allocator import keep_freed_memory
from theta_daemon.pipelines.baseline import Baseline
from theta_daemon.pipelines.bundles import write_bundles
from theta_daemon.pipelines.groups import GroupStore
from theta_daemon.pipelines.packs import packed
from theta_daemon.pipelines.skeleton import ref_of
from theta_daemon.pipelines.storing import Member

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from theta_daemon.formats.source import Readable
    from theta_daemon.metadata.entries import Entry, Name, ObjectRef
    from theta_daemon.pipelines.services import Services
    from theta_daemon.pipelines.storing import Stored

_SNIFF = 1 << 12
_SMALL_VIEWS = 16 << 20


def clean(services: Services, path: bytes, content: Readable) -> Iterable[bytes]:
    """Return the metadata that git is to store for `content` at `path`.

    Empty content and metadata pass through unchanged (gitattributes(5): clean must be idempotent).

    Raises CheckpointError for content that is no checkpoint or a damaged one, ConflictError for metadata with conflict
    markers, ThetaError where the store cannot be written.
    """
    source = Source(content, services.settings.temporary)
    try:
        head = source.peek(_SNIFF)
        if not head:
            return [b""]
        form = format_of(head)
        if form is None:
            return [_text(path, source)]
        return [_Cleaner(services, path, source, form).run()]
    except ThetaError as error:
        error.at(path=path)
        raise
    finally:
        source.close()


def _text(path: bytes, source: Source) -> bytes:
    """Return metadata unchanged; everything else that is no checkpoint is an error."""
    head = source.peek(_SNIFF)
    if head.startswith(b"version https://git-lfs.github.com/spec/"):
        raise CheckpointError("this is a Git LFS pointer, not a checkpoint", hint="run 'git lfs pull' first")
    pieces = []
    if head.lstrip()[:1] in (b"{", b"<"):
        size = 0
        while piece := source.read_some(1 << 20):
            pieces.append(piece)
            size += len(piece)
            if size > text.MAX_SIZE:
                raise MetadataError(f"metadata of more than {text.MAX_SIZE >> 20} MiB is refused", path=path)
    data = b"".join(pieces)
    found = text.read(data)
    if isinstance(found, Metadata):
        return data
    if found is text.Kind.CONFLICT:
        raise ConflictError(
            "the metadata holds conflict markers",
            hint="take one side with 'git checkout --ours' or '--theirs' and add it again",
        )
    raise CheckpointError(
        "not a checkpoint that theta-daemon can read (safetensors or torch zip)",
        hint="untrack it with 'git theta untrack', or save it in one of these formats",
    )


class _Cleaner:
    """One checkpoint on its way into the store."""

    def __init__(self, services: Services, path: bytes, source: Source, form: str) -> None:
        self._services = services
        self._path = path
        self._source = source
        self._form = form
        self._baseline = Baseline(services, path)
        keep_freed_memory()
        services.pool.submit(self._baseline.prepare)
        self._groups = GroupStore(services, self._baseline)
        self._opaque: list[ObjectRef] = []
        self._builder = LayoutBuilder(lambda chunk: self._opaque.append(services.store.write([chunk])))
        self._tensors: Sequence[parts.Tensor] = ()
        self._names: Sequence[Name] = ()
        self._views: Mapping[int, Sequence[Member]] = {}
        self._aliases: Mapping[int, Sequence[Name]] = {}

    def run(self) -> bytes:
        """Read to the end and return the metadata."""
        try:
            for part in read_checkpoint(self._source):
                self._take(part)
            layout = self._builder.finish(self._form)
            stored = write_bundles(self._services, self._groups.results(), self._names_of)
        finally:
            self._groups.close()
        encoded = layout_codec.encode(layout)
        file = FileEntry(self._form, ref_of(encoded), tuple(self._opaque))
        entries, digests = self._name_all(stored)
        whole = self._baseline.whole(
            {name: (entry.dtype, entry.shape, digests[name]) for name, entry in entries.items()}, file
        )
        if whole is None or whole.metadata.file is not None:  # git-theta's, in canonical form, has no layout to keep
            self._services.store.write([encoded])
        if self._groups.refused:
            wanted = self._services.settings.update_type
            self._services.warn(
                self._path,
                f"of the changed parameter groups, {self._groups.refused} cannot be {wanted} updates: stored otherwise",
            )
        if whole is not None:
            return whole.data
        return text.serialize(packed(self._services, Metadata(entries, file), self._baseline.earlier()))

    def _take(self, part: parts.Part) -> None:
        builder = self._builder
        match part:
            case parts.Literal(data):
                builder.literal(data)
            case parts.Hole(index):
                tensor = self._tensors[index]
                views, aliases = self._views.get(index, ()), self._aliases.get(index, ())
                self._groups.read(index, self._names[index], tensor, self._source, builder.hole_bytes, views, aliases)
                builder.hole(index)
            case parts.RegionStart():
                builder.region_start()
            case parts.RegionEnd():
                builder.region_end()
            case parts.Checksum():
                builder.checksum(part)
            case parts.CombinedChecksum():
                builder.combined(part)
            case parts.Tensors(tensors):
                self._tensors = tensors
                self._names = naming.assign([tensor.keys for tensor in tensors])
                builder.tensors(self._names, tensors)
                self._views = _views_with_entries(tensors, self._names)
                self._aliases = _aliases(tensors, self._names)

    def _names_of(self, index: int) -> Sequence[Name]:
        """Return the names of a tensor: its own, and those of its aliases."""
        return [self._names[index], *self._aliases.get(index, ())]

    def _name_all(self, stored: dict[int, Stored]) -> tuple[dict[Name, Entry], dict[Name, str]]:
        """Return entry and digest of every named group: those stored, and aliases, which share their owner's object."""
        entries: dict[Name, Entry] = {}
        digests: dict[Name, str] = {}
        for index, tensor in enumerate(self._tensors):
            name = self._names[index]
            if index in stored:
                entries[name], digests[name] = stored[index].entry, stored[index].digest
            elif tensor.role is parts.Role.ALIAS and tensor.owner is not None:
                owner = stored[tensor.owner]
                known = self._baseline.find(name, tensor.dtype, tensor.shape, owner.digest)
                entries[name], digests[name] = known or owner.entry, owner.digest
        ordered = sorted(entries)
        return {name: entries[name] for name in ordered}, digests


def _aliases(tensors: Sequence[parts.Tensor], names: Sequence[Name]) -> dict[int, list[Name]]:
    """Return the aliases of each tensor that has some."""
    found: dict[int, list[Name]] = {}
    for name, tensor in zip(names, tensors, strict=True):
        if tensor.role is parts.Role.ALIAS and tensor.owner is not None:
            found.setdefault(tensor.owner, []).append(name)
    return found


def _views_with_entries(tensors: Sequence[parts.Tensor], names: Sequence[Name]) -> dict[int, list[Member]]:
    """Return the views, by owner, that get an entry and an object of their own though their owner's has their bytes.

    Files that git-theta can read (flat, string names) need every tensor in the metadata: it rebuilds them from the
    entries alone. All large views together may double what is stored, not more: the rest is in the layout only.
    """
    chosen: dict[int, list[Member]] = {}
    if not all(len(tensor.keys) == 1 and isinstance(tensor.keys[0], str) for tensor in tensors):
        return chosen
    owners = [tensor for tensor in tensors if tensor.role is parts.Role.OWNER]
    left = _SMALL_VIEWS + sum(nbytes(tensor.dtype, tensor.shape) for tensor in owners)
    for index, tensor in enumerate(tensors):
        if tensor.window is None or tensor.owner is None or DTYPES[tensor.dtype].numpy is None:
            continue
        left -= nbytes(tensor.dtype, tensor.shape)
        if left < 0:
            break
        chosen.setdefault(tensor.owner, []).append(Member(index, names[index], tensor, tensor.window))
    return chosen
