"""The structures of a zip file, parsed one at a time from bytes (APPNOTE.TXT 6.3.10, sections 4.3 to 4.5).

A zip is a sequence of records (local header, data, sometimes a data descriptor), then the central directory, then its
end. Nothing here inflates, and nothing is believed that the bytes at hand cannot prove: a record written to a stream
has no size in its header, and its end is where a descriptor gives the distance so far as the size.
"""

from __future__ import annotations

import struct

from theta_daemon.errors import CheckpointError, TruncatedError
from theta_daemon.frozen import Frozen

LOCAL = b"PK\x03\x04"
DESCRIPTOR = b"PK\x07\x08"
CENTRAL = b"PK\x01\x02"
ZIP64_END = b"PK\x06\x06"
ZIP64_LOCATOR = b"PK\x06\x07"
END = b"PK\x05\x06"

LOCAL_SIZE = 30
CENTRAL_SIZE = 46
ZIP64_END_SIZE = 56
ZIP64_LOCATOR_SIZE = 20
END_SIZE = 22
DESCRIPTOR_WINDOW = 26  # bytes that tell a descriptor: the longest form, and the next structure's first two

CENTRAL_CRC = 16  # the offset of the checksum in a central header

# From the flags on: method, (time, date, CRC,) sizes compressed and not, lengths of name and extra field(, and comment,
# and where the local header is).
_LOCAL = struct.Struct("<6xHH8xIIHH")
_CENTRAL = struct.Struct("<8xHH8xIIHHH8xI")

_ENCRYPTED = 1 << 0
_HAS_DESCRIPTOR = 1 << 3
_STORED = 0
_ZIP64 = 1  # the id of the extra field that holds what does not fit 32 bits
_MAX32 = 0xFFFFFFFF


class LocalHeader(Frozen):
    """What stands before a record's data.

    `length` is the header's own; `size` the data's, None where a descriptor tells. `is_plain` data are neither
    compressed nor encrypted.
    """

    name: bytes
    length: int
    size: int | None
    has_descriptor: bool
    is_plain: bool


class CentralHeader(Frozen):
    """What the directory says of a record: where its local header begins, and how long its data are in the file."""

    name: bytes
    length: int
    offset: int
    size: int
    is_plain: bool


def local_length(head: bytes) -> int:
    """Return the length of the local header that begins with the LOCAL_SIZE bytes `head`."""
    if len(head) < LOCAL_SIZE:
        raise _cut()
    *_, name, extra = _LOCAL.unpack_from(head)
    return LOCAL_SIZE + int(name) + int(extra)


def parse_local(data: bytes) -> LocalHeader:
    """Return the local header that `data` begins with. Raises TruncatedError where it does not end there."""
    if len(data) < LOCAL_SIZE:
        raise _cut()
    flags, method, compressed, plain, name, extra = _LOCAL.unpack_from(data)
    length = LOCAL_SIZE + name + extra
    if len(data) < length:
        raise _cut()
    size = compressed
    if compressed == _MAX32 or plain == _MAX32:
        size, *_ = _wide(data[LOCAL_SIZE + name : length], compressed, plain)
    has_descriptor = bool(flags & _HAS_DESCRIPTOR)
    return LocalHeader(
        data[LOCAL_SIZE : LOCAL_SIZE + name],
        length,
        None if has_descriptor and not size else size,
        has_descriptor,
        method == _STORED and not flags & _ENCRYPTED,
    )


def central_length(head: bytes) -> int:
    """Return the length of the central header that begins with the CENTRAL_SIZE bytes `head`."""
    if len(head) < CENTRAL_SIZE:
        raise _cut()
    *_, name, extra, comment, _ = _CENTRAL.unpack_from(head)
    return CENTRAL_SIZE + int(name) + int(extra) + int(comment)


def parse_central(data: bytes, at: int = 0) -> CentralHeader:
    """Return the central header that begins at `at` in `data`. Raises TruncatedError where it does not end there."""
    if len(data) < at + CENTRAL_SIZE:
        raise _cut()
    flags, method, compressed, plain, name, extra, comment, offset = _CENTRAL.unpack_from(data, at)
    start = at + CENTRAL_SIZE
    length = CENTRAL_SIZE + name + extra + comment
    if len(data) < at + length:
        raise _cut()
    size = compressed
    if compressed == _MAX32 or plain == _MAX32 or offset == _MAX32:
        size, _, offset = _wide(data[start + name : start + name + extra], compressed, plain, offset)
    is_plain = method == _STORED and not flags & _ENCRYPTED
    return CentralHeader(data[start : start + name], length, offset, size, is_plain)


def descriptor_length(window: bytes, size: int, *, stored: bool) -> int | None:
    """Return the length of the data descriptor that `window` begins with, if it is that of a record of `size` bytes.

    `window` has DESCRIPTOR_WINDOW bytes. The sizes have 4 bytes, or 8 in zip64 (24 bytes in all).
    """
    if not window.startswith(DESCRIPTOR) or len(window) < DESCRIPTOR_WINDOW:
        return None
    for length, sizes in ((16, "<II"), (24, "<QQ")):
        compressed, plain = struct.unpack_from(sizes, window, 8)
        if compressed == size and (plain == size or not stored) and window[length : length + 2] == b"PK":
            return length
    return None


def find_descriptor(window: bytes, before: int, *, stored: bool) -> int | None:
    """Return where in `window` the record ends of which `before` bytes came earlier, None where that cannot be seen."""
    at = window.find(DESCRIPTOR)
    while at >= 0:
        # the cheap look first: data may be full of signatures
        if window[at + 8 : at + 12] == (before + at & _MAX32).to_bytes(4, "little") and descriptor_length(
            window[at : at + DESCRIPTOR_WINDOW], before + at, stored=stored
        ):
            return at
        at = window.find(DESCRIPTOR, at + 1)
    return None


def _wide(extras: bytes, compressed: int, plain: int, offset: int = 0) -> tuple[int, int, int]:
    """Return the compressed size, the size and the offset, from the zip64 extra field where they need 64 bits."""
    at = 0
    while at + 4 <= len(extras):
        kind, length = struct.unpack_from("<HH", extras, at)
        if kind == _ZIP64:
            field = extras[at + 4 : at + 4 + length]
            values = iter([int(value) for (value,) in struct.iter_unpack("<Q", field[: len(field) // 8 * 8])])
            # in this order, and only those that are needed
            plain = next(values, plain) if plain == _MAX32 else plain
            compressed = next(values, compressed) if compressed == _MAX32 else compressed
            offset = next(values, offset) if offset == _MAX32 else offset
            break
        at += 4 + length
    return compressed, plain, offset


def _cut() -> TruncatedError:
    return TruncatedError("the file ends inside a header of its zip structure")


def damaged(what: str, parameter: str | None = None) -> CheckpointError:
    """Return the error for a zip that contradicts itself."""
    return CheckpointError(what, parameter=parameter)
