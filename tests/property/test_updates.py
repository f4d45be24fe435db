"""Laws of updates: whatever two values of a parameter group are, exact-sparse makes the one of the other, and what
`infer` returns gives exactly the bits.
"""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from theta_daemon import dtypes
from theta_daemon.updates.bundle import Run, pack, unpack
from theta_daemon.updates.exact_sparse import Changes, changes, compose
from theta_daemon.updates.infer import infer
from theta_daemon.updates.steps import prepare

PLENTY = 1 << 40


def size_of(dtype: str, shape: tuple[int, ...]) -> int | None:
    bits = math.prod(shape) * dtypes.DTYPES[dtype].bits
    return None if bits % 8 else bits // 8


@st.composite
def kinds(draw: st.DrawFn) -> tuple[str, tuple[int, ...], int]:
    shape = tuple(draw(st.lists(st.integers(0, 6), max_size=3)))
    dtype = draw(st.sampled_from([name for name in dtypes.DTYPES if size_of(name, shape) is not None]))
    return dtype, shape, dtypes.nbytes(dtype, shape)


@st.composite
def chains(draw: st.DrawFn) -> tuple[str, tuple[int, ...], list[bytes]]:
    """Return a group's dtype and shape, and values of it of which each is like the one before, or is not."""
    dtype, shape, size = draw(kinds())
    values = [draw(st.binary(min_size=size, max_size=size))]
    for _ in range(draw(st.integers(1, 4))):
        value = bytearray(values[-1])
        for at in draw(st.lists(st.integers(0, max(size - 1, 0)), max_size=5)) if size else []:
            value[at] = draw(st.sampled_from([0, 0x80, 0x7F, 0xFF, 1]) | st.integers(0, 255))
        values.append(bytes(value) if draw(st.integers(0, 4)) else draw(st.binary(min_size=size, max_size=size)))
    return dtype, shape, values


def between(previous: bytes, new: bytes, dtype: str) -> Changes:
    found = changes(memoryview(previous), memoryview(new), dtype, PLENTY)
    assert found is not None
    return found


@given(chains(), st.integers(1, 4), st.data())
def test_exact_sparse_makes_any_value_of_any_other(
    chain: tuple[str, tuple[int, ...], list[bytes]], at_once: int, data: st.DataObject
) -> None:
    dtype, shape, values = chain
    steps = [between(*pair, dtype) for pair in pairwise(values)]
    names = [[(str(number), "weight"), (f"alias {number}",)] for number in range(len(steps))]
    read = unpack(pack(list(zip(names, steps, strict=True))))
    for number, (before, after) in enumerate(pairwise(values)):
        one = bytearray(before)
        found = read.changes((f"alias {number}",))
        assert found is not None
        compose([found], dtype, shape).apply(memoryview(one), range(shape[0] if shape else 1))
        assert one == after
        differ = sum(1 for old, new in zip(before, after, strict=True) if old != new)
        assert len(steps[number].indices) <= differ

    rows = shape[0] if shape else 1
    if rows and len(values[0]) % rows == 0 and (dtypes.DTYPES[dtype].bits % 8 == 0 or rows == 1):
        step = compose(steps, dtype, shape)
        value, row = bytearray(values[0]), len(values[0]) // rows
        for start in range(0, rows, at_once):
            stop = min(start + at_once, rows)
            step.apply(memoryview(value)[start * row : stop * row], range(start, stop))
        assert value == values[-1]

    if steps:
        run = Run([unpack(pack([([("a",), ("b",)], each)])) for each in steps])
        value = bytearray(values[0])
        run.step(("b",), dtype, shape).apply(memoryview(value), range(rows))
        assert value == values[-1]


@given(chains(), st.integers(0, 200))
def test_changes_are_none_exactly_where_they_are_too_many(
    chain: tuple[str, tuple[int, ...], list[bytes]], most: int
) -> None:
    dtype, _, values = chain
    before, after = values[:2]
    found = changes(memoryview(before), memoryview(after), dtype, most)
    everything = between(before, after, dtype)
    if everything.nbytes > most:
        assert found is None
    else:
        assert found is not None
        assert found.indices.tolist() == everything.indices.tolist()


TYPES = st.sampled_from(["sparse", "low-rank", "ia3"])


@given(TYPES, chains(), st.sampled_from([PLENTY, 200, 40]))
@example("sparse", ("float16", (2,), [bytes.fromhex("0080 003c"), bytes.fromhex("0000 003c")]), PLENTY)
@example("ia3", ("float32", (1,), [bytes.fromhex("00000080"), bytes.fromhex("00000000")]), PLENTY)
@example("low-rank", ("float32", (1, 1), [bytes.fromhex("0000807f"), bytes.fromhex("0000807f")]), PLENTY)
def test_what_is_inferred_gives_the_bits(
    update_type: str, chain: tuple[str, tuple[int, ...], list[bytes]], most: int
) -> None:
    dtype, shape, values = chain
    before, after = values[:2]
    arrays = infer(update_type, memoryview(before), memoryview(after), dtype, shape, most)
    again = infer(update_type, memoryview(bytearray(before)), memoryview(bytearray(after)), dtype, shape, most)
    assert arrays == again
    if arrays is None:
        return
    assert sum(len(each.raw) for each in arrays.values()) <= most
    value = bytearray(before)
    prepare(update_type, arrays, dtype, shape).apply(memoryview(value), range(shape[0] if shape else 1))
    assert value == after


NUMBERS = st.sampled_from([0.0, 0.5, -1.0, 1.5, 3.0, -0.25, 2.0])


@given(
    st.sampled_from(["float16", "float32", "float64"]),
    st.lists(NUMBERS, min_size=12, max_size=12),
    st.lists(NUMBERS, min_size=4, max_size=4),
    st.sampled_from([(1, 4), (3, 1), (1, 1)]),
)
def test_what_was_made_by_factors_of_a_few_digits_is_found(
    dtype: str, numbers: list[float], factors: list[float], shape: tuple[int, int]
) -> None:
    previous = np.array(numbers, dtype).reshape(3, 4)
    by = np.array(factors[: math.prod(shape)], dtype).reshape(shape)
    new = previous * by
    if (np.signbit(new) & (new == 0)).any() or (np.signbit(previous) & (previous == 0)).any():
        return  # which factor a column of zeros had, nothing tells
    before, after = memoryview(previous.tobytes()), memoryview(new.tobytes())
    assert infer("ia3", before, after, dtype, (3, 4), PLENTY) is not None


@given(
    st.sampled_from(["float32", "float64"]),
    st.lists(st.integers(-8, 8), min_size=12, max_size=12),
    st.lists(st.sampled_from([-2, -1, 0, 1, 2]), min_size=7, max_size=7),
)
def test_what_one_row_and_column_of_powers_of_two_made_is_found(
    dtype: str, numbers: list[int], factors: list[int]
) -> None:
    previous = np.array(numbers, dtype).reshape(3, 4)
    new = previous + np.outer(factors[:3], factors[3:]).astype(dtype)
    before, after = memoryview(previous.tobytes()), memoryview(new.tobytes())
    found = infer("low-rank", before, after, dtype, (3, 4), PLENTY)
    assert (found is None) == (not np.outer(factors[:3], factors[3:]).any())
