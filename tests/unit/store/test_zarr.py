"""`.zarray` is tensorstore's to the byte; its claims are checked before anything is made of them."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from tests.support import tensorstore_payload
from theta_daemon.errors import CorruptObject, UnsupportedError
from theta_daemon.store import zarr
from theta_daemon.store.codec import Codec
from theta_daemon.store.zarr import Array

FIELDS: dict[str, object] = {
    "chunks": [2, 4], "compressor": None, "dimension_separator": ".", "dtype": "<f4", "fill_value": None,
    "filters": None, "order": "C", "shape": [3, 4], "zarr_format": 2,
}  # fmt: skip


def parse(fields: object) -> Array:
    return zarr.parse(memoryview(json.dumps(fields).encode()), "<f4", 4, (3, 4))


@pytest.mark.parametrize("codec", ["none", "blosc:lz4:5:auto", "blosc:zstd:1:bitshuffle"])
@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (0, 4), (2, 1, 3)])
@pytest.mark.parametrize("dtype", ["<f4", "|b1", "|u1", "<c16"])
def test_written_as_by_tensorstore(codec: str, shape: tuple[int, ...], dtype: str) -> None:
    compressor = Codec.parse(codec).zarr
    theirs = tensorstore_payload.unpack(tensorstore_payload.write(np.zeros(shape, dtype), compressor=compressor))
    chunks = tuple(max(size, 1) for size in shape)
    array = Array(shape, chunks, dtype, np.dtype(dtype).itemsize, None)
    assert zarr.serialize(array, compressor) == theirs[".zarray"]
    assert {cell.key for cell in array.cells()} == theirs.keys() - {".zarray"}


@pytest.mark.parametrize(
    ("shape", "chunks", "contiguous"),
    [
        ((), (), True), ((10,), (3,), True), ((10,), (20,), True), ((4, 6), (4, 6), True), ((4, 6), (3, 6), True),
        ((4, 6), (1, 4), True), ((4, 6), (2, 3), False), ((4, 6), (4, 7), False), ((4, 1, 6), (1, 1, 5), True),
        ((2, 3, 4), (1, 2, 4), True), ((2, 3, 4), (2, 2, 4), False), ((2, 3, 4), (1, 1, 9), True),
        ((0, 3), (1, 3), True),
    ],
)  # fmt: skip
def test_cells_cover_every_byte_once(shape: tuple[int, ...], chunks: tuple[int, ...], contiguous: bool) -> None:
    array = Array(shape, chunks, "<f4", 4, None)
    assert array.is_contiguous == contiguous
    covered = np.zeros(shape, int)
    flat = np.zeros(array.nbytes, int)
    keys = []
    for cell in array.cells():
        covered[cell.region] += 1
        flat[cell.start : cell.stop] += 1
        keys.append(cell.key)
    assert (covered == 1).all()
    assert len(set(keys)) == len(keys) == math.prod(array.counts)
    if contiguous:
        assert (flat == 1).all()


def test_columns_first_is_not_contiguous() -> None:
    assert not Array((3, 4), (3, 4), "<f4", 4, None, order="F").is_contiguous
    assert Array((3,), (3,), "<f4", 4, None, order="F").is_contiguous


def test_parses() -> None:
    assert parse(FIELDS) == Array((3, 4), (2, 4), "<f4", 4, None)
    assert parse({**FIELDS, "compressor": {"id": "zlib", "level": 3}}).compressor == "zlib"
    changed = parse({**FIELDS, "order": "F", "dimension_separator": "/", "fill_value": 1.5})
    assert (changed.order, changed.separator) == ("F", "/")
    optional = ("dimension_separator", "filters", "fill_value", "compressor", "order")
    assert parse({key: value for key, value in FIELDS.items() if key not in optional}) == parse(FIELDS)


@pytest.mark.parametrize(
    "change",
    [
        {"zarr_format": 3}, {"zarr_format": None}, {"shape": [4, 3]}, {"shape": [3, 4, 1]}, {"shape": None},
        {"shape": [3.0, 4.0]}, {"shape": ["3", "4"]}, {"shape": [True, 4]}, {"shape": [-3, -4]}, {"dtype": ">f4"},
        {"dtype": "<f8"}, {"dtype": [["a", "<f4"]]}, {"dtype": None}, {"chunks": [2]}, {"chunks": [0, 4]},
        {"chunks": [-1, 4]}, {"chunks": [2, 4, 1]}, {"chunks": [2.0, 4.0]}, {"chunks": [2**63, 4]}, {"chunks": None},
        {"order": "A"}, {"order": None}, {"order": []}, {"dimension_separator": "."[:0]}, {"compressor": "blosc"},
        {"compressor": {}}, {"compressor": {"id": 1}}, {"compressor": []},
    ],
)  # fmt: skip
def test_refuses(change: dict[str, object]) -> None:
    with pytest.raises(CorruptObject) as caught:
        parse({**FIELDS, **change})
    assert len(str(caught.value)) < 200


def test_filters_are_not_supported() -> None:
    with pytest.raises(UnsupportedError, match="filters"):
        parse({**FIELDS, "filters": [{"id": "delta"}]})


@pytest.mark.parametrize(
    "data",
    [
        b"", b"{", b"[]", b"null", b"\xff\xfe", b'"\xed\xa0\x80"', b"[" * 60_000, b'{"a":' * 10_000,
        b'{"shape":' + b"9" * 10_000 + b"}", b" " * (zarr.MAX_BYTES + 1), json.dumps(FIELDS).encode("utf-16"),
    ],
    ids=lambda data: repr(data[:12]),
)  # fmt: skip
def test_refuses_what_is_not_json(data: bytes) -> None:
    with pytest.raises(CorruptObject):
        zarr.parse(memoryview(data), "<f4", 4, (3, 4))
