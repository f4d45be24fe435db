"""The update type low-rank: R @ C is added to a matrix, one product after the other.

The product of the matrices is summed in a fixed order over their inner axis, in float64, rounded to the type of R and C
and added to the previous value. So the bits are the same everywhere, which those of BLAS are not: each kind of
processor sums in an order of its own. But in float64 a product of two float32 is exact and the order makes a difference
in the last bits alone, which rounding then mostly takes away; and of a dozen ranks most BLAS keep the order. So a
checkout, which has a digest to compare with, may try BLAS first (`quick`): that takes a quarter of the time. Blocks
keep the sums in the L2 cache.

Where a parameter group is no matrix, git-theta stores the difference as it is: `parameter`, which elementwise.py adds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import numpy as np

from theta_daemon.errors import CorruptObject, UnsupportedError
from theta_daemon.frozen import Frozen
from theta_daemon.updates.blocks import blocks, converted, room
from theta_daemon.updates.elementwise import Elementwise
from theta_daemon.updates.elementwise import prepare as prepare_elementwise
from theta_daemon.updates.numbers import computed_in, elements, store, stored, widened

if TYPE_CHECKING:
    from collections.abc import Mapping

    from theta_daemon.updates.array import Array
    from theta_daemon.updates.numbers import Type, Values

NAMES = {"R", "C"}
WHOLE = "parameter"

_SUMS = np.dtype(np.float64)
_BY_ONE_THREAD = 1 << 19  # multiplications; for more OpenBLAS wakes threads of its own, which takes ten times as long


class LowRank(Frozen):
    """The step of a low-rank update; `prepare` makes it.

    `left` is (m, k), `right` (k, n) in float64, their product counts as rounded to `own`. With `quick` the bits are
    what BLAS makes, which may not be those that are defined.
    """

    is_scattered: ClassVar[bool] = False

    left: Values
    right: Values
    own: Type
    stored: Type
    computed: Type
    quick: bool

    def apply(self, value: memoryview, rows: range) -> None:
        """Update in place the rows `rows` of the parameter group; `value` is exactly their bytes."""
        target = np.frombuffer(value, self.stored).reshape(len(rows), self.right.shape[1])
        left = self.left[rows.start : rows.stop]
        with np.errstate(all="ignore"):  # infinities and NaN are values like others
            for block in blocks((len(rows), self.right.shape[1])):
                previous = target[block]
                product = self._product(left[block[0]].astype(np.float64), self.right[:, block[1]])
                result = room(1, self.computed, previous.shape)
                np.add(product, converted(previous, self.computed, 1), out=result)
                store(result, previous)

    def _product(self, left: Values, right: Values) -> Values:
        """Return left @ right in one of the thread's rooms, not in its second."""
        shape = (len(left), right.shape[1])
        total = room(0, _SUMS, shape)
        at_once = _BY_ONE_THREAD // (len(right) * shape[1]) if len(right) else 0
        if self.quick and at_once:
            for start in range(0, len(left), at_once):
                np.matmul(left[start : start + at_once], right, out=total[start : start + at_once])
        else:
            _in_order(left, right, total)
        return converted(total, self.own, 2)


def _in_order(left: Values, right: Values, total: Values) -> None:
    """Put left @ right into `total`; uses the thread's second room."""
    total.fill(0)
    term = room(1, _SUMS, total.shape)
    for k in range(len(right)):
        np.multiply(left[:, k : k + 1], right[k], out=term)
        np.add(total, term, out=total)


def prepare(
    arrays: Mapping[str, Array], dtype: str, shape: tuple[int, ...], *, quick: bool = False
) -> LowRank | Elementwise:
    """Return the step of a low-rank update of a parameter group of `dtype` and `shape`.

    With `quick` its bits may be others than those that are defined. Takes twice the memory of C. Raises CorruptObject,
    and UnsupportedError for what are no real numbers.
    """
    if arrays.keys() == {WHOLE}:
        return prepare_elementwise(np.add, arrays[WHOLE], dtype, shape)
    if arrays.keys() != NAMES:
        raise CorruptObject(f"a low-rank update holds {sorted(arrays)!s:.80} instead of R and C")
    left, right = elements(arrays["R"]), elements(arrays["C"])
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != len(right) or (len(left), right.shape[1]) != shape:
        raise CorruptObject(f"R of shape {left.shape} and C of shape {right.shape} do not make the shape {shape}")
    own = np.promote_types(widened(arrays["R"].dtype), widened(arrays["C"].dtype))
    computed = computed_in(own.name, dtype)
    if own.kind != "f" or computed.kind != "f":
        raise UnsupportedError(f"values of dtype {dtype} cannot have low-rank updates of {own.name}")
    # Of float64 numbers the products are not exact, and what BLAS does with them is seldom what is defined.
    quick = quick and own == np.float32
    return LowRank(left, right.astype(np.float64), own, stored(dtype), computed, quick)
