"""What a parameter group's value is made of: a dense object, and the updates that follow it, in order.

An entry of ours says so itself (`replay`, protocol/replay.md); one of git-theta's names the commit before, and the
history is asked (ancestors.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from theta_daemon.cache import memo
from theta_daemon.errors import MetadataError, UnsupportedError
from theta_daemon.frozen import Frozen
from theta_daemon.metadata.entries import ObjectRef, Update
from theta_daemon.pipelines.ancestors import MOST_STEPS, needs_history
from theta_daemon.updates.kinds import DENSE, EXACT_SPARSE, LOW_RANK

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from theta_daemon.metadata.entries import Entry, Name
    from theta_daemon.pipelines.services import Services


class Chain(Frozen):
    """A value of `dtype` and `shape` under `name`: the dense object `base`, then `updates`, at least one.

    `is_exact` where a digest says what comes out, and so each step has the same bits on every machine; else git-theta
    made it, and its own expressions are what counts.
    """

    name: Name
    dtype: str
    shape: tuple[int, ...]
    base: ObjectRef
    updates: tuple[Update, ...]
    is_exact: bool

    def objects(self) -> Iterator[ObjectRef]:
        """Yield every object that is needed."""
        yield self.base
        for update in self.updates:
            yield ObjectRef(update.oid, update.size)

    @property
    def has_quick_way(self) -> bool:
        """Whether it can be replayed in less time to what may be another value, as its digest then says."""
        return self.is_exact and any(update.update_type == LOW_RANK for update in self.updates)

    @property
    def base_key(self) -> str:
        """What names the value of the base among all values, where no digest does.

        The base of an exact chain is not verified by itself, so it must never be taken for a value that was.
        """
        verified = memo.key(self.base.oid, self.dtype, str(self.shape))
        return memo.key("not verified", verified) if self.is_exact else verified

    @property
    def key(self) -> str:
        """What names the value that comes out."""
        return memo.key(self.base_key, *(f"{update.update_type} {update.oid}" for update in self.updates))


def is_increment(entry: Entry) -> bool:
    """Whether the object of `entry` is not its value but changes another."""
    return entry.update_type != DENSE or bool(entry.replay)


def is_found_by_name(entry: Entry) -> bool:
    """Whether objects that the entry needs hold changes of many parameter groups, and so its own by its name."""
    return EXACT_SPARSE in {entry.update_type, *(update.update_type for update in entry.replay)}


def chains(services: Services, path: bytes, entries: Mapping[Name, Entry]) -> dict[Name, Chain]:
    """Return the chains of all increments among `entries`, which `path` holds.

    Raises MetadataError, UnsupportedError, and RepositoryError for a commit that is needed and cannot be had.
    """
    increments = {name: entry for name, entry in entries.items() if is_increment(entry)}
    if not increments:
        return {}
    orphans = {name: entry for name, entry in increments.items() if needs_history(entry)}
    behind = services.ancestors.chains(path, orphans) if orphans else {}
    return {name: _chain(name, behind.get(name, (entry,))) for name, entry in increments.items()}


def _chain(name: Name, entries: tuple[Entry, ...]) -> Chain:
    first, last = entries[0], entries[-1]
    if any((entry.dtype, entry.shape) != (last.dtype, last.shape) for entry in entries):
        raise UnsupportedError("an update that changes dtype or shape cannot be replayed", parameter="/".join(name))
    updates = [*first.replay, *(Update(entry.update_type, entry.oid, entry.size) for entry in entries)]
    base = updates.pop(0)
    if len(updates) > MOST_STEPS:
        raise MetadataError(
            f"its replay has {len(updates)} updates, and {MOST_STEPS} at most are credible", parameter="/".join(name)
        )
    if base.update_type != DENSE or any(update.update_type == DENSE for update in updates):
        raise MetadataError("its replay is not one dense value and the updates that follow", parameter="/".join(name))
    return Chain(name, last.dtype, last.shape, ObjectRef(base.oid, base.size), tuple(updates), last.digest is not None)
