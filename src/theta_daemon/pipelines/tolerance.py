"""Whether a replayed value is the one that its entry means.

An entry of ours carries the digest of its value. One of git-theta's has its hash alone, and the value may differ from
what git-theta saw in the last bits: matrices are multiplied in another order on every kind of processor, and the
updates that it works out itself do not give back all bits. The distance of two of its hashes is an estimate of the
Euclidean norm of the difference of the values (Datar et al., SCG 2004), so it is compared with what git-theta calls
equal: 1e-5 of the norm of the value, or 1e-6 where that is more (its PARAMETER_RTOL and LSH_THRESHOLD).

The same question comes from the other side: a work tree may hold what another machine, or git-theta with another
number of threads, made of such an entry. That is no change. But what somebody changed on purpose must never be taken
for rounding, however small it is beside the norm; so every single element must be as near to what this machine makes
as the order of a sum explains.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from theta_daemon.errors import CorruptObject, ObjectError, UnsupportedError
from theta_daemon.pipelines.chains import chains, is_increment
from theta_daemon.pipelines.spool import windows
from theta_daemon.updates.kinds import LOW_RANK

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from theta_daemon.metadata.entries import Entry, Name
    from theta_daemon.pipelines.chains import Chain
    from theta_daemon.pipelines.services import Services

_RELATIVE = 1e-5
_LEAST = 1e-6
_BUCKET = 1e-8


def verify_replayed(
    services: Services,
    entry: Entry,
    chain: Chain,
    value: memoryview,
    found: str,
    forget: Callable[[int, int], None] | None = None,
) -> None:
    """Raise CorruptObject unless `value`, with the digest `found`, is what `entry` means. `forget`: see replay."""
    if entry.digest is not None:
        if found != entry.digest:
            raise CorruptObject(
                f"its replay, which ends with object {entry.oid}, does not make the value that the metadata names",
                hint="restore its objects from a clone or remote that has them",
            )
        return
    if services.memo.digest_of(chain.key) == found:
        return
    with services.trace.stage("hash for git-theta", len(value)):
        distance, norm = _distance(entry, value, forget)
    if not _is_near(distance, norm):
        raise CorruptObject(
            f"its replay, which ends with object {entry.oid}, makes another value than git-theta recorded "
            f"(off by {distance:.2g}, the norm is {norm:.2g})",
            hint="check it out with git-theta, and add it again as a dense update",
        )
    services.memo.remember(chain.key, found)


def is_rounded_otherwise(services: Services, path: bytes, name: Name, entry: Entry, value: memoryview) -> bool:
    """Whether `value` is what another machine makes of `entry`, where that is git-theta's and low-rank.

    Replays it, in the calling thread. Raises RepositoryError for history that cannot be read.
    """
    if entry.digest is not None or not is_increment(entry):
        return False
    from theta_daemon.pipelines.replay import is_large  # and with it numpy

    try:
        chain = chains(services, path, {name: entry})[name]
        if LOW_RANK not in (update.update_type for update in chain.updates) or is_large(services, len(value)):
            return False
        if not _is_near(*_distance(entry, value, None)):
            return False
        return _explains_rounding(services, chain, value)
    except (ObjectError, UnsupportedError):
        return False


def _explains_rounding(services: Services, chain: Chain, value: memoryview) -> bool:
    """Whether each element of `value` is as near to what this machine makes as the order of sums explains."""
    import numpy as np

    from theta_daemon.dtypes import DTYPES
    from theta_daemon.pipelines.replay import slack

    buffer = services.buffers.take(len(value))
    try:
        off = slack(services, chain, buffer)
        if off is None:
            return False
        one, other = (np.frombuffer(raw, DTYPES[chain.dtype].numpy) for raw in (value, buffer))
        with np.errstate(all="ignore"):
            near = np.abs(one - other) <= off.reshape(-1)
        bits = f"u{one.itemsize}"
        return bool(np.all(near | (one.view(bits) == other.view(bits))))  # infinities and NaN have no distance
    finally:
        services.buffers.give(buffer)


def _is_near(distance: float, norm: float) -> bool:
    return distance <= max(_LEAST, _RELATIVE * norm)


def _distance(entry: Entry, value: memoryview, forget: Callable[[int, int], None] | None) -> tuple[float, float]:
    """Return git-theta's distance between the recorded hash and that of `value`, and the norm of `value`."""
    import numpy as np

    from theta_daemon.dtypes import DTYPES
    from theta_daemon.metadata import lsh

    numpy = DTYPES[entry.dtype].numpy
    if numpy is None or len(entry.hash) != lsh.SIZE or not lsh.can_hash(entry.dtype):
        return 0.0, 0.0  # nothing to compare with: git-theta cannot hash these itself
    stream, squares = lsh.Stream(entry.dtype), 0.0
    for window in windows(slice(0, len(value))):
        stream.update(value[window])
        elements = np.frombuffer(value[window], numpy).astype(np.float64)
        squares += float(elements @ elements)
        if forget is not None:
            forget(window.start, window.stop)
    return _BUCKET * _norm(stream.signature(), entry.hash) / math.sqrt(lsh.SIZE), math.sqrt(squares)


def _norm(one: Sequence[int], other: Sequence[int]) -> float:
    return math.sqrt(sum(float(a - b) ** 2 for a, b in zip(one, other, strict=True)))
