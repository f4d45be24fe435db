"""The outermost form of an encoded layout: one msgpack array of strings, bytes, whole numbers and lists of strings.

Written and read here because the msgpack library takes 3 ms to import, in every git command that checks a file out.
Each thing is read in its shortest form alone, so that a list of items has one encoding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from theta_daemon.errors import LayoutError
from theta_daemon.frozen import Frozen

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_ITEMS: Final = 64  # of any array

Item = str | bytes | int | list[str]


class _Form(Frozen):
    """How msgpack writes a length or number: below `limit` added to `fix`, else behind a byte that gives its width."""

    fix: int
    limit: int
    wide: dict[int, int]  # first byte -> bytes of the big-endian number behind it


_NUMBER: Final = _Form(0x00, 128, {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8})
_ARRAY: Final = _Form(0x90, 16, {0xDC: 2, 0xDD: 4})
_STRING: Final = _Form(0xA0, 32, {0xD9: 1, 0xDA: 2, 0xDB: 4})
_BYTES: Final = _Form(0xC4, 0, {0xC4: 1, 0xC5: 2, 0xC6: 4})


def pack(items: Sequence[Item]) -> bytes:
    """Return the encoding of `items`. Raises ValueError for a number below 0, and where one needs over 64 bits."""
    out = [_head(_ARRAY, len(items))]
    for item in items:
        match item:
            case int():
                out.append(_head(_NUMBER, item))
            case bytes():
                out += _head(_BYTES, len(item)), item
            case str():
                out.append(_text(item))
            case list():
                out.append(_head(_ARRAY, len(item)))
                out += map(_text, item)
    return b"".join(out)


def unpack(data: bytes | memoryview) -> list[Item]:
    """Return the items whose encoding is `data`.

    Allocates in proportion to `data`, and does not recurse. Raises LayoutError.
    """
    cursor = _Cursor(bytes(data))
    items = [cursor.item() for _ in range(cursor.count(_ARRAY))]
    if cursor.at != len(data):
        raise LayoutError(f"the layout is damaged: it ends after {cursor.at} of its {len(data)} bytes")
    return items


def _text(text: str) -> bytes:
    data = text.encode()
    return _head(_STRING, len(data)) + data


def _head(form: _Form, number: int) -> bytes:
    if 0 <= number < form.limit:
        return bytes([form.fix + number])
    for first, width in form.wide.items():
        if 0 <= number < 1 << 8 * width:
            return bytes([first]) + number.to_bytes(width, "big")
    raise ValueError(f"{number} has no form")


class _Cursor:
    """Reads from the front of `data`; `at` is the number of bytes read."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def item(self) -> Item:
        if self._is(_BYTES):
            return self._take(self._number(_BYTES))
        if self._is(_STRING):
            return self._string()
        if self._is(_NUMBER):
            return self._number(_NUMBER)
        return [self._string() for _ in range(self.count(_ARRAY))]

    def count(self, form: _Form) -> int:
        count = self._number(form)
        if count > MAX_ITEMS:
            raise LayoutError(f"this is no layout: it has an array of {count} items")
        return count

    def _string(self) -> str:
        try:
            return self._take(self._number(_STRING)).decode()
        except UnicodeDecodeError as error:
            raise LayoutError(f"the layout is damaged: {error}") from error

    def _is(self, form: _Form) -> bool:
        first = self._data[self.at : self.at + 1]
        return bool(first) and (form.fix <= first[0] < form.fix + form.limit or first[0] in form.wide)

    def _number(self, form: _Form) -> int:
        if not self._is(form):
            raise LayoutError(f"this is no layout: it has {self._data[self.at : self.at + 1]!r} at byte {self.at}")
        first = self._take(1)[0]
        width = form.wide.get(first)
        if width is None:
            return first - form.fix
        number = int.from_bytes(self._take(width), "big")
        if len(_head(form, number)) != 1 + width:
            raise LayoutError("the layout is not in its one encoding")
        return number

    def _take(self, size: int) -> bytes:
        if size > len(self._data) - self.at:
            raise LayoutError(f"the layout is damaged: it ends at byte {len(self._data)}, inside what begins earlier")
        self.at += size
        return self._data[self.at - size : self.at]
