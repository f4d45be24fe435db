"""However the rows of a parameter group are cut, and whatever steps come in a row, the bits are the same."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.support.update_arrays import COMPLEX, FLOATS, INTEGERS, applied, numpy_type, sparse_arrays, update_array
from theta_daemon.updates.steps import Step, apply_all, prepare

SHAPES = st.lists(st.integers(1, 7), min_size=2, max_size=2) | st.lists(st.integers(1, 7), max_size=3)


def some_values(draw: st.DrawFn, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    """Return values of any bits, or such as a model has; zeros of both signs, infinities and NaN come often."""
    kind = numpy_type(dtype)
    rng = np.random.default_rng(draw(st.integers(0, 1 << 32)))
    count = int(np.prod(shape))
    if dtype in INTEGERS or draw(st.booleans()):
        values = np.frombuffer(rng.bytes(count * kind.itemsize), kind).copy()
    else:
        values = rng.standard_normal(count).astype(kind)
    if dtype in (*FLOATS, *COMPLEX):
        for place in draw(st.lists(st.integers(0, max(count - 1, 0)), max_size=4 if count else 0)):
            values[place] = np.array(draw(st.sampled_from([-0.0, 0.0, np.inf, -np.inf, np.nan, 1.0]))).astype(kind)
    return values.reshape(shape)


@st.composite
def groups(draw: st.DrawFn) -> tuple[NDArray[Any], list[Step]]:
    """Return a value and up to four steps for it."""
    shape = tuple(draw(SHAPES))
    dtype = draw(st.sampled_from([*FLOATS, *COMPLEX, *INTEGERS]))
    steps = []
    types = ["sparse"] if dtype not in FLOATS else ["sparse", "sparse", "ia3", "low-rank"]
    for update_type in draw(st.lists(st.sampled_from(types), min_size=1, max_size=4)):
        update = draw(st.sampled_from(["int32", "bool"] if dtype in INTEGERS else ["float32", "float64", "bfloat16"]))
        if update_type == "sparse":
            places = st.integers(0, int(np.prod(shape)) - 1)
            positions = draw(st.lists(places, max_size=6))
            arrays = sparse_arrays(positions, some_values(draw, (len(positions),), update), shape)
        elif update_type == "ia3":
            broadcast = tuple(draw(st.sampled_from([1, size])) for size in shape)
            arrays = {"ia3": update_array(some_values(draw, broadcast, update))}
        elif len(shape) == 2:
            k = draw(st.integers(1, 3))
            arrays = {
                "R": update_array(some_values(draw, (shape[0], k), update)),
                "C": update_array(some_values(draw, (k, shape[1]), update)),
            }
        else:
            arrays = {"parameter": update_array(some_values(draw, shape, update))}
        steps.append(prepare(update_type, arrays, dtype, shape))
    return some_values(draw, shape, dtype), steps


@given(groups(), st.data())
def test_any_cut_into_rows_gives_the_same_bits(group: tuple[NDArray[Any], list[Step]], data: st.DataObject) -> None:
    previous, steps = group
    rows = previous.shape[0] if previous.shape else 1
    expected = previous
    for step in steps:
        expected = applied(step, expected)

    cuts = sorted({0, rows, *data.draw(st.lists(st.integers(0, rows), max_size=4))})
    windows = [range(start, stop) for start, stop in pairwise(cuts)]
    data.draw(st.randoms(use_true_random=False)).shuffle(windows)
    value = bytearray(previous.tobytes())
    row = len(value) // rows
    for window in windows:
        apply_all(steps, memoryview(value)[window.start * row : window.stop * row], window)
    assert value == expected.tobytes()
