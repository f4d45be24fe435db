"""The update type exact-sparse: which elements of a parameter group changed, and the bits that they have now.

It exists because no `d` need exist with `previous + d == new` in floating point, and it is the one sparse update that
every dtype has. Elements are seen as units of 1, 2, 4, 8 or 16 bytes and compared by their bits, so -0.0 and NaN are
values like others; elements that are no whole bytes change by the byte. git-theta cannot read it.

One object holds the changes of many parameter groups of a file, in a few arrays however many groups there are, because
opening an array takes longer than some hundred changes do (protocol/ specifies them):

    groups      uint8             JSON: [[[name, ...], unit, count], ...]; a name is a list of components, and all the
                                  names of one tensor share its changes
    indices     uint32 or uint64  positions of the changed units, ascending within a group, group after group
    values<U>   uint<8 * U>       new bits of the groups with units of U bytes, group after group; absent where no
                                  group has any; values16 is uint64 of shape (n, 2)

An object is hostile. `unpack` checks all that can be told without the parameter groups, once an object; `compose`
checks that changes fit the group that they are applied to.
"""

from __future__ import annotations

import json
import math
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from theta_daemon import dtypes
from theta_daemon.errors import CorruptObject
from theta_daemon.frozen import Frozen
from theta_daemon.updates.array import Array

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    Name = tuple[str, ...]
    Bits = NDArray[np.unsignedinteger[Any]]
    Kind = np.dtype[np.unsignedinteger[Any]]

_U4: Kind = np.dtype("<u4")
_U8: Kind = np.dtype("<u8")
_BITS: dict[int, Kind] = {1: np.dtype("<u1"), 2: np.dtype("<u2"), 4: _U4, 8: _U8, 16: _U8}
_POSITIONS = {"uint32": _U4, "uint64": _U8}
MOST_LISTED: Final = 2 << 20
"""Bytes of the list of groups in one object: what is read of a hostile one takes forty times as much."""

_NARROW = 1 << 32  # positions below it are uint32
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
    before, after = _units(previous, unit), _units(new, unit)
    positions = _POSITIONS["uint32" if len(after) <= _NARROW else "uint64"]
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
    """A `Step` that applies all that changed in one parameter group; `compose` makes it.

    `changes` come one after the other: a position holds in the end what the last of them put there. They are not put
    together into one assignment, though that would save a quarter of the time, because numpy does not promise an order.
    """

    changes: Sequence[Changes]
    unit: int
    units: int  # in the whole group
    rows: int

    def apply(self, value: memoryview, rows: range) -> None:
        """Update in place the rows `rows` of the parameter group; `value` is exactly their bytes."""
        target = _units(value, self.unit)
        if len(target) == self.units:
            for each in self.changes:
                _assign(target, each.indices, each.values, 0)
            return
        start = rows.start * self.units // self.rows
        for each in self.changes:
            found = _between(each.indices, start, start + len(target))
            _assign(target, each.indices[found], each.values[found], start)


def compose(changes: Sequence[Changes], dtype: str, shape: tuple[int, ...]) -> ExactSparse:
    """Return the step that applies `changes`, which `unpack` found, in order, to a group of `dtype` and `shape`.

    Raises CorruptObject where they do not fit it.
    """
    size, unit = dtypes.nbytes(dtype, shape), _unit(dtype)
    units = size // unit
    for each in changes:
        if each.unit != unit:
            raise _bad(f"has elements of {each.unit} bytes for {dtype}")
        if len(each.indices) and each.indices[-1] >= units:  # they ascend
            raise _bad(f"changes what is not among the {units} elements of its parameter group")
    return ExactSparse(changes, unit, units, shape[0] if shape else 1)


def pack(groups: Sequence[tuple[Sequence[Name], Changes]]) -> dict[str, Array]:
    """Return the arrays of one object: of each parameter group its names, no two of them equal, and what changed.

    Raises ValueError where the list of groups would have more than MOST_LISTED bytes, which `unpack` refuses: they must
    be split so that their `weight` is less.
    """
    text = ",".join(_listing(names, each) for names, each in groups).join("[]").encode("ascii")
    if len(text) > MOST_LISTED:
        raise ValueError(f"a list of parameter groups of {len(text)} bytes is too long for one object")
    last = max((int(each.indices[-1]) for _, each in groups if len(each.indices)), default=0)
    positions = "uint32" if last < _NARROW else "uint64"
    indices = [np.empty(0, _POSITIONS[positions]), *(each.indices for _, each in groups)]
    arrays = {
        "groups": Array("uint8", (len(text),), memoryview(text)),
        "indices": _array(positions, np.concatenate(indices, dtype=_POSITIONS[positions], casting="same_kind")),
    }
    for unit, bits in _BITS.items():
        values = [each.values for _, each in groups if each.unit == unit and len(each.indices)]
        if values:
            arrays[f"values{unit}"] = _array(bits.name, np.concatenate(values))
    return arrays


