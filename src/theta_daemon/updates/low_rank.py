"""The update type low-rank: R @ C is added to a matrix, one product after the other.

The product of the matrices is summed in a fixed order over their inner axis, every product and every sum rounded, and
the result added to the previous value. BLAS takes a third of the time, and has other bits on each kind of processor.
Blocks keep the sums in the L2 cache, which halves the time: 0.15 s for all matrices of a GPT-2 of 124 M parameters.

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


class LowRank(Frozen):
    """The step of a low-rank update; `prepare` makes it. `left` is (m, k), `right` (k, n), both of one type."""

    is_scattered: ClassVar[bool] = False

    left: Values
    right: Values
    stored: Type
    computed: Type

    def apply(self, value: memoryview, rows: range) -> None:
        """Update in place the rows `rows` of the parameter group; `value` is exactly their bytes."""
        target = np.frombuffer(value, self.stored).reshape(len(rows), self.right.shape[1])
        left = self.left[rows.start : rows.stop]
        with np.errstate(all="ignore"):  # infinities and NaN are values like others
            for block in blocks((len(rows), self.right.shape[1])):
                previous = target[block]
                product = self._product(left[block[0]], self.right[:, block[1]])
                result = room(1, self.computed, previous.shape)
                np.add(product, converted(previous, self.computed, 1), out=result)
                store(result, previous)

    def _product(self, left: Values, right: Values) -> Values:
        """Return left @ right in the thread's first room."""
        shape = (len(left), right.shape[1])
        total, term = room(0, self.left.dtype, shape), room(1, self.left.dtype, shape)
        if not len(right):
            total.fill(0)
            return total
        np.multiply(left[:, :1], right[0], out=total)
        for k in range(1, len(right)):
            np.multiply(left[:, k : k + 1], right[k], out=term)
            np.add(total, term, out=total)
        return total


def prepare(arrays: Mapping[str, Array], dtype: str, shape: tuple[int, ...]) -> LowRank | Elementwise:
    """Return the step of a low-rank update of a parameter group of `dtype` and `shape`.

    Raises CorruptObject, and UnsupportedError for what are no real numbers.
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
    # Aligned, because numpy would else copy them for each block.
    return LowRank(np.require(left, own, "A"), np.require(right, own, "A"), stored(dtype), computed)
