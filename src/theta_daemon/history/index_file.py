"""The index file, as far as to change what it remembers of files: gitformat-index(5), versions 2 to 4.

Git has no command that notes the times and the size of a file without reading it. (`git update-index` gives all of it
to the filter: with `filter.theta.process` set no other one can take its place.) But these stand in fields of fixed
width, so they can be changed where they are, and everything else - names, ids, flags, extensions - keeps its bytes.

Pure: bytes in, bytes out. What is not surely understood is left to git: a split index, whose entries stand in another
file, an extension that must be understood and is not known here, a checksum that is wrong.
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING

from theta_daemon.frozen import Frozen

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Mapping

_HEADER = struct.Struct(">4sII")
_TIMES = struct.Struct(">6I")  # ctime, mtime (each seconds, ns), device, inode; behind them stands the mode
_OWNER = struct.Struct(">3I")  # user, group, size
_MTIME, _MODE, _USER, _SIZE, _ID = 8, 24, 28, 36, 40  # where these stand in an entry
_NUMBER = struct.Struct(">I")
_FLAGS = struct.Struct(">H")
_STAGE, _EXTENDED, _NAME_LENGTH = 0x3000, 0x4000, 0x0FFF
_NOT_IN_WORK_TREE = 0x6000  # of the second flags: skip-worktree, intent-to-add
_REGULAR, _SYMLINK = 0o100000, 0o120000
_TYPE = 0o170000
_KNOWN = {b"sdir"}  # of the extensions that must be understood: with it entries may be directories
_WORD = 0xFFFFFFFF
_SECOND = 10**9


class Note(Frozen):
    """What to remember of a file, if its entry has the blob `blob`: its `status`; None: to look at its content."""

    blob: str
    status: os.stat_result | None


def noted(
    data: bytes, notes: Mapping[bytes, Note], written: int, status_of: Callable[[bytes], os.stat_result | None]
) -> bytes | None:
    """Return the index `data` with `notes`, by path; None where it is not understood.

    `written` is the second in which it was written, and `status_of` returns what lies at a path, None where nothing
    does. Entries that are not among the notes and may have been changed in that second, or later, without a trace are
    made to be looked at: git knows by the time of the index that it must not trust them, and that time changes now.
    """
    width = len(next(iter(notes.values())).blob) // 2
    try:
        if not _is_whole(data, width):
            return None
        edited = bytearray(data)
        end = _note(edited, notes, width, written, status_of)
        if not _are_known(edited, end, len(edited) - width):
            return None
    except (struct.error, IndexError, ValueError):
        return None
    if any(edited[-width:]):  # index.skipHash leaves zeros
        edited[-width:] = _digest(edited[:-width], width)
    return bytes(edited)


def _digest(data: bytes | bytearray, width: int) -> bytes:
    found = hashlib.sha1(data, usedforsecurity=False) if width == 20 else hashlib.sha256(data)
    return found.digest()


def _is_whole(data: bytes, width: int) -> bool:
    if len(data) < _HEADER.size + width:
        return False
    magic, version, _ = _HEADER.unpack_from(data)
    if magic != b"DIRC" or version not in (2, 3, 4):
        return False
    return data[-width:] in (bytes(width), _digest(data[:-width], width))


def _note(
    data: bytearray,
    notes: Mapping[bytes, Note],
    width: int,
    written: int,
    status_of: Callable[[bytes], os.stat_result | None],
) -> int:
    """Edit the entries; return where they end."""
    _, version, entries = _HEADER.unpack_from(data)
    at, name = _HEADER.size, b""
    for _ in range(entries):
        start, behind_id = at, at + _ID + width
        (flags,) = _FLAGS.unpack_from(data, behind_id)
        at = behind_id + _FLAGS.size
        is_plain = not flags & _STAGE
        if flags & _EXTENDED:
            (more,) = _FLAGS.unpack_from(data, at)
            is_plain = is_plain and not more & _NOT_IN_WORK_TREE
            at += _FLAGS.size
        if version == 4:
            stripped, at = _variable(data, at)
            behind = data.index(0, at)
            name = name[: len(name) - stripped] + data[at:behind]
            at = behind + 1
        else:
            length = flags & _NAME_LENGTH
            behind = at + length if length < _NAME_LENGTH else data.index(0, at)
            name = bytes(data[at:behind])
            at = start + (behind - start + 8) // 8 * 8
        if not is_plain:
            continue
        note = notes.get(name)
        (mode,) = _NUMBER.unpack_from(data, start + _MODE)
        if note is not None and mode & _TYPE == _REGULAR and data[start + _ID : behind_id].hex() == note.blob:
            _remember(data, start, note.status)
        elif mode & _TYPE in (_REGULAR, _SYMLINK) and _NUMBER.unpack_from(data, start + _MTIME)[0] >= written:
            status = status_of(name)
            if status is not None and data[start : start + _MODE] == _times(status):  # else git sees the change
                _remember(data, start, None)
    return at


def _remember(data: bytearray, start: int, status: os.stat_result | None) -> None:
    if status is None:
        _NUMBER.pack_into(data, start + _SIZE, 0)  # no file has its size then, and for 0 git looks at the content
        return
    data[start : start + _MODE] = _times(status)
    owner = status.st_uid, status.st_gid, status.st_size
    _OWNER.pack_into(data, start + _USER, *(number & _WORD for number in owner))


def _times(status: os.stat_result) -> bytes:
    changed, modified = divmod(status.st_ctime_ns, _SECOND), divmod(status.st_mtime_ns, _SECOND)
    return _TIMES.pack(*(number & _WORD for number in (*changed, *modified, status.st_dev, status.st_ino)))


def _variable(data: bytearray, at: int) -> tuple[int, int]:
    """Read a number as in the offsets of packs; return it, and where it ends."""
    byte = data[at]
    number = byte & 0x7F
    while byte & 0x80:
        at += 1
        byte = data[at]
        number = ((number + 1) << 7) | (byte & 0x7F)
    return number, at + 1


def _are_known(data: bytearray, at: int, end: int) -> bool:
    """Tell whether nothing stands from `at` to `end` but extensions that may be kept as they are."""
    while at < end:
        name = bytes(data[at : at + 4])
        (length,) = _NUMBER.unpack_from(data, at + 4)
        if not name[:1].isupper() and name not in _KNOWN:
            return False
        at += 8 + length
    return at == end
