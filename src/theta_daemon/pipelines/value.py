"""The values of metadata entries: their objects, opened, decoded and verified.

Every byte that leaves here was verified: by the entry's BLAKE3 digest, or, for entries without one (git-theta's), by
the SHA-256 that names their object. Values are raw little-endian bytes in logical C order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from theta_daemon.cache import memo
from theta_daemon.errors import CorruptObject, ObjectError, ThetaError
from theta_daemon.metadata.entries import ObjectRef
from theta_daemon.store import payload as payloads
from theta_daemon.store.codec import MAX_EXPANSION

if TYPE_CHECKING:
    from theta_daemon.metadata.entries import Entry, Name
    from theta_daemon.pipelines.services import Services

SLACK = 1 << 16

MOST_ARRAYS = 8  # times the value: a sparse update of every element has its value and its position, as 64-bit numbers


def parameter_name(name: Name) -> str:
    """Return a parameter group's name as people read it."""
    return "/".join(name)


def locate(error: ThetaError, name: Name, entry: Entry) -> None:
    """Add to an error about the value of `entry` which parameter group that is, and which object is to blame."""
    error.at(parameter=parameter_name(name))
    if isinstance(error, ObjectError) and entry.oid not in error.message:
        error.message = f"object {entry.oid}: {error.message}"


def open_value(services: Services, entry: Entry, size: int) -> tuple[memoryview, payloads.DensePayload]:
    """Return the object of a dense `entry` and the payload in it, for a value of `size` bytes; nothing is decoded yet.

    Raises UnsupportedError, MissingObject, CorruptObject.
    """
    stored = services.store.open(ObjectRef(entry.oid, entry.size))
    if size > MAX_EXPANSION * len(stored) + SLACK:
        raise CorruptObject(f"object {entry.oid} of {entry.size} bytes cannot hold {size} bytes of {entry.dtype}")
    return stored, payloads.open_payload(stored, entry.dtype, entry.shape)


def verify(services: Services, entry: Entry, stored: memoryview, found: str, *, forgetting: bool = False) -> None:
    """Compare `found`, the digest of the decoded value, with what the entry says. Raises CorruptObject.

    `forgetting` is for a `stored` that is too large to stay in memory.
    """
    if entry.digest is None:
        services.store.verify(ObjectRef(entry.oid, entry.size), stored, forgetting=forgetting)
        services.memo.remember(memo_key(entry), found)
    elif found != entry.digest:
        raise CorruptObject(
            f"object {entry.oid} does not hold the value that the metadata names",
            hint="restore the object from a clone or remote that has it",
        )


def memo_key(entry: Entry) -> str:
    """Return what names the value of a dense entry that carries no digest."""
    return memo.key(entry.oid, entry.dtype, str(entry.shape))
