"""Payloads hold a value in chunks; git-theta reads ours, and we read git-theta's."""

from __future__ import annotations

import math
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numcodecs import blosc

from tests.support import tensorstore_payload
from theta_daemon import dtypes
from theta_daemon.errors import CheckpointError, CorruptObject
from theta_daemon.store import payload, zarr
from theta_daemon.store.codec import DEFAULT, Codec

NONE = Codec.parse("none")
GIT_THETA = Codec.parse("blosc:lz4:5:auto")
MIB = 1 << 20


def noise(size: int) -> bytes:
    return np.random.default_rng(size).integers(0, 256, size, "u1").tobytes()


def encoded(raw: bytes, dtype: str, shape: tuple[int, ...], codec: Codec = DEFAULT) -> bytes:
    return b"".join(payload.encode(memoryview(raw), dtype, shape, codec))


def decoded(data: bytes, dtype: str, shape: tuple[int, ...]) -> bytes:
    out = bytearray(b"\xaa" * dtypes.nbytes(dtype, shape))
    payload.decode_into(memoryview(data), dtype, shape, memoryview(out))
    return bytes(out)


@pytest.mark.parametrize("codec", [NONE, DEFAULT], ids=lambda codec: codec.name)
@pytest.mark.parametrize("shape", [(), (0, 3), (3, 0), (1,), (2, 3), (4, 0, 2), (1,) * 32])
@pytest.mark.parametrize("dtype", dtypes.DTYPES)
def test_every_dtype(codec: Codec, dtype: str, shape: tuple[int, ...]) -> None:
    if dtypes.count(shape) * dtypes.DTYPES[dtype].bits % 8:
        shape = (*shape[1:], 8)
    raw = noise(dtypes.nbytes(dtype, shape)) if dtype != "bool" else bytes(dtypes.nbytes(dtype, shape))
    data = encoded(raw, dtype, shape, codec)
    assert decoded(data, dtype, shape) == raw
    theirs = tensorstore_payload.read(data)
    assert theirs.tobytes() == raw
    if dtypes.DTYPES[dtype].zarr is not None:
        assert theirs.shape == shape
        assert str(theirs.dtype) == dtype


@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (0, 4), (200, 300), (1100, 900)])
@pytest.mark.parametrize("dtype", ["float32", "uint8", "bool", "int64", "complex128"])
def test_git_thetas_codec_gives_git_thetas_bytes(dtype: str, shape: tuple[int, ...]) -> None:
    value = np.arange(dtypes.count(shape)).reshape(shape).astype(dtype)
    if value.nbytes <= payload.CHUNK_BYTES:
        assert encoded(value.tobytes(), dtype, shape, GIT_THETA) == tensorstore_payload.write(value)


