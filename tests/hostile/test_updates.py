"""Updates made to harm: each is refused by an error of ours, or changes the parameter group and nothing else."""

from __future__ import annotations

import tracemalloc
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.update_arrays import numpy_type, sparse_arrays, update_array
from theta_daemon.dtypes import DTYPES
from theta_daemon.errors import CorruptObject, UnsupportedError
from theta_daemon.updates import git_theta
from theta_daemon.updates.array import Array
from theta_daemon.updates.steps import prepare

GUARD = 64
SHAPE = (3, 4)
ONES = np.ones(SHAPE, np.float32)
GOOD = sparse_arrays([0, 5, 11], np.ones(3, np.float32), SHAPE)
FACTORS = {"R": update_array(np.ones((3, 2), np.float32)), "C": update_array(np.ones((2, 4), np.float32))}
Arrays = Mapping[str, Array]


def array(values: Any, dtype: str = "int64") -> Array:
    return update_array(np.array(values, numpy_type(dtype)))


def attempt(update_type: str, arrays: Arrays, dtype: str = "float32", shape: tuple[int, ...] = SHAPE) -> bool:
    """Apply both ways and tell whether the update is taken; nothing may be written beside the value."""
    taken = False
    size = int(np.prod(shape)) * DTYPES[dtype].bits // 8
    rows = shape[0] if shape else 1
    guarded = bytearray(b"\xaa" * (size + 2 * GUARD))
    try:
        step = prepare(update_type, arrays, dtype, shape)
        for start in range(rows):
            place = GUARD + start * (size // rows)
            step.apply(memoryview(guarded)[place : place + size // rows], range(start, start + 1))
        taken = True
    except (CorruptObject, UnsupportedError) as error:
        assert len(str(error)) < 500
    assert guarded[:GUARD] == guarded[-GUARD:] == b"\xaa" * GUARD
    try:
        new = git_theta.apply(update_type, arrays, Array(dtype, shape, memoryview(bytes(size))))
        assert new.nbytes == size
        if dtype in {"float32", "float64"}:
            for before in (None, np.ones(shape, np.float32)):
                off = git_theta.slack(update_type, arrays, Array(dtype, shape, new), before)
                assert off is None or (off.shape == shape and np.isfinite(off).all())
    except (CorruptObject, UnsupportedError) as error:
        assert len(str(error)) < 500
    return taken


@pytest.mark.parametrize("right", DTYPES)
@pytest.mark.parametrize("left", DTYPES)
def test_factors_of_any_two_dtypes(left: str, right: str) -> None:
    def ones(dtype: str, *shape: int) -> Array:
        return Array(dtype, shape, memoryview(bytes([0x3C]) * (int(np.prod(shape)) * DTYPES[dtype].bits // 8)))

    attempt("low-rank", {"R": ones(left, 3, 2), "C": ones(right, 2, 4)})
    attempt("ia3", {"ia3": ones(left, 3, 4)})
    attempt("low-rank", {"parameter": ones(left, 3, 4)})


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("left", [(), (2,), (1, 2), (3, 2), (5, 3, 2)])
@pytest.mark.parametrize("right", [(), (2,), (2, 1), (2, 4), (5, 2, 4)])
def test_factors_whose_product_is_smaller_than_the_value(
    left: tuple[int, ...], right: tuple[int, ...], dtype: str
) -> None:
    arrays = {"R": update_array(np.ones(left, np.float32)), "C": update_array(np.ones(right, np.float32))}
    for shape in ((5, 3, 4), SHAPE, (4,), ()):
        attempt("low-rank", arrays, dtype, shape)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("number", [6e4, 1e20, 3e38, 1e-30, float("inf"), float("nan")])
def test_factors_beyond_all_bounds(number: float, dtype: str) -> None:
    with np.errstate(over="ignore"):
        left = np.full((3, 2), number).astype(dtype)
    attempt("low-rank", {**FACTORS, "R": update_array(left)})
    attempt("low-rank", {"R": update_array(left), "C": update_array(np.zeros((2, 4), dtype))})
    attempt("low-rank", {"R": update_array(left), "C": update_array(left.reshape(2, 3))}, shape=(3, 3))


def test_the_updates_themselves_are_good() -> None:
    assert attempt("sparse", GOOD)
    assert attempt("low-rank", FACTORS)
    assert attempt("low-rank", {"parameter": update_array(ONES)})
    assert attempt("ia3", {"ia3": update_array(ONES)})


SPARSE = {
    "a negative index": {"indices": array([0, -1, 11], "int32")},
    "a negative index first": {"indices": array([-1, 5, 11], "int32")},
    "an index behind the end": {"indices": array([0, 5, 12], "int32")},
    "an index far behind the end": {"indices": array([1 << 62, 5, 0])},
    "an index that wraps around": {"indices": array([0, 5, (1 << 64) - 1], "uint64")},
    "the least index": {"indices": array([0, -(1 << 63), 5])},
    "equal indices out of range": {"indices": array([12, 12, 12], "int32")},
    "indices of floats": {"indices": array([0, 5, 11], "float32")},
    "indices of bools": {"indices": array([0, 1, 1], "bool")},
    "indices of complex numbers": {"indices": array([0, 5, 11], "complex64")},
    "indices of bfloat16": {"indices": array([0, 5, 11], "bfloat16")},
    "fewer indices": {"indices": array([0, 5], "int32")},
    "more indices": {"indices": array([0, 5, 7, 11], "int32")},
    "indices of another rank": {"indices": array([[0, 5, 11]], "int32")},
    "one index without an axis": {"indices": array(5, "int32"), "data": array(1, "float32")},
    "numbers of another rank": {"data": array([[1, 1, 1]], "float32")},
    "a row that starts later": {"indptr": array([1, 3])},
    "a row that starts earlier": {"indptr": array([-1, 3])},
    "a row that ends before its beginning": {"indptr": array([0, -1])},
    "a row that ends behind the numbers": {"indptr": array([0, 4])},
    "a row that ends far behind the numbers": {"indptr": array([0, (1 << 63) - 1])},
    "a row of unsigned nonsense": {"indptr": array([0, (1 << 64) - 1], "uint64")},
    "two rows": {"indptr": array([0, 1, 3])},
    "no row": {"indptr": array([0])},
    "nothing in indptr": {"indptr": array([])},
    "indptr of floats": {"indptr": array([0, 3], "float64")},
    "indptr of NaN": {"indptr": array([float("nan"), float("nan")], "float64")},
    "indptr of another rank": {"indptr": array([[0, 3]])},
    "another shape": {"shape": array([4, 3])},
    "a flat shape": {"shape": array([12])},
    "a longer shape": {"shape": array([3, 4, 1])},
    "no shape": {"shape": array([])},
    "a negative shape": {"shape": array([-3, -4])},
    "a huge shape": {"shape": array([1 << 62, 1 << 62])},
    "a shape of another rank": {"shape": array([[3, 4]])},
    "a shape without an axis": {"shape": array(12)},
    "a shape of floats": {"shape": array([3, 4], "float64")},
    "a shape of complex numbers": {"shape": array([3, 4], "complex128")},
    "a shape of NaN": {"shape": array([float("nan"), 4], "float64")},
    "complex numbers": {"data": array([1, 1, 1], "complex64")},
    "numbers of half a byte": {"data": Array("float4_e2m1fn", (2,), memoryview(b"1"))},
    "halves that are complex": {"data": Array("complex32", (3,), memoryview(bytes(12)))},
}


@pytest.mark.parametrize("lie", SPARSE)
def test_sparse_updates_that_lie_are_refused(lie: str) -> None:
    assert not attempt("sparse", {**GOOD, **SPARSE[lie]})


@pytest.mark.parametrize(
    ("update_type", "good"),
    [
        ("sparse", GOOD),
        ("low-rank", FACTORS),
        ("low-rank", {"parameter": update_array(ONES)}),
        ("ia3", {"ia3": update_array(ONES)}),
    ],
)
def test_arrays_that_lie_about_themselves_are_refused(update_type: str, good: Arrays) -> None:
    for name, held in good.items():
        for lie in (
            held.replace(raw=held.raw[:-1]),
            held.replace(raw=memoryview(bytes(held.raw) + b"\0")),
            held.replace(raw=memoryview(b"")),
            held.replace(shape=(*held.shape, 2)),
            held.replace(shape=(*held.shape, 0)),
            held.replace(shape=(*held.shape, 1 << 61)),
            held.replace(shape=(1 << 40, 1 << 40)),
            held.replace(shape=(-1, *held.shape)),
            held.replace(shape=(1,) * 100),
            held.replace(dtype="nonsense"),
            held.replace(dtype=""),
            held.replace(dtype="x" * 10_000),
        ):
            assert not attempt(update_type, {**good, name: lie})
        assert not attempt(update_type, {other: array for other, array in good.items() if other != name})
    assert not attempt(update_type, {**good, "more": array([0])})
    assert not attempt(update_type, {**good, "x" * 10_000: array([0])})
    assert not attempt(update_type, {})


@pytest.mark.parametrize("dtype", [name for name, row in DTYPES.items() if row.bits % 8 == 0])
@pytest.mark.parametrize("update", [name for name, row in DTYPES.items() if row.bits % 8 == 0])
def test_every_type_with_every_other(dtype: str, update: str) -> None:
    if "complex32" in (dtype, update):
        return
    ones = np.ones(SHAPE, numpy_type(update))
    attempt("sparse", {**GOOD, "data": update_array(ones.reshape(-1)[:3])}, dtype)
    attempt("ia3", {"ia3": update_array(ones)}, dtype)
    attempt("low-rank", {"R": update_array(ones[:, :2]), "C": update_array(ones[:2])}, dtype)
    attempt("low-rank", {"parameter": update_array(ones)}, dtype)


@pytest.mark.parametrize("shape", [(1 << 61, 0), (0, 1 << 61), (1 << 31, 1 << 31, 0), (1,) * 64, (0,) * 64])
def test_groups_of_absurd_shapes(shape: tuple[int, ...]) -> None:
    size = int(all(shape))
    previous = Array("float32", shape, memoryview(bytes(4 * size)))
    for update_type, arrays in (
        ("sparse", sparse_arrays([], np.ones(0, np.float32), shape)),
        ("ia3", {"ia3": array(1, "float32")}),
        ("ia3", {"ia3": previous}),
        ("low-rank", {"parameter": previous}),
        ("low-rank", FACTORS),
    ):
        with suppress(CorruptObject, UnsupportedError):
            step = prepare(update_type, arrays, "float32", shape)
            step.apply(memoryview(bytearray(4 * size)), range(shape[0]))
        with suppress(CorruptObject, UnsupportedError):
            git_theta.apply(update_type, arrays, previous)


def test_a_small_update_asks_for_no_memory_of_the_shape_that_it_claims() -> None:
    huge = (1 << 20, 1 << 20)
    tracemalloc.start()
    try:
        prepare("sparse", {**GOOD, "shape": array(huge)}, "float32", huge)
        prepare("ia3", {"ia3": array([[2]], "float32")}, "float32", huge)
        with pytest.raises(CorruptObject):
            prepare("low-rank", FACTORS, "float32", huge)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


NAMES = st.sampled_from(["data", "indices", "indptr", "shape", "R", "C", "ia3", "parameter"])
KINDS = [name for name, row in DTYPES.items() if row.bits % 8 == 0]


@st.composite
def any_array(draw: st.DrawFn) -> Array:
    dtype = draw(st.sampled_from([*KINDS, "int32", "int64", "float32"]))
    shape = tuple(draw(st.lists(st.integers(0, 4), max_size=3)))
    size = int(np.prod(shape)) * DTYPES[dtype].bits // 8
    small = st.lists(st.integers(0, 4), min_size=size, max_size=size).map(bytes)
    return Array(dtype, shape, memoryview(draw(small | st.binary(min_size=size, max_size=size))))


@given(
    update_type=st.sampled_from(["sparse", "low-rank", "ia3"]),
    arrays=st.dictionaries(NAMES, any_array(), max_size=5),
    dtype=st.sampled_from(KINDS),
    shape=st.lists(st.integers(0, 4), max_size=3).map(tuple),
)
def test_anything(update_type: str, arrays: dict[str, Array], dtype: str, shape: tuple[int, ...]) -> None:
    attempt(update_type, arrays, dtype, shape)


@given(st.data())
def test_sparse_updates_of_any_integers(data: st.DataObject) -> None:
    near = st.integers(-3, 14)
    count = data.draw(st.integers(0, 4))
    arrays = {
        "data": update_array(np.ones(count, np.float32)),
        "indices": array(data.draw(st.lists(near, min_size=count, max_size=count))),
        "indptr": array([data.draw(st.sampled_from([0, 0, 0, 1, -1])), data.draw(near)]),
        "shape": array(SHAPE),
    }
    first, last = arrays["indptr"].raw.cast("q").tolist()
    used = arrays["indices"].raw.cast("q").tolist()[: max(last, 0)]
    is_good = first == 0 and 0 <= last <= count and all(0 <= index < 12 for index in used)
    assert attempt("sparse", arrays) == is_good
