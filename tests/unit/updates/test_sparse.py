"""Sparse updates against sums of whole arrays, to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.update_arrays import (
    COMPLEX,
    FLOATS,
    applied,
    bits,
    cuts,
    narrowed,
    numpy_type,
    sparse_arrays,
    update_array,
)
from theta_daemon.errors import UnsupportedError
from theta_daemon.updates.sparse import prepare

RNG = np.random.default_rng(7)
SHAPE = (20, 7, 3)


def whole(positions: list[int], data: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any]:
    """Return the update as an array of the group's shape, summed as scipy does, halves and narrower in float32."""
    wide = data.astype(np.float32) if data.dtype.itemsize < 4 and data.dtype.kind not in "biu" else data
    update = np.zeros(int(np.prod(shape)), wide.dtype)
    for position, number in zip(positions, wide, strict=True):
        update[position] += number
    return update.reshape(shape)


def summed(positions: list[int], data: NDArray[Any], previous: NDArray[Any]) -> NDArray[Any]:
    """Return the new value, by numpy's sum of whole arrays."""
    wide = previous.astype(np.float32) if previous.dtype.itemsize < 4 else previous
    with np.errstate(all="ignore"):
        return narrowed(np.asarray(whole(positions, data, previous.shape) + wide), previous.dtype.name)


def some(dtype: str, shape: tuple[int, ...], seed: int = 1) -> NDArray[Any]:
    rng = np.random.default_rng(seed)
    values = rng.standard_normal(shape) + (1j * rng.standard_normal(shape) if dtype in COMPLEX else 0)
    if dtype == "float8_e8m0fnu":
        values = np.abs(values)  # it has no sign
    values = values.astype(numpy_type(dtype))
    if dtype != "float8_e8m0fnu":
        values[rng.random(shape) < 0.2] = np.array(-0.0).astype(values.dtype)
    return values


@pytest.mark.parametrize("index", [np.int32, np.int64, np.uint32, np.uint64])
@pytest.mark.parametrize("update", ["float16", "bfloat16", "float32", "float64", "int16", "bool"])
@pytest.mark.parametrize("dtype", [*FLOATS, *COMPLEX])
def test_it_is_numpys_sum(dtype: str, update: str, index: type[np.integer[Any]]) -> None:
    previous = some(dtype, SHAPE)
    positions = sorted(RNG.choice(previous.size, 60, replace=False).tolist())
    data = np.abs(RNG.standard_normal(60) * 3).astype(numpy_type(update))
    step = prepare(sparse_arrays(positions, data, SHAPE, index), dtype, SHAPE)
    assert bits(applied(step, previous)) == bits(summed(positions, data, previous))


def test_complex_numbers_are_added_by_parts() -> None:
    previous = some("complex64", (9,))
    data = some("complex128", (3,), 2)
    step = prepare(sparse_arrays([8, 0, 4], data, (9,)), "complex64", (9,))
    assert bits(applied(step, previous)) == bits(summed([8, 0, 4], data, previous))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_numbers_for_one_position_are_summed_in_their_order(dtype: str) -> None:
    previous = np.array([1, -0.0, 3], numpy_type(dtype))
    positions = [2, 0, 0, 2, 0, 1, 1]
    data = np.array([1e8, 1, 1e8, -1e8, -1e8, -0.0, -0.0], np.float32)  # 1 + 1e8 - 1e8 is 0, and 1e8 - 1e8 + 1 is 1
    step = prepare(sparse_arrays(positions, data, (3,)), dtype, (3,))
    assert applied(step, previous).astype(np.float32).tolist() == [1, 0, 3]
    assert bits(applied(step, previous)) == bits(summed(positions, data, previous))


@pytest.mark.parametrize("index", [np.int32, np.uint64])
@pytest.mark.parametrize("dtype", ["float32", "float16", "complex64"])
def test_rows_may_be_cut_anywhere(dtype: str, index: type[np.integer[Any]]) -> None:
    previous = some(dtype, SHAPE)
    positions = sorted(RNG.choice(previous.size, 60, replace=False).tolist())
    data = RNG.standard_normal(60).astype(np.float32)
    step = prepare(sparse_arrays(positions, data, SHAPE, index), dtype, SHAPE)
    for windows in cuts(SHAPE[0]):
        assert bits(applied(step, previous, windows)) == bits(summed(positions, data, previous))


@pytest.mark.parametrize("positions", [[3, 2, 1, 0], [0, 3, 1, 2]])
def test_positions_need_not_ascend(positions: list[int]) -> None:
    data = np.array([1, 2, 3, 4], np.float32)
    step = prepare(sparse_arrays(positions, data, (4,)), "float32", (4,))
    assert bits(applied(step, some("float32", (4,)))) == bits(summed(positions, data, some("float32", (4,))))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float32", "complex64"])
def test_a_negative_zero_becomes_zero_wherever_it_is(dtype: str) -> None:
    previous = np.zeros((3, 2), numpy_type(dtype))
    previous[...] = np.array(-0.0).astype(previous.dtype)
    step = prepare(sparse_arrays([1], np.array([-0.0], np.float32), (3, 2)), dtype, (3, 2))
    assert set(applied(step, previous).tobytes()) == {0}


def test_what_an_update_rounds_to_negative_zero_stays_so() -> None:
    previous = np.array([-0.0, 2.0**-20], np.float16)
    step = prepare(sparse_arrays([1], np.array([-(2.0**-20) - 2.0**-40], np.float32), (2,)), "float16", (2,))
    value = bytearray(previous.tobytes())
    step.settle(memoryview(value))
    assert step.add(memoryview(value), range(2)) is False
    assert value == np.array([0.0, -0.0], np.float16).tobytes()


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_it_says_that_there_is_no_negative_zero_where_there_is_none(dtype: str) -> None:
    step = prepare(sparse_arrays([1], np.array([1], np.float32), (2,)), dtype, (2,))
    value = bytearray(np.array([0, -1], numpy_type(dtype)).tobytes())
    assert step.add(memoryview(value), range(2)) is True
    assert value == bytes(len(value))


