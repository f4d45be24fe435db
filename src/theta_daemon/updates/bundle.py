"""Objects with the exact-sparse changes of many parameter groups of a file: protocol/payload.md, "exact-sparse".

There are a few arrays however many groups there are, because opening an array takes longer than some hundred changes
do:

    groups      uint8             JSON: [[[name, ...], unit], ...]; a name is a list of components, and all the names
                                  of one tensor share its changes
    counts      uint32 or uint64  changes of each group
    indices     uint32 or uint64  positions of the changed units, ascending within a group, group after group
    values<U>   uint<8 * U>       new bits of the groups with units of U bytes, group after group; absent where no
                                  group has any; values16 is uint64 of shape (n, 2)

The updates of a file mostly change the same groups, so the list of them is read once (`_listed`), and what changed in
one group is cut out of the arrays only when it is asked for.

An object is hostile. `unpack` checks all that can be told without the parameter groups, once an object; whether changes
fit the group that they are applied to, exact_sparse.py checks.
"""

from __future__ import annotations

import json
import math
from functools import lru_cache
from itertools import accumulate
from typing import TYPE_CHECKING, Final

import numpy as np

from theta_daemon.frozen import Frozen
from theta_daemon.updates.array import Array
from theta_daemon.updates.exact_sparse import BITS, NARROW, POSITIONS, Changes, Scattered, bad, scatter, units_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from theta_daemon.updates.exact_sparse import Bits, Kind

    Name = tuple[str, ...]

MOST_LISTED: Final = 2 << 20
"""Bytes of the list of groups in one object: what is read of a hostile one takes forty times as much."""

_MOST_REMEMBERED = 128 << 10  # bytes of a list that is remembered, of some 2000 groups


class _List(Frozen):
    """The groups of an object: `numbers` by their names, each as often as it has aliases, and the unit of each."""

    numbers: Mapping[Name, int]
    units: tuple[int, ...]


class Bundle(Frozen):
    """What changed in each parameter group of an object; to be shared by threads.

    `starts` are the places of the groups in `indices` (k,), and the end of the last; `firsts` those in the `values` of
    the group's unit, (n,), or (n, 2) of 16 bytes.
    """

    listed: _List
    starts: Sequence[int]
    firsts: Sequence[int]
    indices: Bits
    values: Mapping[int, Bits]

    @property
    def names(self) -> Sequence[Name]:
        """All names of all groups, in the order of the groups."""
        return list(self.listed.numbers)

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""
        return int(self.indices.nbytes) + sum(int(values.nbytes) for values in self.values.values())

    @property
    def positions_nbytes(self) -> int:
        """Bytes that a `Run` takes besides."""
        return len(self.indices) * np.dtype(np.intp).itemsize

    def changes(self, name: Name) -> Changes | None:
        """Return what changed in the group of this name, as views; None where there is no such group."""
        number = self.listed.numbers.get(name)
        if number is None:
            return None
        unit = self.listed.units[number]
        start, stop, first = self.starts[number], self.starts[number + 1], self.firsts[number]
        return Changes(unit, self.indices[start:stop], self.values[unit][first : first + stop - start])


class Run:
    """Bundles that follow each other: what all of them together change in a group is one step."""

    def __init__(self, bundles: Sequence[Bundle]) -> None:
        self._bundles = bundles
        self._positions = [bundle.indices.astype(np.intp) for bundle in bundles]  # numpy needs them so to index

    def step(self, name: Name, dtype: str, shape: tuple[int, ...]) -> Scattered:
        """Return the step that applies the changes of all bundles, in order, to a group. Raises CorruptObject."""
        positions: list[NDArray[np.intp]] = []
        values: list[Bits] = []
        units: set[int] = set()
        listed, number, unit = None, 0, 0
        for bundle, indices in zip(self._bundles, self._positions, strict=True):
            if bundle.listed is not listed:  # mostly it is one list for all
                listed = bundle.listed
                if name not in listed.numbers:
                    raise bad("holds no changes of this parameter group")
                number = listed.numbers[name]
                unit = listed.units[number]
                units.add(unit)
            start, stop, first = bundle.starts[number], bundle.starts[number + 1], bundle.firsts[number]
            positions.append(indices[start:stop])
            values.append(bundle.values[unit][first : first + stop - start])
        if len(units) != 1:
            raise bad("has elements of another size than the one before")
        return scatter(np.concatenate(positions), np.concatenate(values), unit, dtype, shape)


def pack(groups: Sequence[tuple[Sequence[Name], Changes]]) -> dict[str, Array]:
    """Return the arrays of one object: of each parameter group its names, no two of them equal, and what changed.

    Raises ValueError where the list of groups would have more than MOST_LISTED bytes, which `unpack` refuses: they must
    be split so that their `weight` is less.
    """
    text = ",".join(_listing(names, each) for names, each in groups).join("[]").encode("ascii")
    if len(text) > MOST_LISTED:
        raise ValueError(f"a list of parameter groups of {len(text)} bytes is too long for one object")
    last = max((int(each.indices[-1]) for _, each in groups if len(each.indices)), default=0)
    arrays = {
        "groups": Array("uint8", (len(text),), memoryview(text)),
        "counts": _narrow([np.array([len(each.indices) for _, each in groups], "<u8")]),
        "indices": _narrow([each.indices for _, each in groups], last),
    }
    for unit, bits in BITS.items():
        values = [each.values for _, each in groups if each.unit == unit and len(each.indices)]
        if values:
            arrays[f"values{unit}"] = _array(bits.name, np.concatenate(values))
    return arrays


