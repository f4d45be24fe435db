"""Laws of payloads: what goes in comes out, and tensorstore agrees in both directions."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.support import tensorstore_payload
from theta_daemon import dtypes
from theta_daemon.errors import CorruptObject, UnsupportedError
from theta_daemon.store import payload
from theta_daemon.store.codec import Codec

SHAPES = st.lists(st.integers(0, 5), max_size=4).map(tuple)  # at most 625 elements: as chunks still few enough
CODECS = st.sampled_from(["none", "blosc:lz4:5:bitshuffle", "blosc:lz4:5:auto", "blosc:zstd:1:shuffle"]).map(
    Codec.parse
)
COMPRESSORS: list[object] = [
    None,
    {"id": "blosc"},
    {"id": "blosc", "cname": "lz4hc", "clevel": 9, "shuffle": 0},
    {"id": "blosc", "cname": "zlib", "clevel": 1, "shuffle": 2, "blocksize": 256},
    {"id": "zlib", "level": 1},
    {"id": "gzip", "level": 1},
    {"id": "bz2", "level": 1},
    {"id": "zstd", "level": 1},
]


@st.composite
def values(draw: st.DrawFn) -> tuple[str, tuple[int, ...], bytes]:
    shape = draw(SHAPES)
    dtype = draw(st.sampled_from([name for name, row in dtypes.DTYPES.items() if math.prod(shape) * row.bits % 8 == 0]))
    size = dtypes.nbytes(dtype, shape)
    compressible = draw(st.booleans())
    generator = np.random.default_rng(draw(st.integers(0, 1000)))
    return dtype, shape, generator.integers(0, 2 if compressible or dtype == "bool" else 256, size, "u1").tobytes()


@given(values(), CODECS)
def test_what_goes_in_comes_out(value: tuple[str, tuple[int, ...], bytes], codec: Codec) -> None:
    dtype, shape, raw = value
    data = b"".join(payload.encode(memoryview(raw), dtype, shape, codec))
    assert data == b"".join(payload.encode(memoryview(raw), dtype, shape, codec))
    assert msgpack.packb(msgpack.unpackb(data), use_bin_type=True) == data
    out = bytearray(b"\xaa" * len(raw))
    payload.decode_into(memoryview(data), dtype, shape, memoryview(out))
    assert out == raw
    opened = payload.open_payload(memoryview(data), dtype, shape)
    assert opened.raw is None or opened.raw == raw == data[opened.raw_start : opened.raw_start + len(raw)]
    assert all(chunk.piece == data[chunk.place] for chunk in opened.chunks)
    plan = payload.chunk_plan(dtype, shape, codec)
    heads = payload.heads(plan, [len(chunk.piece) for chunk in opened.chunks])
    parts = zip(heads, (chunk.piece for chunk in opened.chunks), strict=True)
    assert (b"".join(itertools.chain.from_iterable(parts)) or plan.head) == data
    assert tensorstore_payload.read(data).tobytes() == raw


def found_by(
    reader: Callable[[memoryview, str, tuple[int, ...]], payload.DensePayload],
    data: bytes,
    dtype: str,
    shape: tuple[int, ...],
) -> object:
    try:
        return reader(memoryview(data), dtype, shape)
    except (CorruptObject, UnsupportedError) as error:
        return str(error)


@given(values(), CODECS, st.data())
def test_what_is_known_of_a_shape_changes_nothing(
    value: tuple[str, tuple[int, ...], bytes], codec: Codec, data: st.DataObject
) -> None:
    dtype, shape, raw = value
    good = b"".join(payload.encode(memoryview(raw), dtype, shape, codec))
    first, second = (payload.open_payload(memoryview(good), dtype, shape) for _ in range(2))
    assert first == second
    changed = bytearray(good)
    head = len(good) - sum(len(chunk.piece) for chunk in first.chunks)
    near_the_length = st.integers(max(head - 8, 0), min(head + 8, len(good) - 1))
    for place in data.draw(st.lists(st.integers(0, len(good) - 1) | near_the_length, max_size=3)):
        changed[place] = data.draw(st.integers(0, 255) | st.sampled_from([0xC4, 0xC5, 0xC6]))
    end = data.draw(st.just(len(good)) | st.integers(0, len(good)))
    bad = bytes(changed[:end]) + data.draw(st.binary(max_size=3))
    # `_read` knows nothing beforehand.
    known = found_by(payload.open_payload, bad, dtype, shape)
    assert known == found_by(payload._read, bad, dtype, shape)
    assert payload.open_payload(memoryview(good), dtype, shape) == first


@st.composite
def zarr_arrays(draw: st.DrawFn) -> tuple[npt.NDArray[Any], dict[str, object]]:
    shape = draw(SHAPES)
    dtype = draw(st.sampled_from(["|u1", "|b1", "<f2", "<i4", "<f8", "<c16"]))
    generator = np.random.default_rng(draw(st.integers(0, 1000)))
    value = generator.integers(0, 2 if draw(st.booleans()) else 256, shape).astype(dtype)
    metadata = {
        "chunks": [draw(st.integers(1, size + 2)) for size in shape],
        "compressor": draw(st.sampled_from(COMPRESSORS)),
        "order": draw(st.sampled_from("CF" if len(shape) > 1 else "C")),
        "dimension_separator": draw(st.sampled_from("./")),
    }
    return value, metadata


@given(zarr_arrays(), st.integers(0, 1000))
def test_whatever_tensorstore_writes_is_read(array: tuple[npt.NDArray[Any], dict[str, object]], seed: int) -> None:
    value, metadata = array
    entries = list(tensorstore_payload.unpack(tensorstore_payload.write(value, **metadata)).items())
    random.Random(seed).shuffle(entries)
    data = tensorstore_payload.pack(dict(entries))
    out = bytearray(b"\xaa" * value.nbytes)
    payload.decode_into(memoryview(data), str(value.dtype), value.shape, memoryview(out))
    assert out == value.tobytes()


@given(
    st.lists(st.integers(1, 9) | st.integers(1, 3000), min_size=1, max_size=3).map(tuple),
    st.sampled_from(["uint8", "bfloat16", "float32", "complex128", "complex32"]),
    CODECS,
)
def test_plans_cut_every_byte_once_into_few_chunks(shape: tuple[int, ...], dtype: str, codec: Codec) -> None:
    size = dtypes.nbytes(dtype, shape)
    assume(size < 1 << 32)
    plan = payload.chunk_plan(dtype, shape, codec)
    most = payload.CHUNK_BYTES if codec.cname else payload.WHOLE_BYTES
    slices = plan.slices
    assert slices[0].start == 0
    assert slices[-1].stop == size
    assert all(before.stop == after.start for before, after in itertools.pairwise(slices))
    assert all(0 < part.stop - part.start <= plan.array.chunk_bytes <= most for part in slices)
    assert len(slices) <= 1 + 4 * size // most
    # Padding is less than a row for each chunk, or an element where rows are cut.
    assert len(slices) * plan.array.chunk_bytes < 2 * size + 1
