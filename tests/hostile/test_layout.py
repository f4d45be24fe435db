"""Layouts that are made to harm: a layout object may come from anybody who can push."""

from __future__ import annotations

import struct
import time
import tracemalloc
from itertools import pairwise

import msgpack
import pytest

from tests.unit.formats.test_layout import GOOD
from theta_daemon.errors import LayoutError
from theta_daemon.formats.layout_codec import decode, encode
from theta_daemon.formats.layout_items import MAX_ITEMS

ITEMS = msgpack.unpackb(encode(GOOD))


def refused_within(data: bytes, memory: int = 1 << 20) -> str:
    """Return the error; it takes no more than `memory` bytes, and no time to speak of."""
    started = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(LayoutError) as caught:
            decode(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < memory
    assert time.process_time() - started < 5
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    "head",
    [
        b"\xdd\xff\xff\xff\xff",  # array of 4 Gi items
        b"\xdd" + struct.pack(">I", MAX_ITEMS + 1),
        b"\xdf\xff\xff\xff\xff",  # map
        b"\xc6\xff\xff\xff\xff",  # bin
        b"\xdb\xff\xff\xff\xff",  # str
        b"\xc9\xff\xff\xff\xff\x01",  # ext
        b"\xdc\x00\x13\xacheta-layout",  # cut inside a string
    ],
)
def test_a_promise_is_not_memory(head: bytes) -> None:
    refused_within(head)
    refused_within(head + bytes(1000))
    refused_within(b"\xdc\x00\x13" + head * 19)


@pytest.mark.parametrize("depth", [500, 100_000])
@pytest.mark.parametrize("head", [b"\x91", b"\xdc\x00\x40", b"\xdd\x00\x00\x00\x40", b"\x81\xa0"])
def test_nesting_is_neither_recursion_nor_memory(head: bytes, depth: int) -> None:
    refused_within(head * depth, 2 << 20)


def test_a_large_array_of_small_things() -> None:
    refused_within(b"\xdd" + struct.pack(">I", 1 << 20) + bytes(1 << 20))


@pytest.mark.parametrize("end", range(0, len(encode(GOOD)), 7))
def test_a_layout_cut_anywhere(end: int) -> None:
    refused_within(encode(GOOD)[:end])


@pytest.mark.parametrize("item", range(4, 19))
def test_columns_that_promise_more_than_the_others_bring(item: int) -> None:
    changed = list(ITEMS)
    changed[item] = b"\xff" * len(changed[item])
    if item == 18:  # the bytes of the literals: any do
        assert decode(msgpack.packb(changed)) != GOOD
        return
    refused_within(msgpack.packb(changed))


@pytest.mark.parametrize("item", range(19))
@pytest.mark.parametrize("value", [None, True, 1.5, -1, 1 << 63, "", [], [[]], [1], msgpack.Timestamp(1)])
def test_items_of_any_other_type(item: int, value: object) -> None:
    changed = list(ITEMS)
    changed[item] = value
    if item == 3 and value == []:
        changed[3] = ["x"]
    refused_within(msgpack.packb(changed))


def test_a_version_is_no_boolean() -> None:
    changed = list(ITEMS)
    changed[1] = True
    assert "no layout" in refused_within(msgpack.packb(changed))


def test_ranks_of_nothing_at_all() -> None:
    """Thousands of groups of rank 255 without sizes."""
    number = 10_000
    changed = list(ITEMS)
    changed[4] = bytes(number)
    changed[5] = bytes(number)
    changed[7] = b"\xff" * number
    assert "do not fit" in refused_within(msgpack.packb(changed))


def test_names_that_are_nearly_prefixes_are_compared_in_linear_time() -> None:
    deep = 300
    number = 300
    changed = ["theta-layout", 1, "x", ["int8"], bytes(number), bytes(number), b"", bytes(number), b"", b""]
    lengths = [1] * (deep * number)
    changed += [
        struct.pack(f"<{number}I", *[deep] * number),
        struct.pack(f"<{len(lengths)}I", *lengths),
        b"a" * len(lengths),
        *[b""] * 6,
    ]
    assert "same name" in refused_within(msgpack.packb(changed), 16 << 20)


def test_an_error_stays_short() -> None:
    changed = list(ITEMS)
    changed[2] = "x" * 1_000_000
    assert len(refused_within(msgpack.packb(changed), 8 << 20)) < 300
    changed = list(ITEMS)
    changed[3] = ["y" * 1_000_000, *changed[3][1:]]
    assert len(refused_within(msgpack.packb(changed), 8 << 20)) < 300


def test_the_columns_here_are_those_that_are_written() -> None:
    """The tests above change items by number."""
    assert len(ITEMS) == 19
    assert all(type(item) is bytes for item in ITEMS[4:])
    assert all(ITEMS[item] for item in range(4, 19))
    assert all(one is not other for one, other in pairwise(ITEMS))
