"""What is known of the values of entries that carry no digest (git-theta's): found out once, and remembered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from theta_daemon import dtypes
from theta_daemon.errors import ObjectError, UnsupportedError
from theta_daemon.metadata.digest import digest as digest_of
from theta_daemon.metadata.entries import ObjectRef
from theta_daemon.pipelines.chains import chains
from theta_daemon.pipelines.value import SLACK, memo_key
from theta_daemon.store import payload as payloads
from theta_daemon.store.codec import MAX_EXPANSION

if TYPE_CHECKING:
    from theta_daemon.metadata.entries import Entry, Name
    from theta_daemon.pipelines.chains import Chain
    from theta_daemon.pipelines.services import Services


def content_key(entry: Entry, chain: Chain | None) -> str:
    """Return what names the entry's value among all values: equal keys, equal bytes."""
    if entry.digest is not None:
        return entry.digest
    return memo_key(entry) if chain is None else chain.key


def remember(services: Services, entry: Entry, digest: str) -> None:
    """Note the digest of a dense entry's value, for when another program drops it from the metadata."""
    services.memo.remember(memo_key(entry), digest)


def stored_digest(services: Services, path: bytes, name: Name, entry: Entry) -> str | None:
    """Return the digest of the value of an entry that carries none, or None where it cannot be read here.

    Runs in the calling thread: callers are workers themselves. Raises RepositoryError for history that cannot be read.
    """
    size = dtypes.nbytes(entry.dtype, entry.shape)
    try:
        chain = chains(services, path, {name: entry}).get(name)
        key = content_key(entry, chain)
        known = services.memo.digest_of(key)
        if known is not None:
            return known
        buffer = services.buffers.take(size)
        try:
            if chain is None:
                _decode(services, entry, buffer)
            else:
                from theta_daemon.pipelines.replay import replay  # and with it numpy

                replay(services, chain, buffer)
            found = digest_of(buffer)
        finally:
            services.buffers.give(buffer)
    except (ObjectError, UnsupportedError):
        return None  # a value that cannot be read is not known to be equal
    services.memo.remember(key, found)
    return found


def _decode(services: Services, entry: Entry, into: memoryview) -> None:
    ref = ObjectRef(entry.oid, entry.size)
    stored = services.store.open(ref)
    if len(into) > MAX_EXPANSION * len(stored) + SLACK:
        raise UnsupportedError("an object so small cannot hold it")
    services.store.verify(ref, stored)
    payloads.decode_into(stored, entry.dtype, entry.shape, into)
