"""Strings between double quotes, as git writes and reads them (quote.c: C-style quoting)."""

from __future__ import annotations

import re

_ESCAPES = {
    **dict(zip(b"abtnvfr", b"\a\b\t\n\v\f\r", strict=True)),
    ord('"'): ord('"'),
    ord("\\"): ord("\\"),
}
_SPELLED = {value: bytes([key]) for key, value in _ESCAPES.items()}
_OCTAL = re.compile(rb"[0-3][0-7]{2}")


def quote(text: bytes) -> bytes:
    """Return `text` in quotes; bytes over 0x7F stay as they are (core.quotePath=false)."""
    return b'"' + b"".join(_spell(byte) for byte in text) + b'"'


def unquote(text: bytes, start: int) -> tuple[bytes, int] | None:
    """Read the quoted string that begins at `start`.

    Returns it and the position after its last quote, or None where git sees no quoted string.
    """
    found = bytearray()
    position = start + 1
    while position < len(text):
        byte = text[position]
        position += 1
        if byte == ord('"'):
            return bytes(found), position
        if byte == ord("\\"):
            octal = _OCTAL.match(text, position)
            escaped = text[position : position + 1]
            if octal is not None:
                byte, position = int(octal[0], 8), octal.end()
            elif escaped and escaped[0] in _ESCAPES:
                byte, position = _ESCAPES[escaped[0]], position + 1
            else:
                return None
        found.append(byte)
    return None


def is_plain(text: bytes) -> bool:
    """Tell whether `text` holds no control character."""
    return all(byte >= 0x20 and byte != 0x7F for byte in text)


def _spell(byte: int) -> bytes:
    if byte in _SPELLED:
        return b"\\" + _SPELLED[byte]
    return b"\\%03o" % byte if byte < 0x20 or byte == 0x7F else bytes([byte])
