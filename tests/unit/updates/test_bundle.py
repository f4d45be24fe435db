"""Objects with the changes of many groups: a few arrays, cut up again by the groups' names."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import pytest

from tests.support.update_arrays import some
from theta_daemon.errors import CorruptObject
from theta_daemon.updates import bundle
from theta_daemon.updates.array import Array
from theta_daemon.updates.bundle import Bundle, Run, pack, unpack, weight
from theta_daemon.updates.exact_sparse import Changes, compose

Name = tuple[str, ...]


def texts(arrays: Mapping[str, Array]) -> dict[str, tuple[str, tuple[int, ...], list[int]]]:
    """Return arrays as they can be compared."""
    return {
        key: (array.dtype, array.shape, np.frombuffer(array.raw, array.dtype).tolist()) for key, array in arrays.items()
    }


def changes_of(found: Bundle, name: Name) -> Changes:
    changes = found.changes(name)
    assert changes is not None
    return changes


def test_one_object_holds_the_changes_of_many_groups() -> None:
    groups: list[tuple[list[Name], Changes]] = [
        ([("a", "weight"), ("tied",)], some(3, 1)),
        ([("b",)], some(0, 2, unit=8)),
        ([("c",)], some(2, 3, unit=16)),
        ([("d",)], some(4, 4)),
        ([("é\ud800",)], some(1, 5, unit=1)),
    ]
    arrays = pack(groups)
    assert set(arrays) == {"groups", "counts", "indices", "values1", "values4", "values16"}
    assert arrays["values16"].shape == (2, 2)
    found = unpack(arrays)
    assert found.names == [name for names, _ in groups for name in names]
    assert found.nbytes == sum(each.nbytes for _, each in groups)
    assert found.changes(("other",)) is None
    for name, expected in [(name, expected) for names, expected in groups for name in names]:
        got = changes_of(found, name)
        assert got.unit == expected.unit
        assert got.indices.tolist() == expected.indices.tolist()
        assert got.values.tolist() == expected.values.tolist()
        assert got.values.shape == expected.values.shape
        assert not got.indices.flags.owndata or not len(got.indices)


def test_the_arrays_are_as_the_protocol_says() -> None:
    one = Changes(2, np.array([1, 5], "u4"), np.array([258, 3], "u2"))
    other = Changes(2, np.array([0], "u8"), np.array([7], "u2"))
    arrays = pack([([("x", 'q"')], one), ([("y",), ("z",)], other)])
    text = b'[[[["x","q\\""]],2],[[["y"],["z"]],2]]'
    assert bytes(arrays["groups"].raw) == text
    assert texts(arrays) == {
        "groups": ("uint8", (len(text),), list(text)),
        "counts": ("uint32", (2,), [2, 1]),
        "indices": ("uint32", (3,), [1, 5, 0]),
        "values2": ("uint16", (3,), [258, 3, 7]),
    }
    assert bytes(arrays["indices"].raw) == bytes.fromhex("01000000 05000000 00000000")
    assert bytes(arrays["values2"].raw) == bytes.fromhex("0201 0300 0700")


def test_positions_are_wide_where_one_needs_it() -> None:
    near = Changes(1, np.array([(1 << 32) - 1], "u4"), np.array([1], "u1"))
    far = Changes(1, np.array([1, 1 << 32], "u8"), np.array([1, 2], "u1"))
    assert pack([([("near",)], near)])["indices"].dtype == "uint32"
    arrays = pack([([("near",)], near), ([("far",)], far)])
    assert arrays["indices"].dtype == "uint64"
    assert changes_of(unpack(arrays), ("far",)).indices.tolist() == [1, 1 << 32]
    assert changes_of(unpack(arrays), ("near",)).indices.tolist() == [(1 << 32) - 1]


def test_an_object_without_groups_is_one() -> None:
    arrays = pack([])
    assert texts(arrays) == {
        "groups": ("uint8", (2,), list(b"[]")),
        "counts": ("uint32", (0,), []),
        "indices": ("uint32", (0,), []),
    }
    assert unpack(arrays).names == []


def test_a_list_of_groups_that_could_not_be_read_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    groups: list[tuple[list[Name], Changes]] = [([("a", "é"), ("b",)], some(3, 1)), ([("c",)], some(5, 2, unit=16))]
    arrays = pack(groups)
    total = sum(weight(*each) for each in groups) + 1  # and the brackets, but for the comma of the last
    assert total == sum(len(each.raw) for each in arrays.values())
    monkeypatch.setattr(bundle, "MOST_LISTED", len(arrays["groups"].raw))
    assert texts(pack(groups)) == texts(arrays)
    monkeypatch.setattr(bundle, "MOST_LISTED", len(arrays["groups"].raw) - 1)
    with pytest.raises(ValueError, match="too long"):
        pack(groups)


def test_arrays_may_lie_at_any_address() -> None:
    packed = pack([([("a",)], some(9, 1))])
    arrays = {key: each.replace(raw=memoryview(b"x" + bytes(each.raw))[1:]) for key, each in packed.items()}
    value, other = bytearray(4000), bytearray(4000)
    compose([changes_of(unpack(arrays), ("a",))], "int32", (1000,)).apply(memoryview(value), range(1000))
    compose([some(9, 1)], "int32", (1000,)).apply(memoryview(other), range(1000))
    assert value == other


def test_names_are_listed_in_ascii() -> None:
    text = bytes(pack([([("é",)], some(1, 0))])["groups"].raw)
    assert text.isascii()
    assert json.loads(text) == [[[["é"]], 4]]


def test_the_list_of_groups_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def packed(*counts: int) -> Mapping[str, Array]:
        return pack([([(f"once {at}",)], some(count, at)) for at, count in enumerate(counts)])

    first = unpack(packed(3, 0, 2))
    with monkeypatch.context() as patch:
        patch.setattr(json, "loads", lambda _: pytest.fail("read again"))
        second = unpack(packed(1, 5, 2))
    for found, counts in ((first, (3, 0, 2)), (second, (1, 5, 2))):
        assert [len(changes_of(found, name).indices) for name in found.names] == list(counts)


def test_a_run_is_its_bundles_one_after_the_other() -> None:
    chain = [some(300, seed) for seed in range(5)]
    other = [some(seed, seed, unit=2) for seed in range(5)]
    run = Run(
        [unpack(pack([([("b",)], two), ([("a",), ("alias",)], one)])) for one, two in zip(chain, other, strict=True)]
    )
    for name in ("a", "alias"):
        value, expected = bytearray(4000), bytearray(4000)
        compose(chain, "float32", (1000,)).apply(memoryview(expected), range(1000))
        run.step((name,), "float32", (1000,)).apply(memoryview(value), range(1000))
        assert value == expected
    with pytest.raises(CorruptObject, match="elements of 4 bytes for float16"):
        run.step(("a",), "float16", (1000,))
    with pytest.raises(CorruptObject, match="among the 500 elements"):
        run.step(("a",), "float32", (500,))
    with pytest.raises(CorruptObject, match="no changes of this parameter group"):
        run.step(("c",), "float32", (1000,))


def test_a_run_of_bundles_that_differ() -> None:
    one, other = some(3, 1), some(3, 1, unit=2)
    run = Run([unpack(pack([([("a",)], one)])), unpack(pack([([("x",)], other), ([("a",)], other)]))])
    with pytest.raises(CorruptObject, match="another size"):
        run.step(("a",), "float32", (1000,))
    with pytest.raises(CorruptObject, match="no changes of this parameter group"):
        run.step(("x",), "float16", (1000,))
