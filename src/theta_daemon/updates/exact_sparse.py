"""The update type exact-sparse: which elements of a parameter group changed, and the bits that they have now.

It exists because no `d` need exist with `previous + d == new` in floating point, and it is the one sparse update that
every dtype has. Elements are seen as units of 1, 2, 4, 8 or 16 bytes and compared by their bits, so -0.0 and NaN are
values like others; elements that are no whole bytes change by the byte. git-theta cannot read it.

Objects hold the changes of many parameter groups: bundle.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from theta_daemon import dtypes
from theta_daemon.errors import CorruptObject
from theta_daemon.frozen import Frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    Bits = NDArray[np.unsignedinteger[Any]]
    Kind = np.dtype[np.unsignedinteger[Any]]

_U4: Kind = np.dtype("<u4")
_U8: Kind = np.dtype("<u8")
BITS: dict[int, Kind] = {1: np.dtype("<u1"), 2: np.dtype("<u2"), 4: _U4, 8: _U8, 16: _U8}
"""What holds the units, by their bytes; of 16 there are two each."""

POSITIONS = {"uint32": _U4, "uint64": _U8}
NARROW = 1 << 32
"""Positions below it are uint32."""

_WINDOW = 256 << 10  # bytes of each value compared at a time, so that what is made of them stays in the cache
_BLOCK = 64 << 10  # changes applied at a time: numpy needs a copy of their positions, as intp


class Changes(Frozen):
    """What changed in one parameter group.

    `unit` is the bytes of an element, `indices` (n,) uint32 or uint64 the ascending positions of the changed ones, and
    `values` their new bits: (n,) unsigned integers of `unit` bytes, or (n, 2) uint64 where it is 16.
    """

    unit: int
    indices: Bits
    values: Bits

    @property
    def nbytes(self) -> int:
        """Bytes of the positions and values."""
        return int(self.indices.nbytes + self.values.nbytes)


def changes(
    previous: memoryview, new: memoryview, dtype: str, most: int, forget: Callable[[int, int], None] | None = None
) -> Changes | None:
    """Return what makes `new` of `previous`, the bytes of two values of `dtype`; None where it has above `most` bytes.

    Both may be mapped files of any size: what is allocated is the result, once more the positions or values of it, and
    some 100 KiB; `forget` is called for each part, from one byte to another, when both are through. Raises ValueError
    where the sizes differ.
    """
    if len(previous) != len(new):
        raise ValueError(f"{len(previous)} bytes do not become {len(new)} by changes")
    unit = _unit(dtype)
    before, after = units_of(previous, unit), units_of(new, unit)
    positions = POSITIONS["uint32" if len(after) <= NARROW else "uint64"]
    count, indices, values = 0, [np.empty(0, positions)], [after[:0]]
    step = _WINDOW // unit
    for start in range(0, len(after), step):
        window = after[start : start + step]
        differ = before[start : start + step] != window
        at = np.flatnonzero(differ if differ.ndim == 1 else differ[:, 0] | differ[:, 1])
        if len(at):
            count += len(at)
            if count * (positions.itemsize + unit) > most:
                return None
            indices.append((at + start).astype(positions))
            values.append(window[at])
        if forget is not None:
            forget(start * unit, (start + len(window)) * unit)
    return Changes(unit, np.concatenate(indices), np.concatenate(values))


class ExactSparse(Frozen):
    """A `Step` that applies what changed in one parameter group; `compose` makes it.

    `changes` come one after the other: a position holds in the end what the last of them put there. They are not put
    together, so that any window of rows can be found in them.
    """

    is_scattered: ClassVar[bool] = True

    changes: Sequence[Changes]
    unit: int
    units: int  # in the whole group
    rows: int

    def apply(self, value: memoryview, rows: range) -> None:
        """Update in place the rows `rows` of the parameter group; `value` is exactly their bytes."""
        target = units_of(value, self.unit)
        if len(target) == self.units:
            for each in self.changes:
                _assign(target, each.indices, each.values, 0)
            return
        start = rows.start * self.units // self.rows
        for each in self.changes:
            found = _between(each.indices, start, start + len(target))
            _assign(target, each.indices[found], each.values[found], start)


class Scattered(Frozen):
    """A `Step` that applies many changes of one parameter group at once; `scatter` makes it.

    `positions` (n,) are in no order, and may come twice: NumPy assigns to a repeated index several times, and leaves
    behind the last value (NumPy quickstart, "Indexing with arrays of indices").
    """

    is_scattered: ClassVar[bool] = True

    positions: NDArray[np.intp]
    values: Bits
    unit: int
    units: int  # in the whole group
    rows: int

    def apply(self, value: memoryview, rows: range) -> None:
        """Update in place the rows `rows` of the parameter group; `value` is exactly their bytes."""
        target = units_of(value, self.unit)
        if len(target) == self.units:
            target[self.positions] = self.values
            return
        at = self.positions - rows.start * self.units // self.rows
        found = np.flatnonzero((at >= 0) & (at < len(target)))
        target[at[found]] = self.values[found]


def compose(changes: Sequence[Changes], dtype: str, shape: tuple[int, ...]) -> ExactSparse:
    """Return the step that applies `changes`, which a bundle held, in order, to a group of `dtype` and `shape`.

    Raises CorruptObject where they do not fit it.
    """
    unit = _unit(dtype)
    units = _units_in(dtype, shape, unit)
    for each in changes:
        if each.unit != unit:
            raise _other_unit(each.unit, dtype)
        if len(each.indices) and each.indices[-1] >= units:  # they ascend
            raise _beyond(units)
    return ExactSparse(changes, unit, units, shape[0] if shape else 1)


def scatter(positions: NDArray[np.intp], values: Bits, unit: int, dtype: str, shape: tuple[int, ...]) -> Scattered:
    """Return the step that puts `values`, in order, at their `positions` in a group of `dtype` and `shape`.

    `values` are as in `Changes`. Raises CorruptObject where they do not fit the group.
    """
    units = _units_in(dtype, shape, unit)
    if len(positions) and int(positions.view(np.uintp).max()) >= units:
        raise _beyond(units)
    return Scattered(positions, values, unit, units, shape[0] if shape else 1)


def bad(what: str) -> CorruptObject:
    """Return the error for an object that is not as specified."""
    return CorruptObject(f"an exact-sparse update {what}")


def units_of(raw: memoryview, unit: int) -> Bits:
    """Return the units of `unit` bytes in `raw`: (n,), or (n, 2) where it is 16."""
    units: Bits = np.frombuffer(raw, BITS[unit])
    return units if unit < 16 else units.reshape(-1, 2)


def _units_in(dtype: str, shape: tuple[int, ...], unit: int) -> int:
    if unit != _unit(dtype):
        raise _other_unit(unit, dtype)
    return dtypes.nbytes(dtype, shape) // unit


def _other_unit(unit: int, dtype: str) -> CorruptObject:
    return bad(f"has elements of {unit} bytes for {dtype}")


def _beyond(units: int) -> CorruptObject:
    return bad(f"changes what is not among the {units} elements of its parameter group")


def _unit(dtype: str) -> int:
    """Return the bytes of what changes as one in values of `dtype`."""
    bits = dtypes.DTYPES[dtype].bits
    return 1 if bits % 8 else bits // 8


def _assign(target: Bits, indices: Bits, values: Bits, start: int) -> None:
    """Put `values` at their `indices`, the first element of `target` being that at `start`."""
    if len(indices) <= _BLOCK and not start:  # as it mostly is; half the time of what follows
        target[indices.astype(np.intp)] = values
        return
    for block in range(0, len(indices), _BLOCK):
        at = indices[block : block + _BLOCK].astype(np.intp)
        if start:
            at -= start
        target[at] = values[block : block + _BLOCK]


def _between(indices: Bits, start: int, stop: int) -> slice:
    """Return where the ascending `indices` from `start` up to `stop` are."""
    if not len(indices) or indices[-1] < start or start == stop:
        return slice(0)
    # Of their own type, for numpy would else make a copy of them all in a wider one.
    first = indices.dtype.type(start)
    last = indices.dtype.type(min(stop - 1, int(indices[-1])))
    return slice(int(indices.searchsorted(first)), int(indices.searchsorted(last, "right")))
