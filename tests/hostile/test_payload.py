"""Payloads made to harm: every one ends in an error or in a value of the right size, in bounded memory."""

from __future__ import annotations

import bz2
import gzip
import json
import tracemalloc
import zlib
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numcodecs import blosc, zstd

from tests.support import tensorstore_payload
from theta_daemon import dtypes
from theta_daemon.errors import CorruptObject, UnsupportedError
from theta_daemon.store import payload, zarr
from theta_daemon.store.codec import DEFAULT, Codec

GUARD = 256
MIB = 1 << 20

VALUE = (np.arange(3000) % 200).astype("<f4").reshape(30, 100)
PAYLOADS = {
    "ours": b"".join(payload.encode(memoryview(VALUE.tobytes()), "float32", VALUE.shape)),
    "uncompressed": b"".join(payload.encode(memoryview(VALUE.tobytes()), "float32", VALUE.shape, Codec.parse("none"))),
    "git-theta": tensorstore_payload.write(VALUE),
    "grid": tensorstore_payload.write(VALUE, chunks=[16, 40]),
    "blosc of blocks": tensorstore_payload.write(
        VALUE, compressor={"id": "blosc", "cname": "zstd", "clevel": 1, "shuffle": 2, "blocksize": 1024}
    ),
    "blosclz": tensorstore_payload.write(
        VALUE, compressor={"id": "blosc", "cname": "blosclz", "clevel": 9, "shuffle": 1}
    ),
    "zstd": tensorstore_payload.write(VALUE, compressor={"id": "zstd", "level": 1}),
    "gzip": tensorstore_payload.write(VALUE, compressor={"id": "gzip", "level": 1}),
}


def decode(data: bytes, dtype: str = "float32", shape: tuple[int, ...] = VALUE.shape) -> bytes | None:
    """Return the value, or None where it is refused; nothing may be written beside it."""
    size = dtypes.nbytes(dtype, shape)
    guarded = bytearray(b"\xaa" * (size + 2 * GUARD))
    try:
        payload.decode_into(memoryview(data), dtype, shape, memoryview(guarded)[GUARD : GUARD + size])
        found = bytes(guarded[GUARD : GUARD + size])
    except (CorruptObject, UnsupportedError):
        found = None
    assert guarded[:GUARD] == guarded[-GUARD:] == b"\xaa" * GUARD
    return found


@pytest.mark.parametrize("name", PAYLOADS)
def test_the_payloads_themselves_are_good(name: str) -> None:
    assert decode(PAYLOADS[name]) == VALUE.tobytes()


@pytest.mark.parametrize("name", PAYLOADS)
def test_every_truncation_is_refused(name: str) -> None:
    data = PAYLOADS[name]
    for end in (*range(0, min(len(data), 700), 3), *range(len(data) - 40, len(data))):
        assert decode(data[:end]) is None
    assert decode(data + b"\0") is None


@pytest.mark.parametrize("name", PAYLOADS)
@given(st.data())
def test_changed_bytes_are_refused_or_stay_inside(name: str, data: st.DataObject) -> None:
    broken = bytearray(PAYLOADS[name])
    # Heads and blosc's offsets are where a byte matters most: half of the changes go there.
    places = st.integers(0, len(broken) - 1) | st.integers(200, 330)
    for place in data.draw(st.lists(places, min_size=1, max_size=6)):
        broken[place % len(broken)] = data.draw(st.integers(0, 255))
    decode(bytes(broken))


@pytest.mark.parametrize("name", PAYLOADS)
@pytest.mark.parametrize("bit", [0, 7])
def test_one_flipped_bit_in_each_region(name: str, bit: int) -> None:
    for place in range(0, len(PAYLOADS[name]), 7):
        broken = bytearray(PAYLOADS[name])
        broken[place] ^= 1 << bit
        decode(bytes(broken))


