"""Low-rank updates against their definition, one number at a time."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.update_arrays import FLOATS, applied, bits, cuts, narrowed, numpy_type, update_array
from theta_daemon.errors import CorruptObject, UnsupportedError
from theta_daemon.updates import numbers
from theta_daemon.updates.array import Array
from theta_daemon.updates.low_rank import LowRank, prepare


def random(shape: tuple[int, ...], dtype: str, seed: int) -> NDArray[Any]:
    return np.random.default_rng(seed).standard_normal(shape).astype(numpy_type(dtype))


def arrays(left: NDArray[Any], right: NDArray[Any]) -> dict[str, Array]:
    return {"R": update_array(left), "C": update_array(right)}


def one_by_one(left: NDArray[Any], right: NDArray[Any], previous: NDArray[Any]) -> NDArray[np.float32]:
    """Return R @ C + previous of float32 numbers: summed in Python's doubles, which hold a product of two exactly."""
    result = np.empty_like(previous)
    for i, j in itertools.product(range(len(left)), range(right.shape[1])):
        total = 0.0
        for k in range(len(right)):
            total += float(left[i, k]) * float(right[k, j])
        result[i, j] = np.float32(float(np.float32(total)) + float(previous[i, j]))
    return result


def in_order(left: NDArray[Any], right: NDArray[Any], previous: NDArray[Any]) -> NDArray[Any]:
    """Return R @ C + previous in whole arrays, halves and narrower in float32, as `previous` is stored."""
    left, right, wide = (x.astype(np.float32) if x.dtype.itemsize < 4 else x for x in (left, right, previous))
    total = np.zeros(previous.shape)
    for k in range(len(right)):
        total = total + left[:, k, None].astype(np.float64) * right[k]
    return narrowed(total.astype(np.promote_types(left.dtype, right.dtype)) + wide, previous.dtype.name)


def test_each_sum_is_rounded_in_order() -> None:
    e = 2.0**-53  # half of the last place of 1
    left, right = np.array([[1, e, e, -1]], np.float64), np.ones((4, 1), np.float64)
    for order, expected in (([0, 1, 2, 3], 0.0), ([1, 2, 0, 3], 2 * e), ([3, 0, 1, 2], 2 * e), ([0, 1, 3, 2], e)):
        found = applied(prepare(arrays(left[:, order], right), "float64", (1, 1)), np.zeros((1, 1)))
        assert found == expected, order


def test_the_sum_is_rounded_to_the_factors_type_and_then_added() -> None:
    left, right, previous = random((9, 5), "float32", 1), random((5, 7), "float32", 2), random((9, 7), "float32", 3)
    found = applied(prepare(arrays(left, right), "float32", (9, 7)), previous)
    assert bits(found) == bits(one_by_one(left, right, previous))
    # That says something: rounded once, or after each step, the bits are others.
    once = (left.astype(np.float64) @ right.astype(np.float64) + previous).astype(np.float32)
    each = left[:, :1] * right[0]
    for k in range(1, len(right)):
        each = each + left[:, k, None] * right[k]
    assert bits(found) not in (bits(once), bits(each + previous))


def test_products_of_wide_factors_are_not_fused_with_sums() -> None:
    e = 2.0**-27
    left, right = np.array([[1, 1 + e]]), np.array([[-1], [1 + e]])
    found = applied(prepare(arrays(left, right), "float64", (1, 1)), np.zeros((1, 1)))
    # (1 + e)^2 = 1 + 2e + e^2, of which a float64 has no e^2; a fused operation would keep it.
    assert found == 2.0**-26


@pytest.mark.parametrize("rank", [0, 1, 8, 100, 500])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_quick_way_is_as_near_as_the_order_of_sums_in_float64_makes_it(rank: int, dtype: str) -> None:
    left, right = random((130, rank), "float32", 1), random((rank, 900), "float32", 2)
    previous = random((130, 900), dtype, 3)
    step = prepare(arrays(left, right), dtype, (130, 900), quick=True)
    assert isinstance(step, LowRank)
    assert step.quick
    found, exact = applied(step, previous), in_order(left, right, previous)
    differ = np.array(bits(found)) != np.array(bits(exact))
    assert differ.mean() < 1e-4
    assert np.allclose(found.astype(np.float64), exact.astype(np.float64), rtol=1e-2, atol=1e-2)


def test_there_is_no_quick_way_for_wide_factors() -> None:
    step = prepare(arrays(np.ones((2, 2)), np.ones((2, 2))), "float64", (2, 2), quick=True)
    assert isinstance(step, LowRank)
    assert not step.quick


@pytest.mark.parametrize(
    "factors",
    [
        ("float32", "float32"),
        ("float64", "float64"),
        ("float32", "float64"),
        ("float16", "bfloat16"),
        ("bfloat16", "bfloat16"),
        ("float16", "float32"),
    ],
)
@pytest.mark.parametrize("dtype", [dtype for dtype in FLOATS if dtype != "float8_e8m0fnu"])
def test_types(dtype: str, factors: tuple[str, str]) -> None:
    left, right, previous = random((33, 4), factors[0], 1), random((4, 40), factors[1], 2), random((33, 40), dtype, 3)
    found = applied(prepare(arrays(left, right), dtype, previous.shape), previous)
    assert bits(found) == bits(in_order(left, right, previous))


