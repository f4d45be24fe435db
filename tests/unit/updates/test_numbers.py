"""Conversions against torch's, to the bit, and what IEEE 754 leaves open."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.support.update_arrays import COMPLEX, FLOATS, INTEGERS, NARROW, bits, numpy_type
from theta_daemon.errors import CorruptObject, UnsupportedError
from theta_daemon.updates.array import Array
from theta_daemon.updates.blocks import converted
from theta_daemon.updates.numbers import (
    computed_in,
    drop_negative_zeros,
    elements,
    has_negative_zero,
    holds_nan,
    holds_negative_zero,
    store,
    stored,
    widened,
)

FLOAT32 = np.dtype(np.float32)
NAN = {
    "float16": 0x7E00,
    "bfloat16": 0x7FC0,
    "float8_e4m3fn": 0x7F,
    "float8_e4m3fnuz": 0x80,
    "float8_e5m2": 0x7E,
    "float8_e5m2fnuz": 0x80,
    "float8_e8m0fnu": 0xFF,
    "float32": 0x7FC00000,
    "float64": 0x7FF8000000000000,
}
NEGATIVE_ZERO = {
    "float16": 0x8000,
    "bfloat16": 0x8000,
    "float8_e4m3fn": 0x80,
    "float8_e5m2": 0x80,
    "float32": 0x80000000,
    "float64": 0x8000000000000000,
}


def every(dtype: str) -> NDArray[Any]:
    """Return all values of a type of 8 or 16 bits, in the order of their bits."""
    kind = numpy_type(dtype)
    return np.arange(1 << (8 * kind.itemsize), dtype=f"u{kind.itemsize}").view(kind)


def near_every_tie() -> NDArray[np.float32]:
    """Return float32 values at, and right beside, all that lie on or between two bfloat16 or narrower values."""
    high = np.arange(1 << 16, dtype=np.uint32) << 16
    low = [0, 1, 0x0FFF, 0x1000, 0x1001, 0x7FFF, 0x8000, 0x8001, 0xFFFF]  # float16 has three bits more: 0x1000 is half
    more = [half | step for half in range(0, 0x10000, 0x2000) for step in (0x0FFF, 0x1000, 0x1001)]
    return np.concatenate([high | np.uint32(bits) for bits in sorted({*low, *more})]).view(np.float32)


pytestmark = pytest.mark.usefixtures("_quietly")


@pytest.fixture
def _quietly() -> Iterator[None]:
    with np.errstate(all="ignore"):
        yield


def rounded(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Return `values` as they are stored where zeros were."""
    into = np.zeros(values.shape, numpy_type(dtype))
    store(values.copy(), into)
    return into


@pytest.mark.parametrize("dtype", NARROW)
def test_every_value_widens_as_in_torch(dtype: str) -> None:
    values = every(dtype)
    found = np.concatenate([converted(part, FLOAT32, 0).copy() for part in np.array_split(values, 4)])
    tensor = torch.frombuffer(bytearray(values.tobytes()), dtype=getattr(torch, dtype)).to(torch.float32).numpy()
    is_number = ~np.isnan(tensor)
    assert np.array_equal(np.isnan(found), ~is_number)
    assert bits(found[is_number]) == bits(tensor[is_number])


@pytest.mark.parametrize("dtype", NARROW)
def test_rounding_is_to_nearest_even_as_in_torch(dtype: str) -> None:
    values = near_every_tie()
    if dtype == "float8_e8m0fnu":
        values = values[values > 0]  # the type has neither signs nor zero
    values = values[~np.isnan(values)]
    if dtype == "float8_e4m3fn":
        values = values[np.abs(values) <= 464]  # what is larger is NaN here; torch 2.13 has made it 448
    expected = torch.from_numpy(values.copy()).to(getattr(torch, dtype)).view(torch.uint8).numpy().tobytes()
    expected_values = np.frombuffer(expected, numpy_type(dtype))
    found = rounded(values, dtype)
    is_number = ~np.isnan(expected_values)
    assert np.array_equal(np.isnan(found), ~is_number)
    assert bits(found[is_number]) == bits(expected_values[is_number])


