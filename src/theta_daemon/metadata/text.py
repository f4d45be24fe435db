"""The metadata file as bytes: `parse` and `serialize`, and `kind`, which tells it from what else git may hold.

`read` is `kind` and `parse` in one: the text is gone through once.

`serialize` is the one encoding of a `Metadata`, and exactly git-theta's: JSON with 4 spaces, ASCII, names nested by
their components and sorted as tuples, no newline at the end. `parse` takes any spacing and order, because people and
merges edit these files, but nothing else: every other difference is an error. The bytes are hostile. The form is
defined in protocol/metadata.md.

No numpy here: git's handshake is answered before anything heavy is imported.
"""

from __future__ import annotations

import enum
import json
import re
from typing import TYPE_CHECKING, NoReturn

from theta_daemon.errors import ConflictError, MetadataError, ThetaError
from theta_daemon.metadata import fields, render
from theta_daemon.metadata.entries import Entry, Metadata
from theta_daemon.metadata.lift import HOLE, lift

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from theta_daemon.metadata.entries import Name

MAX_SIZE = 256 << 20
"""Bytes of the largest metadata: some 200 000 parameter groups."""


class Kind(enum.Enum):
    """What the content of a file is to us."""

    METADATA = "metadata"
    CONFLICT = "conflict"  # metadata in which a merge left conflict markers
    OTHER = "other"


_START = re.compile(rb'[ \t\r\n]*(?:\{[ \t\r\n]*(?:["}]|<{7})|<{7})')
_SNIFF = 4096
_MARKERS = [rb"(?m)^" + mark + rb"{7,}(?: .*)?\r?$" for mark in (b"<", b"=", b">")]
_KEYS = [f'"{key}"'.encode() for key in (fields.TENSOR, fields.LFS, fields.THETA, fields.OURS)]
_MAX_DIGITS = 20  # of a 64-bit integer and its sign


def kind(data: bytes) -> Kind:
    """Tell what `data`, the whole content of a file, is.

    METADATA is a JSON object that holds an entry or a file entry, or nothing (a model without parameters); `parse` may
    still find fault with it. CONFLICT has a line of each conflict marker (also diff3 and zdiff3, also CRLF). Almost all
    that is OTHER is so by its first bytes, whatever its size.
    """
    if not _may_be_metadata(data):
        return Kind.OTHER
    if len(data) <= MAX_SIZE:
        try:
            tree = json.loads(data.decode(), parse_int=str)  # int() takes quadratic time
        except (ValueError, RecursionError):
            tree = None
        if isinstance(tree, dict) and (not tree or _file_key(tree) is not None or _holds_entry(tree)):
            return Kind.METADATA
    return Kind.CONFLICT if _in_conflict(data) else Kind.OTHER


def parse(data: bytes) -> Metadata:
    """Return what the metadata file `data` says, its entries sorted by name.

    Raises ConflictError for conflict markers, UnsupportedError for what a newer version wrote, MetadataError for
    everything else that is not well-formed; they name the parameter where there is one.
    """
    metadata = _lifted(data)
    return _of_tree(_load(data)) if metadata is None else metadata


def read(data: bytes) -> Metadata | Kind:
    """Return what `parse` says of `data` where `kind` calls it METADATA; else what `kind` calls it.

    Raises as `parse` does, for METADATA that it finds fault with.
    """
    if not _may_be_metadata(data):
        return Kind.OTHER
    metadata = _lifted(data)
    if metadata is not None:
        return metadata
    found = kind(data)
    return _of_tree(_load(data)) if found is Kind.METADATA else found


def serialize(metadata: Metadata) -> bytes:
    """Return the one encoding of `metadata`: `parse` of it gives an equal value.

    Raises MetadataError where it would be larger than `MAX_SIZE`, ValueError for names that `names.assign` does not
    make.
    """
    pieces, size = [], 0
    for piece in render.pieces(metadata):
        pieces.append(piece)
        size += len(piece)
        if size > MAX_SIZE:
            raise MetadataError(
                f"the metadata of {len(metadata.entries)} parameters would be larger than {MAX_SIZE >> 20} MiB",
                hint="split the checkpoint into several files",
            )
    return "".join(pieces).encode("ascii")


