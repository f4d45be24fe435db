"""Values that are made here and stored dense: in memory within the budget, or in a file where they are too large."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from theta_daemon.metadata.digest import Digest
from theta_daemon.pipelines.encoding import compressed
from theta_daemon.pipelines.scratch import Scratch
from theta_daemon.pipelines.spool import Spool, windows
from theta_daemon.store import payload as payloads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from theta_daemon.metadata.entries import ObjectRef
    from theta_daemon.pipelines.services import Services

    Forget = Callable[[int, int], None]


@contextmanager
def room(services: Services, size: int) -> Iterator[tuple[memoryview, Forget | None]]:
    """Give room for a value of `size` bytes, and what gives back the memory of a part of it where it lies in a file.

    Waits for the budget of the workers, and so must not be asked for by who holds some of it. Raises RepositoryError
    where the disk has no room.
    """
    if size > services.settings.largest_in_memory:
        scratch = Scratch(services.settings.temporary, size)
        yield scratch.view, scratch.forget
        return
    weight = 2 * size  # the payload that is made of it may be as large
    services.pool.budget.acquire(weight)
    try:
        buffer = services.buffers.take(size)
        try:
            yield buffer, None
        finally:
            services.buffers.give(buffer)
    finally:
        services.pool.budget.release(weight)


def digest(value: memoryview, forget: Forget | None) -> str:
    """Return the digest of a value; `forget` as `room` gives it."""
    found = Digest()
    for window in windows(slice(0, len(value))):
        found.update(value[window])
        if forget is not None:
            forget(window.start, window.stop)
    return found.hexdigest()


def write(
    services: Services, value: memoryview, dtype: str, shape: tuple[int, ...], forget: Forget | None
) -> ObjectRef:
    """Write the payload of a value, and return its object; `forget` as `room` gives it.

    Raises RepositoryError where the disk has no room.
    """
    if forget is None:
        return services.store.write(payloads.encode(value, dtype, shape, services.codec))
    plan = payloads.chunk_plan(dtype, shape, services.codec)
    spool, places = Spool(services.settings.temporary, len(value)), []
    for part in plan.slices:
        chunk = memoryview(payloads.encode_chunk(value[part], plan))
        start = stop = 0
        for number, window in enumerate(windows(slice(0, len(chunk)))):
            place = spool.append(chunk[window])
            start, stop = (start if number else place.start), place.stop
            end = min(part.start + window.stop, part.stop)
            if services.codec.cname is None and part.start + window.start < end:  # a part of the value, as it is
                forget(part.start + window.start, end)
        places.append(slice(start, stop))
        forget(part.start, part.stop)
    return services.store.write(compressed(spool, places, plan))
