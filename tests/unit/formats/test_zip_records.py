"""The structures of a zip, as Python's zipfile writes them and field by field."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

import pytest

from theta_daemon.errors import TruncatedError
from theta_daemon.formats import zip_records as zips


def written(method: int = zipfile.ZIP_STORED, *, zip64: bool = False, seekable: bool = True) -> bytes:
    buffer = io.BytesIO()
    target = buffer if seekable else Unseekable(buffer)
    with zipfile.ZipFile(target, "w", method) as file, file.open("a/é", "w", force_zip64=zip64) as record:
        record.write(b"12345" * 20)
    return buffer.getvalue()


class Unseekable(io.RawIOBase):
    def __init__(self, inner: io.BytesIO) -> None:
        self._inner = inner

    def writable(self) -> bool:
        return True

    def write(self, data: object, /) -> int:
        return self._inner.write(data)  # type: ignore[arg-type]


def local(data: bytes) -> zips.LocalHeader:
    return zips.parse_local(data[: zips.local_length(data[: zips.LOCAL_SIZE])])


def central(data: bytes) -> zips.CentralHeader:
    data = data[data.index(zips.CENTRAL) :]
    return zips.parse_central(data[: zips.central_length(data[: zips.CENTRAL_SIZE])])


@pytest.mark.parametrize("zip64", [False, True])
def test_a_stored_record(zip64: bool) -> None:
    data = written(zip64=zip64)
    header = local(data)
    assert header.name == "a/é".encode()
    assert (header.size, header.has_descriptor, header.is_plain) == (100, False, True)
    assert data[header.length :].startswith(b"12345")
    entry = central(data)
    assert (entry.name, entry.offset, entry.size, entry.is_plain) == (header.name, 0, 100, True)


def test_a_deflated_record_is_not_plain() -> None:
    data = written(zipfile.ZIP_DEFLATED)
    assert local(data).size == central(data).size
    assert not local(data).is_plain
    assert not central(data).is_plain


def test_an_encrypted_record_is_not_plain() -> None:
    data = bytearray(written())
    data[6] |= 1
    assert not local(bytes(data)).is_plain


def test_a_streamed_record_has_no_size_but_a_descriptor() -> None:
    data = written(seekable=False)
    header = local(data)
    assert (header.size, header.has_descriptor) == (None, True)
    assert zips.find_descriptor(data[header.length :], 0, stored=True) == 100
    assert zips.find_descriptor(data[header.length + 60 :], 60, stored=True) == 40
    assert zips.find_descriptor(data[header.length + 60 :], 61, stored=True) is None


def test_a_streamed_and_deflated_record() -> None:
    data = written(zipfile.ZIP_DEFLATED, seekable=False)
    at = local(data).length
    assert zips.find_descriptor(data[at:], 0, stored=False) == central(data).size
    assert zips.find_descriptor(data[at:], 0, stored=True) is None


@pytest.mark.parametrize(("sizes", "length"), [("<II", 16), ("<QQ", 24)])
@pytest.mark.parametrize("size", [0, 100, 0xFFFFFFFE])
def test_descriptors_of_both_lengths(sizes: str, length: int, size: int) -> None:
    data = zips.DESCRIPTOR + b"crc!" + struct.pack(sizes, size, size) + b"PK\1\2" + bytes(30)
    window = data[: zips.DESCRIPTOR_WINDOW]
    assert zips.descriptor_length(window, size, stored=True) == length
    assert zips.descriptor_length(window, size + 1, stored=True) is None
    assert zips.descriptor_length(window[:-1], size, stored=True) is None
    assert zips.descriptor_length(b"PK" + window[2:].replace(b"\7\10", b"\7\11"), size, stored=True) is None


def test_a_descriptor_over_4_gib() -> None:
    size = 1 << 32
    window = zips.DESCRIPTOR + b"crc!" + struct.pack("<QQ", size, size) + b"PK"
    assert zips.descriptor_length(window, size, stored=True) == 24


def test_what_looks_like_a_descriptor_inside_the_data_is_passed_over() -> None:
    fake = zips.DESCRIPTOR + bytes(12)
    data = b"x" + fake * 3
    window = data + zips.DESCRIPTOR + struct.pack("<III", zlib.crc32(data), len(data), len(data)) + b"PK\3\4" + bytes(9)
    assert zips.find_descriptor(window, 0, stored=True) == len(data)
    assert zips.find_descriptor(window[: len(data) + 25], 0, stored=True) is None


def wide_local(compressed: int, plain: int, extra: bytes) -> bytes:
    header = struct.pack("<4sHHHIIIIHH", zips.LOCAL, 0, 0, 0, 0, 0, compressed, plain, 1, len(extra))
    return header + b"n" + extra


FULL = 0xFFFFFFFF
FIELD = struct.pack("<HHQQ", 1, 16, 1 << 33, 1 << 32)  # the size, then the compressed size
OTHER = struct.pack("<HH3s", 0x4246, 3, b"ZZZ")


@pytest.mark.parametrize(
    ("compressed", "plain", "extra", "size"),
    [
        (FULL, FULL, FIELD, 1 << 32),
        (FULL, FULL, OTHER + FIELD, 1 << 32),
        (FULL, 5, FIELD, 1 << 33),  # only what is missing is there
        (5, FULL, FIELD, 5),
        (FULL, FULL, OTHER, FULL),
        (FULL, FULL, b"", FULL),
        (FULL, FULL, FIELD[:-1], FULL),
        (FULL, FULL, b"\1\0\xff\xff" + bytes(3), FULL),
        (FULL, FULL, b"\1\0\0", FULL),
    ],
)
def test_sizes_in_zip64_extra_fields(compressed: int, plain: int, extra: bytes, size: int) -> None:
    assert zips.parse_local(wide_local(compressed, plain, extra)).size == size


def test_offsets_in_zip64_extra_fields() -> None:
    extra = struct.pack("<HHQ", 1, 8, 1 << 40)
    entry = (
        struct.pack("<4sHHHHIIIIHHHHHII", zips.CENTRAL, 0, 0, 0, 0, 0, 0, 7, 7, 1, 12, 0, 0, 0, 0, FULL) + b"n" + extra
    )
    parsed = zips.parse_central(entry)
    assert (parsed.size, parsed.offset) == (7, 1 << 40)


def test_headers_that_are_cut() -> None:
    data = written()
    for end in range(zips.LOCAL_SIZE):
        with pytest.raises(TruncatedError):
            zips.local_length(data[:end])
    with pytest.raises(TruncatedError):
        zips.parse_local(data[: zips.LOCAL_SIZE + 1])
    entry = data[data.index(zips.CENTRAL) :]
    with pytest.raises(TruncatedError):
        zips.central_length(entry[: zips.CENTRAL_SIZE - 1])
    with pytest.raises(TruncatedError):
        zips.parse_central(entry[: zips.CENTRAL_SIZE])
