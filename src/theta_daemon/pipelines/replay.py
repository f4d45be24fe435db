"""A chain becomes a value: the base is decoded once, and the updates are applied to it in place, in order.

Updates are small, and their arrays are held while one pass over the value applies them: window after window, so that a
window stays in the processor's cache; where they are larger than the value itself, they come one after the other.
What git-theta recorded without a digest is computed as git-theta does it, in whole arrays.

Nothing is verified here but the objects of a chain without a digest, by their SHA-256: no digest vouches for these.
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from theta_daemon.dtypes import nbytes
from theta_daemon.errors import CorruptObject, ObjectError, UnsupportedError
from theta_daemon.metadata.entries import ObjectRef
from theta_daemon.pipelines.bundles import changes_in
from theta_daemon.pipelines.scratch import beyond
from theta_daemon.pipelines.value import MOST_ARRAYS, SLACK
from theta_daemon.store import payload as payloads
from theta_daemon.store.arrays import open_arrays
from theta_daemon.store.codec import MAX_EXPANSION
from theta_daemon.updates import steps
from theta_daemon.updates.array import Array
from theta_daemon.updates.exact_sparse import Changes, compose
from theta_daemon.updates.kinds import EXACT_SPARSE, SPARSE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from theta_daemon.metadata.entries import Update
    from theta_daemon.pipelines.chains import Chain
    from theta_daemon.pipelines.services import Services
    from theta_daemon.updates.steps import Step

WINDOW = 1 << 20  # bytes that updates are applied to before the next ones
_FEW = 32 << 20  # bytes: 64 bundles, as fine-tunes have them, are applied in one pass
_RUN_SHARE = 16  # fraction of the memory limit that bundles may take which are kept for all groups of a file
_SMALL = 128 << 10  # bytes of an update, on average

# Threads that do little but open small files fight for Python's lock, at each of some hundred thousand system calls:
# so one at a time does that, while the others decode bases, apply updates and verify what came out (measured with two
# workers, 37,888 objects of 2 KB: 4.1 s of processor time without, 3.4 s so).
_TURN = threading.Lock()


def replay(
    services: Services,
    chain: Chain,
    into: memoryview,
    forget: Callable[[int, int], None] | None = None,
    *,
    quick: bool = False,
) -> None:
    """Write the value of `chain` into `into`, which has exactly its size.

    With `quick` the bits may be others than those that are defined: see `updates.steps.prepare`.
    `forget` gives back the memory of a part of `into`, where that is a file. A value that is too large to be computed
    as git-theta does it, with some copies of the whole, has the bits that are the same on every machine.

    Raises MissingObject, CorruptObject, UnsupportedError, RepositoryError; `into` then holds anything.
    """
    base(services, chain, into)
    if forget is not None:
        forget(0, len(into))
    if chain.is_exact or is_large(services, len(into)):
        _apply(services, chain, into, forget, quick=quick)
        return
    for _ in _like_git_theta(services, chain, into):
        pass


def slack(services: Services, chain: Chain, into: memoryview) -> NDArray[np.float32] | None:
    """Replay `chain`, which git-theta made, and return by how much each element may be off on another machine.

    None where every machine makes the same bits. Takes some times the memory of the value, which must not be large.
    Raises what `replay` raises, UnsupportedError for elements that are not of float32 or float64.
    """
    from theta_daemon.updates import git_theta

    if chain.dtype not in {"float32", "float64"}:
        raise UnsupportedError(f"there is no estimate for {chain.dtype}")
    base(services, chain, into)
    off = None
    for update, arrays in _like_git_theta(services, chain, into):
        off = git_theta.slack(update.update_type, arrays, Array(chain.dtype, chain.shape, into), off)
    return off


def _like_git_theta(services: Services, chain: Chain, into: memoryview) -> Iterator[tuple[Update, Mapping[str, Array]]]:
    """Apply the updates in whole arrays; yield each, with what its object holds, when that is done."""
    from theta_daemon.updates import git_theta

    for update in chain.updates:
        arrays = _arrays(services, chain, update)
        with _located(update), services.trace.stage("apply updates", len(into)):
            previous = Array(chain.dtype, chain.shape, into)
            into[:] = git_theta.apply(update.update_type, arrays, previous)
        yield update, arrays


def is_large(services: Services, size: int) -> bool:
    """Whether a value of `size` bytes does not fit into memory."""
    return size > services.settings.largest_in_memory


def base(services: Services, chain: Chain, into: memoryview) -> None:
    """Write the value of the chain's base into `into`; one that others need too is decoded once."""
    key, size = chain.base_key, len(into)
    known = services.values.get(key, size)
    if known is not None:
        into[:] = known.view
        known.release()
        return
    if not services.values.is_expected(key, besides=1):
        services.values.forgo([key])
        _decode_base(services, chain, into)
        return
    buffer = services.buffers.take(size)
    try:
        _decode_base(services, chain, buffer)
    except BaseException:
        services.buffers.give(buffer)
        raise
    into[:] = buffer
    services.values.offer(key, buffer, partial(services.buffers.give, buffer)).release()


