"""exact-sparse: changes are found by their bits and applied in order."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from tests.support.update_arrays import some
from theta_daemon.errors import CorruptObject
from theta_daemon.updates import exact_sparse
from theta_daemon.updates.exact_sparse import Changes, Scattered, changes, compose, scatter

NOTHING = memoryview(b"")
PLENTY = 1 << 40


def raw(values: list[float], dtype: str) -> memoryview:
    return memoryview(np.array(values, dtype).tobytes())


def between(previous: memoryview, new: memoryview, dtype: str) -> Changes:
    found = changes(previous, new, dtype, PLENTY)
    assert found is not None
    return found


def together(chain: list[Changes], dtype: str, shape: tuple[int, ...]) -> Scattered:
    positions = np.concatenate([each.indices for each in chain]).astype(np.intp)
    return scatter(positions, np.concatenate([each.values for each in chain]), chain[0].unit, dtype, shape)


def test_elements_are_compared_by_their_bits() -> None:
    quiet, other = (np.array([bits], "<u4").view("<f4")[0] for bits in (0x7FC00000, 0x7FC00001))
    previous = raw([0.0, -0.0, 1.0, quiet, quiet], "<f4")
    new = raw([-0.0, -0.0, 1.0, quiet, other], "<f4")
    found = between(previous, new, "float32")
    assert (found.unit, found.indices.dtype, found.values.dtype) == (4, np.uint32, np.uint32)
    assert (found.indices.tolist(), found.values.tolist()) == ([0, 4], [0x80000000, 0x7FC00001])
    assert found.nbytes == 16


@pytest.mark.parametrize(
    ("dtype", "unit"), [("bool", 1), ("bfloat16", 2), ("complex32", 4), ("complex64", 8), ("complex128", 16)]
)
def test_elements_change_as_a_whole(dtype: str, unit: int) -> None:
    previous, new = bytearray(5 * unit), bytearray(5 * unit)
    new[unit] = 7  # the first byte of one element, and the last of another
    new[4 * unit - 1] = 9
    found = between(memoryview(previous), memoryview(new), dtype)
    assert (found.unit, found.indices.tolist()) == (unit, [1, 3])
    compose([found], dtype, (5,)).apply(memoryview(previous), range(5))
    assert previous == new


def test_elements_that_are_no_whole_bytes_change_by_the_byte() -> None:
    found = between(memoryview(b"abcdef"), memoryview(b"abXdef"), "float6_e2m3fn")
    assert (found.unit, found.indices.tolist(), found.values.tolist()) == (1, [2], [ord("X")])


def test_more_changes_than_wanted_are_none() -> None:
    previous, new = memoryview(bytes(4000)), memoryview(b"\1" * 4000)
    assert changes(previous, new, "float32", 7999) is None
    found = changes(previous, new, "float32", 8000)
    assert found is not None
    assert found.nbytes == 8000


def test_equal_values_have_no_changes() -> None:
    found = between(memoryview(b"same"), memoryview(b"same"), "float32")
    assert (found.nbytes, len(found.indices), found.values.dtype) == (0, 0, np.uint32)
    assert between(NOTHING, NOTHING, "complex128").values.shape == (0, 2)


def test_values_of_different_sizes_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="4 bytes"):
        changes(memoryview(b"1234"), memoryview(b"12345678"), "float32", PLENTY)


@pytest.mark.parametrize("dtype", ["float16", "complex128"])
def test_large_values_are_compared_in_parts_that_are_forgotten(dtype: str) -> None:
    unit = {"float16": 2, "complex128": 16}[dtype]
    previous, new = bytes(3_000_000 * unit), bytearray(3_000_000 * unit)
    places = [0, 131_071, 131_072, 1_500_000, 2_999_999]
    for at in places:
        new[at * unit] = 1
    forgotten: list[tuple[int, int]] = []
    tracemalloc.start()
    found = changes(memoryview(previous), memoryview(new), dtype, 100, lambda *part: forgotten.append(part))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found is not None
    assert found.indices.tolist() == places
    assert peak < 1 << 20
    ends = [0, *(stop for _, stop in forgotten)]
    assert [start for start, _ in forgotten] == ends[:-1]
    assert ends[-1] == len(new)


def test_later_changes_win() -> None:
    chain = [some(400, seed) for seed in range(8)]  # of 1000 elements: most are changed several times
    value = np.arange(1000, dtype="u4")
    one_by_one = value.copy()
    for each in chain:
        for at, bits in zip(each.indices.tolist(), each.values.tolist(), strict=True):
            one_by_one[at] = bits
    at_once = value.copy()
    compose(chain, "float32", (1000,)).apply(value.view(np.uint8).data, range(1000))
    assert value.tolist() == one_by_one.tolist()
    together(chain, "float32", (1000,)).apply(at_once.view(np.uint8).data, range(1000))
    assert at_once.tolist() == one_by_one.tolist()


@pytest.mark.parametrize("block", [1, 7, 1 << 16])
@pytest.mark.parametrize("window", [1, 3, 10, 19, 20])
@pytest.mark.parametrize("unit", [4, 16])
def test_windows_of_rows_make_the_same(monkeypatch: pytest.MonkeyPatch, block: int, window: int, unit: int) -> None:
    monkeypatch.setattr(exact_sparse, "_BLOCK", block)
    dtype = {4: "int32", 16: "complex128"}[unit]
    chain = [some(count, 20 + count, unit, 100) for count in (0, 1, 30, 100, 50)]
    step, at_once = compose(chain, dtype, (20, 5)), together(chain, dtype, (20, 5))
    whole, parts, others = bytearray(100 * unit), bytearray(100 * unit), bytearray(100 * unit)
    step.apply(memoryview(whole), range(20))
    row = 5 * unit
    for start in range(0, 20, window):
        stop = min(start + window, 20)
        step.apply(memoryview(parts)[start * row : stop * row], range(start, stop))
        at_once.apply(memoryview(others)[start * row : stop * row], range(start, stop))
    assert parts == others == whole
    assert any(whole)


def test_rows_far_into_a_group_are_found() -> None:
    far = Changes(1, np.array([0, (1 << 32) + 2], "u8"), np.array([1, 2], "u1"))
    near = Changes(1, np.array([5, (1 << 32) - 1], "u4"), np.array([3, 4], "u1"))
    step = compose([far, near], "int8", ((1 << 32) + 4,))
    value = bytearray(4)
    step.apply(memoryview(value), range(1 << 32, (1 << 32) + 4))
    assert value == b"\0\0\2\0"
    step.apply(memoryview(value), range((1 << 32) - 2, (1 << 32) + 2))
    assert value == b"\0\4\2\0"


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_scalar_is_one_row(shape: tuple[int, ...]) -> None:
    value = bytearray(4)
    each = Changes(4, np.array([0], "u4"), np.array([0x01020304], "u4"))
    compose([each], "float32", shape).apply(memoryview(value), range(1))
    assert value == b"\4\3\2\1"


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
def test_a_group_without_elements_stays_so(shape: tuple[int, ...]) -> None:
    empty = between(NOTHING, NOTHING, "float32")
    compose([empty], "float32", shape).apply(memoryview(bytearray()), range(shape[0]))
    with pytest.raises(CorruptObject, match="among the 0 elements"):
        compose([some(1, 0)], "float32", shape)


def test_changes_that_do_not_fit_the_group_are_refused() -> None:
    last = Changes(4, np.array([2, 9], "u4"), np.array([1, 2], "u4"))
    compose([last], "float32", (2, 5))
    with pytest.raises(CorruptObject, match="among the 9 elements"):
        compose([last], "float32", (3, 3))
    with pytest.raises(CorruptObject, match="elements of 4 bytes for float16"):
        compose([last], "float16", (2, 5))
    with pytest.raises(CorruptObject, match="elements of 2 bytes for float32"):
        compose([last, some(1, 1, unit=2)], "float32", (2, 5))
    together([last], "float32", (2, 5))
    with pytest.raises(CorruptObject, match="among the 9 elements"):
        together([last], "float32", (3, 3))
    with pytest.raises(CorruptObject, match="elements of 4 bytes for float16"):
        together([last], "float16", (2, 5))


def test_a_position_beyond_what_numpy_counts_is_refused() -> None:
    huge = Changes(1, np.array([(1 << 64) - 1], "u8"), np.array([1], "u1"))
    with pytest.raises(CorruptObject, match="among the 10 elements"):
        compose([huge], "uint8", (10,))
    with pytest.raises(CorruptObject, match="among the 10 elements"):
        together([huge], "uint8", (10,))


def test_a_value_may_lie_at_any_address() -> None:
    memory = bytearray(4 * 10 + 1)
    compose([some(3, 1, size=10)], "float32", (10,)).apply(memoryview(memory)[1:], range(10))
    aligned = bytearray(4 * 10)
    compose([some(3, 1, size=10)], "float32", (10,)).apply(memoryview(aligned), range(10))
    assert memory[1:] == aligned
