"""Chains are cut: every parameter group of a file gets a dense object of its own again."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from theta_daemon import dtypes
from theta_daemon.errors import ThetaError
from theta_daemon.metadata import text
from theta_daemon.metadata.entries import Metadata
from theta_daemon.pipelines import dense
from theta_daemon.pipelines.chains import chains
from theta_daemon.pipelines.packs import packed
from theta_daemon.pipelines.replay import replay
from theta_daemon.pipelines.tolerance import verify_replayed
from theta_daemon.pipelines.value import locate
from theta_daemon.progress import SILENT
from theta_daemon.updates.kinds import DENSE

if TYPE_CHECKING:
    from theta_daemon.metadata.entries import Entry
    from theta_daemon.pipelines.chains import Chain
    from theta_daemon.pipelines.services import Services
    from theta_daemon.progress import Meter


def compact(services: Services, path: bytes, metadata: Metadata, meter: Meter = SILENT) -> tuple[Metadata, int]:
    """Return `metadata`, which `path` holds, without increments, and how many there were. The values stay the same.

    `meter` is told of the bytes of the values that are stored.

    Raises what `chains` and `replay` raise.
    """
    found = chains(services, path, metadata.entries)
    futures = {
        name: services.pool.submit(partial(_dense, services, metadata.entries[name], chain))
        for name, chain in found.items()
    }
    sizes = {name: dtypes.nbytes(metadata.entries[name].dtype, metadata.entries[name].shape) for name in futures}
    meter.expect(size=sum(sizes.values()))
    made = {}
    for name, future in futures.items():
        made[name] = future.result()
        meter.advance(size=sizes[name])
    entries = {name: made.get(name, entry) for name, entry in metadata.entries.items()}
    return packed(services, Metadata(entries, metadata.file), [metadata]), len(made)


def _dense(services: Services, entry: Entry, chain: Chain) -> Entry:
    try:
        with dense.room(services, dtypes.nbytes(entry.dtype, entry.shape)) as (value, forget):
            replay(services, chain, value, forget)
            found = dense.digest(value, forget)
            verify_replayed(services, entry, chain, value, found, forget)
            ref = dense.write(services, value, entry.dtype, entry.shape, forget)
    except ThetaError as error:
        locate(error, chain.name, entry)
        raise
    return entry.replace(oid=ref.oid, size=ref.size, update_type=DENSE, last_commit=None, digest=found, replay=())


def compacted(services: Services, path: bytes, data: bytes, meter: Meter = SILENT) -> tuple[bytes, int]:
    """Return the metadata `data` without increments, and how many there were; as it is where it is no metadata."""
    metadata = text.read(data)
    if not isinstance(metadata, Metadata):
        return data, 0
    found, number = compact(services, path, metadata, meter)
    return (text.serialize(found) if number else data), number
