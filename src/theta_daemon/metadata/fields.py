"""From the JSON of one entry to a checked value: every field of protocol/metadata.md, strictly.

Whatever passes here is safe to use: object ids are hex, sizes and shapes are bounded, dtypes are known. Nothing that
a file says is dropped: unknown keys are errors, so that writing back what was read changes nothing.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

from theta_daemon import dtypes
from theta_daemon.errors import CheckpointError, MetadataError, UnsupportedError
from theta_daemon.metadata.entries import INT64, MOST_HASHES, Entry, FileEntry, ObjectRef, Update

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

TENSOR, LFS, THETA, OURS = "tensor_metadata", "lfs_metadata", "theta_metadata", "theta_daemon"
DIGEST_PREFIX = "blake3:"
FILE_VERSION = "1"
MAX_DEPTH = 256  # components of the longest name

_OID = re.compile(r"[0-9a-f]{64}")
_DIGEST = re.compile(DIGEST_PREFIX + _OID.pattern)
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")
_DECIMAL = re.compile(r"0|[1-9][0-9]{0,18}")
_SHAPE = re.compile(rf"\(\)|\(({_DECIMAL.pattern}),\)|\((?:{_DECIMAL.pattern})(?:, (?:{_DECIMAL.pattern})){{1,63}}\)")
_UPDATE_TYPE = re.compile(r"[a-z0-9_-]{1,64}")
_FORMAT = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
_LFS_VERSION = re.compile(r"[!-~]{1,128}")
_NEWER = "use a newer theta-daemon"


def entry(value: object) -> Entry:
    """Return the parameter group that the JSON object `value` describes.

    Raises MetadataError for what no version writes, UnsupportedError for what a newer version may have written.
    """
    parts = _object(value, "the entry", (TENSOR, LFS, THETA), {OURS}, newer=True)
    tensor = _object(parts[TENSOR], TENSOR, ("shape", "dtype", "hash"))
    lfs = _object(parts[LFS], LFS, ("version", "oid", "size"))
    theta = _object(parts[THETA], THETA, ("update_type", "last_commit"))
    shape = _shape(tensor["shape"])
    digest, replay = _ours(parts[OURS]) if OURS in parts else (None, ())
    return Entry(
        shape=shape,
        dtype=_dtype(tensor["dtype"], shape),
        hash=_hash(tensor["hash"]),
        version=_match(_LFS_VERSION, lfs["version"], "version"),
        oid=_match(_OID, lfs["oid"], "oid"),
        size=_size(lfs["size"]),
        update_type=_match(_UPDATE_TYPE, theta["update_type"], "update_type"),
        last_commit=None if theta["last_commit"] is None else _match(_COMMIT, theta["last_commit"], "last_commit"),
        digest=digest,
        replay=replay,
    )


def file_entry(value: object) -> FileEntry:
    """Return the file entry that the nested JSON objects `value` spell.

    Raises MetadataError for what no version writes, UnsupportedError for another version's.
    """
    if not isinstance(value, dict) or "version" not in value:
        raise MetadataError("the file entry has no version")
    version = _match(_DECIMAL, _leaf(value["version"], "version"), "version")
    if version != FILE_VERSION:
        raise UnsupportedError(
            f"this metadata has version {version}", hint=f"use a theta-daemon that knows metadata version {version}"
        )
    parts = _object(value, "the file entry", ("format", "layout", "version"), {"opaque", "packs"})
    return FileEntry(
        format=_match(_FORMAT, _leaf(parts["format"], "format"), "format"),
        layout=_ref(parts["layout"], "layout"),
        opaque=_opaque(parts["opaque"]) if "opaque" in parts else (),
        packs=_packs(parts["packs"]) if "packs" in parts else (),
    )


def _ours(value: object) -> tuple[str, tuple[Update, ...]]:
    ours = _object(value, OURS, ("digest",), {"replay"}, newer=True)
    text = ours["digest"]
    if isinstance(text, str) and not text.startswith(DIGEST_PREFIX):
        raise UnsupportedError(f"the digest {_show(text)} is not BLAKE3", hint=_NEWER)
    digest = _match(_DIGEST, text, "digest")[len(DIGEST_PREFIX) :]
    if "replay" not in ours:
        return digest, ()
    replay = ours["replay"]
    if not isinstance(replay, list) or not replay:
        raise MetadataError(f"the replay is {_show(replay)}, not a list of updates")
    return digest, tuple(_update(step) for step in replay)


def _update(value: object) -> Update:
    step = _object(value, "a replay step", ("update_type", "oid", "size"), newer=True)
    kind, oid, size = step["update_type"], step["oid"], step["size"]
    if isinstance(kind, str) and isinstance(oid, str) and isinstance(size, str):
        return _checked_update(kind, oid, size)
    return _checked_update.__wrapped__(kind, oid, size)


@lru_cache(1024)  # the groups of a file mostly share the objects of their updates
def _checked_update(update_type: object, oid: object, size: object) -> Update:
    return Update(_match(_UPDATE_TYPE, update_type, "update_type"), _match(_OID, oid, "oid"), _size(size))


def _shape(value: object) -> tuple[int, ...]:
    text = _match(_SHAPE, value, "shape").strip("(,)")
    return tuple(int(size) for size in text.split(", ")) if text else ()


def _dtype(value: object, shape: tuple[int, ...]) -> str:
    if not isinstance(value, str):
        raise MetadataError(f"the dtype is {_show(value)}")
    if value not in dtypes.DTYPES:
        raise UnsupportedError(f"the dtype {_show(value)} is unknown to this version", hint=_NEWER)
    try:
        dtypes.nbytes(value, shape)
    except CheckpointError as error:
        raise MetadataError(error.message) from None
    return value


def _hash(value: object) -> tuple[int, ...]:
    if (
        not isinstance(value, list)
        or not 1 <= len(value) <= MOST_HASHES
        or set(map(type, value)) != {int}
        or not (min(value) >= -INT64 and max(value) < INT64)
    ):
        raise MetadataError(f"the hash is not a list of at most {MOST_HASHES} 64-bit integers")
    return tuple(value)


def _size(value: object) -> int:
    size = int(_match(_DECIMAL, value, "size"))
    if size >= INT64:
        raise MetadataError(f"the size {size} is larger than any file")
    return size


def _opaque(value: object) -> tuple[ObjectRef, ...]:
    if not isinstance(value, dict) or not value or set(value) != {str(index) for index in range(len(value))}:
        raise MetadataError("the opaque objects are not numbered from 0")
    return tuple(_ref(value[str(index)], f"opaque object {index}") for index in range(len(value)))


def _packs(value: object) -> tuple[tuple[int, ObjectRef], ...]:
    if not isinstance(value, dict) or not value:
        raise MetadataError("the packs are not an object with numbers")
    found = {int(_match(_DECIMAL, number, "number of a pack")): _ref(ref, "pack") for number, ref in value.items()}
    return tuple((number, found[number]) for number in sorted(found))


def _ref(value: object, what: str) -> ObjectRef:
    """Return the object that {oid: {size: {}}} names."""
    oid, below = _only(value, what)
    return ObjectRef(_match(_OID, oid, "oid"), _size(_leaf(below, what)))


def _leaf(value: object, what: str) -> str:
    """Return the text that {text: {}} holds."""
    key, below = _only(value, what)
    if below != {}:
        raise MetadataError(f"the {what} of the file holds {_show(below)} where an empty object ends it")
    return key


def _only(value: object, what: str) -> tuple[str, object]:
    if not isinstance(value, dict) or len(value) != 1:
        raise MetadataError(f"the {what} of the file is not an object with one key")
    [(key, below)] = value.items()
    return str(key), below


def _object(
    value: object, what: str, required: Collection[str], optional: Collection[str] = (), *, newer: bool = False
) -> Mapping[str, object]:
    """Return `value`, an object with all the `required` keys and no others but `optional` ones.

    With `newer`, a newer version may have added a key; without, none ever will.
    """
    if not isinstance(value, dict):
        raise MetadataError(f"{what} is {_show(value)}, not an object")
    missing = [key for key in required if key not in value]
    if missing:
        raise MetadataError(f"{what} has no {missing[0]}")
    if len(value) > len(required):
        for key in value:
            if key in required or key in optional:
                continue
            if newer:
                raise UnsupportedError(f"{what} has the unknown key {_show(key)}", hint=_NEWER)
            raise MetadataError(f"{what} has the unknown key {_show(key)}")
    return value


def _match(pattern: re.Pattern[str], value: object, what: str) -> str:
    if not isinstance(value, str) or not pattern.fullmatch(value):
        raise MetadataError(f"the {what} is {_show(value)}")
    return value


def _show(value: object) -> str:
    """Return a short text for an error message, whatever `value` holds."""
    if isinstance(value, str):
        return repr(value[:80]) + ("..." if len(value) > 80 else "")
    if isinstance(value, dict):
        return "an object"
    return "a list" if isinstance(value, list) else repr(value)
