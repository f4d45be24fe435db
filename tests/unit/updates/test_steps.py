"""Which step an update becomes, and that steps in a row make what they make one by one."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.update_arrays import applied, bits, raw, sparse_arrays, update_array
from theta_daemon.errors import CorruptObject, UnsupportedError
from theta_daemon.updates import bundle, exact_sparse
from theta_daemon.updates.array import Array
from theta_daemon.updates.sparse import Sparse
from theta_daemon.updates.steps import Step, apply_all, prepare

ONES = update_array(np.ones((1, 1), np.float32))


@pytest.mark.parametrize(
    ("update_type", "arrays", "expected"),
    [
        ("sparse", sparse_arrays([0], np.array([3], np.float32), (1, 1)), 5),
        ("low-rank", {"R": ONES, "C": ONES}, 3),
        ("low-rank", {"parameter": ONES}, 3),
        ("ia3", {"ia3": update_array(np.array([4], np.float32))}, 8),
    ],
)
def test_git_thetas_types(update_type: str, arrays: dict[str, Array], expected: float) -> None:
    step = prepare(update_type, arrays, "float32", (1, 1), ("layer", "weight"))
    assert applied(step, np.full((1, 1), 2, np.float32)) == expected


def test_the_exact_form_is_found_by_its_name() -> None:
    previous, new = np.array([1, 2], np.float32), np.array([1, -0.0], np.float32)
    found = exact_sparse.changes(raw(previous), raw(new), "float32", 99)
    assert found is not None
    arrays = bundle.pack([([("layer", "weight")], found)])
    step = prepare("exact-sparse", arrays, "float32", (2,), ("layer", "weight"))
    assert bits(applied(step, previous)) == bits(new)
    with pytest.raises(CorruptObject, match="no changes of this parameter group"):
        prepare("exact-sparse", arrays, "float32", (2,), ("layer", "bias"))


@pytest.mark.parametrize("update_type", ["dense", "", "sparse ", "x" * 1000])
def test_other_types_are_not_known(update_type: str) -> None:
    with pytest.raises(UnsupportedError, match="is not known") as error:
        prepare(update_type, {}, "float32", (1,))
    assert len(str(error.value)) < 200


def sparse(positions: list[int], numbers: list[float], dtype: str = "float32") -> Step:
    return prepare("sparse", sparse_arrays(positions, np.array(numbers, np.float32), (4,)), dtype, (4,))


def by(factors: list[float], dtype: str = "float32") -> Step:
    return prepare("ia3", {"ia3": update_array(np.array(factors, np.float32))}, dtype, (4,))


def plus(terms: list[float], dtype: str = "float32") -> Step:
    return prepare("low-rank", {"parameter": update_array(np.array(terms, np.float32))}, dtype, (4,))


TINY = 2.0**-30


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("steps", ["s", "ss", "sis", "sips", "r", "rs", "rrs", "siss", "issrsi"])
def test_steps_in_a_row(steps: str, dtype: str) -> None:
    """`s` settles zeros, `i` makes negative ones again, `r` rounds one to negative zero where the type is narrow."""
    made = {
        "s": sparse([2], [1], dtype),
        "i": by([-1, 1, 1, -1], dtype),
        "p": plus([-0.0, 0, -0.0, -0.0], dtype),
        "r": sparse([1, 3], [-TINY, 1], dtype),
    }
    previous = np.array([-0.0, 0, -0.0, 1]).astype(dtype)
    expected = previous
    for step in steps:
        expected = applied(made[step], expected)
    value = bytearray(previous.tobytes())
    apply_all([made[step] for step in steps], memoryview(value), range(4))
    assert bits(np.frombuffer(value, dtype)) == bits(expected)


def test_a_row_of_sparse_updates_looks_for_zeros_once(monkeypatch: pytest.MonkeyPatch) -> None:
    times = []
    settle = Sparse.settle

    def counted(step: Sparse, value: memoryview) -> None:
        times.append(step)
        settle(step, value)

    monkeypatch.setattr(Sparse, "settle", counted)
    apply_all([sparse([1], [n]) for n in range(20)], memoryview(bytearray(16)), range(4))
    assert len(times) == 1


def signs(values: NDArray[np.float16]) -> list[bool]:
    found: list[bool] = np.signbit(values).tolist()
    return found


def test_the_cases_above_are_what_they_say() -> None:
    rounded = applied(sparse([1], [-TINY], "float16"), np.array([-0.0, 0, 0, 0], np.float16))
    assert signs(rounded) == [False, True, False, False]
    assert signs(applied(sparse([], [], "float16"), rounded)) == [False] * 4
    assert signs(applied(by([-1] * 4, "float16"), rounded)) == [True, False, True, True]


def test_numpy_does_not_warn() -> None:
    huge = [3e38, 1, 1, 1]
    steps = [
        sparse([0, 1], [3e38, float("inf")]),
        sparse([1], [float("-inf")]),
        by([0, 1, 1, 1]),
        plus(huge),
        plus(huge),
    ]
    value = bytearray(np.array(huge, np.float32).tobytes())
    apply_all(steps, memoryview(value), range(4))
    for step in steps:
        step.apply(memoryview(value), range(4))
    assert np.isnan(np.frombuffer(value, np.float32)[:2]).all()


def test_integers_have_nothing_to_settle() -> None:
    step = prepare("sparse", sparse_arrays([1], np.array([5], np.int64), (2,)), "int8", (2,))
    value = bytearray(b"\x80\x7f")
    apply_all([step, step], memoryview(value), range(2))
    assert value == b"\x80\x89"
