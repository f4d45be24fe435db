"""What was added to a value: the search for sparse updates, and for git-theta's low-rank updates of vectors.

`new - previous` is rounded, and so is its sum with `previous`: for a third of unrelated pairs that is not `new`. Almost
always there is then no number at all that could be added, because the difference is larger than `new` and cannot have
its last digits. Where there is one, it is a neighbour of the difference: for one in 300 pairs of 8-bit numbers, one in
50 000 of float16, none in a million of float32.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from theta_daemon.updates.numbers import computed_in, parts
from theta_daemon.updates.pair import array, bits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from theta_daemon.updates.array import Array
    from theta_daemon.updates.numbers import Type, Values
    from theta_daemon.updates.pair import Pair

_NEIGHBOURS: Final = (1, -1, 2, -2)  # in units of the last place
_MOST_INT32: Final = (1 << 31) - 1


def sparse(both: Pair) -> Iterator[dict[str, Array]]:
    """Propose the sparse update that has a number for each element that changed, if each has one.

    It is git-theta's: CSR of one row over the flattened parameter group, with the integers that scipy chooses.
    """
    wide = computed_in(both.dtype, both.dtype)
    index = np.dtype("<i4" if len(both.new) <= _MOST_INT32 else "<i8")
    count, positions, numbers = 0, [np.empty(0, index)], [both.new[:0]]
    for start, before, after in both.windows():
        at = np.flatnonzero(_any(bits(before) != bits(after), len(after)))
        if not len(at):
            continue
        found = _addends(before[at], after[at], wide)
        if found is None:
            return
        kept = _any(parts(found.astype(wide)) != 0, len(found))  # 0.0 is added everywhere: it makes 0.0 of -0.0
        count += int(np.count_nonzero(kept))
        if count * (index.itemsize + both.own.itemsize) > both.most:
            return
        positions.append((at[kept] + start).astype(index))
        numbers.append(found[kept])
    yield {
        "data": array(both.dtype, np.concatenate(numbers)),
        "indices": array(index.name, np.concatenate(positions)),
        "indptr": array(index.name, np.array([0, count], index)),
        "shape": array("int64", np.array(both.shape, "<i8")),
    }


def whole(both: Pair) -> Iterator[dict[str, Array]]:
    """Propose the update that adds a number to each element, if each has one."""
    if both.own.itemsize * len(both.new) > both.most:
        return
    numbers = [both.new[:0]]
    for _, before, after in both.windows():
        found = _addends(before, after, both.wide)
        if found is None:
            return
        numbers.append(found)
    yield {"parameter": array(both.dtype, np.concatenate(numbers).reshape(both.shape))}


def _addends(before: Values, after: Values, wide: Type) -> Values | None:
    """Return what must be added to each of (n,) `before` in the type `wide` to make `after`; None where it cannot be.

    No NaN can be made: which one comes out is for the processor to say.
    """
    own = after.dtype
    if own.kind in "iu":
        difference: Values = after - before
        return difference
    left, right = parts(before.astype(wide)), parts(after.astype(wide))
    numbers = (right - left).astype(parts(after).dtype)
    wanted = bits(after)
    wrong = np.flatnonzero((_sums(numbers, left) != wanted) | (right != right))
    for neighbour in _NEIGHBOURS:
        if not len(wrong):
            break
        tried = (bits(numbers[wrong]) + wanted.dtype.type(neighbour % (1 << 8 * wanted.itemsize))).view(numbers.dtype)
        good = (_sums(tried, left[wrong]) == wanted[wrong]) & (right[wrong] == right[wrong])
        numbers[wrong[good]] = tried[good]
        wrong = wrong[~good]
    return None if len(wrong) else numbers.view(own)


def _sums(numbers: Values, values: Values) -> Values:
    """Return the bits of the sums of `numbers` and of `values`, which are of the type that is computed in."""
    return bits((numbers.astype(values.dtype) + values).astype(numbers.dtype))


def _any(flags: Values, count: int) -> Values:
    """Return for each of `count` elements whether any of its flags is set: complex numbers have two."""
    return flags if len(flags) == count else flags[::2] | flags[1::2]
