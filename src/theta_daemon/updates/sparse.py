"""The update type sparse: numbers that are added at some positions, and 0.0 everywhere else.

Stored as git-theta does, the CSR form of one row over the flattened parameter group, by which a sum of whole arrays is
meant: 0.0 is added to what has no number, so each -0.0 in the previous value becomes 0.0. That would be a pass over the
parameter group for each update of a chain, and need not be: after one sparse update there is no -0.0 left, and adding
to what is none makes none, so that only rounding to a narrower type brings one back. `Sparse.add` tells, and
`steps.apply_all` does not ask for the pass again until it must.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from theta_daemon.dtypes import MAX_RANK
from theta_daemon.errors import CorruptObject
from theta_daemon.frozen import Frozen
from theta_daemon.updates.array import Array
from theta_daemon.updates.numbers import (
    computed_in,
    drop_negative_zeros,
    elements,
    has_negative_zero,
    holds_nan,
    holds_negative_zero,
    store,
    stored,
    widened,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from theta_daemon.updates.numbers import Type, Values

NAMES = {"data", "indices", "indptr", "shape"}

_MOST_BYTES = 8 * MAX_RANK  # of a shape


class Additions(Frozen):
    """(n,) integer `positions`, all of them in the flattened parameter group, and the (n,) `numbers` to add there.

    Where `ascends` is true no position comes twice; else they may, and are in any order.
    """

    positions: Values
    numbers: Values
    ascends: bool


def additions(arrays: Mapping[str, Array], shape: tuple[int, ...]) -> Additions:
    """Return what a sparse update of a parameter group of `shape` adds, as views of `arrays`.

    Raises CorruptObject for whatever scipy would not take, or would write beside the parameter group for; and
    UnsupportedError for numbers of a dtype that cannot be computed with.
    """
    if arrays.keys() != NAMES:
        raise CorruptObject(f"a sparse update holds {sorted(arrays)!s:.80} instead of {sorted(NAMES)}")
    positions, numbers = elements(arrays["indices"]), elements(arrays["data"])
    if _few_integers(arrays["shape"]) != shape:
        raise CorruptObject(f"a sparse update is for another shape than {shape}")
    if positions.ndim != 1 or positions.dtype.kind not in "iu" or numbers.shape != positions.shape:
        raise CorruptObject("a sparse update does not hold one position for each number")
    ends = _few_integers(arrays["indptr"])
    if ends is None or len(ends) != 2 or ends[0] != 0 or not 0 <= ends[1] <= len(positions):
        raise CorruptObject(f"a sparse update of {len(positions)} numbers has no CSR form of one row")
    last = ends[1]
    if last != len(positions):  # scipy takes no more
        positions, numbers = positions[:last], numbers[:last]
    if not last:
        return Additions(positions, numbers, True)
    ascends = b"\0" not in (positions[1:] > positions[:-1]).tobytes()  # .all() takes twice the time of few
    low, high = (positions[0], positions[-1]) if ascends else (positions.min(), positions.max())
    if low < 0 or high >= math.prod(shape):
        raise CorruptObject(f"a sparse update adds to what is not among the elements of shape {shape}")
    return Additions(positions, numbers, ascends)


class Sparse(Frozen):
    """The step of a sparse update; `prepare` makes it. `positions` ascend, none comes twice.

    `row` is the number of elements in a row of the parameter group, `size` that in all of it.
    """

    is_scattered: ClassVar[bool] = False

    positions: Values
    numbers: Values
    row: int
    size: int
    stored: Type
    computed: Type
    signed_zero: bool

    def apply(self, value: memoryview, rows: range) -> None:
        """Update in place the rows `rows` of the parameter group; `value` is exactly their bytes."""
        self.settle(value)
        with np.errstate(all="ignore"):  # infinities and NaN are values like others
            self.add(value, rows)

    def settle(self, value: memoryview) -> None:
        """Make 0.0 of each -0.0 in `value`, whatever rows it holds."""
        if self.signed_zero:
            drop_negative_zeros(np.frombuffer(value, self.stored))

    def add(self, value: memoryview, rows: range) -> bool:
        """Do what `apply` does to rows that hold no -0.0; return whether they still hold none.

        To silence numpy's warnings is left to the caller, who has many steps to apply.
        """
        target = np.frombuffer(value, self.stored)
        positions, numbers = self.positions, self.numbers
        start = 0
        if len(target) != self.size:
            start = rows.start * self.row
            first, last = bisect_left(positions, start), bisect_left(positions, start + len(target))
            positions, numbers = positions[first:last], numbers[first:last]
        if not len(positions):
            return True
        # As numpy wants them: what it is given in another type it converts once for reading and once for writing.
        at = np.subtract(positions, start, dtype=np.intp) if start else positions.astype(np.intp)
        touched = target[at]
        if self.computed == self.stored:
            sums = touched + numbers
            if holds_nan(sums):
                store(sums, touched)
                sums = touched
            target[at] = sums
            return True
        store(touched.astype(self.computed) + numbers, touched)
        is_settled = not (self.signed_zero and holds_negative_zero(touched))
        target[at] = touched
        return is_settled


def prepare(arrays: Mapping[str, Array], dtype: str, shape: tuple[int, ...]) -> Sparse:
    """Return the step of a sparse update of a parameter group of `dtype` and `shape`.

    Raises CorruptObject, and UnsupportedError where numbers of such a dtype are not added to such a value.
    """
    found = additions(arrays, shape)
    update = arrays["data"].dtype
    computed = computed_in(update, dtype)
    own, positions, numbers = widened(update), found.positions, found.numbers
    if not found.ascends:
        # In the order in which they stand, as scipy does: one number after the other is added to 0.0.
        positions, which = np.unique(positions, return_inverse=True)
        sums = np.zeros(len(positions), own)
        with np.errstate(all="ignore"):
            np.add.at(sums, which, numbers.astype(own))
        numbers = sums
    if numbers.dtype != computed or not numbers.flags.aligned:
        with np.errstate(all="ignore"):
            numbers = numbers.astype(own).astype(computed, copy=False)
    row, size = math.prod(shape[1:]), math.prod(shape)
    return Sparse(positions, numbers, row, size, stored(dtype), computed, has_negative_zero(dtype))


def _few_integers(array: Array) -> tuple[int, ...] | None:
    """Return what an array of one axis holds, None where that are no integers or so many that it is no shape."""
    return _integers(array.dtype, array.shape, bytes(array.raw)) if array.raw.nbytes <= _MOST_BYTES else None


@lru_cache(4096)  # the updates of a model differ in all but these
def _integers(dtype: str, shape: tuple[int, ...], raw: bytes) -> tuple[int, ...] | None:
    values = elements(Array(dtype, shape, memoryview(raw)))
    if values.ndim != 1 or (values.size and values.dtype.kind not in "iu"):
        return None
    return tuple(values.tolist())
