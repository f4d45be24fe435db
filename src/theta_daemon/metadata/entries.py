"""What a metadata file says, as values: one entry a parameter group, and one for the file as a whole.

Nothing here checks anything: `text.parse` lets only well-formed values in, and the pipelines make the others.
The form on disk is defined in protocol/metadata.md.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from theta_daemon.frozen import Frozen

if TYPE_CHECKING:
    from collections.abc import Mapping

Name = tuple[str, ...]
"""A parameter group's name: the keys that lead to it, as `names.assign` makes them; none is a prefix of another."""

LFS_VERSION = "https://git-lfs.github.com/spec/v1"
"""The version that every Git LFS pointer carries today."""

NO_HASH = (0,) * 16
"""The hash of entries that git-theta need not recognise."""

MOST_HASHES = 1024
"""Integers in the longest hash: 16, unless GIT_THETA_LSH_SIGNATURE_SIZE told git-theta otherwise."""

INT64 = 1 << 63
"""One more than the largest size, and than the largest integer of a hash."""


class ObjectRef(Frozen):
    """An object in the stores: its SHA-256 as 64 lower-case hex digits, and its size in bytes."""

    oid: str
    size: int


class Update(Frozen):
    """One step of a replay chain: an object and how to apply it."""

    update_type: str
    oid: str
    size: int


class Entry(Frozen):
    """One parameter group.

    `shape` and `dtype` (a name of `dtypes.DTYPES`) are those of the value. `hash` is git-theta's signature, 16 int64,
    or `NO_HASH`. `version`, `oid` and `size` are those of the Git LFS pointer of the object. `update_type` says how the
    object becomes the value; `last_commit` names the commit that holds the previous value, where git-theta needs it.
    `digest` is the BLAKE3-256 of the value as 64 hex digits, None in what git-theta wrote; `replay` are the updates
    that come before this one, base first, and stands only beside a digest.
    """

    shape: tuple[int, ...]
    dtype: str
    hash: tuple[int, ...]
    version: str
    oid: str
    size: int
    update_type: str
    last_commit: str | None
    digest: str | None
    replay: tuple[Update, ...] = ()


class FileEntry(Frozen):
    """The file around the parameter groups.

    `format` names the checkpoint format, `layout` the object with its skeleton; `opaque` are the objects with bytes
    that are nobody's parameter, in the order of their holes in the layout. `packs` are copies of small objects,
    together in one, for faster transfers; each with its number (see packs.py), in ascending order.
    """

    format: str
    layout: ObjectRef
    opaque: tuple[ObjectRef, ...]
    packs: tuple[tuple[int, ObjectRef], ...] = ()


class Metadata(Frozen):
    """A whole metadata file; `file` is None in what git-theta wrote. `text.parse` gives the entries sorted by name."""

    entries: Mapping[Name, Entry]
    file: FileEntry | None
