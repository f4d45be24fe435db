"""The first half of a torch zip's serialization id: a hash of the records' names.

Torch folds the hashes of all names in the order in which a C++ `std::unordered_set` iterates over them
(caffe2/serialize/inline_container.cc, `writeSerializationId`). So the order and the hash are those of GNU libstdc++ on
64-bit systems, which Linux builds of torch use: buckets by remainder, the newest bucket first, in each the newest name
first, and a rehash that inserts all anew whenever names outnumber buckets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from theta_daemon.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# libstdc++'s numbers of buckets, as a growing set goes through them
_BUCKETS = (
    *(13, 29, 59, 127, 257, 541, 1109, 2357, 5087, 10273, 20753, 42043, 85229, 172933, 351061, 712697),
    *(1447153, 2938679, 5967347, 12117689, 24607243, 49969847),
)
_MASK = (1 << 64) - 1
_MULTIPLIER = 0xC6A4A7935BD1E995
_SEED = 0xC70F6907
_GOLDEN = 0x9E3779B9


def name_digits(names: Sequence[bytes]) -> bytes:
    """Return the 20 digits for records `names`, which are without the archive's name and in the order of the file.

    Raises UnsupportedError for more names than the table of bucket numbers reaches (50 million).
    """
    combined = 0
    for value in _set_order([hash_name(name) for name in names]):
        combined ^= (value + _GOLDEN + (combined << 6) + (combined >> 2)) & _MASK
    return b"%020d" % combined


def hash_name(name: bytes) -> int:
    """Return `std::hash<std::string>` of `name`: MurmurHash64A, in libstdc++'s variant and with its seed."""
    whole = len(name) & ~7
    value = _SEED ^ len(name) * _MULTIPLIER & _MASK
    for at in range(0, whole, 8):
        word = int.from_bytes(name[at : at + 8], "little") * _MULTIPLIER & _MASK
        value = (value ^ _mix(word) * _MULTIPLIER) * _MULTIPLIER & _MASK
    if whole < len(name):
        value = (value ^ int.from_bytes(name[whole:], "little")) * _MULTIPLIER & _MASK
    return _mix(_mix(value) * _MULTIPLIER & _MASK)


def _mix(value: int) -> int:
    return value ^ value >> 47


def _set_order(hashes: list[int]) -> Iterable[int]:
    """Return the (different) `hashes` in the order in which a set iterates that got them one by one."""
    order: list[int] = []
    added = 0
    for buckets in _BUCKETS:
        chunk = hashes[added:buckets]
        added += len(chunk)
        order = _inserted([*order, *chunk], buckets)
        if added == len(hashes):
            return order
    raise UnsupportedError(f"a torch file cannot have {len(hashes)} records here")


def _inserted(values: Iterable[int], buckets: int) -> list[int]:
    filled: dict[int, list[int]] = {}
    for value in values:
        filled.setdefault(value % buckets, []).append(value)
    return [value for bucket in reversed(filled.values()) for value in reversed(bucket)]
