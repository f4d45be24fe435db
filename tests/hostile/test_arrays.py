"""Payloads of several arrays made to harm: an error, or arrays of the size they claim, in the memory allowed."""

from __future__ import annotations

import bz2
import gzip
import json
import tracemalloc
import zlib
from collections.abc import Callable, Iterator

import msgpack
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numcodecs import blosc, zstd

from tests.support import tensorstore_payload
from theta_daemon import dtypes
from theta_daemon.errors import CorruptObject, UnsupportedError
from theta_daemon.store import arrays as arrays_module
from theta_daemon.store import zarr
from theta_daemon.store.arrays import encode_arrays, open_arrays
from theta_daemon.store.codec import DEFAULT, Codec
from theta_daemon.updates.array import Array

MIB = 1 << 20

VALUES = {
    "data": np.arange(400, dtype="<f4") / 7,
    "indices": np.arange(400, dtype="<i4") * 3,
    "indptr": np.array([0, 400], "<i4"),
    "shape": np.array([30, 40]),
}
OURS = {name: Array(str(value.dtype), value.shape, memoryview(value.tobytes())) for name, value in VALUES.items()}
PAYLOADS = {
    "ours": b"".join(encode_arrays(OURS, DEFAULT)),
    "uncompressed": b"".join(encode_arrays(OURS, Codec.parse("none"))),
    "git-theta": tensorstore_payload.write_all(VALUES),
    "chunks": tensorstore_payload.write_all({"data": VALUES["data"].reshape(20, 20)}, chunks=[7, 6]),
    "zstd": tensorstore_payload.write_all(VALUES, compressor={"id": "zstd", "level": 1}),
}


def decode(data: bytes, most: int = 1 << 16) -> dict[str, Array] | None:
    """Return the arrays, or None where they are refused."""
    try:
        found = open_arrays(memoryview(data), most)
    except (CorruptObject, UnsupportedError):
        return None
    for array in found.values():
        assert len(array.raw) == dtypes.nbytes(array.dtype, array.shape)
    return found


def pack(entries: dict[str, bytes], name: str = "data") -> bytes:
    return tensorstore_payload.pack(entries, name)


@pytest.mark.parametrize("name", PAYLOADS)
def test_every_truncation_is_refused(name: str) -> None:
    data = PAYLOADS[name]
    assert decode(data) is not None
    for end in range(len(data)):
        assert decode(data[:end]) is None
    assert decode(data + b"\0") is None


@pytest.mark.parametrize("name", PAYLOADS)
@given(st.data())
def test_changed_bytes_are_refused_or_stay_inside(name: str, data: st.DataObject) -> None:
    broken = bytearray(PAYLOADS[name])
    for place in data.draw(st.lists(st.integers(0, len(broken) - 1), min_size=1, max_size=6)):
        broken[place] = data.draw(st.integers(0, 255))
    decode(bytes(broken))


@pytest.mark.parametrize("bit", range(8))
@pytest.mark.parametrize("name", PAYLOADS)
def test_one_flipped_bit_anywhere(name: str, bit: int) -> None:
    for place in range(0, len(PAYLOADS[name]), 3):
        broken = bytearray(PAYLOADS[name])
        broken[place] ^= 1 << bit
        decode(bytes(broken))


@given(st.binary(max_size=300))
@example(b"\x81" * 300)
@example(b"\x81\xa4data\x81\xa7.zarray\xc4\x02{}")
@example(b"\x81\xa4data\xdf\xff\xff\xff\xff")
@example(b"\x84\xff\xa7.zarray\xc4\xff\xff")
def test_arbitrary_bytes(data: bytes) -> None:
    assert not decode(data)
    assert not decode(b"\x81\xa4data" + data)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["<f4", "<i8", "|u1", "C", "F", "."]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["id", "cname"]), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ["shape", "chunks", "dtype", "compressor", "order", "filters", "dimension_separator", "zarr_format"]


@given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3))
@example({"chunks": [1 << 62]})
@example({"shape": [1 << 62]})
@example({"shape": [1 << 62] * 3, "chunks": [1 << 62] * 3})
@example({"shape": [0, 1 << 62], "chunks": [1, 1]})
@example({"shape": [1] * 65, "chunks": [1] * 65})
@example({"shape": [1] * 30_000, "chunks": [1] * 30_000})
@example({"shape": [1 << 62] * 3000, "chunks": [1 << 62] * 3000})
@example({"shape": [-1], "chunks": [1]})
@example({"dtype": "float32"})
def test_descriptions_that_lie(change: dict[str, object]) -> None:
    entries = tensorstore_payload.entries_of(VALUES["data"])
    entries[".zarray"] = json.dumps(json.loads(entries[".zarray"]) | change).encode()
    decode(pack(entries))


