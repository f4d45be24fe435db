from __future__ import annotations

import json

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch

from tests.support.safetensors_files import entry, file
from tests.support.streams import Pieces, Taken, take
from theta_daemon.dtypes import DTYPES
from theta_daemon.errors import UnsupportedError
from theta_daemon.formats import safetensors as subject
from theta_daemon.formats.layout import CanonicalTensor, Group, GroupOp, LiteralOp, OpaqueOp, size
from theta_daemon.formats.layout_codec import encode
from theta_daemon.formats.source import Source

# the format's names in the order of the library's enumeration, and torch's or numpy's name for each
DTYPE_NAMES = {
    "BOOL": "bool",
    "F4": "float4_e2m1fn",
    "F6_E2M3": "float6_e2m3fn",
    "F6_E3M2": "float6_e3m2fn",
    "U8": "uint8",
    "I8": "int8",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "BF16": "bfloat16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "C64": "complex64",
    "F64": "float64",
    "I64": "int64",
    "U64": "uint64",
}
NUMPY_DTYPES = [row.name for row in DTYPES.values() if row.numpy and row.name != "complex128"]
TORCH_ONLY = ["bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"]


def read(data: bytes) -> Taken:
    taken = take("safetensors", Source(Pieces(data)), subject.read)
    assert taken.file() == data
    assert size(taken.layout) == len(data)
    return taken


def canonical(*tensors: CanonicalTensor) -> tuple[bytes, list[bytes]]:
    """Return the encoded canonical layout and its opaque chunks."""
    opaque: list[bytes] = []
    return encode(subject.canonical(tensors, opaque.append)), opaque


def test_a_file_of_the_library() -> None:
    arrays = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.array([True, False]), "0-d": np.int64(7)}
    data = safetensors.numpy.save({name: np.asarray(value) for name, value in arrays.items()}, {"format": "np"})
    taken = read(data)
    assert taken.layout.format == "safetensors"
    assert taken.layout.groups == (
        Group(("0-d",), "int64", ()),
        Group(("b",), "float32", (2, 3)),
        Group(("a",), "bool", (2,)),
    )
    assert taken.groups == {index: arrays[group.name[0]].tobytes() for index, group in enumerate(taken.layout.groups)}
    assert taken.layout.ops == (LiteralOp(data[: -8 - 24 - 2]), GroupOp(0), GroupOp(1), GroupOp(2))


@pytest.mark.parametrize(("code", "dtype"), DTYPE_NAMES.items())
def test_every_dtype(code: str, dtype: str) -> None:
    taken = read(file({"x": entry(code, [8], 0, DTYPES[dtype].bits)}, bytes(range(DTYPES[dtype].bits))))
    assert taken.layout.groups == (Group(("x",), dtype, (8,)),)
    assert taken.groups == {0: bytes(range(DTYPES[dtype].bits))}


@pytest.mark.parametrize("header", ["{}", '{"__metadata__":{}}', '{"__metadata__":null}', '{"__metadata__":{"a":"b"}}'])
def test_a_file_without_tensors(header: str) -> None:
    taken = read(file(header))
    assert taken.layout.groups == ()


@pytest.mark.parametrize("padding", [b" ", b" " * 9, b"\n\t\r "])
def test_a_padded_header(padding: bytes) -> None:
    assert read(file({"x": entry("U8", [1], 0, 1)}, b"v", padding)).groups == {0: b"v"}


def test_holes_follow_the_offsets_and_groups_the_header() -> None:
    taken = read(file({"last": entry("U8", [2], 3, 5), "first": entry("U8", [3], 0, 3)}, b"abcde"))
    assert [group.name for group in taken.layout.groups] == [("last",), ("first",)]
    assert taken.layout.ops[1:] == (GroupOp(1), GroupOp(0))
    assert taken.groups == {0: b"de", 1: b"abc"}


def test_empty_tensors_stand_before_the_bytes_at_their_offset_in_header_order() -> None:
    header = {
        "full": entry("U8", [2], 0, 2),
        "end": entry("F32", [0, 5], 2, 2),
        "z": entry("F32", [0], 0, 0),
        "a": entry("U8", [3, 0], 0, 0),
    }
    taken = read(file(header, b"xy"))
    assert taken.layout.ops[1:] == (GroupOp(2), GroupOp(3), GroupOp(0), GroupOp(1))


