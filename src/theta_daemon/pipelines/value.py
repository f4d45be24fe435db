"""The values of metadata entries: their objects, opened, decoded and verified.

Every byte that leaves here was verified: by the entry's BLAKE3 digest, or, for entries without one (git-theta's), by
the SHA-256 that names their object. Values are raw little-endian bytes in logical C order.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from theta_daemon import dtypes
from theta_daemon.cache import memo
from theta_daemon.errors import CorruptObject, ObjectError, ThetaError, UnsupportedError
from theta_daemon.metadata.digest import digest as digest_of
from theta_daemon.metadata.entries import ObjectRef
from theta_daemon.store import payload as payloads

if TYPE_CHECKING:
    from theta_daemon.metadata.entries import Entry, Name
    from theta_daemon.pipelines.services import Services

# Zeros expand most: 247 times as we write them, 15 910 times in the strongest codec that any writer may have used. A
# value larger than this many times its object is a lie that would only cost memory.
MAX_EXPANSION = 1 << 15
_SLACK = 1 << 16


def parameter_name(name: Name) -> str:
    """Return a parameter group's name as people read it."""
    return "/".join(name)


def locate(error: ThetaError, name: Name, entry: Entry) -> None:
    """Add to an error about the value of `entry` which parameter group that is, and which object is to blame."""
    error.at(parameter=parameter_name(name))
    if isinstance(error, ObjectError) and entry.oid not in error.message:
        error.message = f"object {entry.oid}: {error.message}"


def content_key(entry: Entry) -> str:
    """Return what names the entry's value among all values: equal keys, equal bytes."""
    return entry.digest or _memo_key(entry)


def open_value(services: Services, entry: Entry, size: int) -> tuple[memoryview, payloads.DensePayload]:
    """Return the object of `entry` and the payload in it, for a value of `size` bytes; nothing is decoded yet.

    Raises UnsupportedError, MissingObject, CorruptObject.
    """
    if entry.update_type != "dense" or entry.replay:
        raise UnsupportedError(
            f"update type {entry.update_type!r} cannot be read by this version",
            hint="use git-theta for this commit, or a newer theta-daemon",
        )
    stored = services.store.open(ObjectRef(entry.oid, entry.size))
    if size > MAX_EXPANSION * len(stored) + _SLACK:
        raise CorruptObject(f"object {entry.oid} of {entry.size} bytes cannot hold {size} bytes of {entry.dtype}")
    return stored, payloads.open_payload(stored, entry.dtype, entry.shape)


def verify(services: Services, entry: Entry, stored: memoryview, found: str, *, forgetting: bool = False) -> None:
    """Compare `found`, the digest of the decoded value, with what the entry says. Raises CorruptObject.

    `forgetting` is for a `stored` that is too large to stay in memory.
    """
    if entry.digest is None:
        services.store.verify(ObjectRef(entry.oid, entry.size), stored, forgetting=forgetting)
        remember(services, entry, found)
    elif found != entry.digest:
        raise CorruptObject(
            f"object {entry.oid} does not hold the value that the metadata names",
            hint="restore the object from a clone or remote that has it",
        )


def remember(services: Services, entry: Entry, digest: str) -> None:
    """Note the digest of an entry's value, for when another program drops it from the metadata."""
    services.memo.remember(_memo_key(entry), digest)


def _memo_key(entry: Entry) -> str:
    return memo.key(entry.oid, entry.dtype, str(entry.shape))


def stored_digest(services: Services, entry: Entry) -> str | None:
    """Return the digest of the value of an entry that carries none, or None where it cannot be read here.

    Runs in the calling thread: callers are workers themselves.
    """
    known = services.memo.digest_of(_memo_key(entry))
    if known is not None:
        return known
    if entry.update_type != "dense" or entry.replay:
        return None
    ref = ObjectRef(entry.oid, entry.size)
    size = dtypes.nbytes(entry.dtype, entry.shape)
    try:
        stored = services.store.open(ref)
        if size > MAX_EXPANSION * len(stored) + _SLACK:
            return None
        services.store.verify(ref, stored)
        buffer = services.buffers.take(size)
        try:
            payloads.decode_into(stored, entry.dtype, entry.shape, buffer)
            found = digest_of(buffer)
        finally:
            services.buffers.give(buffer)
    except ObjectError:
        return None  # a value that cannot be read is not known to be equal
    remember(services, entry, found)
    return found
