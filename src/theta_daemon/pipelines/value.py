"""The value of a metadata entry: its object, opened, decoded and verified.

Every byte that leaves here was verified: by the entry's BLAKE3 digest, or, for entries without one (git-theta's), by
the SHA-256 that names their object. Values are raw little-endian bytes in logical C order.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from theta_daemon import dtypes
from theta_daemon.cache import memo
from theta_daemon.errors import CorruptObject, ObjectError, ThetaError, UnsupportedError
from theta_daemon.metadata.digest import digest as digest_of
from theta_daemon.metadata.entries import ObjectRef
from theta_daemon.store import payload as payloads

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from theta_daemon.metadata.entries import Entry, Name
    from theta_daemon.pipelines.services import Services

# Zeros expand most: 247 times as we write them, 15 910 times in the strongest codec that any writer may have used. A
# value larger than this many times its object is a lie that would only cost memory.
MAX_EXPANSION = 1 << 15
_SLACK = 1 << 16


@dataclass(frozen=True, slots=True)
class Value:
    """A decoded value in a buffer that its user gives back with `release`."""

    view: memoryview
    release: Callable[[], None]


def parameter_name(name: Name) -> str:
    """Return a parameter group's name as people read it."""
    return "/".join(name)


def load(
    services: Services, name: Name, entry: Entry, reorder: Callable[[memoryview], memoryview] | None = None
) -> Future[Value]:
    """Start decoding the value of `entry` in the workers; `reorder`, where given, is applied after it was verified.

    Raises UnsupportedError, MissingObject, CorruptObject at once or in the future; they name the parameter.
    """
    try:
        return _load(services, entry, reorder, parameter_name(name))
    except ThetaError as error:
        error.at(parameter=parameter_name(name))
        raise


def _load(
    services: Services, entry: Entry, reorder: Callable[[memoryview], memoryview] | None, parameter: str
) -> Future[Value]:
    if entry.update_type != "dense" or entry.replay:
        raise UnsupportedError(
            f"update type {entry.update_type!r} cannot be read by this version",
            hint="use git-theta for this commit, or a newer theta-daemon",
        )
    ref = ObjectRef(entry.oid, entry.size)
    stored = services.store.open(ref)
    size = dtypes.nbytes(entry.dtype, entry.shape)
    if size > MAX_EXPANSION * len(stored) + _SLACK:
        raise CorruptObject(f"object {entry.oid} of {entry.size} bytes cannot hold {size} bytes of {entry.dtype}")
    payload = payloads.open_payload(stored, entry.dtype, entry.shape)
    chunks: tuple[payloads.Chunk, ...] = ()
    release = _nothing
    if payload.raw is not None:
        buffer = payload.raw  # it lies in the object as it is
    else:
        buffer = services.buffers.take(size)
        chunks, release = payload.chunks, partial(services.buffers.give, buffer)

    def decode(chunk: payloads.Chunk) -> None:
        try:
            chunk.decode_into(buffer)
        except ThetaError as error:
            error.at(parameter=parameter)
            raise

    def finish() -> Value:
        try:
            _verify(services, ref, stored, buffer, entry)
        except ThetaError as error:
            release()
            error.at(parameter=parameter)
            raise
        return Value(buffer if reorder is None else reorder(buffer), release)

    return services.pool.fan_out([partial(decode, chunk) for chunk in chunks], finish)


def _nothing() -> None:
    """Nothing to give back."""


def _verify(services: Services, ref: ObjectRef, stored: memoryview, value: memoryview, entry: Entry) -> None:
    found = digest_of(value)
    if entry.digest is None:
        services.store.verify(ref, stored)
        remember(services, entry, found)
    elif found != entry.digest:
        raise CorruptObject(
            f"object {ref.oid} does not hold the value that the metadata names",
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