@pytest.mark.parametrize(
    ("dtype", "shape", "codec", "chunks"),
    [
        ("float32", (MIB,), DEFAULT, (MIB,)),
        ("float32", (MIB + 1,), DEFAULT, (MIB // 2 + 8,)),
        ("float32", (MIB - 1,), DEFAULT, (MIB,)),
        ("float32", (9,), DEFAULT, (9,)),
        ("float32", (169, 3), DEFAULT, (176, 3)),
        ("float32", (169, 3), NONE, (169, 3)),
        ("float32", (5, 1000003), DEFAULT, (1, 1000003)),
        ("float32", (101, 100003), DEFAULT, (8, 100003)),
        ("bfloat16", (MIB, 2), DEFAULT, (MIB, 2)),
        ("float32", (30522, 384), DEFAULT, (2544, 384)),
        ("float32", (3, 3 * MIB), DEFAULT, (1, MIB)),
        ("float32", (2, 3, 5, MIB), DEFAULT, (1, 1, 1, MIB)),
        ("float32", (2, 3, 5, MIB // 2), DEFAULT, (1, 1, 2, MIB // 2)),
        ("complex32", (MIB + 1, 2), DEFAULT, (2796208,)),
        ("float32", (MIB, 16), NONE, (MIB, 16)),
        ("uint8", (3, 1 << 30), NONE, (1, 1 << 30)),
    ],
)
def test_chunks_are_whole_rows_of_equal_number(
    dtype: str, shape: tuple[int, ...], codec: Codec, chunks: tuple[int, ...]
) -> None:
    plan = payload.chunk_plan(dtype, shape, codec)
    assert plan.array.chunks == chunks
    assert plan.array.is_contiguous
    assert plan.array.chunk_bytes <= (payload.CHUNK_BYTES if codec.cname else payload.WHOLE_BYTES)
    slices = plan.slices
    assert [part.start for part in slices[1:]] == [part.stop for part in slices[:-1]]
    assert (slices[0].start, slices[-1].stop) == (0, dtypes.nbytes(dtype, shape))


def test_padding_lets_every_bit_be_shuffled() -> None:
    value = (np.random.default_rng(0).standard_normal(100_003) * 0.02).astype("<f4")
    for shape in ((100_003,), (33_331, 3)):
        data = encoded(value.tobytes()[: 4 * math.prod(shape)], "float32", shape)
        read = tensorstore_payload.read(data)
        assert read.shape == shape
        assert decoded(data, "float32", shape) == read.tobytes() == value.tobytes()[: read.nbytes]
    sizes = [len(encoded(part.tobytes(), "float32", part.shape)) / part.nbytes for part in (value, value[:100_000])]
    assert sizes[0] == pytest.approx(sizes[1], abs=0.002)
    assert sizes[0] < 0.9


def test_several_chunks_with_a_padded_last_one() -> None:
    shape = (2 * MIB + 2,)
    value = np.arange(shape[0], dtype="<f4")
    data = encoded(value.tobytes(), "float32", shape)
    entries = tensorstore_payload.unpack(data)
    assert list(entries) == [".zarray", "0", "1", "2"]
    assert blosc.decompress(entries["2"])[-8:] == bytes(8)  # padding for two elements
    assert decoded(data, "float32", shape) == value.tobytes()
    assert np.array_equal(tensorstore_payload.read(data), value)


def test_chunks_may_be_encoded_and_decoded_anywhere_in_any_order() -> None:
    shape = (5, 700_000)
    raw = np.arange(3_500_000, dtype="<f4").tobytes()
    plan = payload.chunk_plan("float32", shape)
    with ThreadPoolExecutor(3) as pool:
        chunks = [pool.submit(payload.encode_chunk, memoryview(raw)[part], plan) for part in plan.slices]
        data = b"".join(payload.assemble(plan, [chunk.result() for chunk in chunks]))
        assert data == encoded(raw, "float32", shape)
        opened = list(payload.open_payload(memoryview(data), "float32", shape).chunks)
        random.Random(0).shuffle(opened)
        out = bytearray(len(raw))
        list(pool.map(lambda chunk: chunk.decode_into(memoryview(out)), opened))
    assert out == raw


def test_large_pieces_are_not_copied() -> None:
    raw = noise(1000)
    pieces = payload.encode(memoryview(raw), "uint8", (1000,), NONE)
    assert [piece.obj for piece in pieces if isinstance(piece, memoryview)] == [raw]


def test_a_value_that_lies_uncompressed_is_used_where_it_lies() -> None:
    raw = noise(1000)
    for codec in (NONE, DEFAULT):  # blosc stores noise as it is
        data = bytearray(encoded(raw, "uint8", (1000,), codec))
        found = payload.open_payload(memoryview(data), "uint8", (1000,)).raw
        assert found is not None
        assert found == raw
        data[data.index(raw)] ^= 1
        assert found != raw
    for other, shape in (
        (encoded(bytes(1000), "uint8", (1000,)), (1000,)),
        (encoded(b"", "uint8", (0,), NONE), (0,)),
        (tensorstore_payload.write(np.zeros(6, "u1"), chunks=[4], compressor=None), (6,)),
        (tensorstore_payload.write(np.zeros(6, "u1"), chunks=[8], compressor=None), (6,)),
        (tensorstore_payload.write(np.zeros((2, 3), "u1"), order="F", compressor=None), (2, 3)),
    ):
        assert payload.open_payload(memoryview(other), "uint8", shape).raw is None


@pytest.mark.parametrize(
    "metadata",
    [
        {}, {"compressor": None}, {"compressor": {"id": "zlib", "level": 1}},
        {"compressor": {"id": "gzip", "level": 1}},
        {"compressor": {"id": "bz2", "level": 1}}, {"compressor": {"id": "zstd", "level": 1}}, {"order": "F"},
        {"compressor": {"id": "blosc", "cname": "zstd", "clevel": 1, "shuffle": 1}}, {"dimension_separator": "/"},
        {"chunks": [7, 9]}, {"chunks": [7, 9], "order": "F", "compressor": None}, {"chunks": [100, 100]},
        {"chunks": [1, 9]}, {"chunks": [33, 1]}, {"chunks": [40, 47]}, {"chunks": [40, 47], "compressor": None},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("dtype", ["<f4", "|u1", "|b1", "<i8", "<c16"])
def test_reads_every_way_tensorstore_writes(metadata: dict[str, object], dtype: str) -> None:
    value = (np.random.default_rng(1).standard_normal((33, 47)) * 50).astype(dtype)
    data = tensorstore_payload.write(value, **metadata)
    assert decoded(data, str(value.dtype), value.shape) == value.tobytes()


@pytest.mark.parametrize("shape", [(0, 1 << 60), (1 << 60, 0)])
def test_no_elements_cost_nothing(shape: tuple[int, ...]) -> None:
    assert payload.chunk_plan("float32", shape).slices == []
    assert decoded(encoded(b"", "float32", shape), "float32", shape) == b""
    array = zarr.Array(shape, (1, 1), "<f4", 4, None)
    assert decoded(tensorstore_payload.pack({".zarray": zarr.serialize(array, None)}), "float32", shape) == b""


def test_git_thetas_own_chunks() -> None:
    value = np.arange(2_250_000).astype("u1").reshape(1500, 1500)
    data = tensorstore_payload.write(value)
    assert list(tensorstore_payload.unpack(data)) == [".zarray", "0.0", "0.1", "1.0", "1.1"]
    assert not payload.open_payload(memoryview(data), "uint8", (1500, 1500)).chunks[0].is_contiguous
    assert decoded(data, "uint8", (1500, 1500)) == value.tobytes()


def test_absent_chunks() -> None:
    entries = tensorstore_payload.unpack(tensorstore_payload.write(np.ones((5, 6), "<f4"), chunks=[2, 3]))
    lost = entries.pop("1.0")
    with pytest.raises(CorruptObject, match="5 chunks instead of 6"):
        decoded(tensorstore_payload.pack(entries), "float32", (5, 6))
    with pytest.raises(CorruptObject, match=r"lacks the chunk '1\.0'"):
        decoded(tensorstore_payload.pack(entries | {"9.9": lost}), "float32", (5, 6))


def test_another_array_than_the_one_expected() -> None:
    data = encoded(bytes(24), "float32", (2, 3))
    for dtype, shape in (
        ("float32", (3, 2)),
        ("float32", (6,)),
        ("int32", (2, 3)),
        ("float16", (2, 6)),
        ("float32", ()),
    ):
        with pytest.raises(CorruptObject):
            decoded(data, dtype, shape)
    for entries, name in (({}, "parameter"), ({".zarray": b"{}"}, "data")):
        with pytest.raises(CorruptObject):
            decoded(tensorstore_payload.pack(entries, name), "float32", ())


@pytest.mark.parametrize("key", ["2", "00", "0.0", "-1", "", ".zattrs", "1 "])
def test_chunks_outside_the_array(key: str) -> None:
    entries = tensorstore_payload.unpack(tensorstore_payload.write(np.zeros(6, "<f4"), chunks=[3]))
    with pytest.raises(CorruptObject, match="3 chunks instead of 2"):
        decoded(tensorstore_payload.pack(entries | {key: b""}), "float32", (6,))


def test_more_chunks_than_a_value_needs() -> None:
    data = tensorstore_payload.write(np.ones(5000, "u1"), chunks=[1])
    with pytest.raises(CorruptObject, match="5001 keys"):
        decoded(data, "uint8", (5000,))


def test_chunks_much_larger_than_their_array() -> None:
    array = zarr.Array((4,), (1 << 40,), "|u1", 1, None)
    for compressor in (None, DEFAULT.zarr):
        data = tensorstore_payload.pack({".zarray": zarr.serialize(array, compressor), "0": bytes(16)})
        with pytest.raises(CorruptObject, match="chunks of"):
            decoded(data, "uint8", (4,))


def test_another_writers_payloads_of_the_same_shape() -> None:
    value = np.arange(12, dtype="<f4")
    ours = encoded(value.tobytes(), "float32", (12,))
    theirs = tensorstore_payload.write(value, compressor={"id": "zlib", "level": 1})
    entries = tensorstore_payload.unpack(ours)
    backwards = tensorstore_payload.pack(dict(reversed(entries.items())))
    at = ours.index(b"\xc4", ours.index(b"zarr_format"))
    longer = ours[:at] + b"\xc5\0" + ours[at + 1 :]
    for data in (ours, theirs, backwards, longer, ours, longer, backwards, theirs):
        assert decoded(data, "float32", (12,)) == value.tobytes()


def test_payloads_that_begin_alike_are_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded(encoded(noise(800), "float32", (200,)), "float32", (200,))

    def refuse(*_: object) -> None:
        raise AssertionError("parsed again")

    monkeypatch.setattr(payload, "_read", refuse)
    for raw in (bytes(800), noise(800)[::-1], b"ab" * 400):
        assert decoded(encoded(raw, "float32", (200,)), "float32", (200,)) == raw
    with pytest.raises(AssertionError):
        decoded(encoded(noise(804), "float32", (201,)), "float32", (201,))


def test_what_is_known_of_shapes_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(payload, "_MOST_KNOWN", 4)
    payload._KNOWN.clear()
    for size in range(1, 20):
        assert decoded(encoded(bytes(size), "uint8", (size,)), "uint8", (size,)) == bytes(size)
        assert len(payload._KNOWN) <= 4


def test_our_own_payloads_need_no_numpy() -> None:
    data = encoded(np.arange(2 * MIB + 2, dtype="<f4").tobytes(), "float32", (2 * MIB + 2,))
    program = (
        "import sys; from theta_daemon.store import payload; data = sys.stdin.buffer.read();"
        f"out = memoryview(bytearray({8 * MIB + 8}));"
        f"payload.decode_into(memoryview(data), 'float32', ({2 * MIB + 2},), out);"
        "assert out[4:8] == b'\\0\\0\\x80?' and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], input=data, check=True)


def test_dtypes_and_shapes_that_are_not_known() -> None:
    for dtype, shape in (("float31", (1,)), ("float32", (-1,)), ("float4_e2m1fn", (3,))):
        with pytest.raises(CheckpointError):
            payload.chunk_plan(dtype, shape)
        with pytest.raises(CheckpointError):
            payload.open_payload(memoryview(b""), dtype, shape)