def test_keys_that_the_format_does_not_know_are_kept_and_ignored() -> None:
    header = {"x": entry("U8", [1], 0, 1) | {"comment": {"deep": [1.5, -3, None]}}}
    assert read(file(header, b"v")).layout.groups == (Group(("x",), "uint8", (1,)),)


@pytest.mark.parametrize("name", ["", "a/b", "a.b", "\0", '"', "é\U0001f600", "__metadata", "theta_daemon"])
def test_a_name_is_any_string(name: str) -> None:
    assert read(file({name: entry("U8", [1], 0, 1)}, b"v")).layout.groups[0].name == (name,)


def test_a_long_header_is_opaque() -> None:
    data = file({"__metadata__": {"x": "y" * (1 << 20)}, "w": entry("U8", [1], 0, 1)}, b"v")
    taken = read(data)
    assert taken.layout.ops == (OpaqueOp(len(data) - 1), GroupOp(0))
    assert taken.opaque == [data[:-1]]


@pytest.mark.parametrize("dtype", NUMPY_DTYPES)
def test_the_canonical_file_is_the_librarys(dtype: str) -> None:
    arrays = {"m": np.zeros((2, 3), dtype), "s": np.ones((), dtype), "e": np.zeros((0, 4), dtype)}
    data = safetensors.numpy.save(arrays)
    planned, _ = canonical(*(CanonicalTensor((name,), dtype, value.shape) for name, value in arrays.items()))
    assert planned == encode(read(data).layout)


@pytest.mark.parametrize("dtype", TORCH_ONLY)
def test_the_canonical_file_is_the_librarys_for_what_numpy_lacks(dtype: str) -> None:
    tensors = {"w": torch.zeros(2, 3).to(getattr(torch, dtype)), "b": torch.zeros(5), "c": torch.zeros(3).byte()}
    data = safetensors.torch.save(tensors)
    planned, _ = canonical(
        CanonicalTensor(("c",), "uint8", (3,)),
        CanonicalTensor(("w",), dtype, (2, 3)),
        CanonicalTensor(("b",), "float32", (5,)),
    )
    assert planned == encode(read(data).layout)


def test_the_canonical_order_is_the_librarys() -> None:
    dtypes = NUMPY_DTYPES
    arrays = {f"{name}{place}": np.zeros(place, name) for place, name in enumerate(dtypes)}
    arrays |= {"é": np.zeros(1), "z": np.zeros(1), "\U0001f600": np.zeros(1), "\uffff": np.zeros(1), "Z": np.zeros(1)}
    planned, _ = canonical(*(CanonicalTensor((n,), value.dtype.name, value.shape) for n, value in arrays.items()))
    assert planned == encode(read(safetensors.numpy.save(arrays)).layout)


def test_the_canonical_file_of_nothing() -> None:
    planned, _ = canonical()
    assert planned == encode(read(safetensors.numpy.save({})).layout)


def test_a_long_canonical_header_is_opaque() -> None:
    arrays = {f"tensor-{number:0200}": np.zeros(1, np.int8) for number in range(4000)}
    planned, opaque = canonical(*(CanonicalTensor((name,), "int8", (1,)) for name in arrays))
    taken = read(safetensors.numpy.save(arrays))
    assert planned == encode(taken.layout)
    assert opaque == taken.opaque
    assert len(opaque) == 1


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (CanonicalTensor(("a", "b"), "float32", ()), r"parameter 'a/b': safetensors files have no nested names; "),
        (CanonicalTensor(("__metadata__",), "float32", ()), "no tensor .* can have this name"),
        (CanonicalTensor(("\ud800",), "float32", ()), "lone surrogate"),
        (CanonicalTensor(("x",), "complex128", ()), "safetensors has no dtype complex128"),
        (CanonicalTensor(("x",), "complex32", ()), "safetensors has no dtype complex32"),
    ],
)
def test_what_the_format_cannot_hold(tensor: CanonicalTensor, message: str) -> None:
    with pytest.raises(UnsupportedError, match=message):
        canonical(CanonicalTensor(("ok",), "float32", ()), tensor)


def test_a_canonical_header_over_the_formats_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors = [CanonicalTensor((f"{number}",), "int8", ()) for number in range(3)]
    monkeypatch.setattr(subject, "MAX_HEADER", len(json.dumps({"0": entry("I8", [], 0, 1)})))
    with pytest.raises(UnsupportedError, match="3 tensors need a safetensors header of 160 bytes, over the limit"):
        canonical(*tensors)
