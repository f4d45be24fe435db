"""An exact-sparse object comes with the repository: it is refused, or its changes fit what is there."""

from __future__ import annotations

import json
import time
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import event, given
from hypothesis import strategies as st

from theta_daemon.errors import CorruptObject
from theta_daemon.updates import bundle
from theta_daemon.updates.array import Array
from theta_daemon.updates.bundle import pack, unpack
from theta_daemon.updates.exact_sparse import Changes, compose


def good() -> dict[str, Array]:
    """Return an object of two groups, of 2 and 3 changes."""
    one = Changes(4, np.array([1, 5], "u4"), np.array([258, 3], "u4"))
    other = Changes(2, np.array([0, 1, 9], "u4"), np.array([7, 8, 9], "u2"))
    return pack([([("x", "y")], one), ([("y",), ("z",)], other)])


def array(dtype: str, values: Any) -> Array:
    elements = np.array(values, dtype)
    return Array(dtype, elements.shape, memoryview(elements.tobytes()))


def listing(groups: object) -> Array:
    return array("uint8", list(json.dumps(groups).encode()))


def text(data: bytes) -> Array:
    return Array("uint8", (len(data),), memoryview(data))


X, Y, Z = ["x", "y"], ["y"], ["z"]


def test_what_all_of_this_spoils_is_well_formed() -> None:
    assert unpack(good()).names == [("x", "y"), ("y",), ("z",)]
    spelled = good() | {"groups": listing([[[X], 4], [[Y, Z], 2]]), "counts": array("uint64", [2, 3])}
    assert unpack(spelled).names == [("x", "y"), ("y",), ("z",)]


@pytest.mark.parametrize(
    "groups",
    [
        None,
        1,
        "[]",
        {},
        [],
        [[], []],
        [None, None],
        ["abc", "def"],
        [[[X], 4]],
        [[[X], 4], [[Y, Z]]],
        [[[X], 4], [[Y, Z], 2, 0]],
        [[[X], 2], [[Y, Z], 4]],
        [[[X], 4], [[Y, Z], 2], [[["w"]], 2]],
        [[[X], 4], [[Y, Z], 3]],
        [[[X], 4], [[Y, Z], 0]],
        [[[X], 4], [[Y, Z], -4]],
        [[[X], 4], [[Y, Z], []]],
        [[[X], 4], [[Y, Z], True]],
        [[[X], 4.0], [[Y, Z], 2]],
        [[[X], "4"], [[Y, Z], 2]],
        [[[X], 4], [[Y, Z], 10**300]],
        [[[X], 4], [[], 2]],
        [[[X], 4], [["y", "z"], 2]],
        [[[X], 4], ["yz", 2]],
        [[[X], 4], [{"y": "z"}, 2]],
        [[[X], 4], [[[]], 2]],
        [[[X], 4], [[Y, []], 2]],
        [[[X], 4], [[[1]], 2]],
        [[[X], 4], [[[None]], 2]],
        [[[X], 4], [[[["y"]]], 2]],
        [[[X], 4], [[[{}]], 2]],
        [[[X], 4], [[Y, Y], 2]],
        [[[X], 4], [[Y, X], 2]],
    ],
    ids=str,
)
def test_a_list_of_other_groups_is_refused(groups: object) -> None:
    with pytest.raises(CorruptObject):
        unpack(good() | {"groups": listing(groups)})


@pytest.mark.parametrize(
    ("dtype", "counts"),
    [
        ("uint32", [2, 2]),
        ("uint32", [2, 4]),
        ("uint32", [3, 2]),
        ("uint32", [1, 4]),
        ("uint32", [5]),
        ("uint32", [2, 3, 0]),
        ("uint32", []),
        ("uint32", [[2, 3]]),
        ("int32", [2, 3]),
        ("int64", [7, -2]),
        ("uint64", [1 << 63, (1 << 63) + 5]),
        ("uint64", [5, (1 << 64) - 1]),
    ],
)
def test_counts_that_lie_are_refused(dtype: str, counts: object) -> None:
    with pytest.raises(CorruptObject):
        unpack(good() | {"counts": array(dtype, counts)})


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[",
        b"[]]",
        b"\xff",
        '[[[["é"]],4],[[["z"]],2]]'.encode(),
        b"\0",
        b"[" * 100_000,
        b'[[[["x"]],4],[[["z"]],' + b"9" * 100_000 + b"]]",
        b'[[[["x"]],4],[[["z"]],2]' + b"[]," * 100_000,
        b'{"a":' * 100_000,
        b"NaN",
    ],
    ids=lambda data: repr(data[:20]),
)
def test_text_that_is_no_list_is_refused(data: bytes) -> None:
    with pytest.raises(CorruptObject):
        unpack(good() | {"groups": text(data)})


