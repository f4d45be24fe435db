"""The msgpack of payloads is msgpack's, read without copies and within limits."""

from __future__ import annotations

import msgpack
import pytest

from theta_daemon.errors import CorruptObject
from theta_daemon.store import packing


def packb(value: object) -> bytes:
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def split(data: bytes, limit: int) -> dict[str, dict[str, bytes]]:
    arrays = packing.split(memoryview(data), limit)
    return {name: {key: data[place] for key, place in places.items()} for name, places in arrays.items()}


@pytest.mark.parametrize("count", [0, 1, 15, 16, 65535, 65536])
def test_map_heads(count: int) -> None:
    assert packb(dict.fromkeys(range(count))).startswith(packing.map_head(count))
    assert len(packing.map_head(count)) == (1 if count < 16 else 3 if count < 65536 else 5)


@pytest.mark.parametrize("length", [0, 1, 31, 32, 255, 256, 65535, 65536])
def test_strings_and_bytes(length: int) -> None:
    assert packing.text("k" * length) == packb("k" * length)
    assert packing.binary_head(length) + bytes(length) == packb(bytes(length))


def test_the_largest_binary() -> None:
    assert packing.binary_head(packing.MAX_BINARY) == b"\xc6\xff\xff\xff\xff"


@pytest.mark.parametrize("keys", [0, 1, 20, 70_000])
@pytest.mark.parametrize("length", [0, 300])
def test_splits_what_msgpack_packs(keys: int, length: int) -> None:
    entries = {f"{'k' * length}{number}": b"%d" % number * (number % 3 * 100) for number in range(keys)}
    data = packb({"parameter": entries, "ü": {}})
    assert split(data, keys + 3) == {"parameter": entries, "ü": {}}


@pytest.mark.parametrize("form", [b"\x82", b"\xde\x00\x02", b"\xdf\x00\x00\x00\x02"])
def test_accepts_longer_forms_than_needed(form: bytes) -> None:
    data = form + b"\xd9\x01a\x80" + b"\xda\x00\x01b\x81" + b"\xdb\x00\x00\x00\x01k" + b"\xc5\x00\x01v"
    assert split(data, 10) == {"a": {}, "b": {"k": b"v"}}


@pytest.mark.parametrize(
    "value",
    [
        None, 1, 1.5, "text", b"bytes", [], [{}], {1: {}}, {b"a": {}}, {"a": None}, {"a": []}, {"a": b"bytes"},
        {"a": {"k": "text"}}, {"a": {"k": None}}, {"a": {"k": {}}}, {"a": {1: b""}},
        {"a": {"k": msgpack.ExtType(1, b"")}},
    ],
)  # fmt: skip
def test_refuses_other_values(value: object) -> None:
    with pytest.raises(CorruptObject):
        packing.split(memoryview(packb(value)), 10)


def test_refuses_every_truncation_and_what_follows() -> None:
    data = packb({"a": {"key": b"value" * 100}, "b" * 40: {}})
    for end in range(len(data)):
        with pytest.raises(CorruptObject):
            packing.split(memoryview(data)[:end], 10)
    with pytest.raises(CorruptObject, match="ends after"):
        packing.split(memoryview(data + b"\0"), 10)


def test_refuses_keys_twice_and_keys_that_are_not_text() -> None:
    for data in (b"\x82\xa1a\x80\xa1a\x80", b"\x81\xa1a\x82\xa1k\xc4\0\xa1k\xc4\0", b"\x81\xa1\xff\x80"):
        with pytest.raises(CorruptObject):
            packing.split(memoryview(data), 10)


def test_refuses_more_keys_than_allowed() -> None:
    data = packb({"a": {str(number): b"" for number in range(100)}})
    assert len(packing.split(memoryview(data), 101)["a"]) == 100
    with pytest.raises(CorruptObject, match="100 keys"):
        packing.split(memoryview(data), 99)
    many: dict[str, dict[str, bytes]] = {str(number): {} for number in range(100)}
    long = {name: {str(number): b"" for number in range(50)} for name in "ab"}
    for arrays in (many, long):
        assert split(packb(arrays), 102) == arrays
        with pytest.raises(CorruptObject):
            packing.split(memoryview(packb(arrays)), 99)


@pytest.mark.parametrize("size", [0, 1, 255, 256, 65535, 65536])
def test_finds_what_fills_the_rest(size: int) -> None:
    data = b"head" + packing.binary_head(size) + bytes(size)
    start = packing.last_binary(memoryview(data), b"head")
    assert start == len(data) - size
    for other in (data[:-1], data + b"\0", b"h" + data, b"heap" + data[4:], data[4:]):
        assert packing.last_binary(memoryview(other), b"head") is None


@pytest.mark.parametrize(
    "rest",
    [b"", b"\xc4", b"\xc5", b"\xc5\0", b"\xc6\0\0", b"\xc4\1", b"\xa1a", b"\x80", b"\0", b"\xff" * 9, b"\xc6" * 9],
)
def test_finds_nothing_where_nothing_fills_the_rest(rest: bytes) -> None:
    assert packing.last_binary(memoryview(b"head" + rest), b"head") is None
    assert packing.last_binary(memoryview(rest), b"") is None


@pytest.mark.parametrize(
    "head", [b"\xdf\xff\xff\xff\xff", b"\x81\xa1a\xdf\xff\xff\xff\xff", b"\x81\xdb\xff\xff\xff\xff"]
)
def test_counts_cost_nothing(head: bytes) -> None:
    with pytest.raises(CorruptObject):
        packing.split(memoryview(head + b"\xa1a"), 2**40)