@given(st.binary(max_size=300))
@example(b"\x81" * 300)
@example(b"\x91" * 300)
@example(b"\x81\xa9parameter\x81\xa7.zarray\xc4\x02{}")
@example(b"\x81\xa9parameter\xdf\xff\xff\xff\xff")
def test_arbitrary_bytes(data: bytes) -> None:
    assert decode(data) is None
    assert decode(b"\x81\xa9parameter" + data) is None


@given(st.binary(max_size=200), st.sampled_from([None, "blosc", "zlib", "gzip", "bz2", "zstd", "lzma", "\0"]))
def test_arbitrary_chunks(chunk: bytes, compressor: str | None) -> None:
    array = zarr.Array((1000,), (1000,), "|u1", 1, None)
    description = zarr.serialize(array, None if compressor is None else {"id": compressor})
    assert decode(tensorstore_payload.pack({".zarray": description, "0": chunk}), "uint8", (1000,)) is None


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["<f4", "C", "F", "."]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["id", "cname", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)


FIELDS = ["shape", "chunks", "dtype", "compressor", "order", "filters", "dimension_separator", "zarr_format"]


@given(st.dictionaries(st.sampled_from(FIELDS), JSON, max_size=3))
@example({"chunks": [1 << 62, 1 << 62]})
@example({"chunks": [1, 1]})
@example({"shape": [1 << 62, 1 << 62], "chunks": [1, 1]})
@example({"shape": [0, 1 << 62], "chunks": [1, 1]})
@example({"fill_value": float("nan")})
def test_descriptions_that_lie(change: dict[str, object]) -> None:
    entries = tensorstore_payload.unpack(PAYLOADS["ours"])
    entries[".zarray"] = json.dumps(json.loads(entries[".zarray"]) | change).encode()
    found = decode(tensorstore_payload.pack(entries))
    assert found is None or len(found) == VALUE.nbytes


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


@pytest.fixture(params=BOMBS)
def bomb(request: pytest.FixtureRequest) -> bytes:
    array = zarr.Array((1000,), (1000,), "|u1", 1, None)
    description = zarr.serialize(array, {"id": request.param})
    return tensorstore_payload.pack({".zarray": description, "0": BOMBS[request.param](bytes(32 * MIB))})


def test_chunks_that_expand_to_more_than_the_value(bomb: bytes, peak: Callable[[], int]) -> None:
    assert decode(bomb, "uint8", (1000,)) is None
    assert peak() < MIB + 2 * len(bomb)


@pytest.mark.parametrize(
    "data",
    [
        b"\x81\xa9parameter\xdf\xff\xff\xff\xff" + b"\xa0\xc4\0" * 1000,
        b"\xdf\xff\xff\xff\xff" + b"\xa1a\x80" * 1000,
        b"\x81\xdb\xff\xff\xff\xffparameter",
        b"\x81\xa9parameter\x81\xa7.zarray\xc6\xff\xff\xff\xff{}",
        tensorstore_payload.pack({".zarray": b'{"shape":' + b"[" * 60_000}),
        tensorstore_payload.pack({str(number): b"" for number in range(5000)}),
        tensorstore_payload.pack({".zarray": zarr.serialize(zarr.Array((1 << 20,), (1,), "|u1", 1, None), None)}),
    ],
    ids=range(7),
)
def test_counts_and_lengths_that_are_not_there(data: bytes, peak: Callable[[], int]) -> None:
    with pytest.raises(CorruptObject):
        payload.open_payload(memoryview(data), "uint8", (1 << 20,))
    assert peak() < 2 * MIB


def test_a_value_claimed_large_costs_what_is_present(peak: Callable[[], int]) -> None:
    array = zarr.Array((1 << 50,), (1 << 20,), "|u1", 1, None)
    data = tensorstore_payload.pack({".zarray": zarr.serialize(array, DEFAULT.zarr), "0": b""})
    with pytest.raises(CorruptObject, match="1 chunks instead of"):
        payload.open_payload(memoryview(data), "uint8", (1 << 50,))
    assert peak() < MIB
