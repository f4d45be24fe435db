"""Payloads of several arrays: git-theta reads ours, we read git-theta's, and small ones stay small."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt
import pytest

from tests.support import tensorstore_payload
from theta_daemon import dtypes
from theta_daemon.errors import CorruptObject, UnsupportedError
from theta_daemon.store import arrays as arrays_module
from theta_daemon.store import packing, payload
from theta_daemon.store.arrays import encode_arrays, open_arrays
from theta_daemon.store.codec import DEFAULT, Codec
from theta_daemon.updates.array import Array

NONE = Codec.parse("none")
MIB = 1 << 20


def array(value: npt.NDArray[Any]) -> Array:
    return Array(str(value.dtype), value.shape, memoryview(value.tobytes()))


def encoded(values: dict[str, npt.NDArray[Any]], codec: Codec = DEFAULT) -> bytes:
    return b"".join(encode_arrays({name: array(value) for name, value in values.items()}, codec))


def opened(data: bytes, most: int = 1 << 30) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    found = open_arrays(memoryview(data), most)
    return {name: (one.dtype, one.shape, bytes(one.raw)) for name, one in found.items()}


def expected(values: dict[str, npt.NDArray[Any]]) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {name: (str(value.dtype), value.shape, value.tobytes()) for name, value in values.items()}


def sparse(count: int = 192, size: int = 384 * 1536) -> dict[str, npt.NDArray[Any]]:
    """Return a sparse update as git-theta makes it."""
    generator = np.random.default_rng(count)
    return {
        "data": (generator.standard_normal(count) * 1e-3).astype("<f4"),
        "indices": np.sort(generator.choice(size, count, replace=False)).astype("<i4"),
        "indptr": np.array([0, count], "<i4"),
        "shape": np.array([384, size // 384]),
    }


UPDATES: dict[str, dict[str, npt.NDArray[Any]]] = {
    "sparse": sparse(),
    "sparse, nothing changed": {**sparse(), "data": np.zeros(0, "<f4"), "indices": np.zeros(0, "<i4")},
    "sparse, of a scalar": {**sparse(1), "shape": np.zeros(0, "<i8")},
    "low-rank": {
        "R": np.random.default_rng(1).standard_normal((300, 8)),
        "C": np.random.default_rng(2).standard_normal((8, 500)),
    },
    "low-rank of rank 0": {"R": np.zeros((3, 0), "<f4"), "C": np.zeros((0, 5), "<f4")},
    "low-rank of a vector": {"parameter": np.arange(100, dtype="<f4")},
    "ia3": {"ia3": np.linspace(0, 1, 1000).reshape(1, 1000)},
    "scalars": {"a": np.array(-0.0, "<f4"), "b": np.array(7), "c": np.array(True)},
    "unaligned": {"a": np.arange(5, dtype="u1"), "b": np.arange(5, dtype="<c16"), "name": np.arange(3, dtype="<f2")},
    "several chunks": {
        "a": np.arange(2 * MIB + 2, dtype="<f4"),
        "b": (np.arange(2_250_000) // 9).astype("u1").reshape(1500, 1500),
    },
    "a long name": {"n" * 40: np.arange(3), "\u00fc" * 300: np.arange(4)},
    "none": {},
}


@pytest.mark.parametrize("codec", [DEFAULT, NONE], ids=lambda codec: codec.name)
@pytest.mark.parametrize("name", UPDATES)
def test_git_theta_reads_what_we_write(name: str, codec: Codec) -> None:
    data = encoded(UPDATES[name], codec)
    assert opened(data) == opened(data) == expected(UPDATES[name])
    theirs = tensorstore_payload.read_all(data)
    assert expected(theirs) == expected(UPDATES[name])
    assert msgpack.packb(msgpack.unpackb(data), use_bin_type=True) == data


@pytest.mark.parametrize("name", UPDATES)
def test_we_read_what_git_theta_writes(name: str) -> None:
    data = tensorstore_payload.write_all(UPDATES[name])
    assert opened(data) == opened(data) == expected(UPDATES[name])


@pytest.mark.parametrize(
    "metadata",
    [
        {"compressor": None}, {"compressor": {"id": "zlib", "level": 1}}, {"compressor": {"id": "gzip", "level": 1}},
        {"compressor": {"id": "bz2", "level": 1}}, {"compressor": {"id": "zstd", "level": 1}}, {"order": "F"},
        {"order": "F", "compressor": None}, {"dimension_separator": "/"}, {"chunks": [7, 9]}, {"chunks": [1, 9]},
        {"chunks": [100, 100]}, {"chunks": [40, 47], "compressor": None}, {"chunks": [33, 1]},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize("dtype", ["<f4", "<f8", "<i4", "<i8", "|u1", "|b1", "<c16"])
def test_reads_every_way_tensorstore_writes(metadata: dict[str, object], dtype: str) -> None:
    values = {name: (np.random.default_rng(1).standard_normal((33, 47)) * 50).astype(dtype) for name in "ab"}
    data = tensorstore_payload.write_all(values, **metadata)
    assert opened(data) == opened(data) == expected(values)


@pytest.mark.parametrize("dtype", dtypes.DTYPES)
def test_every_dtype(dtype: str) -> None:
    row = dtypes.DTYPES[dtype]
    raw = bytes(range(2)) * 12 * row.bits
    shape = (len(raw) * 8 // row.bits,)
    arrays = {name: Array(dtype, shape, memoryview(raw)) for name in "xy"}
    if row.zarr is None:
        with pytest.raises(UnsupportedError, match=dtype):
            encode_arrays(arrays, DEFAULT)
        return
    data = b"".join(encode_arrays(arrays, DEFAULT))
    assert opened(data) == opened(data) == dict.fromkeys("xy", (dtype, shape, raw))
    theirs = tensorstore_payload.read_all(data)
    assert all((str(one.dtype), one.shape, one.tobytes()) == (dtype, shape, raw) for one in theirs.values())


def test_the_size_of_a_small_update() -> None:
    for count, size, most in ((192, 384 * 1536, 9.9), (192, 3072, 9), (590, 384 * 1536, 7.1), (20, 20_000, 40)):
        data = encoded(sparse(count, size))
        assert len(data) <= most * count
        assert len(data) <= len(tensorstore_payload.write_all(sparse(count, size)))


def test_what_is_written_of_each_array() -> None:
    entries = msgpack.unpackb(encoded(sparse()))
    assert list(entries) == ["data", "indices", "indptr", "shape"]
    assert entries["indptr"][".zarray"] == (
        b'{"chunks":[2],"compressor":null,"dtype":"<i4","fill_value":null,"filters":null,'
        b'"order":"C","shape":[2],"zarr_format":2}'
    )
    assert [len(entries[name]["0"]) for name in ("indptr", "shape")] == [8, 16]
    for name in ("data", "indices"):
        assert json.loads(entries[name][".zarray"])["compressor"] == {"id": "blosc"}


def test_what_does_not_become_smaller_is_stored_as_it_is() -> None:
    noise = np.random.default_rng(0).integers(0, 256, 5 * MIB, "u1")
    raw = array(noise)
    pieces = encode_arrays({"a": raw}, DEFAULT)
    assert [piece.obj for piece in pieces if isinstance(piece, memoryview)] == [raw.raw.obj]
    assert list(msgpack.unpackb(b"".join(pieces))["a"]) == [".zarray", "0"]


def test_a_zarray_lacks_nothing_that_tensorstore_needs() -> None:
    entries = msgpack.unpackb(encoded(sparse()))["data"]
    fields = json.loads(entries[".zarray"])
    for field in fields:
        less = json.dumps({name: value for name, value in fields.items() if name != field}).encode()
        with pytest.raises(ValueError, match=field):
            tensorstore_payload.read(tensorstore_payload.pack({**entries, ".zarray": less}))


def test_what_lies_uncompressed_is_used_where_it_lies() -> None:
    values = UPDATES["unaligned"]
    data = bytearray(encoded(values, NONE))
    for _ in range(2):
        found = open_arrays(memoryview(data), 0)["b"].raw
        assert found == values["b"].tobytes()
        data[data.index(values["b"].tobytes()) + 1] ^= 1
        assert found != values["b"].tobytes()
        data[data.index(bytes(found)) + 1] ^= 1


def test_a_dense_payload_reads_what_is_written_here() -> None:
    value = np.arange(1000, dtype="<f4")
    for codec in (DEFAULT, NONE):
        out = bytearray(4000)
        payload.decode_into(memoryview(encoded({"parameter": value}, codec)), "float32", (1000,), memoryview(out))
        assert out == value.tobytes()


def test_not_more_than_allowed() -> None:
    for values in (UPDATES["low-rank"], {"a": np.zeros((2000, 1000), "<f4")}):
        compressible = {name: np.zeros_like(value) for name, value in values.items()}
        data = encoded(compressible)
        size = sum(value.nbytes for value in values.values())
        for _ in range(2):
            assert opened(data, 2 * size) == expected(compressible)
            for most in (0, size // 2, size - 1):
                with pytest.raises(CorruptObject, match="are allowed"):
                    open_arrays(memoryview(data), most)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": ">f4"}, "zarr dtype '>f4'"),
        ({"dtype": [["a", "<f4"]]}, "zarr dtype"),
        ({"filters": [{"id": "delta"}]}, "filters"),
        ({"compressor": {"id": "lzma"}}, "lzma"),
    ],
)
def test_what_only_other_zarr_libraries_know(change: dict[str, object], message: str) -> None:
    entries = tensorstore_payload.entries_of(np.arange(3, dtype="<f4"))
    entries[".zarray"] = json.dumps(json.loads(entries[".zarray"]) | change).encode()
    with pytest.raises(UnsupportedError, match=message):
        opened(tensorstore_payload.pack(entries, "data"))


def test_arrays_that_lie_about_their_size() -> None:
    with pytest.raises(ValueError, match="8 bytes are no float32"):
        encode_arrays({"a": Array("float32", (3,), memoryview(bytes(8)))}, DEFAULT)


def test_names_given_twice() -> None:
    once = encoded({"a": np.arange(3)})[1:]
    for _ in range(2):
        with pytest.raises(CorruptObject, match="holds 'a' twice"):
            opened(packing.map_head(2) + once * 2)
        opened(packing.map_head(1) + once)


def refuse(*_: object) -> None:
    raise AssertionError("parsed again")


def test_payloads_that_begin_alike_are_parsed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    for first in (encoded(sparse(200)), tensorstore_payload.write_all(sparse(200))):
        opened(first)
        monkeypatch.setattr(arrays_module, "_read", refuse)
        assert opened(first) == expected(sparse(200))
        with pytest.raises(AssertionError):
            opened(encoded(sparse(211)))
        monkeypatch.undo()
    other = {**sparse(200), "data": np.arange(200, dtype="<f4"), "shape": np.array([7, 7])}
    mixed = {name: other[name] for name in ("shape", "indptr", "data")}
    data = encoded(mixed)
    monkeypatch.setattr(arrays_module, "_read", refuse)
    assert opened(data) == expected(mixed)


def test_what_is_known_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays_module, "_MOST_KNOWN", 4)
    arrays_module._KNOWN.clear()
    for size in range(1, 20):
        values = {"a": np.zeros(size, "u1")}
        assert opened(encoded(values)) == expected(values)
        assert len(arrays_module._KNOWN) <= 4
    assert opened(encoded({"n" * 5000: np.zeros(3)}))
    assert all(len(head) <= 400 for head in arrays_module._KNOWN)


def test_another_writers_arrays_of_the_same_form() -> None:
    values = {"a": np.arange(12, dtype="<f4"), "b": np.arange(2)}
    ours = encoded(values)
    theirs = tensorstore_payload.write_all(values, compressor={"id": "zlib", "level": 1})
    entries = msgpack.unpackb(ours)
    backwards = msgpack.packb({name: dict(reversed(one.items())) for name, one in entries.items()}, use_bin_type=True)
    at = ours.index(b"\xc4", ours.index(b"zarr_format"))
    longer = ours[:at] + b"\xc5\0" + ours[at + 1 :]
    for data in itertools.chain.from_iterable(itertools.permutations((ours, theirs, backwards, longer))):
        assert opened(data) == expected(values)


def test_a_payload_that_ends_elsewhere() -> None:
    data = encoded(sparse())
    opened(data)
    for other in (data + b"\0", data[:-1], b"\x83" + data[1:], b"\x85" + data[1:], b"", b"\x80x", b"\x84"):
        with pytest.raises(CorruptObject):
            opened(other)


def test_our_own_payloads_need_no_numpy() -> None:
    data = encoded({**sparse(), "more": np.arange(2 * MIB + 2, dtype="<f4")}, DEFAULT)
    program = (
        "import sys; from theta_daemon.store.arrays import open_arrays;"
        "found = open_arrays(memoryview(sys.stdin.buffer.read()), 1 << 30);"
        "assert found['more'].raw[4:8] == b'\\0\\0\\x80?' and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], input=data, check=True)
