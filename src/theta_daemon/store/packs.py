"""Packs as objects: how they are made of others, and taken apart again. Defined in protocol/pack.md.

    8 bytes   THETAPAK
    8 bytes   number of members, little-endian
    40 bytes  for each member: its SHA-256, and its size in bytes, 8 bytes little-endian
    ...       the members, one after the other

What a pack says of itself is hostile: a member is taken where its bytes have the SHA-256 that somebody asked for.
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING, Final

from theta_daemon.errors import CorruptObject
from theta_daemon.metadata.entries import ObjectRef

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from theta_daemon.metadata.packs import Pack
    from theta_daemon.store.objects import ObjectStore

_HEAD: Final = struct.Struct("<8sQ")
_MEMBER: Final = struct.Struct("<32sQ")
_MAGIC: Final = b"THETAPAK"


def reference(store: ObjectStore, members: Sequence[ObjectRef]) -> ObjectRef:
    """Return the reference of the pack that holds `members`; it is not written.

    Raises MissingObject, CorruptObject, RepositoryError where one of them cannot be read.
    """
    digest, size = hashlib.sha256(), 0
    for piece in _Pieces(store, members):
        digest.update(piece)
        size += len(piece)
    return ObjectRef(digest.hexdigest(), size)


def write(store: ObjectStore, pack: Pack) -> None:
    """Make the object of a pack, for Git LFS to send: it goes into its store alone, and may be deleted at any time.

    Raises CorruptObject where its members do not make it, and what `reference` raises.
    """
    if store.contains(pack.ref.oid, pack.ref.size):
        return
    if reference(store, pack.members) != pack.ref:
        raise CorruptObject(f"object {pack.ref.oid} is not made of what the metadata says")
    store.lend(pack.ref, _Pieces(store, pack.members))


def take_apart(store: ObjectStore, pack: ObjectRef, wanted: Collection[ObjectRef]) -> None:
    """Store those of `wanted` that a pack holds. Raises CorruptObject for one that is not well-formed."""
    view = store.open(pack)
    for ref, start in _members(pack, view):
        if ref in wanted:
            member = view[start : start + ref.size]
            store.verify(ref, member)
            store.put(ref, member)


def _members(pack: ObjectRef, view: memoryview) -> Iterator[tuple[ObjectRef, int]]:
    """Yield each member and where it starts; all lie within `view`."""
    if len(view) < _HEAD.size:
        raise CorruptObject(f"object {pack.oid} is no pack")
    magic, number = _HEAD.unpack_from(view)
    start = _HEAD.size + number * _MEMBER.size
    if magic != _MAGIC or start > len(view):
        raise CorruptObject(f"object {pack.oid} is no pack")
    for at in range(_HEAD.size, start, _MEMBER.size):
        name, size = _MEMBER.unpack_from(view, at)
        if size > len(view) - start:
            raise CorruptObject(f"object {pack.oid} is no pack: it ends too early")
        yield ObjectRef(name.hex(), size), start
        start += size


class _Pieces:
    """The bytes of a pack; they can be gone through more than once, and a member is opened when it is its turn."""

    def __init__(self, store: ObjectStore, members: Sequence[ObjectRef]) -> None:
        self._store = store
        self._members = members

    def __iter__(self) -> Iterator[bytes | memoryview]:
        table = [_MEMBER.pack(bytes.fromhex(ref.oid), ref.size) for ref in self._members]
        yield _HEAD.pack(_MAGIC, len(table)) + b"".join(table)
        for ref in self._members:
            yield self._store.open(ref)
