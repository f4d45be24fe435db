"""What a value was multiplied with: the search for ia3 updates.

One factor for all elements, for each column (the last axis) or for each row (the first): the fewest come first. If
there is a factor at all, the largest products show it, but for its last digits: each was rounded, and so is their
quotient. So a few neighbours of the quotient are tried on all elements that have it, block by block; where the factors
are none, the first block shows it.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from theta_daemon.errors import UnsupportedError
from theta_daemon.updates.blocks import blocks
from theta_daemon.updates.pair import array, bits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from theta_daemon.updates.array import Array
    from theta_daemon.updates.numbers import Values
    from theta_daemon.updates.pair import Pair

_NEIGHBOURS: Final = (0, 1, -1, 2, -2)  # in units of the last place


def ia3(both: Pair) -> Iterator[dict[str, Array]]:
    """Propose updates by factors, which are of the elements' type and broadcast to the parameter group's shape."""
    if both.wide.kind != "f":
        raise UnsupportedError(f"values of dtype {both.dtype} cannot have ia3 updates")
    rank, total = len(both.shape), len(both.new)
    shapes = {(1,) * rank, (1,) * (rank - 1) + both.shape[-1:], both.shape[:1] + (1,) * (rank - 1)}
    for shape in sorted(shapes, key=lambda shape: (math.prod(shape), shape)):
        count = math.prod(shape)
        if count * both.own.itemsize <= both.most and count <= max(total // 2, 1):
            factors = _factors(both, shape or (1,))
            if factors is not None:
                yield {"ia3": array(both.dtype, factors.reshape(shape))}


def _factors(both: Pair, shape: tuple[int, ...]) -> Values | None:
    """Return factors of `shape` that make the new value, but for the signs of its zeros; None where there are none."""
    whole = both.shape or (1,)
    previous, new = both.previous.reshape(whole), both.new.reshape(whole)
    shared = tuple(axis for axis, size in enumerate(shape) if size == 1)  # the axes along which a factor is the same
    centres = np.ones(shape, both.own)
    is_known = np.zeros(shape, bool)
    fits = np.ones((len(_NEIGHBOURS), *shape), bool)
    done = 0
    for block in blocks(whole):
        part = tuple(slice(1) if size == 1 else cut for cut, size in zip(block, shape, strict=True))
        before, after = previous[block].astype(both.wide), new[block].astype(both.wide)
        if not is_known[part].all():
            largest = np.abs(before).max(axis=shared, keepdims=True)
            found = _quotients(before, after, largest, shared).astype(both.own)
            fresh = ~is_known[part] & (largest > 0)
            centres[part] = np.where(fresh, found, centres[part])
            is_known[part] |= fresh
        for which, neighbour in enumerate(_NEIGHBOURS):
            fitting = fits[(which, *part)]
            if fitting.any():
                factor = _neighbours(centres[part], neighbour).astype(both.wide)
                made = (before * factor).astype(both.own).astype(both.wide)
                fitting &= (made == after).all(axis=shared, keepdims=True)
        if not fits[(slice(None), *part)].any(axis=0).all():
            return None
        both.through(done, done + before.size)
        done += before.size
    chosen = fits.argmax(axis=0)
    for which, neighbour in enumerate(_NEIGHBOURS):
        centres = np.where(chosen == which, _neighbours(centres, neighbour), centres) if which else centres
    return centres


def _quotients(before: Values, after: Values, largest: Values, shared: tuple[int, ...]) -> Values:
    sizes = np.abs(after).max(axis=shared, keepdims=True) / largest
    is_negative = (np.sign(before) * np.sign(after)).min(axis=shared, keepdims=True) < 0
    quotients: Values = np.where(is_negative, -sizes, sizes)
    return quotients


def _neighbours(values: Values, which: int) -> Values:
    unsigned = bits(np.ascontiguousarray(values))
    moved: Values = (unsigned + unsigned.dtype.type(which % (1 << 8 * unsigned.itemsize))).view(values.dtype)
    return moved
