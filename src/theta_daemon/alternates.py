"""Alternates: the object directories that another object directory borrows from (gitrepository-layout(5)).

`objects/info/alternates` names one a line; the environment variable GIT_ALTERNATE_OBJECT_DIRECTORIES lists them with
":" between. In both an entry may be a comment (`#...`) or quoted as C strings are. Alternates have alternates.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

DEPTH = 5  # where git stops to follow alternates of alternates (odb.c, "nesting too deep")

_QUOTED = re.compile(rb'"((?:[^"\\]|\\(?:[abfnrtv"\\]|[0-3][0-7][0-7]))*)"')
_ESCAPE = re.compile(rb"\\([0-7]{3}|.)", re.DOTALL)
_NAMED = {b"a": b"\a", b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}


def of(objects: Path, listed: bytes, base: Path) -> list[Path]:
    """Return the alternates of the object directory `objects`, nearest first, each once.

    `listed` are those that the environment adds; relative ones start from `base`. Directories need not exist, and a
    file that cannot be read lists none.
    """
    found: dict[Path, None] = {}
    _follow(split(listed, os.pathsep.encode()), base, 0, found)
    _follow(_listed_in(objects), objects, 0, found)
    return list(found)


def split(text: bytes, separator: bytes) -> Iterator[bytes]:
    """Yield the paths that `text` lists."""
    at = 0
    while at < len(text):
        quoted = _QUOTED.match(text, at)
        end = text.find(separator, at)
        end = len(text) if end < 0 else end
        entry = text[at:end]
        if quoted is not None:
            entry, end = _ESCAPE.sub(_unescaped, quoted[1]), quoted.end()
        elif entry.startswith(b"#"):
            entry = b""
        at = end + 1
        if entry:
            yield entry


def _unescaped(escape: re.Match[bytes]) -> bytes:
    code = escape[1]
    return bytes([int(code, 8)]) if len(code) == 3 else _NAMED.get(code, code)


def _follow(entries: Iterator[bytes], base: Path, depth: int, found: dict[Path, None]) -> None:
    for entry in entries:
        directory = Path(os.path.realpath(base / os.fsdecode(entry)))
        if directory not in found:
            found[directory] = None
            if depth < DEPTH:
                _follow(_listed_in(directory), directory, depth + 1, found)


def _listed_in(objects: Path) -> Iterator[bytes]:
    try:
        text = (objects / "info" / "alternates").read_bytes()
    except OSError:
        text = b""
    return split(text.partition(b"\0")[0], b"\n")