@pytest.mark.parametrize(
    "spoiled",
    [
        {"indices": array("uint32", [1, 1, 0, 1, 9])},
        {"indices": array("uint32", [5, 1, 0, 1, 9])},
        {"indices": array("uint32", [1, 5, 0, 9, 1])},
        {"indices": array("uint32", [1, 5, 0, 1, 1])},
        {"indices": array("uint32", [1, 5, 0, 1])},
        {"indices": array("uint32", [1, 5, 0, 1, 9, 10])},
        {"indices": array("uint32", [[1, 5, 0, 1, 9]])},
        {"indices": array("uint32", 1)},
        {"indices": array("int32", [1, 5, 0, 1, 9])},
        {"indices": array("int64", [1, 5, 0, 1, 9])},
        {"indices": array("float32", [1, 5, 0, 1, 9])},
        {"indices": array("uint32", [1, 5, 0, 1, 9]).replace(dtype="nonsense")},
        {"indices": array("uint32", [1, 5, 0, 1, 9]).replace(shape=(6,))},
        {"indices": array("uint32", [1, 5, 0, 1, 9]).replace(shape=(1 << 61,))},
        {"indices": array("uint32", [1, 5, 0, 1, 9]).replace(shape=(-1,))},
        {"indices": array("uint32", [1, 5, 0, 1, 9]).replace(shape=())},
        {"values2": array("uint16", [7, 8])},
        {"values2": array("uint16", [7, 8, 9, 10])},
        {"values2": array("int16", [7, 8, 9])},
        {"values2": array("uint8", [7, 8, 9])},
        {"values2": array("uint16", [[7, 8, 9]])},
        {"values2": array("uint16", [7, 8, 9]).replace(raw=memoryview(b"12345"))},
        {"values2": array("uint16", [7, 8, 9]).replace(raw=memoryview(b"12345678"))},
        {"values16": array("uint64", [[1, 2]])},
        {"values16": array("uint64", [1, 2])},
        {"values3": array("uint8", [1])},
        {"other": array("uint8", [1])},
        {"groups": array("int8", [91, 93])},
        {"groups": array("uint8", [[91, 93]])},
        {"groups": array("uint8", [91, 93]).replace(shape=(3,))},
    ],
    ids=lambda spoiled: ",".join(spoiled),
)
def test_arrays_that_lie_are_refused(spoiled: dict[str, Array]) -> None:
    with pytest.raises(CorruptObject):
        unpack(good() | spoiled)


@pytest.mark.parametrize("missing", ["groups", "counts", "indices", "values2", "values4"])
def test_a_missing_array_is_found(missing: str) -> None:
    arrays = good()
    del arrays[missing]
    with pytest.raises(CorruptObject):
        unpack(arrays)


def test_a_group_whose_positions_do_not_ascend_is_found_beside_one_without_changes() -> None:
    empty = Changes(4, np.array([], "u4"), np.array([], "u4"))
    one = Changes(4, np.array([3, 7], "u4"), np.array([1, 2], "u4"))
    groups = [(("a",), empty), (("b",), one), (("c",), empty), (("d",), one), (("e",), empty)]
    arrays = pack([([name], each) for name, each in groups])
    assert len(unpack(arrays).names) == 5
    for indices in ([7, 3, 3, 7], [3, 7, 7, 3], [3, 3, 3, 7]):
        with pytest.raises(CorruptObject, match="ascend"):
            unpack(arrays | {"indices": array("uint32", indices)})


