"""The outermost form of a layout, compared with the msgpack library."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from theta_daemon.errors import LayoutError
from theta_daemon.formats.layout_items import MAX_ITEMS, Item, pack, unpack

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
ITEMS: st.SearchStrategy[list[Item]] = st.lists(
    st.one_of(TEXTS, st.binary(max_size=300), st.integers(0, 2**64 - 1), st.lists(TEXTS, max_size=20)),
    max_size=MAX_ITEMS,
)
EDGES: list[Item] = [0, 127, 128, 255, 256, 65535, 65536, 2**32 - 1, 2**32, "a" * 31, "a" * 32, "é" * 130]


@given(ITEMS)
@example(EDGES)
@example([b"x" * 255, b"x" * 256, b"x" * 65535, b"x" * 65536, "x" * 65536, ["x"] * 15, ["x"] * 16])
def test_items_have_the_form_that_the_library_gives_them(items: list[Item]) -> None:
    data = msgpack.packb(items)
    assert pack(items) == data
    assert unpack(data) == unpack(memoryview(data)) == items


@given(st.binary(max_size=60))
@example(b"\x91\xcc\x7f")  # a number in a longer form than it needs
@example(b"\x91\xd9\x01x")
@example(b"\x91\xc5\x00\x01x")
@example(b"\xdc\x00\x01\x00")
@example(b"\x90\x90")
def test_any_bytes_are_refused_or_the_one_encoding(data: bytes) -> None:
    try:
        items = unpack(data)
    except LayoutError:
        return
    assert pack(items) == data


@given(ITEMS, st.data())
def test_nothing_that_is_cut_is_read(items: list[Item], data: st.DataObject) -> None:
    whole = pack(items)
    with pytest.raises(LayoutError):
        unpack(whole[: data.draw(st.integers(0, len(whole) - 1))])


@pytest.mark.parametrize("value", [None, True, 1.5, -1, {}, [[]], [1], [b"x"], msgpack.Timestamp(1), b"\xff", "\xff"])
def test_only_these_types_are_read(value: object) -> None:
    data = msgpack.packb([value])
    if isinstance(value, (bytes, str)):
        assert unpack(data) == [value]
        return
    with pytest.raises(LayoutError, match="this is no layout"):
        unpack(data)


def test_a_string_is_utf_8() -> None:
    with pytest.raises(LayoutError, match="damaged"):
        unpack(b"\x91\xa1\xff")


@pytest.mark.parametrize("item", [-1, 1 << 64])
def test_a_number_has_at_most_64_bits_and_no_sign(item: int) -> None:
    with pytest.raises(ValueError, match="has no form"):
        pack([item])
