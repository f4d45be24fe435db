"""The short way through a metadata file: entries as we write them, lifted out of the text by one pattern.

A parameter group is a thousand bytes of JSON, most of them the same in all. Read as JSON and checked field by field
that takes 18 us; here it takes 4. Other spellings of the same (another order of keys, escapes), a replay, and whatever
is wrong are left to `fields`. Only what is certain to be an entry is lifted:

* The pattern matches nothing but a JSON object, token by token, and each field is as strict as `fields` has it.
* HOLE, which is no JSON and must not be in the text, is left in its place. Who reads the rest as JSON, and finds as
  many of these constants as entries were lifted, knows that each stood where JSON has a value, and none in a string.
"""

from __future__ import annotations

import re

from theta_daemon.dtypes import DTYPES, nbytes
from theta_daemon.metadata.entries import INT64, MOST_HASHES, Entry

HOLE = "NaN"
"""What stands in the place of an entry."""

_WHITE = r"[ \t\r\n]*+"
_NUMBER = r"(?:0|[1-9][0-9]{0,18}+)"
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
            r'"oid": "([0-9a-f]{64})",',
            rf'"size": "({_NUMBER})"',
            r"\},",
            r'"theta_metadata": \{',
            r'"update_type": "([a-z0-9_-]{1,64}+)",',
            r'"last_commit": (?:null|"([0-9a-f]{40}(?:[0-9a-f]{24})?+)")',
            r"\}",
            rf'(?:,{_WHITE}"theta_daemon": \{{{_WHITE}"digest": "blake3:([0-9a-f]{{64}})"{_WHITE}\}}{_WHITE})?+\}}',
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
    shapes, dtypes, hashes, versions, oids, sizes, update_types, commits, digests = columns
    numbers = list(map(int, sizes))
    if max(numbers, default=0) >= INT64:
        raise ValueError("a size is larger than any file")
    # A model has thousands of groups, and a dozen forms.
    shape_of = {text: _shape(text) for text in set(shapes)}
    hash_of = {text: _hash(text) for text in set(hashes)}
    dtype_of = {dtype: DTYPES[dtype].name for dtype in set(dtypes) & DTYPES.keys()}
    for shape, dtype in set(zip(shapes, dtypes, strict=True)):
        nbytes(dtype, shape_of[shape])
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
