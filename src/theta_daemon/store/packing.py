"""The msgpack of payloads: maps of maps of bytes, read without copying and written around large pieces.

Only what `msgpack.packb({name: {key: bytes}}, use_bin_type=True)` can produce is read. The library itself is not
used: it would copy every chunk. Nothing is believed before it is seen: a count costs nothing until its entries are
really there, and there are never more than the caller allows.
"""

from __future__ import annotations

from typing import Final

from theta_daemon.errors import CorruptObject

# First byte of a form -> bytes of the big-endian length that follows (msgpack spec, "Formats").
_MAPS: Final = {0xDE: 2, 0xDF: 4}
_STRINGS: Final = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_BINARIES: Final = {0xC4: 1, 0xC5: 2, 0xC6: 4}

MAX_BINARY: Final = 0xFFFFFFFF


def split(view: memoryview, limit: int) -> dict[str, dict[str, slice]]:
    """Return the arrays of a payload: for each, where in `view` the bytes under each of its keys lie.

    Raises CorruptObject for anything else, for keys given twice, bytes that follow, and more than `limit` keys.
    """
    cursor = _Cursor(view)
    arrays: dict[str, dict[str, slice]] = {}
    left = limit
    for _ in range(cursor.map(left)):
        name = cursor.text()
        if name in arrays:
            raise CorruptObject(f"the payload holds {name[:40]!r} twice")
        entries = arrays[name] = {}
        count = cursor.map(left)
        left -= count + 1
        for _ in range(count):
            key = cursor.text()
            if key in entries:
                raise CorruptObject(f"the payload holds the key {key[:40]!r} twice")
            entries[key] = cursor.binary()
    if cursor.at != len(view):
        raise CorruptObject(f"the payload ends after {cursor.at} of its {len(view)} bytes")
    return arrays


def last_binary(view: memoryview, head: bytes) -> int | None:
    """Return where the bytes begin that make up all of `view` after `head` and their length; None where none do."""
    at = len(head)
    if view[:at] != head or len(view) == at:
        return None
    width = _BINARIES.get(view[at])
    if width is None:
        return None
    start = at + 1 + width
    return start if int.from_bytes(view[at + 1 : start], "big") == len(view) - start else None


def binary_at(view: memoryview, at: int) -> tuple[int, int] | None:
    """Return where the bytes begin and end whose length stands at `at`; None where there are none, or not all."""
    width = _BINARIES.get(view[at]) if at < len(view) else None
    if width is None:
        return None
    start = at + 1 + width
    stop = start + int.from_bytes(view[at + 1 : start], "big")
    return (start, stop) if stop <= len(view) else None


def map_head(count: int) -> bytes:
    """Return the head of a map of `count` entries."""
    if count < 16:
        return bytes([0x80 | count])
    return _head(count, _MAPS)


def text(value: str) -> bytes:
    """Return the string `value`."""
    data = value.encode()
    return (bytes([0xA0 | len(data)]) if len(data) < 32 else _head(len(data), _STRINGS)) + data


def binary_head(size: int) -> bytes:
    """Return the head of `size` bytes, at most MAX_BINARY, that follow."""
    return _head(size, _BINARIES)


def _head(length: int, forms: dict[int, int]) -> bytes:
    form, width = next((form, width) for form, width in forms.items() if length >> 8 * width == 0)
    return bytes([form]) + length.to_bytes(width, "big")


class _Cursor:
    """Reads from the front of `view`; `at` is the number of bytes read."""

    __slots__ = ("at", "view")

    def __init__(self, view: memoryview) -> None:
        self.view = view
        self.at = 0

    def map(self, limit: int) -> int:
        first = self._byte()
        count = first & 0x0F if first >> 4 == 0x8 else self._length(first, _MAPS, "a map")
        if count > limit:
            raise CorruptObject(f"the payload has {count} keys in one map, which its parameter does not need")
        return count

    def text(self) -> str:
        first = self._byte()
        length = first & 0x1F if first >> 5 == 0b101 else self._length(first, _STRINGS, "a string")
        try:
            return str(self._take(length), "utf-8")
        except UnicodeDecodeError as error:
            raise CorruptObject(f"the payload has a key that is not UTF-8 at byte {self.at}") from error

    def binary(self) -> slice:
        size = self._length(self._byte(), _BINARIES, "bytes")
        self._take(size)
        return slice(self.at - size, self.at)

    def _byte(self) -> int:
        return self._take(1)[0]

    def _length(self, first: int, forms: dict[int, int], what: str) -> int:
        width = forms.get(first)
        if width is None:
            raise CorruptObject(f"the payload has no {what.removeprefix('a ')} at byte {self.at - 1} but {first:#04x}")
        return int.from_bytes(self._take(width), "big")

    def _take(self, size: int) -> memoryview:
        if size > len(self.view) - self.at:
            raise CorruptObject(f"the payload ends at byte {len(self.view)}, inside what begins at {self.at}")
        self.at += size
        return self.view[self.at - size : self.at]