def _decode_base(services: Services, chain: Chain, into: memoryview) -> None:
    stored = _open(services, chain, chain.base)
    if len(into) > MAX_EXPANSION * len(stored) + SLACK:
        raise CorruptObject(f"object {chain.base.oid} of {len(stored)} bytes cannot hold {len(into)} bytes")
    with services.trace.stage("decode", len(into)):
        payload = payloads.open_payload(stored, chain.dtype, chain.shape)
        if payload.raw is not None:
            into[:] = payload.raw
            return
        for chunk in payload.chunks:
            chunk.decode_into(into)


def _apply(
    services: Services, chain: Chain, into: memoryview, forget: Callable[[int, int], None] | None, *, quick: bool
) -> None:
    """Apply all updates as they are defined for every machine."""
    scattered = _scattered(services, chain) if forget is None else None
    batches = _batches(services, chain, quick=quick) if scattered is None else iter([[scattered]])
    for batch in _one_at_a_time(batches) if _are_small(chain.updates) else batches:
        with services.trace.stage("apply updates", len(into)):
            apply(batch, chain.shape, into, forget)


def _are_small(updates: Sequence[Update]) -> bool:
    """Whether to open the objects of several updates takes longer than what is done with them."""
    sizes = [update.size for update in updates if update.update_type == SPARSE]
    return 1 < len(sizes) == len(updates) and sum(sizes) < _SMALL * len(sizes)


def _one_at_a_time(batches: Iterator[list[Step]]) -> Iterator[list[Step]]:
    """Make one batch after the other, while no other thread does."""
    while True:
        with _TURN:
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def apply(
    batch: Sequence[Step],
    shape: tuple[int, ...],
    into: memoryview,
    forget: Callable[[int, int], None] | None = None,
) -> None:
    """Apply updates to the value of `shape` that `into` holds, in one pass. Raises CorruptObject."""
    rows = shape[0] if shape else 1
    row = len(into) // rows if rows else 0
    is_whole = forget is None and all(step.is_scattered for step in batch)
    at_once = rows if is_whole or not row else max(WINDOW // row, 1)
    for start in range(0, rows, at_once) if batch else ():
        stop = min(start + at_once, rows)
        steps.apply_all(batch, into[start * row : stop * row], range(start, stop))
        if forget is not None:
            forget(start * row, stop * row)


def _scattered(services: Services, chain: Chain) -> Step | None:
    """Return all updates as one step, where that can be and is not too much to be kept for the other groups."""
    if not chain.updates or any(update.update_type != EXACT_SPARSE for update in chain.updates):
        return None
    size = nbytes(chain.dtype, chain.shape)
    run = services.bundles.run(chain.updates, size, min(_FEW, services.settings.memory_limit // _RUN_SHARE))
    return None if run is None else run.step(chain.name, chain.dtype, chain.shape)


def _batches(services: Services, chain: Chain, *, quick: bool) -> Iterator[list[Step]]:
    """Yield the steps in order, as many together as their arrays take no more memory than the value, or a few MiB."""
    size = nbytes(chain.dtype, chain.shape)
    most = max(size, _FEW)
    batch: list[Step] = []
    changes: list[Changes] = []
    held = 0
    for update in chain.updates:
        if held > most:
            yield [*batch, *_composed(chain, changes)]
            batch, changes, held = [], [], 0
        if update.update_type == EXACT_SPARSE:
            ref = ObjectRef(update.oid, update.size)
            with _located(update):
                if not chain.is_exact:
                    services.store.verify(ref, services.store.open(ref))
                bundle = services.bundles.open(ref, size)
                changes.append(changes_in(bundle, ref, chain.name))
            held += bundle.nbytes
            continue
        batch += _composed(chain, changes)
        changes = []
        arrays = _arrays(services, chain, update)
        held += sum(len(array.raw) for array in arrays.values())
        with _located(update):
            batch.append(steps.prepare(update.update_type, arrays, chain.dtype, chain.shape, quick=quick))
    yield [*batch, *_composed(chain, changes)]


def _composed(chain: Chain, changes: Sequence[Changes]) -> Iterator[Step]:
    if changes:
        yield compose(changes, chain.dtype, chain.shape)


def _arrays(services: Services, chain: Chain, update: Update) -> Mapping[str, Array]:
    """Return what the object of an update holds, decoded."""
    stored = _open(services, chain, ObjectRef(update.oid, update.size))
    size = nbytes(chain.dtype, chain.shape)
    credible = min(MAX_EXPANSION * len(stored), MOST_ARRAYS * size) + SLACK
    room = beyond(services.settings.largest_in_memory, services.settings.temporary)
    with _located(update), services.trace.stage("decode updates", update.size):
        return open_arrays(stored, credible, room)


def _open(services: Services, chain: Chain, ref: ObjectRef) -> memoryview:
    with services.trace.stage("open object", ref.size):
        stored = services.store.open(ref)
        if not chain.is_exact:
            services.store.verify(ref, stored)
    return stored


@contextmanager
def _located(update: Update) -> Iterator[None]:
    """Add to errors about an update which object it is."""
    try:
        yield
    except (ObjectError, UnsupportedError) as error:
        if update.oid not in error.message:
            error.message = f"object {update.oid}: {error.message}"
        raise
