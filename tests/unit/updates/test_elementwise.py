"""ia3, and sums of whole arrays, against numpy's expressions, to the bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.update_arrays import FLOATS, applied, bits, cuts, narrowed, numpy_type, update_array
from theta_daemon.errors import CorruptObject, UnsupportedError
from theta_daemon.updates.elementwise import prepare, prepare_ia3


def random(shape: tuple[int, ...], dtype: str, seed: int) -> NDArray[Any]:
    return np.asarray(np.random.default_rng(seed).standard_normal(shape)).astype(numpy_type(dtype))


def multiplied(previous: NDArray[Any], factors: NDArray[Any]) -> NDArray[Any]:
    """Return previous * factors, halves and narrower in float32, as `previous` is stored."""
    wide = [
        x.astype(np.float32) if x.dtype.itemsize < 4 and x.dtype.kind not in "biu" else x for x in (previous, factors)
    ]
    return narrowed(np.asarray(wide[0] * wide[1]), previous.dtype.name)


@pytest.mark.parametrize("factors", ["float32", "float64", "float16", "bfloat16", "float8_e4m3fn", "int32", "bool"])
@pytest.mark.parametrize("dtype", [dtype for dtype in FLOATS if dtype != "float8_e8m0fnu"])
def test_ia3_is_numpys_product(dtype: str, factors: str) -> None:
    previous, update = random((30, 11), dtype, 1), random((11,), factors, 2)
    step = prepare_ia3({"ia3": update_array(update)}, dtype, (30, 11))
    assert bits(applied(step, previous)) == bits(multiplied(previous, update))


@pytest.mark.parametrize(
    ("update", "shape"),
    [
        ((), ()),
        ((), (3,)),
        ((1,), (3,)),
        ((3,), (3,)),
        ((), (2, 3)),
        ((3,), (2, 3)),
        ((1, 3), (2, 3)),
        ((2, 1), (2, 3)),
        ((2, 3), (2, 3)),
        ((1, 1), (2, 3)),
        ((5, 1), (4, 5, 6)),
        ((4, 1, 6), (4, 5, 6)),
        ((1, 1, 6), (4, 5, 6)),
        ((300,), (300, 300)),
        ((300, 1), (300, 300)),
        ((1, 70_000), (2, 70_000)),
        ((3, 1), (3, 70_000)),
        ((2, 1, 1), (2, 300, 300)),
        ((300, 1), (2, 300, 300)),
        ((70_000,), (70_000,)),
        ((1,), (70_000,)),
        ((0,), (0,)),
        ((1,), (0,)),
        ((3,), (0, 3)),
        ((2, 1), (2, 0)),
        ((0,), (2, 0)),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_shapes_that_broadcast(update: tuple[int, ...], shape: tuple[int, ...], dtype: str) -> None:
    previous, factors = random(shape, dtype, 1), random(update, "float32", 2)
    step = prepare_ia3({"ia3": update_array(factors)}, dtype, shape)
    assert bits(applied(step, previous)) == bits(multiplied(previous, factors))


@pytest.mark.parametrize(
    ("update", "shape"),
    [
        ((1,), ()),
        ((2,), (3,)),
        ((3,), (1,)),
        ((1, 3), (3,)),
        ((2,), (2, 3)),
        ((3, 1), (2, 3)),
        ((0,), (3,)),
        ((0,), (1,)),
        ((3,), (2, 0)),
        ((1, 1, 1), (2, 3)),
        ((2, 3, 1), (2, 3)),
    ],
)
def test_shapes_that_do_not_broadcast_to_the_groups_are_refused(
    update: tuple[int, ...], shape: tuple[int, ...]
) -> None:
    with pytest.raises(CorruptObject, match="does not fit"):
        prepare_ia3({"ia3": update_array(np.ones(update, np.float32))}, "float32", shape)


@pytest.mark.parametrize("update", [(), (5,), (9, 1, 1), (9, 4, 1), (1, 4, 5), (9, 4, 5)])
def test_rows_may_be_cut_anywhere(update: tuple[int, ...]) -> None:
    previous, factors = random((9, 4, 5), "float32", 1), random(update, "float32", 2)
    step = prepare_ia3({"ia3": update_array(factors)}, "float32", (9, 4, 5))
    for windows in cuts(9):
        assert bits(applied(step, previous, windows)) == bits(previous * factors)


def test_it_is_rounded_once() -> None:
    previous, factor = np.array([1 + 2.0**-10], np.float16), np.array([1 + 2.0**-30])
    halfway = (1 + 2.0**-10) * (1 + 2.0**-11)  # just above, by the factor; in float32 it would be a tie, down to even
    step = prepare_ia3({"ia3": update_array(factor * (1 + 2.0**-11))}, "float16", (1,))
    assert applied(step, previous) == np.array(halfway * (1 + 2.0**-30)).astype(np.float16)


def test_signs_of_zero_and_infinities_follow_the_product() -> None:
    previous = np.array([-0.0, 1, np.inf, 3e38], np.float32)
    step = prepare_ia3({"ia3": update_array(np.array([1, -0.0, 2, 10], np.float32))}, "float32", (4,))
    assert bits(applied(step, previous)) == [0x80000000, 0x80000000, 0x7F800000, 0x7F800000]


def test_nan_stays_and_a_new_one_is_the_positive_quiet_one() -> None:
    previous = np.array([0xFFC12345, 0xFF800000], np.uint32).view(np.float32)
    step = prepare_ia3({"ia3": update_array(np.array([-2, 0], np.float32))}, "float32", (2,))
    assert bits(applied(step, previous)) == [0xFFC12345, 0x7FC00000]


def test_other_operations() -> None:
    previous, update = random((4, 5), "float32", 1), random((5,), "float32", 2)
    step = prepare(np.add, update_array(update), "float32", (4, 5))
    assert bits(applied(step, previous)) == bits(previous + update)


@pytest.mark.parametrize(
    ("update", "dtype"),
    [
        ("float32", "int32"),
        ("int32", "int32"),
        ("float32", "bool"),
        ("complex64", "complex64"),
        ("float32", "complex64"),
        ("complex64", "float32"),
        ("float32", "float6_e3m2fn"),
    ],
)
def test_what_are_no_real_numbers_is_refused(update: str, dtype: str) -> None:
    with pytest.raises(UnsupportedError, match=dtype):
        prepare_ia3({"ia3": update_array(np.ones(4, update))}, dtype, (4,))
