"""The orders of a parameter group's bytes: logical (C order of its shape) and as the file stores it.

Only permuted tensors (`.t()`, channels last) and views within other tensors differ; everything else is used where it
lies, without a copy, and without numpy, which takes longer to import than most commands run.
"""

from __future__ import annotations

import math
from itertools import product
from typing import TYPE_CHECKING

from theta_daemon.dtypes import DTYPES
from theta_daemon.formats.parts import Window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import numpy as np
    from numpy.typing import NDArray

_CARRIERS = {8: "u1", 16: "u2", 32: "u4", 64: "u8", 128: "c16"}  # copied as they are, never computed with
_REACH = 4 << 20  # bytes of stored memory that are walked over at a time: they stay in the processor's cache


def window_of(dtype: str, shape: Sequence[int], axes: Sequence[int]) -> Window:
    """Return where the elements of a group lie that is stored as `value.transpose(axes)` in C order."""
    strides = [0] * len(shape)
    step = DTYPES[dtype].bits // 8
    for axis in reversed(axes):
        strides[axis] = step
        step *= shape[axis]
    return Window(0, tuple(strides))


def gathered_pieces(
    stored: memoryview,
    dtype: str,
    shape: Sequence[int],
    window: Window,
    most: int,
    forget: Callable[[], None],
) -> Iterator[memoryview]:
    """Yield the logical bytes of the tensor that lies in `stored`, the bytes as the file has them, as `window` says.

    In pieces of up to `most` bytes, each valid until the next is asked for. `forget` is called whenever a few MiB
    of `stored` have been walked over: where it is mapped, they need not stay in memory.
    Raises ValueError where the window is not within `stored`.
    """
    import numpy as np

    whole = _within(stored, dtype, shape, window)
    room = None
    for block in _blocks(whole.shape, whole.itemsize, most):
        source = np.asarray(whole[block])  # without axes, indexing gives no array
        if room is None:  # the first is the largest
            room = np.empty(source.size, whole.dtype)
        target = room[: source.size].reshape(source.shape)
        for part in _reaches(source):
            target[part] = source[part]
            forget()
        yield _bytes_of(target)


def to_stored(logical: memoryview, dtype: str, shape: Sequence[int], axes: Sequence[int] | None) -> memoryview:
    """Return the bytes of `value.transpose(axes)` in C order of the value with these logical bytes."""
    if axes is None:
        return logical
    import numpy as np

    array = np.frombuffer(logical, _CARRIERS[DTYPES[dtype].bits]).reshape(shape)
    return _bytes_of(np.ascontiguousarray(array.transpose(axes)))


def _within(stored: memoryview, dtype: str, shape: Sequence[int], window: Window) -> NDArray[np.generic]:
    import numpy as np

    return np.ndarray(tuple(shape), _CARRIERS[DTYPES[dtype].bits], stored, window.offset, window.strides)


def _bytes_of(array: NDArray[np.generic]) -> memoryview:
    """Return the memory of a contiguous array (a memoryview of complex numbers cannot be cast)."""
    return array.reshape(-1).view("u1").data


def _blocks(shape: tuple[int, ...], itemsize: int, most: int) -> Iterator[tuple[slice, ...]]:
    """Cut an array into blocks of up to `most` bytes, but at least an element, that follow each other in C order."""
    sizes = [1] * len(shape)
    inner = itemsize
    for axis in reversed(range(len(shape))):
        sizes[axis] = min(shape[axis], max(most // max(inner, 1), 1))
        if sizes[axis] < shape[axis]:
            break
        inner *= shape[axis]
    return _cut(shape, sizes)


def _reaches(array: NDArray[np.generic]) -> Iterator[tuple[slice, ...]]:
    """Cut an array into parts that lie within _REACH bytes of memory, so far as elements are not farther apart."""
    sizes = list(array.shape)
    distances = [abs(stride) * (size - 1) for stride, size in zip(array.strides, sizes, strict=True)]
    for axis in sorted(range(len(sizes)), key=lambda axis: -abs(array.strides[axis])):
        others = sum(distances) - distances[axis]
        if others + distances[axis] <= _REACH:
            break
        stride = abs(array.strides[axis])
        sizes[axis] = max((_REACH - others) // stride + 1, 1) if stride else sizes[axis]
        distances[axis] = stride * (sizes[axis] - 1)
    return _cut(array.shape, sizes)


def _cut(shape: Sequence[int], sizes: Sequence[int]) -> Iterator[tuple[slice, ...]]:
    """Yield all blocks of these sizes, shorter ones at the ends of the axes, in C order."""
    if not math.prod(shape):
        return
    starts = product(*(range(0, full, size) for full, size in zip(shape, sizes, strict=True)))
    for corner in starts:
        yield tuple(
            slice(start, min(start + size, full)) for start, size, full in zip(corner, sizes, shape, strict=True)
        )