def weight(names: Sequence[Name], changes: Changes) -> int:
    """Return the bytes that a parameter group takes in an object."""
    return changes.nbytes + len(_listing(names, changes)) + 1 + POSITIONS["uint32"].itemsize


def unpack(arrays: Mapping[str, Array]) -> Bundle:
    """Return what changed in each parameter group of an object.

    Raises CorruptObject for whatever is not as specified, except for positions beyond the end of a group: that is not
    known here.
    """
    if not _NAMES <= arrays.keys() <= _NAMES | {f"values{unit}" for unit in BITS}:
        raise bad("holds other arrays than it should")
    listed = _groups(arrays["groups"])
    counts, indices = (_read(arrays[name], POSITIONS.get(arrays[name].dtype), 1) for name in ("counts", "indices"))
    if len(counts) != len(listed.units):
        raise bad("has not one count for each parameter group")
    values = {unit: _values(arrays, unit) for unit in BITS}
    starts = list(accumulate(counts.tolist(), initial=0))
    ends = dict.fromkeys(BITS, 0)
    firsts = starts
    if len(set(listed.units)) > 1:
        firsts = []
        for unit, count in zip(listed.units, counts.tolist(), strict=True):
            firsts.append(ends[unit])
            ends[unit] += count
    elif listed.units:
        ends[listed.units[0]] = starts[-1]
    if starts[-1] != len(indices) or any(ends[unit] != len(values[unit]) for unit in BITS):
        raise bad("holds changes that it does not list, or lists some that it does not hold")
    ascends = indices[1:] > indices[:-1]
    ascends[[stop - 1 for stop in starts if 0 < stop < len(indices)]] = True  # from one group to the next
    if not ascends.all():
        raise bad("has positions that do not ascend")
    return Bundle(listed, starts, firsts, indices, values)


_NAMES = {"groups", "counts", "indices"}


def _groups(array: Array) -> _List:
    if len(array.raw) > MOST_LISTED:
        raise bad("has a list of parameter groups that is too long")
    text = bytes(_read(array, BITS[1], 1))
    return _remembered(text) if len(text) <= _MOST_REMEMBERED else _listed(text)


def _listed(text: bytes) -> _List:
    try:
        listed = json.loads(text.decode("ascii"))
    except (ValueError, RecursionError):
        listed = None
    if type(listed) is not list:
        raise bad("has no list of parameter groups")
    numbers: dict[Name, int] = {}
    units = []
    names = 0
    for number, entry in enumerate(listed):
        if type(entry) is not list or len(entry) != 2 or type(entry[0]) is not list or not entry[0]:
            raise bad("lists something that is no parameter group")
        if type(entry[1]) is not int or entry[1] not in BITS:
            raise bad("lists a parameter group of no known unit")
        units.append(entry[1])
        for name in entry[0]:
            if type(name) is not list or not name or set(map(type, name)) != {str}:
                raise bad("lists something that is no name")
            numbers[tuple(name)] = number
            names += 1
    if len(numbers) != names:
        raise bad("lists a name twice")
    return _List(numbers, tuple(units))


_remembered = lru_cache(4)(_listed)


def _listing(names: Sequence[Name], changes: Changes) -> str:
    return json.dumps([names, changes.unit], separators=(",", ":"))


def _values(arrays: Mapping[str, Array], unit: int) -> Bits:
    array = arrays.get(f"values{unit}")
    return units_of(memoryview(b""), unit) if array is None else _read(array, BITS[unit], 1 if unit < 16 else 2)


def _read(array: Array, bits: Kind | None, rank: int) -> Bits:
    """Return the elements of `array`, (n,) or (n, 2) as `rank` says, if they are `bits`."""
    shape = (array.shape[0] if array.shape else 0, 2)[:rank]
    if bits is None or array.dtype != bits.name or array.shape != shape:
        raise bad("holds an array of another kind than it should")
    if len(array.raw) != math.prod(shape) * bits.itemsize:
        raise bad("holds an array that is not as long as it says")
    return np.frombuffer(array.raw, bits).reshape(shape)


def _narrow(numbers: Sequence[Bits], last: int | None = None) -> Array:
    """Return numbers, of which `last` is the greatest, as an array: uint32 where it allows that."""
    if last is None:
        last = max((int(each.max()) for each in numbers if len(each)), default=0)
    dtype = "uint32" if last < NARROW else "uint64"
    kind = POSITIONS[dtype]
    return _array(dtype, np.concatenate([np.empty(0, kind), *numbers], dtype=kind, casting="same_kind"))


def _array(dtype: str, elements: Bits) -> Array:
    return Array(dtype, elements.shape, elements.reshape(-1).view(np.uint8).data)