def _may_be_metadata(data: bytes) -> bool:
    # The length before a safetensors header may begin like JSON.
    return _START.match(data) is not None and b"\0" not in data[:_SNIFF]


def _lifted(data: bytes) -> Metadata | None:
    """Return what `data` says where at least one entry can be lifted and no fault is found, else None.

    What is left of the text once the entries are lifted is read as all of it would be.
    """
    try:
        text, entries = lift(data.decode("ascii")) if len(data) <= MAX_SIZE else ("", [])
        if not entries:
            return None
        left = iter(entries)
        tree = _json(text, lambda constant: next(left, None) if constant == HOLE else _no_number(constant))
        return None if next(left, None) is not None else _of_tree(tree)
    except (ValueError, RecursionError, ThetaError):
        return None  # what is wrong, and where, is for the long way to say


def _of_tree(tree: object) -> Metadata:
    if not isinstance(tree, dict):
        raise MetadataError("the metadata is not a JSON object")
    file_key = _file_key(tree)
    file = None if file_key is None else fields.file_entry(tree.pop(file_key))
    entries: dict[Name, Entry] = {}
    for name, value in _flatten(tree):
        try:
            entries[name] = value if isinstance(value, Entry) else fields.entry(value)
        except ThetaError as error:
            error.at(parameter=_label(name))
            raise
    ordered = sorted(entries)
    return Metadata(entries if ordered == list(entries) else {name: entries[name] for name in ordered}, file)


def _load(data: bytes) -> object:
    if len(data) > MAX_SIZE:
        raise MetadataError(f"the metadata is larger than {MAX_SIZE >> 20} MiB")
    try:
        return _json(data.decode(), _no_number)
    except RecursionError:
        raise MetadataError("the metadata is nested too deeply") from None
    except ValueError as error:
        if _in_conflict(data):
            raise ConflictError(
                "the metadata holds conflict markers", hint="resolve the conflict, or take one side, and add it again"
            ) from None
        raise MetadataError(f"the metadata is not JSON: {error}") from None


def _json(text: str, constant: Callable[[str], object]) -> object:
    return json.loads(
        text, object_pairs_hook=_unique, parse_int=_integer, parse_float=_no_number, parse_constant=constant
    )


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise MetadataError(f"the metadata has the key {_label((key,))!r} twice in one object")
            seen.add(key)
    return found


def _integer(digits: str) -> int:
    if len(digits) > _MAX_DIGITS:  # before int() spends quadratic time
        raise MetadataError(f"the metadata holds an integer of {len(digits)} digits")
    return int(digits)


def _no_number(text: str) -> NoReturn:
    raise MetadataError(f"the metadata holds the number {text[:_MAX_DIGITS]}, where only integers are allowed")


def _in_conflict(data: bytes) -> bool:
    return all(re.search(marker, data) for marker in _MARKERS) and any(key in data for key in _KEYS)


def _file_key(tree: dict[str, object]) -> str | None:
    """Return the top-level key of the file entry: the first of theta_daemon, theta_daemon~, ... without parameters."""
    key = fields.OURS
    while key in tree:
        if not _holds_entry(tree[key]):
            return key
        key += "~"
    return None


def _holds_entry(value: object) -> bool:
    pending = [value]
    while pending:
        inner = pending.pop()
        if isinstance(inner, Entry):
            return True
        if isinstance(inner, dict):
            if fields.LFS in inner:
                return True
            pending.extend(inner.values())
    return False


def _flatten(tree: dict[str, object]) -> Iterator[tuple[Name, object]]:
    """Yield every entry, an `Entry` or its JSON, with its name, in the order of the text."""
    pending: list[tuple[Name, object]] = [((key,), value) for key, value in reversed(tree.items())]
    while pending:
        name, value = pending.pop()
        if isinstance(value, Entry):
            yield name, value
            continue
        if not isinstance(value, dict) or not value:
            raise MetadataError("this is neither an entry nor an object with entries", parameter=_label(name))
        if fields.LFS in value:
            yield name, value
        elif len(name) == fields.MAX_DEPTH:
            raise MetadataError("the metadata is nested too deeply", parameter=_label(name))
        else:
            pending.extend(((*name, key), below) for key, below in reversed(value.items()))


def _label(name: Iterable[str]) -> str:
    text = "/".join(name)
    return text if len(text) <= 200 else f"{text[:200]}..."
