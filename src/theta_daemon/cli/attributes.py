"""A .gitattributes file as lines that can be edited without touching a byte that is not ours.

Follows git's attr.c: lines end at LF; space, tab and CR separate; a pattern that begins with a double quote is
C-quoted; `#` begins a comment line, `[attr]` a macro; git skips a byte-order mark, lines from 2048 bytes on, and
lines with an attribute whose name is not allowed. What git does not read is kept and never matched. Pure functions of
bytes; `tracking` asks git what a file means.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from theta_daemon.cli import quoting
from theta_daemon.errors import UsageError

WANTED = (b"filter=theta", b"merge=theta", b"diff=theta", b"-text")
NAME = b".gitattributes"

_LINE_LIMIT = 2048  # attr.h: ATTR_MAX_LINE_LENGTH; without the line's end, a line must be shorter
_BLANK = b" \t\r"
_MACRO = b"[attr]"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_TOKEN = re.compile(rb"[^ \t\r]+")
_PREFIX = re.compile(rb"^[-!]")
_ATTRIBUTE_NAME = re.compile(rb"[A-Za-z0-9_.][-A-Za-z0-9_.]*")


@dataclass(frozen=True, slots=True)
class Attribute:
    """One attribute of a line, and where its bytes lie in it."""

    text: bytes
    start: int
    end: int

    @property
    def name(self) -> bytes:
        """What it sets: `text` for `text`, `-text`, `!text` and `text=auto`."""
        return _PREFIX.sub(b"", self.text).partition(b"=")[0]


@dataclass(frozen=True, slots=True)
class Line:
    """One line with its end; `pattern` and `macro` are None where it has none that git reads."""

    raw: bytes
    pattern: bytes | None = None
    macro: bytes | None = None
    attributes: tuple[Attribute, ...] = ()

    def get(self, name: bytes) -> bytes | None:
        """Return the last attribute that sets `name`, the one that counts."""
        return next((found.text for found in reversed(self.attributes) if found.name == name), None)

    def adding(self, texts: list[bytes]) -> bytes:
        """Return the line with more attributes, after those it has."""
        end = self.attributes[-1].end if self.attributes else len(self.raw.rstrip(_BLANK + b"\n"))
        return self.raw[:end] + b"".join(b" " + text for text in texts) + self.raw[end:]

    def without(self, texts: tuple[bytes, ...]) -> bytes:
        """Return the line without some attributes and the blanks before them; empty when none is left."""
        gone = [found for found in self.attributes if found.text in texts]
        if len(gone) == len(self.attributes):
            return b""
        kept = bytearray(self.raw)
        for found in reversed(gone):
            start = found.start
            while kept[start - 1] in _BLANK:
                start -= 1
            del kept[start : found.end]
        return bytes(kept)


def parse(data: bytes) -> list[Line]:
    """Split a file into lines; joining their `raw` gives `data` again."""
    lines = [piece + b"\n" for piece in data.split(b"\n")]
    lines[-1] = lines[-1][:-1]
    if not lines[-1]:
        lines.pop()
    return [_line(raw, 0 if index else _mark(raw)) for index, raw in enumerate(lines)]


def quoted(pattern: bytes) -> bytes:
    """Spell a pattern so that git reads exactly it, quoted only where it must be."""
    if pattern and not pattern.startswith((b'"', b"#")) and b" " not in pattern and quoting.is_plain(pattern):
        return pattern
    return quoting.quote(pattern)


def literal(path: bytes) -> bytes:
    """Return the pattern that matches `path` and nothing else of its form."""
    escaped = re.sub(rb"[\\*?\[]", rb"\\\g<0>", path)
    return b"\\" + escaped if escaped.startswith(b"!") else escaped


def track(data: bytes, pattern: bytes) -> tuple[bytes, bytes]:
    """Give `pattern` our attributes; return the new file and the line that has them.

    The pattern's own line gets what it lacks; where there is none, one is added at the end. What the line says of
    `merge` and `diff` stays. Raises UsageError when the line would be too long for git.
    """
    lines = parse(data)
    index = _line_of(lines, pattern)
    if index is None:
        end = b"\r\n" if lines and lines[0].raw.endswith(b"\r\n") else b"\n"
        added = quoted(pattern) + b" " + b" ".join(WANTED)
        separator = end if data and not data.endswith(b"\n") else b""
        return data + separator + _checked(added) + end, added
    line = lines[index]
    raw = line.adding([text for text in WANTED if _lacks(line, text)])
    return _replaced(lines, index, _checked(raw)), raw.strip(_BLANK + b"\n")


def untrack(data: bytes, pattern: bytes) -> bytes | None:
    """Take our attributes from every line of `pattern`; return the new file, or None where there is none to take."""
    lines = parse(data)
    new = [
        line.without(WANTED) if line.pattern == pattern and line.get(b"filter") == b"filter=theta" else line.raw
        for line in lines
    ]
    changed = b"".join(new)
    return None if changed == data else changed


def other_filter(data: bytes, pattern: bytes) -> int | None:
    """Return the number of the line that gives `pattern` itself another filter than ours, if that is in effect."""
    lines = enumerate(parse(data), 1)
    setting = [(number, line.get(b"filter")) for number, line in lines if line.pattern == pattern]
    number, value = next((found for found in reversed(setting) if found[1] is not None), (0, None))
    return number if value not in {None, b"filter=theta", b"!filter"} else None


def _lacks(line: Line, text: bytes) -> bool:
    """Tell whether the line needs `text`: `-text` whatever it says of text, the rest unless it says something."""
    if text == b"-text":
        return line.get(b"text") != text
    found = line.get(text.partition(b"=")[0])
    return found is None or (text == b"filter=theta" and found != text)


def _line_of(lines: list[Line], pattern: bytes) -> int | None:
    """Return which line of `pattern` to edit: the last one that is ours, else the last one."""
    found = [index for index, line in enumerate(lines) if line.pattern == pattern]
    ours = [index for index in found if lines[index].get(b"filter") == b"filter=theta"]
    return ours[-1] if ours else found[-1] if found else None


def _replaced(lines: list[Line], index: int, raw: bytes) -> bytes:
    return b"".join(raw if number == index else line.raw for number, line in enumerate(lines))


def _checked(raw: bytes) -> bytes:
    length = len(raw.rstrip(b"\r\n"))
    if length >= _LINE_LIMIT:
        raise UsageError(
            f"the line for this pattern would have {length} bytes, and git skips lines from {_LINE_LIMIT} on"
        )
    return raw


def _mark(raw: bytes) -> int:
    return len(_BYTE_ORDER_MARK) if raw.startswith(_BYTE_ORDER_MARK) else 0


def _line(raw: bytes, offset: int) -> Line:
    end = raw.find(b"\0")
    readable = raw.removesuffix(b"\n") if end < 0 else raw[:end]  # git reads C strings
    first = _TOKEN.search(readable, offset)
    if len(readable.removesuffix(b"\r")) >= _LINE_LIMIT or first is None or first[0].startswith(b"#"):
        return Line(raw)
    pattern, position = first[0], first.end()
    if pattern.startswith(b'"'):
        pattern, position = quoting.unquote(readable, first.start()) or (pattern, position)
    attributes = tuple(Attribute(found[0], found.start(), found.end()) for found in _TOKEN.finditer(readable, position))
    if not all(_ATTRIBUTE_NAME.fullmatch(found.name) for found in attributes):
        return Line(raw)
    if pattern.startswith(_MACRO) and len(pattern) > len(_MACRO):
        return Line(raw, macro=pattern.removeprefix(_MACRO), attributes=attributes)
    if pattern.startswith(b"!"):
        return Line(raw)
    return Line(raw, pattern=pattern, attributes=attributes)
