"""How a `Metadata` becomes text: exactly what git-theta's `json.dump(..., indent=4)` writes for the same values.

One text for one value. Templates instead of the json module, whose indenting encoder is pure Python and several times
slower; the tests compare the two.
"""

from __future__ import annotations

import json
from functools import lru_cache
from json.encoder import encode_basestring_ascii as quoted
from typing import TYPE_CHECKING

from theta_daemon.metadata import fields

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from theta_daemon.metadata.entries import Entry, FileEntry, Metadata, Name, ObjectRef, Update

_INDENT = " " * 4
_ENTRY = """{
    "tensor_metadata": {
        "shape": "%s",
        "dtype": "%s",
        "hash": [
            %s
        ]
    },
    "lfs_metadata": {
        "version": %s,
        "oid": "%s",
        "size": "%d"
    },
    "theta_metadata": {
        "update_type": "%s",
        "last_commit": %s
    }%s
}"""
_OURS = f""",
    "theta_daemon": {{
        "digest": "{fields.DIGEST_PREFIX}%s"%s
    }}"""
_OURS_WITHOUT_REPLAY = _OURS % ("%s", "")
_REPLAY = """,
        "replay": [
            %s
        ]"""
_UPDATE = """{
                "update_type": "%s",
                "oid": "%s",
                "size": "%d"
            }"""
_NEXT_IN_LIST = ",\n" + 3 * _INDENT


def pieces(metadata: Metadata) -> Iterator[str]:
    """Yield the text of `metadata`, some pieces an entry.

    Raises ValueError for names that do not fit beside each other, and for an entry with a replay but no digest.
    """
    if not metadata.entries and metadata.file is None:
        yield "{}"
        return
    yield "{"
    comma = ""
    if metadata.file is not None:
        yield _line("", 1, _free_key(metadata.entries)) + _indented(_file_text(metadata.file), 1)
        comma = ","
    around: Name = ()  # the objects that are open
    before: Name = ()
    for name in sorted(metadata.entries):
        _check(name, before)
        inside = name[:-1]
        if inside != around:
            shared = _shared(around, inside)
            for depth in range(len(around), shared, -1):
                yield f"\n{depth * _INDENT}}}"
            for depth in range(shared, len(inside)):
                yield _line(comma, depth + 1, name[depth]) + "{"
                comma = ""
        yield _line(comma, len(name), name[-1]) + _entry_text(metadata.entries[name], len(name))
        comma = ","
        around, before = inside, name
    for depth in range(len(around), -1, -1):
        yield f"\n{depth * _INDENT}}}"


def _line(comma: str, depth: int, key: str) -> str:
    return f"{comma}\n{depth * _INDENT}{quoted(key)}: "


def _indented(text: str, depth: int) -> str:
    return text.replace("\n", "\n" + depth * _INDENT)


def _shared(one: Name, other: Name) -> int:
    count = 0
    for mine, its in zip(one, other, strict=False):
        if mine != its:
            break
        count += 1
    return count


def _check(name: Name, before: Name) -> None:
    if not 0 < len(name) <= fields.MAX_DEPTH or fields.LFS in name[1:]:
        raise ValueError(f"{name!r} is no name of a parameter")
    if before and name[: len(before)] == before:
        raise ValueError(f"{before!r} is a prefix of {name!r}")


def _free_key(entries: Iterable[Name]) -> str:
    tops = {name[0] for name in entries if name}
    key = fields.OURS
    while key in tops:
        key += "~"
    return key


def _entry_text(entry: Entry, depth: int) -> str:
    if entry.replay and entry.digest is None:
        raise ValueError("an entry with a replay needs a digest")
    known = (
        entry.shape,
        entry.dtype,
        _hash_text(entry.hash, depth),
        quoted(entry.version),
        entry.oid,
        entry.size,
        entry.update_type,
        "null" if entry.last_commit is None else f'"{entry.last_commit}"',
    )
    if entry.digest is None:
        return _template(depth, "") % known
    if entry.replay:
        return _template(depth, _OURS) % (*known, entry.digest, _indented(_replay_text(entry.replay), depth))
    return _template(depth, _OURS_WITHOUT_REPLAY) % (*known, entry.digest)


# Most entries of a file are as deep as each other, and have no hash.
@lru_cache(maxsize=64)
def _template(depth: int, ours: str) -> str:
    """Return the text of an entry `depth` levels below the top, `%` in the places of its fields; `ours` ends it."""
    return _indented(_ENTRY.replace("%s\n}", f"{ours}\n}}"), depth)


@lru_cache(maxsize=64)
def _hash_text(hash_: tuple[int, ...], depth: int) -> str:
    return _indented(_NEXT_IN_LIST.join(map(str, hash_)), depth)


def _replay_text(replay: tuple[Update, ...]) -> str:
    if not replay:
        return ""
    return _REPLAY % _NEXT_IN_LIST.join(_UPDATE % (step.update_type, step.oid, step.size) for step in replay)


def _file_text(file: FileEntry) -> str:
    tree: dict[str, object] = {"format": {file.format: {}}, "layout": _ref(file.layout)}
    if file.opaque:
        tree["opaque"] = {str(index): _ref(ref) for index, ref in enumerate(file.opaque)}
    if file.packs:
        tree["packs"] = {str(number): _ref(ref) for number, ref in file.packs}
    tree["version"] = {fields.FILE_VERSION: {}}
    return json.dumps(tree, indent=4)


def _ref(ref: ObjectRef) -> dict[str, object]:
    return {ref.oid: {str(ref.size): {}}}