@pytest.mark.parametrize("shape", [(300, 700), (3, 100_000), (100_000, 2), (1, 70_000), (70_000, 1)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float64"])
def test_more_than_a_block(shape: tuple[int, int], dtype: str) -> None:
    assert shape[0] * shape[1] > numbers.BLOCK
    left, right = random((shape[0], 3), "float32", 1), random((3, shape[1]), "float32", 2)
    previous = random(shape, dtype, 3)
    found = applied(prepare(arrays(left, right), dtype, shape), previous)
    assert bits(found) == bits(in_order(left, right, previous))


@pytest.mark.parametrize("shape", [(9, 40), (4, 70_000)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_rows_may_be_cut_anywhere(shape: tuple[int, int], dtype: str) -> None:
    left, right, previous = (
        random((shape[0], 2), "float32", 1),
        random((2, shape[1]), "float32", 2),
        random(shape, dtype, 3),
    )
    step = prepare(arrays(left, right), dtype, shape)
    for windows in cuts(shape[0]):
        assert bits(applied(step, previous, windows)) == bits(in_order(left, right, previous))


def test_without_inner_axis_it_adds_zero() -> None:
    previous = np.array([[-0.0, 1]], np.float32)
    step = prepare(arrays(np.zeros((1, 0), np.float32), np.zeros((0, 2), np.float32)), "float32", (1, 2))
    assert bits(applied(step, previous)) == bits(np.array([0.0, 1], np.float32))


def test_sums_begin_with_zero() -> None:
    left, right = np.array([[-0.0]], np.float32), np.array([[1.0]], np.float32)
    step = prepare(arrays(left, right), "float32", (1, 1))
    assert bits(applied(step, np.array([[-0.0]], np.float32))) == [0]


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0, 0)])
def test_nothing_to_update(shape: tuple[int, int]) -> None:
    left, right = np.ones((shape[0], 2), np.float32), np.ones((2, shape[1]), np.float32)
    assert applied(prepare(arrays(left, right), "float32", shape), np.empty(shape, np.float32)).size == 0


def test_nan_stays_and_a_new_one_is_the_positive_quiet_one() -> None:
    previous = np.array([[0xFFC12345, 0x3F800000, 0x3F800000]], np.uint32).view(np.float32)
    left, right = np.array([[np.inf]], np.float32), np.array([[1, 0, -1]], np.float32)
    step = prepare(arrays(left, right), "float32", (1, 3))
    assert bits(applied(step, previous)) == [0xFFC12345, 0x7FC00000, 0xFF800000]


def test_factors_anywhere_in_memory() -> None:
    left, right, previous = random((5, 2), "float32", 1), random((2, 6), "float32", 2), random((5, 6), "float32", 3)
    held = {
        name: array.replace(raw=memoryview(b"\0" + bytes(array.raw))[1:]) for name, array in arrays(left, right).items()
    }
    assert bits(applied(prepare(held, "float32", (5, 6)), previous)) == bits(in_order(left, right, previous))


@pytest.mark.parametrize("previous", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", [(), (5,), (70_000,)])
def test_what_is_no_matrix_is_added_whole(shape: tuple[int, ...], previous: str) -> None:
    update, value = np.asarray(random(shape, "float32", 1)), np.asarray(random(shape, previous, 2))
    step = prepare({"parameter": update_array(update)}, previous, shape)
    assert bits(applied(step, value)) == bits((update + value.astype(np.float32)).astype(value.dtype))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((2, 3), (2, 4)),
        ((3, 2), (2, 4)),
        ((2, 2), (2, 3)),
        ((4, 2), (2, 2)),
        ((1, 2), (2, 4)),
        ((2,), (2, 4)),
        ((2, 2), (2,)),
        ((1, 2, 2), (2, 4)),
        ((), ()),
        ((2, 2), (1, 2, 4)),
    ],
)
def test_factors_that_do_not_make_the_shape_are_refused(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    with pytest.raises(CorruptObject, match="do not make"):
        prepare(arrays(np.ones(left, np.float32), np.ones(right, np.float32)), "float32", (2, 4))


@pytest.mark.parametrize(
    ("factors", "dtype"),
    [
        ("int32", "float32"),
        ("bool", "float32"),
        ("complex64", "float32"),
        ("float32", "int32"),
        ("float32", "complex64"),
        ("complex64", "complex64"),
        ("int8", "int8"),
        ("float32", "bool"),
        ("float32", "float4_e2m1fn"),
    ],
)
def test_what_are_no_real_numbers_is_refused(factors: str, dtype: str) -> None:
    ones = np.ones((2, 2), factors)
    with pytest.raises(UnsupportedError, match=dtype):
        prepare(arrays(ones, ones), dtype, (2, 2))