@pytest.mark.parametrize(
    ("dtype", "update", "previous", "data", "expected"),
    [
        ("int8", "int8", 127, 1, -128),
        ("uint8", "int64", 3, -4, 255),
        ("int32", "int64", 5, 1 << 32, 5),
        ("uint64", "int64", (1 << 63) + 1, -1, 1 << 63),
        ("int64", "uint64", -1, (1 << 64) - 1, -2),
        ("int16", "bool", 4, True, 5),
    ],
)
def test_integers_wrap_around(dtype: str, update: str, previous: int, data: int, expected: int) -> None:
    value = np.array([previous, 1], dtype)
    step = prepare(sparse_arrays([0], np.array([data], update), (2,)), dtype, (2,))
    assert applied(step, value).tolist() == [expected, 1]


def test_infinities_and_nan_are_values_like_others() -> None:
    before = np.array([0x7F800000, 0xFF800000, 0xFFC12345, 0x7F800001, 0x00000001], np.uint32).view(np.float32)
    data = np.array([-np.inf, 1, 1], np.float32)
    step = prepare(sparse_arrays([0, 1, 2], data, (5,)), "float32", (5,))
    # inf - inf is a new NaN; the one that was there stays, touched or not, signaling or not
    assert bits(applied(step, before)) == [0x7FC00000, 0xFF800000, 0xFFC12345, 0x7F800001, 0x00000001]


def test_overflow_is_infinity_or_nan_where_the_type_has_none() -> None:
    for dtype, expected in (("float32", np.inf), ("float16", np.inf), ("float8_e5m2", np.inf), ("float8_e4m3fn", None)):
        previous = np.ones(2, numpy_type(dtype))
        largest = np.array([3e38, 3e38], np.float32)
        step = prepare(sparse_arrays([0, 0], largest, (2,)), dtype, (2,))
        found = applied(step, previous).astype(np.float32)
        assert np.isnan(found[0]) if expected is None else found[0] == expected
        assert found[1] == 1


@pytest.mark.parametrize(("shape", "count"), [((), 1), ((1,), 1), ((0,), 0), ((3, 0), 0), ((1, 1, 5), 2)])
def test_shapes_at_the_edge(shape: tuple[int, ...], count: int) -> None:
    previous = np.full(shape, -0.0, np.float32)
    positions = list(range(count))
    data = np.ones(count, np.float32)
    step = prepare(sparse_arrays(positions, data, shape), "float32", shape)
    assert bits(applied(step, previous)) == bits(summed(positions, data, previous))


def test_the_shape_of_a_scalar_may_be_of_floats() -> None:
    arrays = sparse_arrays([0], np.ones(1, np.float32), ()) | {"shape": update_array(np.array(()))}  # numpy's default
    assert applied(prepare(arrays, "float32", ()), np.array(2, np.float32)) == 3


def test_numbers_behind_the_row_are_not_used() -> None:
    arrays = sparse_arrays([0, 1, 9], np.ones(3, np.float32), (2,)) | {"indptr": update_array(np.array([0, 2]))}
    assert applied(prepare(arrays, "float32", (2,)), np.zeros(2, np.float32)).tolist() == [1, 1]


def test_positions_beyond_what_32_bits_hold() -> None:
    shape = (1 << 40,)
    step = prepare(sparse_arrays([5, 1 << 36], np.ones(2, np.int8), shape, np.int64), "int8", shape)
    narrow = prepare(sparse_arrays([5], np.ones(1, np.int8), shape), "int8", shape)
    for start, expected in ((0, 1), ((1 << 36) - 5, 1), (1 << 35, 0)):
        value = bytearray(10)
        step.apply(memoryview(value), range(start, start + 10))
        assert value == bytes([0, 0, 0, 0, 0, expected, 0, 0, 0, 0])
        narrow.apply(memoryview(value), range(start, start + 10))
        assert value[5] == expected + (start == 0)


def test_a_value_anywhere_in_memory() -> None:
    value = bytearray(b"\xaa" + np.array([1, -0.0, 3], np.float32).tobytes() + b"\xaa")
    arrays = sparse_arrays([0, 2], np.array([1, 2], np.float32), (3,))
    arrays["data"] = arrays["data"].replace(raw=memoryview(b"\0" + bytes(arrays["data"].raw))[1:])
    prepare(arrays, "float32", (3,)).apply(memoryview(value)[1:-1], range(3))
    assert value == b"\xaa" + np.array([2, 0.0, 5], np.float32).tobytes() + b"\xaa"


@pytest.mark.parametrize(("update", "dtype"), [("float32", "int32"), ("float32", "bool"), ("complex64", "float32")])
def test_numbers_of_another_kind_are_refused(update: str, dtype: str) -> None:
    with pytest.raises(UnsupportedError, match=dtype):
        prepare(sparse_arrays([0], np.ones(1, update), (2,)), dtype, (2,))


def test_nothing_is_changed_through_the_arrays() -> None:
    arrays = sparse_arrays([0, 0, 1], np.ones(3, np.float32), (2,))
    before = {name: bytes(array.raw) for name, array in arrays.items()}
    applied(prepare(arrays, "bfloat16", (2,)), np.zeros(2, numpy_type("bfloat16")))
    assert {name: bytes(array.raw) for name, array in arrays.items()} == before
