"""Factors of a difference: the search for low-rank updates.

The difference is reduced as in Gaussian elimination: the largest element that is left (the pivot) gives a column of R
and, divided by the pivot, a row of C, and what their product makes is taken away. When nothing is left there is an
update of as many columns and rows; when more is left than rounding leaves, and no more of them would be worth it, there
is none. It goes through the matrix once, by blocks of rows, taking away first what was found in the rows above; of
values that are far from it, the first block shows that.

It finds the factors of differences that are products of them exactly, as those of quantised values and of new heads
are. It does not find the adapter in a fine-tune that merged one: each sum was rounded to a multiple of its last place,
and such differences have full rank. That takes no factors that could be found, but the adapter itself.

A pivot that is a power of two divides without rounding, so it is preferred.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from theta_daemon.errors import UnsupportedError
from theta_daemon.updates import infer_added
from theta_daemon.updates.numbers import BLOCK
from theta_daemon.updates.pair import array

if TYPE_CHECKING:
    from collections.abc import Iterator

    from theta_daemon.updates.array import Array
    from theta_daemon.updates.numbers import Values
    from theta_daemon.updates.pair import Pair

_NOTHING: Final = 2.0**-40  # of the largest difference: what rounding may leave of a residual
_MOST: Final = 64  # ranks: above some ten, factors of the elements' own type no longer have the digits
_MANTISSA: Final = np.uint64((1 << 52) - 1)


def low_rank(both: Pair) -> Iterator[dict[str, Array]]:
    """Propose the matrices R (m, k) and C (k, n) for a matrix, or the difference itself for less."""
    if both.wide.kind != "f":
        raise UnsupportedError(f"values of dtype {both.dtype} cannot have low-rank updates")
    if len(both.shape) < 2:
        yield from infer_added.whole(both)
    elif len(both.shape) == 2 and len(both.new):
        found = _factors(both, min(both.most // (sum(both.shape) * both.own.itemsize), _MOST))
        if found is not None:
            left, right = found
            yield {"R": array(both.dtype, left.astype(both.own)), "C": array(both.dtype, right.astype(both.own))}


def _factors(both: Pair, most: int) -> tuple[Values, Values] | None:
    """Return float64 (m, k) and (k, n) factors of the difference with 0 < k <= `most`; None where there are none."""
    height, width = both.shape
    most = min(most, height, width)
    previous, new = both.previous.reshape(both.shape), both.new.reshape(both.shape)
    sample = tuple(slice(None, None, max(size // (most + 1), 1)) for size in both.shape)
    part = _difference(previous[sample], new[sample])
    if part is None or _eliminate(part, float(np.abs(part).max()) * _NOTHING, most) is None:
        return None
    both.through(0, len(both.new))
    left = np.zeros((height, most))
    found: list[tuple[int, Values]] = []  # the columns of the pivots, and the rows of C
    scale = 0.0
    step = max(BLOCK // width, 1)
    for start in range(0, height, step):
        window = slice(start, start + step)
        rest = _difference(previous[window], new[window])
        if rest is None:
            return None
        scale = max(scale, float(np.abs(rest).max()))
        for k, (column, row) in enumerate(found):
            left[window, k] = rest[:, column]
            rest -= left[window, k, np.newaxis] * row
        more = _eliminate(rest, scale * _NOTHING, most - len(found))
        if more is None:
            return None
        for column, factors, row in more:
            left[window, len(found)] = factors
            found.append((column, row))
        both.through(start * width, (start + step) * width)
    return (left[:, : len(found)].copy(), np.array([row for _, row in found])) if found else None


def _difference(previous: Values, new: Values) -> Values | None:
    """Return the difference in float64; None where it holds what is no number."""
    difference: Values = new.astype(np.float64) - previous.astype(np.float64)
    return difference if np.isfinite(difference).all() else None


def _eliminate(rest: Values, nothing: float, most: int) -> list[tuple[int, Values, Values]] | None:
    """Take products of a column and a row away from `rest` until at most `nothing` is left of each element.

    Returns, for each product, the column of its pivot, its column and its row; None where they would be above `most`.
    """
    found: list[tuple[int, Values, Values]] = []
    while (pivot := _pivot(rest, nothing)) is not None:
        if len(found) == most:
            return None
        at, column = pivot
        row, factors = rest[at] / rest[at, column], rest[:, column].copy()
        rest -= factors[:, np.newaxis] * row
        found.append((column, factors, row))
    return found


def _pivot(rest: Values, nothing: float) -> tuple[int, int] | None:
    """Return row and column of the element to divide by; None where all are at most `nothing`."""
    sizes = np.abs(rest)
    if not sizes.max() > nothing:
        return None
    powers = np.where((rest.view(np.uint64) & _MANTISSA) == 0, sizes, 0.0)
    place = int((powers if powers.max() > nothing else sizes).argmax())
    return divmod(place, int(rest.shape[1]))
