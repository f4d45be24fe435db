"""git-theta's expressions on whole arrays, and that nothing is computed before it is known to fit."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.update_arrays import bits, numpy_type, raw, sparse_arrays, update_array
from theta_daemon.errors import CorruptObject, UnsupportedError
from theta_daemon.updates.array import Array
from theta_daemon.updates.git_theta import apply


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
