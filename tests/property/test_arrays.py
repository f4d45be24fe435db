"""Laws of payloads of several arrays: what goes in comes out, and what is remembered of one changes no other."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import msgpack
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.support import tensorstore_payload
from theta_daemon import dtypes
from theta_daemon.errors import CorruptObject, UnsupportedError
from theta_daemon.store import arrays as arrays_module
from theta_daemon.store.arrays import encode_arrays, open_arrays
from theta_daemon.store.codec import Codec
from theta_daemon.updates.array import Array

NAMES = st.sampled_from(["data", "indices", "indptr", "shape", "R", "C", "ia3", "parameter", "\u00fc" * 20]) | st.text(
    max_size=40
)
SHAPES = st.lists(st.integers(0, 7), max_size=4).map(tuple) | st.integers(100, 3000).map(lambda size: (size,))
CODECS = st.sampled_from(["none", "blosc:lz4:5:bitshuffle", "blosc:lz4:5:auto", "blosc:zstd:1:shuffle"]).map(
    Codec.parse
)


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    shape = draw(SHAPES)
    dtype = draw(st.sampled_from([name for name, row in dtypes.DTYPES.items() if row.zarr is not None]))
    generator = np.random.default_rng(draw(st.integers(0, 1000)))
    size = math.prod(shape) * dtypes.DTYPES[dtype].bits // 8
    most = 2 if draw(st.booleans()) or dtype == "bool" else 256
    return Array(dtype, shape, memoryview(generator.integers(0, most, size, "u1").tobytes()))


PAYLOADS = st.dictionaries(NAMES, arrays(), max_size=6)


def plain(found: Mapping[str, Array]) -> list[tuple[str, Any]]:
    return [(name, (one.dtype, one.shape, bytes(one.raw))) for name, one in found.items()]


@given(PAYLOADS, CODECS)
def test_what_goes_in_comes_out(given_arrays: dict[str, Array], codec: Codec) -> None:
    data = b"".join(encode_arrays(given_arrays, codec))
    assert data == b"".join(encode_arrays(given_arrays, codec))
    assert msgpack.packb(msgpack.unpackb(data), use_bin_type=True) == data
    for _ in range(2):
        assert plain(open_arrays(memoryview(data), 1 << 20)) == plain(given_arrays)
    theirs = tensorstore_payload.read_all(data)
    assert [(name, (str(one.dtype), one.shape, one.tobytes())) for name, one in theirs.items()] == plain(given_arrays)


@given(PAYLOADS, CODECS, st.integers(0, 30_000))
def test_never_more_than_allowed(given_arrays: dict[str, Array], codec: Codec, most: int) -> None:
    data = b"".join(encode_arrays(given_arrays, codec))
    inside = memoryview(data)
    for _ in range(2):
        try:
            found = open_arrays(inside, most)
        except CorruptObject:
            assert sum(len(one.raw) for one in given_arrays.values()) * 17 // 16 + 1024 >= most
            continue
        assert sum(len(one.raw) for one in found.values() if one.raw.obj is not data) <= most


def found_by(reader: Callable[[memoryview, int], Mapping[str, Array]], data: bytes, most: int) -> object:
    try:
        return plain(reader(memoryview(data), most))
    except (CorruptObject, UnsupportedError) as error:
        return str(error)


@given(PAYLOADS, CODECS, st.data())
def test_what_is_known_changes_nothing(given_arrays: dict[str, Array], codec: Codec, data: st.DataObject) -> None:
    good = b"".join(encode_arrays(given_arrays, codec))
    open_arrays(memoryview(good), 1 << 20)
    changed = bytearray(good)
    for place in data.draw(st.lists(st.integers(0, len(good) - 1), max_size=3)):
        changed[place] = data.draw(st.integers(0, 255) | st.sampled_from([0x81, 0x82, 0xA1, 0xC4, 0xC5, 0xC6]))
    start = data.draw(st.just(0) | st.integers(0, len(good)))
    end = data.draw(st.just(len(good)) | st.integers(0, len(good)))
    bad = bytes(changed[start:end]) + data.draw(st.binary(max_size=3))
    known = found_by(open_arrays, bad, 1 << 20)
    remembered = dict(arrays_module._KNOWN)
    arrays_module._KNOWN.clear()
    assert found_by(open_arrays, bad, 1 << 20) == known
    arrays_module._KNOWN.update(remembered)
    assert plain(open_arrays(memoryview(good), 1 << 20)) == plain(given_arrays)
