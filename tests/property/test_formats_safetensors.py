"""safetensors files, those of the library and odd ones: every byte comes back; damage is refused or is no damage."""

from __future__ import annotations

import json
from collections.abc import Mapping
from random import Random
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.numpy
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.support.safetensors_files import entry, file
from tests.support.streams import Pieces, Taken, take
from theta_daemon.dtypes import DTYPES, nbytes
from theta_daemon.errors import CheckpointError, TruncatedError
from theta_daemon.formats.layout import CanonicalTensor
from theta_daemon.formats.layout_codec import encode
from theta_daemon.formats.safetensors import canonical, read
from theta_daemon.formats.source import Source

CODES = {
    "BOOL": "bool",
    "F4": "float4_e2m1fn",
    "F6_E2M3": "float6_e2m3fn",
    "F6_E3M2": "float6_e3m2fn",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "C64": "complex64",
    "I64": "int64",
    "U64": "uint64",
}
NUMPY = [row.name for row in DTYPES.values() if row.numpy and row.name != "complex128"]

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NAMES = TEXT.filter(lambda name: name != "__metadata__")
NOTES = TEXT.filter(lambda key: key not in ("dtype", "shape", "data_offsets"))
SHAPES = st.lists(st.integers(0, 4), max_size=3).map(tuple)
SPLITS = st.lists(st.integers(1, 200), max_size=20)


@st.composite
def arrays(draw: st.DrawFn) -> dict[str, np.ndarray[Any, Any]]:
    made = {}
    for name in draw(st.lists(NAMES, max_size=6, unique=True)):
        dtype, shape = draw(st.sampled_from(NUMPY)), draw(SHAPES)
        value = draw(st.binary(min_size=nbytes(dtype, shape), max_size=nbytes(dtype, shape)))
        if dtype == "bool":
            value = bytes(byte & 1 for byte in value)
        made[name] = np.frombuffer(value, dtype).reshape(shape)
    return made


@st.composite
def odd_files(draw: st.DrawFn) -> bytes:
    """Return a valid file as the library would not write it: any order, keys of its own, any white space."""
    entries = []
    data = b""
    for name in draw(st.lists(NAMES, max_size=5, unique=True)):
        code, shape = draw(st.sampled_from(list(CODES))), draw(SHAPES)
        if DTYPES[CODES[code]].bits % 8:
            shape = (*shape, 4)
        size = nbytes(CODES[code], shape)
        described = entry(code, list(shape), len(data), len(data) + size)
        described |= draw(st.dictionaries(NOTES, TEXT, max_size=1))
        entries.append((name, dict(draw(st.permutations(list(described.items()))))))
        data += draw(st.binary(min_size=size, max_size=size))
    metadata = draw(st.none() | st.dictionaries(TEXT, TEXT, max_size=2))
    if draw(st.booleans()):
        entries.append(("__metadata__", metadata))  # type: ignore[arg-type]
    text = json.dumps(
        dict(draw(st.permutations(entries))),
        ensure_ascii=draw(st.booleans()),
        indent=draw(st.none() | st.integers(0, 2)),
        separators=draw(st.sampled_from([None, (",", ":"), (" ,\t", "\r:\n")])),
    )
    return file(text, data, draw(st.sampled_from([b"", b" " * 5, b"\n \t"])))


def taken(data: bytes, splits: list[int], step: int = 64) -> Taken:
    return take("safetensors", Source(Pieces(data, splits)), read, step=step)


def described(result: Taken) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    return {
        group.name[0]: (group.dtype, group.shape, result.groups[index])
        for index, group in enumerate(result.layout.groups)
    }


@given(arrays(), st.none() | st.dictionaries(TEXT, TEXT, max_size=3), SPLITS, st.integers(1, 100))
def test_files_of_the_library(
    values: Mapping[str, np.ndarray[Any, Any]], metadata: dict[str, str] | None, splits: list[int], step: int
) -> None:
    assume(values or metadata != {})  # for these, 0.8 writes a header that it cannot read itself
    data = safetensors.numpy.save(dict(values), metadata)
    result = taken(data, splits, step)
    assert result.file() == data
    assert described(result) == {
        name: (value.dtype.name, value.shape, value.tobytes()) for name, value in values.items()
    }


@given(odd_files(), SPLITS, st.integers(1, 100))
def test_odd_files(data: bytes, splits: list[int], step: int) -> None:
    result = taken(data, splits, step)
    assert result.file() == data
    assert described(result) == library(data)


@given(arrays(), st.randoms(use_true_random=False))
def test_the_canonical_file_is_the_librarys(values: dict[str, np.ndarray[Any, Any]], random: Random) -> None:
    data = safetensors.numpy.save(values)
    tensors = [CanonicalTensor((name,), value.dtype.name, value.shape) for name, value in values.items()]
    random.shuffle(tensors)
    opaque: list[bytes] = []
    layout = canonical(tensors, opaque.append)
    result = taken(data, [])
    assert encode(layout) == encode(result.layout)
    assert opaque == result.opaque
    by_name = {name: value.tobytes() for name, value in values.items()}
    groups = {index: by_name[group.name[0]] for index, group in enumerate(layout.groups)}
    assert Taken(layout, groups, opaque).file() == data


def test_a_file_cut_at_every_byte() -> None:
    data = file({"b": entry("F32", [2], 3, 11), "a": entry("U8", [3], 0, 3), "__metadata__": {"é": "ü"}}, bytes(11))
    assert taken(data, []).file() == data
    for end in range(len(data)):
        with pytest.raises(TruncatedError):
            taken(data[:end], [7])


@given(odd_files(), st.data())
def test_cut_files(data: bytes, draw: st.DataObject) -> None:
    end = draw.draw(st.integers(0, len(data) - 1))
    with pytest.raises(TruncatedError):
        taken(data[:end], draw.draw(SPLITS))


@given(odd_files(), st.binary(min_size=1, max_size=20))
def test_files_with_bytes_behind_them(data: bytes, more: bytes) -> None:
    with pytest.raises(CheckpointError, match=f"^{len(more)} bytes follow the last tensor"):
        taken(data + more, [])


def library(data: bytes) -> dict[str, tuple[str, tuple[int, ...], bytes]] | None:
    """Return what the library sees in a file, None where it refuses it."""
    try:
        seen = safetensors.deserialize(data)
    except safetensors.SafetensorError:
        return None
    return {
        name: (CODES.get(value["dtype"], value["dtype"]), tuple(value["shape"]), bytes(value["data"]))
        for name, value in seen
    }


# what the library reads and we do not, because others would read it differently or not at all
STRICTER = ("has a key twice", "does not start with '{'", "is not an object", "follow the last tensor")


@given(odd_files(), st.data())
def test_a_changed_byte_is_refused_or_read_as_the_library_reads_it(data: bytes, draw: st.DataObject) -> None:
    header = 8 + int.from_bytes(data[:8], "little")
    where = draw.draw(st.integers(0, header - 1))
    changed = bytearray(data)
    changed[where] = draw.draw(st.one_of(st.sampled_from(b'"{}[]:,0123456789 -.eE\\tnu_'), st.integers(0, 255)))
    seen = library(bytes(changed))
    try:
        result = taken(bytes(changed), [])
    except CheckpointError as error:
        refusal = str(error)
    else:
        assert result.file() == changed
        assert described(result) == seen
        return
    assert "\n" not in refusal
    assert seen is None or any(reason in refusal for reason in STRICTER)
