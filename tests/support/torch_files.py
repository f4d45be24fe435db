"""torch zips made by hand, where torch would not write them so: pickles by opcode, zips field by field."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tests.support.streams import Pieces, Taken, take
from theta_daemon.formats.layout import Name
from theta_daemon.formats.parts import Tensor
from theta_daemon.formats.source import Source
from theta_daemon.formats.torch_zip import read

STREAMED = 0x808  # the flags of torch's records: sizes in a descriptor, names in UTF-8
KNOWN = 0x800  # ... and of those with sizes in the header


def numbered(tensors: Sequence[Tensor]) -> list[Name]:
    """Name every tensor by its number, whatever its keys."""
    return [(str(i),) for i in range(len(tensors))]


@dataclass(frozen=True)
class Read:
    """A file that was read: what is left of it, and its tensors."""

    taken: Taken
    tensors: tuple[Tensor, ...]

    def value(self, *keys: object) -> bytes:
        """Return the bytes that the tensor at `keys` owns, itself or through its owner."""
        index = next(i for i, one in enumerate(self.tensors) if one.keys == keys)
        owner = self.tensors[index].owner
        return self.taken.groups[index if owner is None else owner]

    def keys(self) -> list[tuple[object, ...]]:
        """Return every tensor's keys."""
        return [one.keys for one in self.tensors]

    def tensor(self, *keys: object) -> Tensor:
        """Return the tensor at `keys`."""
        return next(one for one in self.tensors if one.keys == keys)


def read_file(data: bytes, sizes: Iterable[int] = ()) -> Read:
    """Read a torch zip as clean does, from a stream that gives `sizes` bytes at a time."""
    seen: list[tuple[Tensor, ...]] = []

    def names(tensors: Sequence[Tensor]) -> list[Name]:
        seen.append(tuple(tensors))
        return numbered(tensors)

    source = Source(Pieces(data, sizes))
    try:
        taken = take("torch-zip", source, read, names)
    finally:
        source.close()
    (tensors,) = seen
    return Read(taken, tensors)


# --- pickles ------------------------------------------------------------------------------------


def text(value: str) -> bytes:
    """Push a string."""
    data = value.encode("utf-8", "surrogatepass")
    return struct.pack("<cI", b"X", len(data)) + data


def integer(value: int) -> bytes:
    """Push an integer of any size."""
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return struct.pack("<ci", b"\x8b", len(data)) + data


def reference(module: str, name: str) -> bytes:
    """Push a global."""
    return f"c{module}\n{name}\n".encode()


def sequence(*values: bytes) -> bytes:
    """Push a tuple."""
    return b"(" + b"".join(values) + b"t"


def integers(values: Iterable[int]) -> bytes:
    """Push a tuple of integers."""
    return sequence(*map(integer, values))


def call(function: bytes, *arguments: bytes) -> bytes:
    """Push what a call would return."""
    return function + sequence(*arguments) + b"R"


def mapping(items: Mapping[str, bytes]) -> bytes:
    """Push a dict."""
    return b"}(" + b"".join(text(key) + value for key, value in items.items()) + b"u"


def storage(key: str = "0", numel: int = 4, kind: str = "FloatStorage", location: str = "cpu") -> bytes:
    """Push a storage, by torch's persistent id."""
    return sequence(text("storage"), reference("torch", kind), text(key), text(location), integer(numel)) + b"Q"


def tensor(
    stored: bytes, size: Sequence[int] = (4,), stride: Sequence[int] = (1,), offset: int = 0, metadata: bytes = b""
) -> bytes:
    """Push a tensor, as `_rebuild_tensor_v2` would rebuild it."""
    hooks = call(reference("collections", "OrderedDict"))
    function = reference("torch._utils", "_rebuild_tensor_v2")
    return call(function, stored, integer(offset), integers(size), integers(stride), b"\x89", hooks, metadata)


def program(value: bytes) -> bytes:
    """Return the pickle (protocol 2) of what `value` pushes."""
    return b"\x80\x02" + value + b"."


# --- zips ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Record:
    """One record, right in everything; a field that is not None replaces what would be right.

    `claimed` is the size in headers and descriptor, `crc` the checksum there, `descriptor` all of it, `central` the
    size in the directory, `place` the offset there.
    """

    name: str
    data: bytes
    flags: int = STREAMED
    method: int = 0
    extra: bytes = b""
    claimed: int | None = None
    crc: int | None = None
    descriptor: bytes | None = None
    central: int | None = None
    place: int | None = None

    def before(self) -> bytes:
        """Return the local header."""
        streamed = self.flags & 8
        crc, size = (0, 0) if streamed else (self.checksum(), self.size())
        name = self.name.encode()
        header = struct.pack(
            "<4sHHHIIIIHH", b"PK\3\4", 0, self.flags, self.method, 0, crc, size, size, len(name), len(self.extra)
        )
        return header + name + self.extra

    def after(self) -> bytes:
        """Return the descriptor."""
        if self.descriptor is not None:
            return self.descriptor
        return struct.pack("<4sIII", b"PK\7\10", self.checksum(), self.size(), self.size()) if self.flags & 8 else b""

    def entry(self, offset: int) -> bytes:
        """Return the entry of the directory."""
        size = self.size() if self.central is None else self.central
        place = offset if self.place is None else self.place
        name = self.name.encode()
        sizes = (self.checksum(), size, size, len(name))
        return (
            struct.pack("<4sHHHHIIIIHHHHHII", b"PK\1\2", 0, 0, self.flags, self.method, 0, *sizes, 0, 0, 0, 0, 0, place)
            + name
        )

    def checksum(self) -> int:
        """Return the CRC-32."""
        return zlib.crc32(self.data) if self.crc is None else self.crc

    def size(self) -> int:
        """Return the size that the record claims."""
        return len(self.data) if self.claimed is None else self.claimed


def zip_file(records: Sequence[Record], comment: bytes = b"") -> bytes:
    """Return a zip of `records`."""
    data = bytearray()
    entries = []
    for record in records:
        entries.append(record.entry(len(data)))
        data += record.before() + record.data + record.after()
    directory = b"".join(entries)
    end = (len(entries), len(entries), len(directory), len(data), len(comment))
    return bytes(data + directory + struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, *end) + comment)


def torch_records(
    pickle: bytes, storages: Mapping[str, bytes], archive: str = "archive", flags: int = STREAMED
) -> list[Record]:
    """Return the records of a torch file, in torch's order, without those that torch does not need."""
    return [
        Record(f"{archive}/data.pkl", pickle, flags),
        *(Record(f"{archive}/data/{key}", value, flags) for key, value in storages.items()),
        Record(f"{archive}/version", b"3\n", flags),
    ]


def torch_file(pickle: bytes, storages: Mapping[str, bytes] | None = None) -> bytes:
    """Return the torch zip with this pickle and these storages."""
    return zip_file(torch_records(pickle, storages or {}))
