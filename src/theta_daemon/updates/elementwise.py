"""Updates that are one operation with one array, broadcast: ia3 multiplies, git-theta's 1-D low-rank update adds."""

from __future__ import annotations

from itertools import zip_longest
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from theta_daemon.errors import CorruptObject, UnsupportedError
from theta_daemon.frozen import Frozen
from theta_daemon.updates.blocks import blocks, converted, room
from theta_daemon.updates.numbers import computed_in, elements, store, stored

if TYPE_CHECKING:
    from collections.abc import Mapping

    from theta_daemon.updates.array import Array
    from theta_daemon.updates.numbers import Type, Values

IA3 = "ia3"


class Elementwise(Frozen):
    """The step of such an update; `prepare` makes it. `operand` has the rank of `shape`, 1 or as much on each axis."""

    is_scattered: ClassVar[bool] = False

    operation: np.ufunc
    operand: Values
    shape: tuple[int, ...]
    stored: Type
    computed: Type

    def apply(self, value: memoryview, rows: range) -> None:
        """Update in place the rows `rows` of the parameter group; `value` is exactly their bytes."""
        if not len(value):
            return
        shape = (len(rows), *self.shape[1:])
        target = np.frombuffer(value, self.stored).reshape(shape)
        operand = self.operand if len(self.operand) == 1 else self.operand[rows.start : rows.stop]
        with np.errstate(all="ignore"):  # infinities and NaN are values like others
            for block in blocks(shape):
                previous = target[block]
                part = operand[tuple(slice(1) if n == 1 else cut for cut, n in zip(block, operand.shape, strict=True))]
                result = room(0, self.computed, previous.shape)
                self.operation(converted(previous, self.computed, 0), converted(part, self.computed, 1), out=result)
                store(result, previous)


def prepare(operation: np.ufunc, operand: Array, dtype: str, shape: tuple[int, ...]) -> Elementwise:
    """Return the step that makes `operation` of a parameter group of `dtype` and `shape` and of `operand`.

    Raises CorruptObject, and UnsupportedError for what are no real numbers.
    """
    values = elements(operand)
    if broadcast(values.shape, shape) != shape:
        raise CorruptObject(f"an update of shape {values.shape} does not fit the shape {shape}")
    computed = computed_in(operand.dtype, dtype)
    if computed.kind != "f":
        raise UnsupportedError(f"values of dtype {dtype} cannot have such updates")
    shape = shape or (1,)
    values = values.reshape((1,) * (len(shape) - values.ndim) + values.shape)
    return Elementwise(operation, values, shape, stored(dtype), computed)


def prepare_ia3(arrays: Mapping[str, Array], dtype: str, shape: tuple[int, ...]) -> Elementwise:
    """Return the step of an ia3 update; raises as `prepare` does."""
    if arrays.keys() != {IA3}:
        raise CorruptObject(f"an ia3 update holds {sorted(arrays)!s:.80} instead of ia3")
    return prepare(np.multiply, arrays[IA3], dtype, shape)


def broadcast(first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the shape that numpy makes of two arrays of these shapes, None where they do not go together."""
    pairs = list(zip_longest(reversed(first), reversed(second), fillvalue=1))
    if any(m != n and 1 not in (m, n) for m, n in pairs):
        return None
    return tuple(n if m == 1 else m for m, n in reversed(pairs))
