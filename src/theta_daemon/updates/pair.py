"""Two values of one parameter group, of which an update is worked out that makes one of the other."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from theta_daemon.frozen import Frozen
from theta_daemon.updates.array import Array
from theta_daemon.updates.numbers import BLOCK, parts, stored, widened

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from theta_daemon.updates.numbers import Type, Values


class Pair(Frozen):
    """The (n,) flattened elements of both values, and what an update of them may have: `most` bytes in its arrays.

    Both may be mapped files: `forget` is called for the bytes from one to another that were looked at.
    """

    previous: Values
    new: Values
    dtype: str
    shape: tuple[int, ...]
    most: int
    forget: Callable[[int, int], None]

    @property
    def own(self) -> Type:
        """The type of the elements."""
        return stored(self.dtype)

    @property
    def wide(self) -> Type:
        """The type that they are computed in."""
        return widened(self.dtype)

    def windows(self) -> Iterator[tuple[int, Values, Values]]:
        """Yield where a block of elements starts, and the block of both values."""
        for start in range(0, len(self.new), BLOCK):
            yield start, self.previous[start : start + BLOCK], self.new[start : start + BLOCK]
            self.through(start, start + BLOCK)

    def through(self, start: int, stop: int) -> None:
        """Note that the elements from `start` to `stop` were looked at."""
        size = self.own.itemsize
        self.forget(start * size, min(stop, len(self.new)) * size)


def pair(
    previous: memoryview,
    new: memoryview,
    dtype: str,
    shape: tuple[int, ...],
    most: int,
    forget: Callable[[int, int], None],
) -> Pair:
    """Return the pair of two values as bytes. Raises UnsupportedError where such elements are no numbers."""
    own = stored(dtype)
    before, after = np.frombuffer(previous, own), np.frombuffer(new, own)
    if not len(before) == len(after) == math.prod(shape):
        raise ValueError(f"{len(previous)} and {len(new)} bytes are no two values of {dtype} and shape {shape}")
    return Pair(before, after, dtype, shape, most, forget)


def bits(values: Values) -> Values:
    """Return the bits of (..., n) contiguous `values` as unsigned integers, two for each complex number."""
    real = parts(values)
    return real.view(f"u{real.itemsize}")


def array(dtype: str, values: Values) -> Array:
    """Return contiguous `values`, whose elements are those of `dtype`, as what an update holds."""
    return Array(dtype, values.shape, values.reshape(-1).view(np.uint8).data)
