"""git-theta's expressions on whole arrays, and that nothing is computed before it is known to fit."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.update_arrays import INTEGERS, NARROW, bits, numpy_type, raw, sparse_arrays, update_array
from theta_daemon.errors import CorruptObject, UnsupportedError
from theta_daemon.updates.array import Array
from theta_daemon.updates.git_theta import apply, slack


def random(shape: tuple[int, ...], dtype: str = "float32", seed: int = 1) -> NDArray[Any]:
    return np.asarray(np.random.default_rng(seed).standard_normal(shape) * 9).astype(numpy_type(dtype))


def new(update_type: str, arrays: dict[str, Array], previous: NDArray[Any]) -> NDArray[Any]:
    found = apply(update_type, arrays, update_array(previous))
    assert found.nbytes == previous.nbytes
    return np.frombuffer(found, previous.dtype).reshape(previous.shape)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_sparse(dtype: str) -> None:
    previous = random((5, 6), dtype)
    previous[0] = -0.0
    positions, data = [29, 3, 3, 3, 7], np.array([1, 1e8, 1, -1e8, -0.0], np.float32)
    update = np.zeros(30, np.float32)
    update[29] += data[0]
    for number in data[1:4]:
        update[3] += number
    expected = (update.reshape(5, 6) + previous).astype(dtype)
    assert not np.signbit(expected[0]).any()
    assert bits(new("sparse", sparse_arrays(positions, data, (5, 6)), previous)) == bits(expected)


@pytest.mark.parametrize(("dtype", "update"), [("int64", "int64"), ("int8", "int64"), ("bool", "bool")])
def test_sparse_of_integers(dtype: str, update: str) -> None:
    previous = np.array([100, 1, 0]).astype(dtype)
    found = new("sparse", sparse_arrays([0, 2], np.array([100, 1]).astype(update), (3,)), previous)
    expected = {"int64": [200, 1, 1], "int8": [-56, 1, 1], "bool": [True, True, True]}[dtype]
    assert found.tolist() == expected


def test_low_rank_is_left_to_blas() -> None:
    left, right, previous = random((40, 8)), random((8, 50)), random((40, 50))
    found = new("low-rank", {"R": update_array(left), "C": update_array(right)}, previous)
    assert bits(found) == bits(left @ right + previous)


@pytest.mark.parametrize(
    ("left", "right", "shape"),
    [
        ((2, 3), (3, 4), (2, 4)),
        ((3,), (3, 4), (4,)),
        ((2, 3), (3,), (2,)),
        ((3,), (3,), ()),
        ((3,), (3,), (2, 2)),
        ((5, 2, 3), (3, 4), (5, 2, 4)),
        ((5, 2, 3), (1, 3, 4), (5, 2, 4)),
        ((2, 3), (3, 4), (7, 2, 4)),
        ((2, 0), (0, 4), (2, 4)),
    ],
)
def test_whatever_numpy_multiplies(left: tuple[int, ...], right: tuple[int, ...], shape: tuple[int, ...]) -> None:
    first, second, previous = random(left), random(right), random(shape)
    found = new("low-rank", {"R": update_array(first), "C": update_array(second)}, previous)
    assert bits(found) == bits(np.asarray(first @ second + previous))


@pytest.mark.parametrize("dtype", ["float32", "int64"])
def test_low_rank_of_no_matrix(dtype: str) -> None:
    update, previous = random((7,), dtype, 2), random((7,), dtype)
    assert bits(new("low-rank", {"parameter": update_array(update)}, previous)) == bits(update + previous)


def test_ia3_of_doubles_becomes_what_the_metadata_says() -> None:
    previous, factors = random((4, 5)), random((4, 1), "float64")
    expected = (previous * factors).astype(np.float32)
    assert bits(new("ia3", {"ia3": update_array(factors)}, previous)) == bits(expected)


def test_ia3_of_integers_is_cut() -> None:
    assert new("ia3", {"ia3": update_array(np.array([1.5]))}, np.array([3, -3])).tolist() == [4, -4]


def test_types_that_numpy_lacks_are_ml_dtypes() -> None:
    previous, factors = random((4, 5), "bfloat16"), random((5,), "bfloat16", 2)
    assert bits(new("ia3", {"ia3": update_array(factors)}, previous)) == bits(previous * factors)


@pytest.mark.parametrize("shape", [(), (0,), (3, 0)])
def test_edges(shape: tuple[int, ...]) -> None:
    previous = random(shape)
    assert bits(new("ia3", {"ia3": update_array(random(()))}, previous)) == bits(np.asarray(previous * random(())))


def test_the_previous_value_stays() -> None:
    previous = random((3,))
    held = bytearray(raw(previous))
    apply("ia3", {"ia3": update_array(random((3,)))}, Array("float32", (3,), memoryview(held)))
    assert held == raw(previous)


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ((100_000, 1), (1, 100_000)),
        ((2, 3), (2, 4)),
        ((), (3,)),
        ((4, 3), (3, 4)),
        ((7, 2, 3), (5, 3, 4)),
        ((2, 3), (7, 3, 4)),
    ],
)
def test_products_of_another_shape_are_never_computed(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    held = {"R": update_array(np.ones(left, np.float32)), "C": update_array(np.ones(right, np.float32))}
    tracemalloc.start()
    try:
        with pytest.raises(CorruptObject):
            apply("low-rank", held, update_array(np.ones((2, 4), np.float32)))
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("update_type", ["ia3", "low-rank"])
@pytest.mark.parametrize("shape", [(3,), (2, 3), (1, 2), (0,)])
def test_updates_that_would_change_the_shape_are_refused(update_type: str, shape: tuple[int, ...]) -> None:
    held = {{"ia3": "ia3", "low-rank": "parameter"}[update_type]: update_array(np.ones(shape, np.float32))}
    with pytest.raises(CorruptObject, match="does not fit"):
        apply(update_type, held, update_array(np.ones(2, np.float32)))


@pytest.mark.parametrize("update_type", ["sparse", "low-rank", "ia3"])
@pytest.mark.parametrize("names", [(), ("R",), ("R", "C", "ia3"), ("parameter", "R"), ("data", "indices", "indptr")])
def test_other_names_are_refused(update_type: str, names: tuple[str, ...]) -> None:
    with pytest.raises(CorruptObject, match="holds"):
        apply(update_type, dict.fromkeys(names, update_array(np.ones(2))), update_array(np.ones(2)))


def test_other_update_types_are_not_known() -> None:
    for update_type in ("dense", "exact-sparse", "", "x" * 1000):
        with pytest.raises(UnsupportedError, match="is not known") as error:
            apply(update_type, {}, update_array(np.ones(2)))
        assert len(str(error.value)) < 200


def test_products_that_numpy_cannot_make_are_refused() -> None:
    held = {"R": update_array(np.ones((7, 2, 3), np.float32)), "C": update_array(np.ones((5, 3, 4), np.float32))}
    for shape in ((7, 2, 4), (5, 2, 4)):
        with pytest.raises(CorruptObject, match="cannot be multiplied"):
            apply("low-rank", held, update_array(np.ones(shape, np.float32)))


def test_types_that_do_not_go_together_are_refused() -> None:
    ones = np.ones(2, np.float32)
    with pytest.raises(UnsupportedError, match="complex"):
        apply("ia3", {"ia3": update_array(ones.astype(np.complex64))}, update_array(ones))
    with pytest.raises(UnsupportedError, match="float4_e2m1fn"):
        apply("ia3", {"ia3": update_array(ones)}, Array("float4_e2m1fn", (2,), memoryview(b"1")))


# By how much another machine may be off


def off(arrays: dict[str, NDArray[Any]], previous: NDArray[Any], before: Any = None) -> NDArray[np.float32] | None:
    """Return the slack of a low-rank update, or of an ia3 update if that is what `arrays` are."""
    held = {name: update_array(values) for name, values in arrays.items()}
    kind = "low-rank" if "R" in held else "ia3"
    made = apply(kind, held, update_array(previous))
    return slack(kind, held, Array(previous.dtype.name, previous.shape, made), before)


def sums(left: NDArray[Any], right: NDArray[Any]) -> list[NDArray[Any]]:
    """Return left @ right as float32 sums in some orders, and as the sum of doubles, rounded once."""
    wide, other = left.astype(np.float32), right.astype(np.float32)
    orders = [np.random.default_rng(seed).permutation(left.shape[1]) for seed in range(6)]
    found = []
    for order in orders:
        total = np.zeros((left.shape[0], right.shape[1]), np.float32)
        for k in order:
            total += wide[:, k : k + 1] * other[k : k + 1]
        found.append(total)
    return [*found, wide @ other, (wide.astype(np.float64) @ other.astype(np.float64)).astype(np.float32)]


FACTORS = [(one, one) for one in ("float32", *NARROW)] + [("bfloat16", "float16"), ("int8", "float16")]


@pytest.mark.parametrize("size", [1.0, 1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize(("left", "right"), FACTORS)
@pytest.mark.filterwarnings("ignore:.*encountered in cast")  # types without a zero or a sign
def test_no_order_of_a_sum_is_off_by_more(left: str, right: str, size: float) -> None:
    with np.errstate(all="ignore"):
        first = (random((40, 33), "float32", 1) / 9).astype(numpy_type(left))
        second = (random((33, 50), "float32", 2) / 9 * np.float32(size)).astype(numpy_type(right))
        previous = random((40, 50), "float32", 3) * np.float32(size)
        here = new("low-rank", {"R": update_array(first), "C": update_array(second)}, previous)
        product = first @ second
        bound = off({"R": first, "C": second}, previous)
        assert bound is not None
        there = sums(first, second)
        if product.dtype == np.float16:  # as numpy rounds a sum; and as we add it, not rounded
            there += [each.astype(np.float16).astype(np.float32) for each in there]
        for each in there:
            apart = np.abs(each + previous - here)
            assert ((apart <= bound) | ~np.isfinite(here)).all()
    coarse = 1.01 * float(np.finfo(product.dtype).eps) + 3.1 * 2**-23 * np.sqrt(33)
    norm = np.sqrt(np.square(first.astype(np.float32)) @ np.square(second.astype(np.float32)))
    largest = coarse * np.maximum(norm, np.abs(product.astype(np.float32))) + 2**-22 * np.abs(here) + 2**-24
    assert (bound <= largest)[np.isfinite(here)].all()


@pytest.mark.parametrize("dtype", ["bool", *INTEGERS])
@pytest.mark.parametrize("value", ["float32", "float64"])
def test_products_of_integers_are_exact(dtype: str, value: str) -> None:
    ones, previous = np.ones((3, 3)).astype(dtype), random((3, 3), value)
    assert off({"R": ones, "C": ones}, previous) is None
    earlier = off({"R": ones, "C": ones}, previous, np.full((3, 3), 0.5, np.float32))
    assert earlier is not None
    np.testing.assert_allclose(earlier, 0.5, atol=1e-5)


@pytest.mark.parametrize(("left", "right"), [("int64", "bfloat16"), ("float64", "float8_e5m2"), ("int64", "float16")])
def test_what_numpy_multiplies_as_doubles_is_off_by_less(left: str, right: str) -> None:
    first, second = np.ones((3, 2), numpy_type(left)), np.ones((2, 4), numpy_type(right))
    bound = off({"R": first, "C": second}, np.ones((3, 4)))
    assert bound is not None
    assert 0 < bound.max() < 1e-14


@pytest.mark.parametrize(("left", "right"), [((1, 3), (3, 4)), ((3,), (3, 4)), ((2, 3), (3, 1)), ((3,), (3,))])
def test_a_product_that_is_repeated_is_off_everywhere(left: tuple[int, ...], right: tuple[int, ...]) -> None:
    first, second, previous = random(left), random(right, seed=2), random((5, 2, 4))
    bound = off({"R": first, "C": second}, previous)
    repeated = np.broadcast_to(first @ second, (2, 4))
    assert bound is not None
    assert bound.shape == (5, 2, 4)
    assert (bound > np.abs(repeated) * 1e-8).all()


def test_where_there_is_no_bound_only_the_same_bits_are_good() -> None:
    left, right = np.ones((4, 2), np.float32), np.ones((2, 3), np.float32)
    left[0], left[1], left[2] = 1e20, np.inf, np.nan  # the squares of the first are infinite
    bound = off({"R": left, "C": right}, np.ones((4, 3), np.float32))
    assert bound is not None
    assert not bound[:3].any()
    assert (bound[3] > 0).all()


def test_ia3_multiplies_what_was_off() -> None:
    previous, factors = random((4, 5)), np.array([2, -3, 0, 1, 0.5], np.float32)
    assert off({"ia3": factors}, previous) is None
    bound = off({"ia3": factors}, previous, np.ones((4, 5), np.float32))
    assert bound is not None
    np.testing.assert_allclose(bound, np.broadcast_to(np.abs(factors), (4, 5)), atol=1e-4)
