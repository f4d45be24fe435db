"""Which layout rebuilds a metadata's checkpoint: the one it names, or the canonical form.

Smudge emits it and clean compares with it, so both ask here.
"""

from __future__ import annotations

import hashlib
from functools import partial
from typing import TYPE_CHECKING

from theta_daemon.errors import LayoutError, MetadataError
from theta_daemon.formats import layout_codec, registry
from theta_daemon.formats.layout import CanonicalTensor, Layout, OpaqueOp
from theta_daemon.formats.parts import Role
from theta_daemon.frozen import Frozen
from theta_daemon.metadata.entries import FileEntry, ObjectRef
from theta_daemon.settings import format_named

if TYPE_CHECKING:
    from theta_daemon.metadata.entries import Entry, Metadata
    from theta_daemon.pipelines.services import Services

_LAYOUT_LIMIT = 256 << 20  # reading one takes many times its size in memory
_EXTENSIONS = {b".safetensors": registry.SAFETENSORS}


class Skeleton(Frozen):
    """A layout and its opaque chunks: `made` holds them where the canonical form made them, else the store does."""

    layout: Layout
    made: tuple[bytes, ...] = ()

    def file_entry(self) -> FileEntry:
        """Return the file-level entry of metadata that names exactly this skeleton."""
        return FileEntry(self.layout.format, ref_of(layout_codec.encode(self.layout)), tuple(map(ref_of, self.made)))


def ref_of(data: bytes) -> ObjectRef:
    """Return the id of the object that holds `data`."""
    return ObjectRef(hashlib.sha256(data).hexdigest(), len(data))


def skeleton(services: Services, path: bytes, metadata: Metadata, *, quiet: bool = False) -> Skeleton:
    """Return what smudge fills for `metadata` at `path`.

    A layout that no longer fits its parameter groups (another program changed one of two aliases, or a shape) is
    dropped with a warning: the values are what counts, and the canonical form holds them.

    Raises MissingObject, CorruptObject, LayoutError for a layout that cannot be read, UnsupportedError for
    a checkpoint that no format can hold.
    """
    if metadata.file is None:
        return canonical(services, path, metadata)
    if metadata.file.layout.size > _LAYOUT_LIMIT:
        raise MetadataError(f"its layout of {metadata.file.layout.size} bytes is larger than any that is written")
    layout = services.parsed.get(
        layout_codec.decode, metadata.file.layout.oid, partial(_verified, services, metadata.file.layout)
    )
    if layout.format != metadata.file.format:
        raise LayoutError(f"metadata says {metadata.file.format}, its layout says {layout.format}")
    sizes = [op.size for op in layout.ops if isinstance(op, OpaqueOp)]
    if sizes != [ref.size for ref in metadata.file.opaque]:
        raise MetadataError("the opaque objects are not those of the layout")
    misfit = _misfit(layout, metadata)
    if misfit is None:
        return Skeleton(layout)
    if not quiet:
        services.warn(
            path,
            f"its layout no longer fits ({misfit}): writing a plain {layout.format} file with the same values; "
            "add and commit it to record this form",
        )
    return canonical(services, path, metadata, layout.format)


def _verified(services: Services, ref: ObjectRef) -> bytes:
    data = bytes(services.store.open(ref))  # ours, before it is verified: a mapped object may change
    services.store.verify(ref, memoryview(data))
    return data


def canonical(services: Services, path: bytes, metadata: Metadata, form: str | None = None) -> Skeleton:
    """Return the canonical skeleton of a checkpoint with the parameter groups of `metadata`."""
    form = form or _named(services, path) or _by_extension(path)
    tensors = [CanonicalTensor(name, entry.dtype, entry.shape) for name, entry in metadata.entries.items()]
    made: list[bytes] = []
    return Skeleton(registry.canonical(form, tensors, made.append), tuple(made))


def _named(services: Services, path: bytes) -> str | None:
    """Return the format that is named for `path`: by its attribute, else by the settings for all."""
    name = services.attributes.checkpoint_type(path)
    return services.settings.checkpoint_format if name is None else format_named(name, "attribute theta-format")


def _by_extension(path: bytes) -> str:
    for extension, form in _EXTENSIONS.items():
        if path.endswith(extension):
            return form
    return registry.TORCH_ZIP


def _misfit(layout: Layout, metadata: Metadata) -> str | None:
    """Return why `layout` cannot hold the groups of `metadata`, or None where it can."""
    named = [group for group in layout.groups if group.role is not Role.VIEW]
    for group in named:
        entry = metadata.entries.get(group.name)
        if entry is None:
            return f"{'/'.join(group.name)} is gone"
        if (entry.shape, entry.dtype) != (group.shape, group.dtype):
            return f"{'/'.join(group.name)} is now {entry.dtype} {entry.shape}"
        if group.role is Role.ALIAS and group.owner is not None:
            owner = metadata.entries.get(layout.groups[group.owner].name)
            if owner is not None and not _same_value(entry, owner):
                return f"{'/'.join(group.name)} differs from {'/'.join(layout.groups[group.owner].name)}"
    # Views may have an entry of their own (clean.py): they are part of their owner's bytes.
    views = sum(group.name in metadata.entries for group in layout.groups if group.role is Role.VIEW)
    if len(named) + views != len(metadata.entries):
        return "parameter groups were added"
    return None


def _same_value(one: Entry, other: Entry) -> bool:
    if one.digest is not None and other.digest is not None:
        return one.digest == other.digest
    return (one.oid, one.size, one.replay) == (other.oid, other.size, other.replay)