@pytest.mark.parametrize("dtype", NARROW)
def test_what_is_not_changed_survives_the_way_through_float32(dtype: str) -> None:
    values = every(dtype)
    into = values.copy()
    store(values.astype(np.float32), into)
    assert bits(into) == bits(values)


@pytest.mark.parametrize("computed", [np.float32, np.float64])
@pytest.mark.parametrize("dtype", FLOATS)
def test_a_nan_stays_and_a_new_one_is_the_positive_quiet_one(dtype: str, computed: type[np.floating[Any]]) -> None:
    kind = numpy_type(dtype)
    other = {"float16": 0xFC01, "bfloat16": 0xFF81, "float32": 0xFF800001, "float64": 0xFFF0000000000001}
    before = np.array([0, other.get(dtype, NAN[dtype]), 0], f"u{kind.itemsize}").view(kind)
    store(np.array([1, np.nan, -np.nan], computed), before)
    assert bits(before)[1:] == [other.get(dtype, NAN[dtype]), NAN[dtype]]
    assert before[0] == 1


def test_each_part_of_a_complex_number_keeps_its_own_nan() -> None:
    before = np.array([0x7F800001, 0x3F800000], np.uint32).view(np.complex64)
    store(np.array([complex(np.nan, -np.nan)], np.complex128), before)
    assert bits(before.view(np.float32)) == [0x7F800001, 0x7FC00000]


@pytest.mark.parametrize("dtype", [dtype for dtype in NARROW if dtype != "float8_e8m0fnu"])
def test_doubles_are_rounded_once(dtype: str) -> None:
    """A tie is broken by what float32 cannot hold, upwards and downwards."""
    values = every(dtype).astype(np.float64)
    values = np.unique(values[np.isfinite(values)])
    tie = (values[1:] + values[:-1]) / 2
    further, nearer = tie + (values[1:] - tie) * 2.0**-40, tie - (values[1:] - tie) * 2.0**-40
    assert (tie.astype(np.float32) == further.astype(np.float32)).any()
    assert rounded(further, dtype).astype(np.float64).tolist() == values[1:].tolist()
    assert rounded(nearer, dtype).astype(np.float64).tolist() == values[:-1].tolist()
    assert bits(rounded(tie, dtype)) == bits(rounded(tie.astype(np.float32), dtype))
    assert bits(rounded(values, dtype)) == bits(values.astype(numpy_type(dtype)))


@pytest.mark.parametrize("dtype", ["bfloat16", "float8_e5m2"])
def test_doubles_beyond_the_range_of_float32(dtype: str) -> None:
    found = rounded(np.array([1e300, -1e300, 1e-300, -1e-300, np.inf, -0.0]), dtype).astype(np.float32)
    assert bits(found) == bits(np.array([np.inf, -np.inf, 0.0, -0.0, np.inf, -0.0], np.float32))


def test_what_float8_e4m3fn_cannot_hold_is_nan() -> None:
    found = rounded(np.array([464, 464.1, -464.1, np.inf, -1e30], np.float32), "float8_e4m3fn").astype(np.float32)
    assert found[0] == 448
    assert np.isnan(found[1:]).all()


@pytest.mark.parametrize("dtype", [dtype for dtype in FLOATS if has_negative_zero(dtype)])
def test_negative_zeros_are_found_among_all_values(dtype: str) -> None:
    kind = numpy_type(dtype)
    if kind.itemsize <= 2:
        values = every(dtype).copy()
    else:
        word = f"u{kind.itemsize}"
        edge = NEGATIVE_ZERO[dtype]
        values = np.array([0, 1, edge - 1, edge, edge + 1, 2 * edge - 1, NAN[dtype]], word).view(kind)
    expected = [0 if bit == NEGATIVE_ZERO[dtype] else bit for bit in bits(values)]
    assert holds_negative_zero(values)
    drop_negative_zeros(values)
    assert bits(values) == expected
    assert not holds_negative_zero(values)