def test_claims_allocate_nothing() -> None:
    claims = array("uint64", [1 << 60, 1 << 60])
    tracemalloc.start()
    with pytest.raises(CorruptObject):
        unpack(good() | {"counts": claims, "indices": array("uint32", [1]).replace(shape=(1 << 60,))})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_a_list_that_is_too_long_to_be_read_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = good()
    monkeypatch.setattr(bundle, "MOST_LISTED", len(arrays["groups"].raw))
    assert len(unpack(arrays).names) == 3
    longer = text(b"[" + b" " + bytes(arrays["groups"].raw)[1:])
    with pytest.raises(CorruptObject, match="too long"):
        unpack(arrays | {"groups": longer})


def test_many_groups_take_time_in_proportion() -> None:
    count = 20_000
    names = json.dumps([[[[str(number)]], 1] for number in range(count)]).encode()
    counts = array("uint32", [0] * count)
    before = time.process_time()
    assert len(unpack({"groups": text(names), "counts": counts, "indices": array("uint32", [])}).names) == count
    assert time.process_time() - before < 2


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 20) | st.floats() | st.sampled_from(["x", "y", ""]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=2), inner, max_size=2),
)
GROUPS = st.lists(
    st.tuples(
        st.lists(st.lists(st.sampled_from("abcdef"), max_size=2) | JSON, max_size=2) | JSON,
        st.sampled_from([1, 2, 4, 8, 16]) | JSON,
    )
    | JSON,
    max_size=4,
)


@st.composite
def objects(draw: st.DrawFn) -> dict[str, Array]:
    """Return arrays that may be anything, but are often right."""
    units = draw(st.lists(st.sampled_from([1, 2, 4, 8, 16]), max_size=3))
    places = [sorted(draw(st.sets(st.integers(0, 12), max_size=4))) for _ in units]
    spoiled = draw(st.sampled_from(["", "", "groups", "counts", "indices", "values"]))
    groups = draw(GROUPS | JSON) if spoiled == "groups" else [[[[f"g{at}"]], unit] for at, unit in enumerate(units)]
    counts = draw(st.lists(st.integers(0, 4), max_size=4)) if spoiled == "counts" else list(map(len, places))
    positions = [place for some in places for place in some]
    if spoiled == "indices":
        positions = draw(st.lists(st.integers(0, 12), max_size=6) | st.permutations(positions))
    arrays = {
        "groups": listing(groups),
        "counts": array(draw(st.sampled_from(["uint32", "uint64"])), counts),
        "indices": array(draw(st.sampled_from(["uint32", "uint64"])), positions),
    }
    for unit in draw(st.sets(st.sampled_from([1, 2, 4, 8, 16]), max_size=3)) if spoiled == "values" else set(units):
        count = sum(len(some) for mine, some in zip(units, places, strict=True) if mine == unit)
        count += draw(st.integers(0, 1)) if spoiled == "values" else 0
        arrays[f"values{unit}"] = array(f"uint{min(8 * unit, 64)}", np.ones((count, 2) if unit == 16 else (count,)))
    return arrays


@given(objects(), st.integers(0, 20))
def test_what_is_not_refused_changes_only_what_is_there(arrays: dict[str, Array], size: int) -> None:
    try:
        found = unpack(arrays)
    except CorruptObject:
        return
    assert found.starts[-1] == len(arrays["indices"].raw) // np.dtype(arrays["indices"].dtype).itemsize
    for name in found.names:
        each = found.changes(name)
        assert each is not None
        assert name
        assert all(isinstance(part, str) for part in name)
        assert len(each.indices) == len(each.values)
        assert (np.diff(each.indices.astype("i8")) > 0).all()
        unit = each.unit
        dtype = {1: "uint8", 2: "float16", 4: "float32", 8: "float64", 16: "complex128"}[unit]
        try:
            step = compose([each], dtype, (size,))
        except CorruptObject:
            continue
        memory = bytearray((size + 2) * unit)
        step.apply(memoryview(memory)[unit:-unit], range(size))
        event("applied")
        assert not any(memory[:unit])
        assert not any(memory[-unit:])
