"""The short way through a metadata file: entries as we write them, lifted out of the text by one pattern.

A parameter group is a thousand bytes of JSON, most of them the same in all. Read as JSON and checked field by field
that takes 18 us; here it takes 4. A replay is as long as its chain, and but for the base mostly the same in all groups
of a file: what follows the base is read once for each text. Other spellings of the same (another order of keys,
escapes) and whatever is wrong are left to `fields`. Only what is certain to be an entry is lifted:

* The pattern matches nothing but a JSON object, token by token, and each field is as strict as `fields` has it. A
  replay is found by the bracket that ends it, which stands nowhere else in it, and then read by a pattern of its own.
* HOLE, which is no JSON and must not be in the text, is left in its place. Who reads the rest as JSON, and finds as
  many of these constants as entries were lifted, knows that each stood where JSON has a value, and none in a string.
"""

from __future__ import annotations

import re

from theta_daemon.dtypes import DTYPES, nbytes
from theta_daemon.metadata.entries import INT64, MOST_HASHES, Entry, Update

HOLE = "NaN"
"""What stands in the place of an entry."""

_WHITE = r"[ \t\r\n]*+"
_NUMBER = r"(?:0|[1-9][0-9]{0,18}+)"
_OID = "([0-9a-f]{64})"
_TYPE = "([a-z0-9_-]{1,64}+)"
_STEP = _WHITE.join(
    [
        r"\{",
        rf'"update_type": "{_TYPE}",',
        rf'"oid": "{_OID}",',
        rf'"size": "({_NUMBER})"',
        r"\}",
    ]
)
_BASE = re.compile(rf"{_WHITE}{_STEP}{_WHITE}")
_UPDATE = re.compile(rf",{_WHITE}{_STEP}{_WHITE}")
_OURS = _WHITE.join(
    [
        r"\{",
        rf'"digest": "blake3:{_OID}"',
        rf'(?:,{_WHITE}"replay": \[([^]]++)\]{_WHITE})?+\}}',
    ]
)
_ENTRY = re.compile(
    _WHITE.join(
        [
            r"\{",
            r'"tensor_metadata": \{',
            rf'"shape": "(\((?:{_NUMBER}(?:, {_NUMBER}){{1,63}}+|{_NUMBER},)?\))",',
            r'"dtype": "([a-z0-9_]++)",',
            r'"hash": \[([-0-9, \t\r\n]*+)\]',
            r"\},",
            r'"lfs_metadata": \{',
            r'"version": "([!#-\[\]-~]{1,128}+)",',
            rf'"oid": "{_OID}",',
            rf'"size": "({_NUMBER})"',
            r"\},",
            r'"theta_metadata": \{',
            rf'"update_type": "{_TYPE}",',
            r'"last_commit": (?:null|"([0-9a-f]{40}(?:[0-9a-f]{24})?+)")',
            r"\}",
            rf'(?:,{_WHITE}"theta_daemon": {_OURS}{_WHITE})?+\}}',
        ]
    )
)
_FIELDS = _ENTRY.groups
_HASH = re.compile(rf"{_WHITE}-?+{_NUMBER}(?:{_WHITE},{_WHITE}-?+{_NUMBER})*+{_WHITE}")


def lift(text: str) -> tuple[str, list[Entry]]:
    """Return `text` with HOLE in the places of entries, and these entries in the order of their places.

    Raises ValueError, CheckpointError where `fields` may find fault with one, and where `text` has a HOLE of its own.
    """
    if HOLE in text:
        raise ValueError(f"{HOLE} in the text")
    pieces = _ENTRY.split(text)
    between, *columns = (pieces[start :: _FIELDS + 1] for start in range(_FIELDS + 1))
    shapes, dtypes, hashes, versions, oids, sizes, update_types, commits, digests, replays = columns
    numbers = list(map(int, sizes))
    if max(numbers, default=0) >= INT64:
        raise ValueError("a size is larger than any file")
    # A model has thousands of groups, and a dozen forms.
    shape_of = {text: _shape(text) for text in set(shapes)}
    hash_of = {text: _hash(text) for text in set(hashes)}
    dtype_of = {dtype: DTYPES[dtype].name for dtype in set(dtypes) & DTYPES.keys()}
    for shape, dtype in set(zip(shapes, dtypes, strict=True)):
        nbytes(dtype, shape_of[shape])
    following: dict[str, tuple[Update, ...]] = {}
    entries = map(
        Entry,
        map(shape_of.__getitem__, shapes),
        map(dtype_of.__getitem__, dtypes),
        map(hash_of.__getitem__, hashes),
        versions,
        oids,
        numbers,
        update_types,
        commits,
        digests,
        (_replay(text, following) if text is not None else () for text in replays),
    )
    return HOLE.join(between), list(entries)


def _shape(text: str) -> tuple[int, ...]:
    return tuple(int(size) for size in text.strip("(,)").split(", ") if size)


def _hash(text: str) -> tuple[int, ...]:
    if not _HASH.fullmatch(text):
        raise ValueError("a hash is no list of integers")
    numbers = tuple(map(int, text.split(",")))
    if len(numbers) > MOST_HASHES or not (min(numbers) >= -INT64 and max(numbers) < INT64):
        raise ValueError("a hash is no list of 64-bit integers")
    return numbers


def _replay(text: str, following: dict[str, tuple[Update, ...]]) -> tuple[Update, ...]:
    """Return the updates in `text`; what follows the first of them is looked up in, and added to, `following`."""
    base = _BASE.match(text)
    if base is None:
        raise ValueError("a replay is no list of updates")
    rest = text[base.end() :]
    updates = following.get(rest)
    if updates is None:
        found = _UPDATE.split(rest)
        if any(found[::4]):
            raise ValueError("a replay is no list of updates")
        updates = following[rest] = tuple(map(_update, found[1::4], found[2::4], found[3::4]))
    return (_update(*base.groups()), *updates)


def _update(update_type: str, oid: str, size: str) -> Update:
    if int(size) >= INT64:
        raise ValueError("a size is larger than any file")
    return Update(update_type, oid, int(size))
