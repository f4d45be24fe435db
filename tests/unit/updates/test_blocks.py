from __future__ import annotations

import threading

import numpy as np
import pytest

from theta_daemon.updates.blocks import blocks, converted, room
from theta_daemon.updates.numbers import BLOCK

FLOAT32 = np.dtype(np.float32)


@pytest.mark.parametrize(
    "shape",
    [
        (1,),
        (BLOCK,),
        (BLOCK + 1,),
        (3, BLOCK),
        (2, BLOCK + 1),
        (5, 300, 300),
        (2, 3, BLOCK + 7),
        (BLOCK, 3),
        (2, 1, 1),
        (2, BLOCK + 1, 1),
    ],
)
def test_blocks_cover_a_shape_once(shape: tuple[int, ...]) -> None:
    times = np.zeros(shape, np.uint8)
    for block in blocks(shape):
        assert times[block].size <= BLOCK
        times[block] += 1
    assert (times == 1).all()


@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0), (0, BLOCK, BLOCK), (BLOCK, BLOCK, 0), (1 << 60, 0)])
def test_nothing_has_no_blocks(shape: tuple[int, ...]) -> None:
    assert list(blocks(shape)) == []


def test_blocks_are_large() -> None:
    assert len(list(blocks((768, 3072)))) == -(-768 // (BLOCK // 3072))


def test_a_thread_has_two_rooms_of_its_own_and_uses_them_again() -> None:
    first, second = room(0, FLOAT32, (4, 5)), room(1, FLOAT32, (BLOCK,))
    assert first.shape == (4, 5)
    assert not np.shares_memory(first, second)
    assert np.shares_memory(first, room(0, np.dtype(np.float64), (BLOCK,)))
    other = []
    thread = threading.Thread(target=lambda: other.append(room(0, FLOAT32, (4, 5))))
    thread.start()
    thread.join()
    assert not np.shares_memory(first, other[0])


def test_only_what_is_of_another_type_is_converted() -> None:
    values = np.array([1.5, 2.5], np.float32)
    assert converted(values, FLOAT32, 0) is values
    wide = converted(values, np.dtype(np.float64), 1)
    assert wide.tolist() == [1.5, 2.5]
    assert np.shares_memory(wide, room(1, FLOAT32, (1,)))
