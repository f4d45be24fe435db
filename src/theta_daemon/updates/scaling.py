"""The scaling of a product of two matrices, put into one of them, and matrices in other forms.

A stored low-rank update has nothing but its two factors, each in the dtype that it came in, so that it is no larger
than what it came from. A power of two, which most adapters have, goes in without a change to any digit. Another one
rounds each element of one factor once: in float32 as all arithmetic does. In bfloat16 (float16) an element is then off
by 2^-8 (2^-11) of itself at most, which is what PEFT loses too when it rounds the product to the adapter's dtype before
it adds it; a wider factor would make the update half as large again.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from theta_daemon.updates.array import Array
from theta_daemon.updates.numbers import BLOCK, elements, stored

if TYPE_CHECKING:
    from numpy.typing import NDArray

FLOATS = frozenset(["float16", "bfloat16", "float32", "float64"])


def scaled(first: Array, second: Array, factor: float) -> tuple[Array, Array] | None:
    """Return `first` and `second`, of which one is multiplied by `factor`: the one that loses less by it.

    Both are of dtypes in FLOATS. None where `factor` puts either out of its range.
    """
    if factor == 1:
        return first, second
    left, lost = _multiplied(first, factor)
    if lost == 0:
        return left, second
    right, lost_right = _multiplied(second, factor)
    if min(lost, lost_right) == math.inf:
        return None
    return (left, second) if lost <= lost_right else (first, right)


def _multiplied(array: Array, factor: float) -> tuple[Array, float]:
    """Return `array * factor`, and the largest error of an element as a part of the largest element."""
    values = elements(array).reshape(-1)
    result = np.empty_like(values)
    error = largest = 0.0
    with np.errstate(all="ignore"):
        for start in range(0, len(values), BLOCK):
            block = values[start : start + BLOCK].astype(np.float64)
            exact = block * factor
            result[start : start + BLOCK] = exact.astype(values.dtype)
            rounded = result[start : start + BLOCK].astype(np.float64)
            finite = np.isfinite(block)
            if not np.isfinite(rounded[finite]).all():
                return array, math.inf
            error = max(error, float(np.max(np.abs(rounded - exact), where=finite, initial=0)))
            largest = max(largest, float(np.max(np.abs(exact), where=finite, initial=0)))
    return _array(array.dtype, array.shape, result), error / largest if largest else 0.0


def transposed(array: Array) -> Array:
    """Return the (n, m) array that an (m, n) one is the transpose of."""
    return _array(array.dtype, array.shape[::-1], np.ascontiguousarray(elements(array).T))


def converted(array: Array, dtype: str) -> Array:
    """Return `array` rounded to `dtype`; both dtypes are in FLOATS or the same."""
    if array.dtype == dtype:
        return array
    with np.errstate(all="ignore"):
        return _array(dtype, array.shape, elements(array).astype(stored(dtype)))


def _array(dtype: str, shape: tuple[int, ...], values: NDArray[np.generic]) -> Array:
    return Array(dtype, shape, values.reshape(-1).view(np.uint8).data)