def test_types_with_one_zero_and_numbers_without_a_sign_have_no_negative_zero() -> None:
    assert [dtype for dtype in (*FLOATS, *COMPLEX, *INTEGERS, "bool") if not has_negative_zero(dtype)] == [
        "float8_e4m3fnuz",
        "float8_e5m2fnuz",
        "float8_e8m0fnu",
        *INTEGERS,
        "bool",
    ]


@pytest.mark.parametrize("dtype", COMPLEX)
def test_both_parts_of_complex_numbers_lose_the_sign_of_zero(dtype: str) -> None:
    values = np.array([complex(-0.0, -0.0), complex(1, -0.0)], dtype)
    drop_negative_zeros(values)
    assert not np.signbit(values.view(values.real.dtype)).any()


@pytest.mark.parametrize("dtype", ["float32", "float64", *COMPLEX])
def test_a_nan_is_found_wherever_it_is(dtype: str) -> None:
    values = np.ones((300, 301), dtype)
    assert not holds_nan(values)
    for nan in (np.nan, -np.nan):
        for place in ((0, 0), (150, 17), (299, 300)):
            values[place] = nan if values.dtype.kind == "f" else complex(np.inf, nan)
            assert holds_nan(values)
            values[place] = -np.inf
    assert not holds_nan(values)
    assert not holds_nan(np.empty(0, dtype))


def test_negative_zeros_far_into_a_large_value_are_found() -> None:
    values = np.ones(200_000, np.float32)
    values[[65_535, 65_536, 199_999]] = -0.0
    drop_negative_zeros(values)
    assert np.flatnonzero(values == 0).tolist() == [65_535, 65_536, 199_999]
    assert not np.signbit(values).any()


@pytest.mark.parametrize(
    ("update", "value", "expected"),
    [
        ("float32", "float32", "float32"),
        ("float64", "float32", "float64"),
        ("float32", "float64", "float64"),
        ("float16", "float16", "float32"),
        ("bfloat16", "float16", "float32"),
        ("float8_e5m2", "bfloat16", "float32"),
        ("float64", "bfloat16", "float64"),
        ("bool", "float32", "float32"),
        ("int64", "float32", "float64"),
        ("int8", "float16", "float32"),
        ("float64", "complex64", "complex128"),
        ("float16", "complex64", "complex64"),
        ("complex64", "complex128", "complex128"),
        ("int64", "int32", "int32"),
        ("int64", "uint64", "uint64"),
        ("bool", "uint8", "uint8"),
    ],
)
def test_the_type_that_is_computed_in(update: str, value: str, expected: str) -> None:
    assert computed_in(update, value) == np.dtype(expected)


@pytest.mark.parametrize(
    ("update", "value"),
    [("float32", "int64"), ("float16", "uint8"), ("complex64", "float32"), ("complex64", "int8")]
    + [(update, "bool") for update in ("bool", "int8", "float32", "complex64")],
)
def test_an_update_of_another_kind_than_the_value_is_refused(update: str, value: str) -> None:
    with pytest.raises(UnsupportedError, match=f"{value} cannot be updated by values of dtype {update}"):
        computed_in(update, value)


@pytest.mark.parametrize("dtype", ["complex32", "float6_e2m3fn", "float6_e3m2fn", "float4_e2m1fn", "nonsense"])
def test_other_types_cannot_be_computed_with(dtype: str) -> None:
    with pytest.raises(UnsupportedError, match=dtype):
        stored(dtype)
    with pytest.raises(UnsupportedError, match=dtype):
        widened(dtype)


def test_an_array_is_not_copied() -> None:
    held = np.arange(6, dtype="<i2")
    found = elements(Array("int16", (2, 3), held.view(np.uint8).data))
    assert found.shape == (2, 3)
    assert np.shares_memory(found, held)


@pytest.mark.parametrize("shape", [(3,), (1,), (2, 3), (), (-1,), (1 << 61, 1 << 61), (1,) * 65, (1 << 61, 0)])
def test_an_array_that_is_not_as_long_as_it_says_is_corrupt(shape: tuple[int, ...]) -> None:
    with pytest.raises(CorruptObject):
        elements(Array("float32", shape, memoryview(bytes(8))))
