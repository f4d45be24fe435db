"""What was parsed is not parsed again while it is known."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from theta_daemon.cache.parsed import Parsed


class Reader:
    """Parses, and counts what it has read and parsed."""

    def __init__(self) -> None:
        self.read: list[bytes] = []
        self.parsed: list[bytes] = []

    def content(self, data: bytes) -> Callable[[], bytes]:
        return partial(self._read, data)

    def parse(self, data: bytes) -> tuple[str, int]:
        self.parsed.append(data)
        if data == b"bad":
            raise ValueError("bad")
        return data.decode(), len(data)

    def _read(self, data: bytes) -> bytes:
        self.read.append(data)
        return data


@pytest.fixture
def reader() -> Reader:
    return Reader()


def get(parsed: Parsed, reader: Reader, key: str, data: bytes | None = None) -> tuple[str, int]:
    return parsed.get(reader.parse, key, reader.content(data or key.encode()))


def test_content_is_read_and_parsed_once(reader: Reader) -> None:
    parsed = Parsed(100)
    first = get(parsed, reader, "abc")
    assert first == ("abc", 3)
    assert get(parsed, reader, "abc") is first
    assert reader.read == reader.parsed == [b"abc"]


def test_one_content_may_be_parsed_in_two_ways(reader: Reader) -> None:
    parsed = Parsed(100)
    other = Reader()
    assert get(parsed, reader, "abc") == get(parsed, other, "abc")
    assert parsed.get(len, "abc", lambda: b"abc") == 3
    assert reader.parsed == other.parsed == [b"abc"]


def test_what_was_used_longest_ago_goes_first(reader: Reader) -> None:
    parsed = Parsed(10)
    for key in ("aaaa", "bbbb", "aaaa", "cccc"):
        get(parsed, reader, key)
    assert reader.parsed == [b"aaaa", b"bbbb", b"cccc"]
    get(parsed, reader, "aaaa")
    get(parsed, reader, "cccc")
    assert reader.parsed == [b"aaaa", b"bbbb", b"cccc"]
    get(parsed, reader, "bbbb")
    assert reader.parsed[3:] == [b"bbbb"]


def test_the_bound_counts_bytes(reader: Reader) -> None:
    parsed = Parsed(10)
    for number in range(10):
        get(parsed, reader, str(number))
    get(parsed, reader, "x")
    for number in range(1, 10):
        get(parsed, reader, str(number))
    assert len(reader.parsed) == 11
    get(parsed, reader, "0")
    assert len(reader.parsed) == 12


@pytest.mark.parametrize("limit", [0, 3])
def test_what_is_larger_than_the_bound_is_not_kept_and_pushes_nothing_out(reader: Reader, limit: int) -> None:
    parsed = Parsed(limit)
    get(parsed, reader, "a")
    for _ in range(2):
        assert get(parsed, reader, "large") == ("large", 5)
    get(parsed, reader, "a")
    assert reader.parsed.count(b"large") == 2
    assert reader.parsed.count(b"a") == (1 if limit else 2)


def test_no_failure_is_remembered(reader: Reader) -> None:
    parsed = Parsed(100)

    def fail() -> bytes:
        raise OSError("no such object")

    for _ in range(2):
        with pytest.raises(ValueError, match="bad"):
            get(parsed, reader, "key", b"bad")
        with pytest.raises(OSError, match="no such object"):
            parsed.get(reader.parse, "key", fail)
    assert get(parsed, reader, "key", b"good") == ("good", 4)


def test_many_threads(reader: Reader) -> None:
    parsed = Parsed(40)

    def ask(number: int) -> bool:
        key = str(number % 17) * (number % 5 + 1)
        return get(parsed, reader, key) == (key, len(key))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(4000)))
