"""The central directory of a zip whose rest lies in a spool: for records whose size the stream does not tell."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from theta_daemon.errors import TruncatedError
from theta_daemon.formats.zip_records import (
    CENTRAL,
    CENTRAL_SIZE,
    END,
    END_SIZE,
    LOCAL_SIZE,
    ZIP64_END,
    ZIP64_END_SIZE,
    ZIP64_LOCATOR,
    ZIP64_LOCATOR_SIZE,
    CentralHeader,
    central_length,
    damaged,
    local_length,
    parse_central,
)
from theta_daemon.frozen import Frozen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from theta_daemon.formats.source import SpooledTail

MAX_TRAILER = 1 << 17  # bytes behind the end record; torch finds it before 69 thousand bytes at most
MAX_ENTRIES = 1 << 22

_LONGEST_HEADER = CENTRAL_SIZE + 3 * 0xFFFF  # name, extra fields and comment have 16-bit lengths
_STEP = 1 << 20


class Directory(Frozen):
    """The records of a file, in the order of its central directory."""

    entries: tuple[CentralHeader, ...]

    def by_offset(self) -> dict[int, CentralHeader]:
        """Return the entries by the offset of their local headers."""
        return {entry.offset: entry for entry in self.entries}

    def by_name(self) -> dict[bytes, CentralHeader]:
        """Return the entries by name."""
        return {entry.name: entry for entry in self.entries}


def read_directory(tail: SpooledTail) -> Directory:
    """Return the central directory that the file ends with.

    Raises TruncatedError where there is none, CheckpointError where it contradicts itself.
    """
    start, size = _find(tail)
    return Directory(tuple(_entries(tail, start, size)))


def record_data(tail: SpooledTail, entry: CentralHeader) -> bytes:
    """Return the bytes of a record. The caller bounds `entry.size`."""
    header = local_length(tail.pread(entry.offset, LOCAL_SIZE))
    return tail.pread(entry.offset + header, entry.size)


def _find(tail: SpooledTail) -> tuple[int, int]:
    """Return where the central directory begins and how long it is."""
    n = min(tail.size, END_SIZE + MAX_TRAILER)
    end = tail.start + tail.size
    window = tail.pread(end - n, n)
    at = window.rfind(END, 0, max(0, n - END_SIZE + len(END)))
    if at < 0:
        raise TruncatedError("the file has no directory at its end")
    size, start = struct.unpack_from("<II", window, at + 12)
    end = end - n + at
    if end - ZIP64_LOCATOR_SIZE >= tail.start:
        locator = tail.pread(end - ZIP64_LOCATOR_SIZE, ZIP64_LOCATOR_SIZE)
        if locator.startswith(ZIP64_LOCATOR):
            (wide,) = struct.unpack_from("<Q", locator, 8)
            record = tail.pread(wide, ZIP64_END_SIZE)
            if not record.startswith(ZIP64_END):
                raise damaged("the end of the zip refers to a record that is not there")
            size, start = struct.unpack_from("<QQ", record, 40)
    if start + size > end:
        raise damaged("the zip's directory lies behind its end")
    return start, size


def _entries(tail: SpooledTail, start: int, size: int) -> Iterator[CentralHeader]:
    held = b""
    at = 0
    for _ in range(MAX_ENTRIES):
        if len(held) - at < _LONGEST_HEADER and size:
            step = min(size, _STEP)
            held = held[at:] + tail.pread(start, step)
            at, start, size = 0, start + step, size - step
        if at == len(held):
            return
        if not held.startswith(CENTRAL, at):
            raise damaged("the zip's directory holds something other than records")
        length = central_length(held[at : at + CENTRAL_SIZE])
        yield parse_central(held[at : at + length])
        at += length
    raise damaged("the zip has more records than any real checkpoint")
