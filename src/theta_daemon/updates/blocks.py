"""Large values in blocks that stay in the processor's cache, and the memory to compute them in."""

from __future__ import annotations

import math
import threading
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from theta_daemon.updates.numbers import BLOCK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from theta_daemon.updates.numbers import Type, Values

    Block = tuple[slice, ...]

_WIDEST = 8  # bytes of a number that blocks are computed in
_LINE = 64


def blocks(shape: tuple[int, ...]) -> Iterator[Block]:
    """Yield blocks of at most BLOCK elements that cover `shape` (rank 1 at least): a slice for each axis.

    Each is contiguous in C order. The last axes are cut only where they must be: what is computed with one number for
    each row is fast where rows are whole.
    """
    if not math.prod(shape):
        return
    axis = 0
    while (inner := math.prod(shape[axis + 1 :])) > BLOCK:
        axis += 1
    parts = -(-shape[axis] // (BLOCK // inner))
    step = -(-shape[axis] // parts)  # all about equally large
    cuts = [slice(start, min(start + step, shape[axis])) for start in range(0, shape[axis], step)]
    rest = [slice(0, size) for size in shape[axis + 1 :]]
    for outer in product(*(range(size) for size in shape[:axis])):
        for cut in cuts:
            yield (*(slice(i, i + 1) for i in outer), cut, *rest)


class _Rooms(threading.local):
    """A thread's memory to compute in, used again and again: fresh memory costs more than a sum in it."""

    def __init__(self) -> None:
        self.bytes: list[Values | None] = [None, None, None]


_rooms = _Rooms()


def room(which: int, dtype: Type, shape: tuple[int, ...]) -> Values:
    """Return one of the thread's three rooms (0, 1, 2) as an array, of whatever content, of at most BLOCK elements."""
    whole = _rooms.bytes[which]
    if whole is None:
        whole = np.empty(BLOCK * _WIDEST + _LINE, np.uint8)
        # At a cache line: where numpy puts it, sums take a seventh longer.
        skip = -whole.__array_interface__["data"][0] % _LINE
        whole = _rooms.bytes[which] = whole[skip : skip + BLOCK * _WIDEST]
    return whole[: math.prod(shape) * dtype.itemsize].view(dtype).reshape(shape)


def converted(values: Values, dtype: Type, which: int) -> Values:
    """Return `values`, of at most BLOCK elements, as `dtype`: themselves where they are, else in the thread's room."""
    if values.dtype == dtype:
        return values
    wide = room(which, dtype, values.shape)
    np.copyto(wide, values, casting="unsafe")
    return wide
