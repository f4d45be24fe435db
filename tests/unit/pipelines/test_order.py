"""From the order in which a file stores a group, or a view of one, to the logical one."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from theta_daemon.formats.parts import Window
from theta_daemon.pipelines.order import gathered_pieces, to_stored, window_of

DTYPES = {"uint8": "u1", "bfloat16": "u2", "float32": "u4", "float64": "u8", "complex128": "c16"}


def numbered(dtype: str, count: int) -> memoryview:
    """Return the bytes of so many elements, no two of them alike as far as that can be."""
    size = np.dtype(DTYPES[dtype]).itemsize
    return memoryview(np.arange(count * size // 2 + 1, dtype="<u2").tobytes())[: count * size]


def gather(stored: memoryview, dtype: str, shape: tuple[int, ...], window: Window, most: int) -> bytes:
    pieces = []
    for piece in gathered_pieces(stored, dtype, shape, window, most, lambda: None):
        assert len(piece) <= max(most, np.dtype(DTYPES[dtype]).itemsize)
        pieces.append(bytes(piece))
    return b"".join(pieces)


@pytest.mark.parametrize("most", [1, 7, 64, 100, 1 << 20])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (5,), (3, 4), (4, 3, 5), (2, 1, 3, 4), (0, 3), (3, 0)])
def test_permuted_groups(dtype: str, shape: tuple[int, ...], most: int) -> None:
    logical = numbered(dtype, math.prod(shape))
    for axes in itertools.permutations(range(len(shape))):
        stored = to_stored(logical, dtype, shape, axes)
        assert gather(stored, dtype, shape, window_of(dtype, shape, axes), most) == logical


@pytest.mark.parametrize("most", [4, 24, 1000])
@pytest.mark.parametrize(
    ("shape", "window"),
    [
        ((4,), Window(8, (4,))),
        ((3, 2), Window(4, (16, 8))),
        ((3, 2), Window(0, (4, 16))),
        ((5, 3), Window(20, (0, 4))),
        ((5, 3), Window(20, (4, 0))),
        ((4, 4), Window(0, (4, 4))),
        ((), Window(12, ())),
        ((2, 0), Window(12, (4, 4))),
    ],
)
def test_views(shape: tuple[int, ...], window: Window, most: int) -> None:
    stored = numbered("float32", 20)
    values = np.frombuffer(stored, "u4")
    expected = [
        values[(window.offset + sum(i * stride for i, stride in zip(place, window.strides, strict=True))) // 4]
        for place in itertools.product(*map(range, shape))
    ]
    assert gather(stored, "float32", shape, window, most) == np.array(expected, "u4").tobytes()


@pytest.mark.parametrize("window", [Window(0, (4, 20)), Window(4, (20, 4)), Window(0, (20, 8)), Window(80, (0, 0))])
def test_a_view_never_leaves_its_owners_bytes(window: Window) -> None:
    with pytest.raises(ValueError, match=r"stride|offset|small"):
        gather(numbered("float32", 20), "float32", (4, 5), window, 1000)


@pytest.mark.parametrize(("rows", "columns", "walked"), [(3000, 4000, 12), (12, 1_000_000, 12), (1_000_000, 12, 12)])
def test_a_large_group_is_walked_over_in_parts_that_stay_small(rows: int, columns: int, walked: int) -> None:
    """`forget` is called every 4 MiB of 48 MiB, for each piece, or what was walked over would stay in memory."""
    stored = np.random.default_rng(0).integers(0, 1 << 32, (columns, rows), np.uint32)
    calls = 0

    def forget() -> None:
        nonlocal calls
        calls += 1

    window = window_of("float32", (rows, columns), (1, 0))
    pieces = gathered_pieces(stored.data.cast("B"), "float32", (rows, columns), window, 24 << 20, forget)
    assert b"".join(bytes(piece) for piece in pieces) == stored.T.tobytes()
    assert 2 * walked <= calls <= 6 * walked
