"""The canonical torch zip: the bytes that torch 2.13 writes for named tensors, planned without torch or values.

It stands in for a file whose own layout is not known (a repository that git-theta wrote). It is canonical form 1 of
protocol/torch-zip.md, with test vectors: work trees hold such files, so it never changes.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from theta_daemon.dtypes import nbytes
from theta_daemon.formats.build import LayoutBuilder
from theta_daemon.formats.parts import Tensor
from theta_daemon.formats.torch_pickle_writer import pickle_tensors
from theta_daemon.formats.torch_serialization_id import name_digits
from theta_daemon.formats.zip_records import CENTRAL, DESCRIPTOR, END, LOCAL, LOCAL_SIZE, ZIP64_END, ZIP64_LOCATOR

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from theta_daemon.formats.layout import CanonicalTensor, Layout

NAME = "torch-zip"

_ARCHIVE = b"archive/"
_ALIGNMENT = 64
_UTF8 = 1 << 11
_HAS_DESCRIPTOR = 1 << 3
_MAX16 = 0xFFFF
_MAX32 = 0xFFFFFFFF
_ZIP64 = 1
_MADE_BY = 0x031E  # by a Unix program, to version 3.0; miniz says so in the zip64 end record only
_NEEDS = 45  # the version that has zip64


def canonical(tensors: Sequence[CanonicalTensor], opaque: Callable[[bytes], None]) -> Layout:
    """Return the layout of what `torch.save` of torch 2.13 writes to a buffer for contiguous `tensors`.

    Names of several parts make nested dicts; the groups are in the order of these. Literals over the limit go to
    `opaque` in chunks, as when the file is read. Raises UnsupportedError for a dtype that torch lacks, LayoutError for
    names that are empty, come twice or begin others.
    """
    pickle, ordered = pickle_tensors(tensors)
    builder = LayoutBuilder(opaque)
    builder.tensors(
        [tensor.name for tensor in ordered],
        [Tensor(tensor.name, tensor.dtype, tensor.shape) for tensor in ordered],
    )
    plan = _Plan(builder)
    plan.literal(b"data.pkl", pickle)
    plan.literal(b".format_version", b"1")
    plan.literal(b".storage_alignment", b"%d" % _ALIGNMENT)
    plan.literal(b"byteorder", b"little")
    for index, tensor in enumerate(ordered):
        plan.group(b"data/%d" % index, index, nbytes(tensor.dtype, tensor.shape))
    plan.literal(b"version", b"3\n")
    plan.serialization_id()
    plan.end()
    return builder.finish(NAME)


class _Plan:
    """Lays the records out one by one, as torch's writer does on top of its zip library (miniz)."""

    def __init__(self, builder: LayoutBuilder) -> None:
        self._builder = builder
        self._position = 0
        self._names: list[bytes] = []
        self._central: list[tuple[bytes, bytes]] = []  # each record's central header, without its checksum
        self._central_size = 0

    def literal(self, name: bytes, data: bytes) -> None:
        start = self._begin(name, len(data))
        self._builder.literal(data)
        self._end(name, start, len(data))

    def group(self, name: bytes, index: int, size: int) -> None:
        start = self._begin(name, size)
        self._builder.put_group(index)
        self._end(name, start, size)

    def serialization_id(self) -> None:
        name = b".data/serialization_id"
        digits = name_digits(self._names)
        start = self._begin(name, 2 * len(digits))
        self._builder.literal(digits)
        self._builder.put_combined()
        self._end(name, start, 2 * len(digits))

    def end(self) -> None:
        start = self._position
        for region, (before, after) in enumerate(self._central):
            self._builder.literal(before)
            self._builder.put_checksum(region)
            self._builder.literal(after)
        size = self._central_size
        number = len(self._central)
        # torch asks for zip64 ends whatever the size
        wide = struct.pack("<4sQHHIIQQQQ", ZIP64_END, 44, _MADE_BY, _NEEDS, 0, 0, number, number, size, start)
        self._builder.literal(wide + struct.pack("<4sIQI", ZIP64_LOCATOR, 0, start + size, 1))
        short = min(number, _MAX16)
        self._builder.literal(
            struct.pack("<4sHHHHIIH", END, 0, 0, short, short, min(size, _MAX32), min(start, _MAX32), 0)
        )

    def _begin(self, name: bytes, size: int) -> int:
        """Write a record's local header; return where it starts."""
        self._names.append(name)
        name = _ARCHIVE + name
        start = self._position
        flags = _UTF8 | (_HAS_DESCRIPTOR if size else 0)
        wide = _wide(size, start, local=True)
        bare = start + LOCAL_SIZE + len(name) + len(wide) + 4
        padding = b"FB" + struct.pack("<H", -bare % _ALIGNMENT) + b"Z" * (-bare % _ALIGNMENT)
        extra = wide + padding
        header = struct.pack("<4sHHHIIIIHH", LOCAL, 0, flags, 0, 0, 0, 0, 0, len(name), len(extra))
        self._put(header + name + extra)
        self._builder.region_start()
        return start

    def _end(self, name: bytes, start: int, size: int) -> None:
        """Write what follows a record's data."""
        self._position += size
        self._builder.region_end()
        wide = _wide(size, start)
        if size:
            self._put(DESCRIPTOR)
            self._builder.put_checksum(len(self._central))
            self._position += 4
            self._put(struct.pack("<QQ" if wide else "<II", size, size))
        name = _ARCHIVE + name
        flags = _UTF8 | (_HAS_DESCRIPTOR if size else 0)
        short = min(size, _MAX32)
        before = struct.pack("<4sHHHHI", CENTRAL, 0, 0, flags, 0, 0)
        after = struct.pack("<IIHHHHHII", short, short, len(name), len(wide), 0, 0, 0, 0, min(start, _MAX32))
        self._central.append((before, after + name + wide))
        self._central_size += len(before) + 4 + len(after) + len(name) + len(wide)

    def _put(self, data: bytes) -> None:
        self._builder.literal(data)
        self._position += len(data)


def _wide(size: int, start: int, *, local: bool = False) -> bytes:
    """Return the zip64 extra field of a record, empty where 32 bits hold everything.

    A local header is written before the data: its compressed size is not known then, and 0.
    """
    values = []
    if size >= _MAX32:
        values += [size, 0 if local else size]
    if start >= _MAX32:
        values.append(start)
    if not values:
        return b""
    return struct.pack(f"<HH{len(values)}Q", _ZIP64, 8 * len(values), *values)