@given(st.binary(max_size=200), st.sampled_from([None, "blosc", "zlib", "gzip", "bz2", "zstd", "lzma", "\0"]))
def test_arbitrary_chunks(chunk: bytes, compressor: str | None) -> None:
    array = zarr.Array((1000,), (1000,), "|u1", 1, None)
    description = zarr.serialize(array, None if compressor is None else {"id": compressor})
    assert decode(pack({".zarray": description, "0": chunk})) is None


@pytest.fixture
def peak() -> Iterator[Callable[[], int]]:
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    yield lambda: tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()


BOMBS: dict[str, Callable[[bytes], bytes]] = {
    "zlib": zlib.compress,
    "gzip": gzip.compress,
    "bz2": bz2.compress,
    "zstd": lambda data: zstd.compress(data, 1),
    "blosc": lambda data: blosc.compress(np.frombuffer(data, "<u4"), b"zstd", 1, 1),
}


@pytest.mark.parametrize("claimed", [1000, 32 * MIB])
@pytest.mark.parametrize("compressor", BOMBS)
def test_chunks_that_expand_beyond_what_is_allowed(compressor: str, claimed: int, peak: Callable[[], int]) -> None:
    description = zarr.serialize(zarr.Array((claimed,), (claimed,), "|u1", 1, None), {"id": compressor})
    bomb = pack({".zarray": description, "0": BOMBS[compressor](bytes(32 * MIB))})
    tracemalloc.reset_peak()
    for _ in range(2):
        assert decode(bomb, MIB) is None
    assert peak() < MIB + 2 * len(bomb)


CLAIMS = {
    "one chunk": ((1 << 30,), (1 << 30,), {"0": b""}),
    "one short chunk": ((1 << 30,), (1 << 30,), {"0": bytes(1000)}),
    "many chunks": ((1 << 30,), (1 << 28,), {str(number): bytes(1000) for number in range(4)}),
    "a chunk larger than its array": ((1000,), (1 << 26,), {"0": bytes(100)}),
    "columns first": ((1 << 15, 1 << 15), (1 << 15, 1 << 15), {"0.0": bytes(1000)}),
    "absent chunks": ((1 << 50,), (1 << 20,), {"0": b""}),
    "more chunks than elements need": ((5000,), (1,), {str(number): b"\0" for number in range(5000)}),
}


@pytest.mark.parametrize("compressor", [None, DEFAULT.zarr], ids=["plain", "blosc"])
@pytest.mark.parametrize("claim", CLAIMS)
def test_arrays_claimed_large_cost_what_is_present(
    claim: str, compressor: dict[str, object] | None, peak: Callable[[], int]
) -> None:
    shape, chunks, stored = CLAIMS[claim]
    order = "F" if claim == "columns first" else "C"
    array = zarr.Array(shape, chunks, "|u1", 1, None, order=order)  # type: ignore[arg-type]
    data = pack({".zarray": zarr.serialize(array, compressor), **stored})
    tracemalloc.reset_peak()
    for most in (1 << 20, 1 << 40):
        with pytest.raises(CorruptObject):
            open_arrays(memoryview(data), most)
    assert peak() < 4 * MIB


def test_many_arrays_share_what_is_allowed(peak: Callable[[], int]) -> None:
    description = zarr.serialize(zarr.Array((MIB,), (MIB,), "|u1", 1, None), DEFAULT.zarr)
    chunk = bytes(DEFAULT.compress(memoryview(bytes(MIB)), 1))
    data = msgpack.packb({f"{number}": {".zarray": description, "0": chunk} for number in range(14)})
    for _ in range(2):
        assert decode(data, 13 * MIB + MIB // 2) is None
        assert decode(data, 2 * MIB) is None
    arrays_module._KNOWN.clear()
    assert len(decode(data, 14 * MIB) or ()) == 14
    many = msgpack.packb({f"{number}": {".zarray": description, "0": chunk} for number in range(65)})
    assert decode(many, 1 << 30) is None


@pytest.mark.parametrize(
    "data",
    [
        b"\x81\xa4data\xdf\xff\xff\xff\xff" + b"\xa0\xc4\0" * 1000,
        b"\xdf\xff\xff\xff\xff" + b"\xa1a\x80" * 1000,
        b"\x81\xdb\xff\xff\xff\xffdata",
        b"\x81\xa4data\x81\xa7.zarray\xc6\xff\xff\xff\xff{}",
        pack({".zarray": b'{"shape":' + b"[" * 60_000}),
        pack({str(number): b"" for number in range(100_000)}),
    ],
    ids=range(6),
)
def test_counts_and_lengths_that_are_not_there(data: bytes, peak: Callable[[], int]) -> None:
    with pytest.raises(CorruptObject):
        open_arrays(memoryview(data), 1 << 30)
    assert peak() < 4 * MIB
