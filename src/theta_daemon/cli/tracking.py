"""What the attribute files of a repository mean: who matches, whose filter is in effect, and which line says so.

git alone decides what a pattern matches: our questions are asked through `git check-attr` with a core.attributesFile
of our own, which sets one attribute a pattern. Names and lines are those of the top-level directory.
"""

from __future__ import annotations

import os
import stat
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from theta_daemon import durable
from theta_daemon.cli import attributes
from theta_daemon.errors import RepositoryError, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from theta_daemon.cli.attributes import Line
    from theta_daemon.cli.git import Git

_FILE_LIMIT = 100 << 20  # attr.h: ATTR_MAX_FILE_SIZE
_ASKED = 20
_PROBE = b"theta-matches-"
_UNSET = {b"unspecified", b"theta"}


@dataclass(frozen=True, slots=True)
class Origin:
    """A line of an attribute file that sets a filter."""

    file: bytes
    number: int
    line: Line

    def __str__(self) -> str:
        """Return `file:line` for a message."""
        return f"{printable(self.file)}:{self.number}"


def read(path: Path) -> tuple[bytes, int | None]:
    """Return a .gitattributes file and its permission bits; empty and None where there is none.

    Raises RepositoryError for what git does not read: symbolic links, directories, files over 100 MiB.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return b"", None
    if not stat.S_ISREG(found.st_mode):
        raise RepositoryError("is not a regular file, and git reads no other", path=os.fsencode(path.name))
    if found.st_size > _FILE_LIMIT:
        raise RepositoryError("is over 100 MiB, and git ignores it", path=os.fsencode(path.name))
    return path.read_bytes(), stat.S_IMODE(found.st_mode)


def write(path: Path, data: bytes, mode: int | None) -> None:
    """Replace a .gitattributes file at once, with the permissions it had."""
    durable.write(path, [data], temporary=path.parent, mode=mode)


def matches(git: Git, patterns: Sequence[bytes], paths: Sequence[bytes]) -> dict[bytes, list[int]]:
    """Return, for each path, the indices of the patterns that match it, ascending."""
    found: dict[bytes, list[int]] = {path: [] for path in paths}
    if not patterns or not paths:
        return found
    with tempfile.NamedTemporaryFile(prefix="theta-attributes-") as file:
        for index, pattern in enumerate(patterns):
            file.write(attributes.quoted(pattern) + b" " + _PROBE + b"%d\n" % index)
        file.flush()
        rows = git.items(
            *("-c", f"core.attributesFile={file.name}", "check-attr", "-z", "--all", "--stdin"),
            stdin=b"".join(path + b"\0" for path in paths),
        )
    for path, name, value in zip(rows[::3], rows[1::3], rows[2::3], strict=True):
        if name.startswith(_PROBE) and value == b"set":
            found[path].append(int(name.removeprefix(_PROBE)))
    return {path: sorted(indices) for path, indices in found.items()}


def conflict(git: Git, paths: Sequence[bytes]) -> tuple[bytes, Origin] | None:
    """Return the first path for which a file of this repository sets another filter, and the line that does.

    What the user's or the machine's attribute file says is no conflict: .gitattributes counts for more.
    """
    rows = git.items(
        *("-c", "core.attributesFile=/dev/null", "check-attr", "-z", "--stdin", "filter"),
        stdin=b"".join(path + b"\0" for path in paths),
    )
    others = [path for path, _, value in zip(rows[::3], rows[1::3], rows[2::3], strict=True) if value not in _UNSET]
    # Those without a line are the work of the machine's file, /etc/gitattributes; thousands of them need no asking.
    for path in others[:_ASKED]:
        origin = _origin(git, path)
        if origin is not None:
            return path, origin
    return None


def example(pattern: bytes) -> bytes:
    """Return a path that `pattern` is likely to match: itself where it has no wildcard."""
    path = bytearray()
    at = 0
    while at < len(pattern):
        byte = pattern[at : at + 1]
        at += 1
        if byte == b"\\":
            path += pattern[at : at + 1]
            at += 1
        elif byte == b"*":
            while pattern[at : at + 1] == b"*":
                at += 1
            path += b"x"
        elif byte == b"[":
            end = pattern.find(b"]", at + 1)
            path += pattern[at : at + 1] if end > 0 else byte
            at = end + 1 if end > 0 else at
        else:
            path += b"x" if byte == b"?" else byte
    return bytes(path).lstrip(b"/")


def attribute_files(git: Git) -> list[bytes]:
    """Return every .gitattributes of the work tree, tracked or not, as a path from the top."""
    names = git.items("ls-files", "-z", "--cached", "--others", "--", ":(top,glob)**/.gitattributes")
    return sorted(set(names))


def read_lines(top: Path, file: bytes) -> list[Line]:
    """Return the lines of an attribute file, none where git would not read it."""
    try:
        return attributes.parse(read(top / os.fsdecode(file))[0])
    except RepositoryError:
        return []


def _origin(git: Git, path: bytes) -> Origin | None:
    """Return the line that sets the filter of `path`: the last match of the first file that has one."""
    found = _files_for(git, path)
    macros = _filter_macros(line for _, _, lines in found for line in lines)
    for name, base, lines in found:
        setting = [
            (number, line)
            for number, line in enumerate(lines, 1)
            if line.pattern is not None
            and any(item.name == b"filter" or item.text in macros for item in line.attributes)
        ]
        patterns = [line.pattern for _, line in setting if line.pattern is not None]
        below = path.removeprefix(base)
        indices = matches(git, patterns, [below])[below]
        if indices:
            number, line = setting[indices[-1]]
            return Origin(name, number, line)
    return None


def _files_for(git: Git, path: bytes) -> list[tuple[bytes, bytes, list[Line]]]:
    """Return the attribute files that count for `path`, the strongest first: name, directory, lines."""
    top = os.fsencode(git.directory)
    info = os.path.join(top, git.line("rev-parse", "--git-path", "info/attributes"))
    files = [(os.path.relpath(info, top), b"")]
    parts = path.split(b"/")[:-1]
    for depth in range(len(parts), -1, -1):
        base = b"".join(part + b"/" for part in parts[:depth])
        files.append((base + attributes.NAME, base))
    return [(file, base, read_lines(git.directory, file)) for file, base in files]


def _filter_macros(lines: Iterable[Line]) -> set[bytes]:
    """Return the macros that set a filter, by themselves or through other macros."""
    bodies = [(line.macro, line.attributes) for line in lines if line.macro is not None]
    found: set[bytes] = set()
    while True:
        more = {name for name, body in bodies if any(item.name == b"filter" or item.text in found for item in body)}
        if more <= found:
            return found
        found |= more