def weight(names: Sequence[Name], changes: Changes) -> int:
    """Return the bytes that a parameter group takes in an object."""
    return changes.nbytes + len(_listing(names, changes)) + 1


def unpack(arrays: Mapping[str, Array]) -> dict[Name, Changes]:
    """Return what changed in each parameter group of an object, by each of its names.

    The changes are views of `arrays`, to be shared by threads. Raises CorruptObject for whatever is not as specified,
    except for positions beyond the end of a group: that is not known here.
    """
    if not {"groups", "indices"} <= arrays.keys() <= {"groups", "indices", *(f"values{unit}" for unit in _BITS)}:
        raise _bad("holds other arrays than it should")
    indices = _read(arrays["indices"], _POSITIONS.get(arrays["indices"].dtype), 1)
    values = {unit: _values(arrays, unit) for unit in _BITS}
    used = dict.fromkeys(_BITS, 0)
    end, ends = 0, []
    names: list[Name] = []
    groups: list[Changes] = []
    for aliases, unit, count in _listed(arrays["groups"]):
        bits = values.get(unit)
        if bits is None or not aliases:
            raise _bad("lists something that is no parameter group")
        start, end = end, end + count
        first, last = used[unit], used[unit] + count
        if count < 0 or end > len(indices) or last > len(bits):
            raise _bad("lists changes that it does not hold")
        used[unit] = last
        ends.append(end)
        group = Changes(unit, indices[start:end], bits[first:last])
        for name in aliases:
            names.append(_name(name))
            groups.append(group)
    if end != len(indices) or any(used[unit] != len(values[unit]) for unit in _BITS):
        raise _bad("holds changes that it does not list")
    if not set(map(type, chain.from_iterable(names))) <= {str}:
        raise _bad("lists something that is no name")
    found = dict(zip(names, groups, strict=True))
    if len(found) != len(names):
        raise _bad("lists a name twice")
    ascends = indices[1:] > indices[:-1]
    ascends[[end - 1 for end in ends if 0 < end < len(indices)]] = True  # from one group to the next
    if not ascends.all():
        raise _bad("has positions that do not ascend")
    return found


def _listing(names: Sequence[Name], changes: Changes) -> str:
    return json.dumps([names, changes.unit, len(changes.indices)], separators=(",", ":"))


def _listed(array: Array) -> Iterator[tuple[list[object], int, int]]:
    if len(array.raw) > MOST_LISTED:
        raise _bad("has a list of parameter groups that is too long")
    try:
        listed = json.loads(str(_read(array, _BITS[1], 1).data, "ascii"))
    except (ValueError, RecursionError):
        listed = None
    if type(listed) is not list:
        raise _bad("has no list of parameter groups")
    for entry in listed:
        if type(entry) is list and len(entry) == 3:
            names, unit, count = entry
            if type(names) is list and type(unit) is int and type(count) is int:
                yield names, unit, count
                continue
        raise _bad("lists something that is no parameter group")


def _name(listed: object) -> Name:
    if type(listed) is not list or not listed:
        raise _bad("lists something that is no name")
    return tuple(listed)


def _values(arrays: Mapping[str, Array], unit: int) -> Bits:
    array = arrays.get(f"values{unit}")
    return _units(memoryview(b""), unit) if array is None else _read(array, _BITS[unit], 1 if unit < 16 else 2)


def _read(array: Array, bits: Kind | None, rank: int) -> Bits:
    """Return the elements of `array`, (n,) or (n, 2) as `rank` says, if they are `bits`."""
    shape = (array.shape[0] if array.shape else 0, 2)[:rank]
    if bits is None or array.dtype != bits.name or array.shape != shape:
        raise _bad("holds an array of another kind than it should")
    if len(array.raw) != math.prod(shape) * bits.itemsize:
        raise _bad("holds an array that is not as long as it says")
    return np.frombuffer(array.raw, bits).reshape(shape)


def _array(dtype: str, elements: Bits) -> Array:
    return Array(dtype, elements.shape, elements.reshape(-1).view(np.uint8).data)


def _unit(dtype: str) -> int:
    """Return the bytes of what changes as one in values of `dtype`."""
    bits = dtypes.DTYPES[dtype].bits
    return 1 if bits % 8 else bits // 8


def _units(raw: memoryview, unit: int) -> Bits:
    units: Bits = np.frombuffer(raw, _BITS[unit])
    return units if unit < 16 else units.reshape(-1, 2)


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


def _bad(what: str) -> CorruptObject:
    return CorruptObject(f"an exact-sparse update {what}")
