"""Which objects of our store nothing in the repository names any more.

The store is listed first, and then what is named is looked for in the list: an object that comes later is not on it,
and the list, not the history, is what takes memory. Whatever cannot be understood stops it: an object is only ever
found unneeded because everything was read.

A pointer of Git LFS names objects too: a file may be tracked by Git LFS in one commit and by us in another, and have
the same bytes as an object of ours.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from theta_daemon.errors import RepositoryError, ThetaError
from theta_daemon.frozen import Frozen
from theta_daemon.history.reachable import Reachable
from theta_daemon.metadata import objects, text
from theta_daemon.metadata.entries import Metadata
from theta_daemon.metadata.text import Kind
from theta_daemon.pipelines.ancestors import needs_history
from theta_daemon.store.removal import stored_in

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from theta_daemon.history.reachable import Content, Roots
    from theta_daemon.progress import Meter
    from theta_daemon.settings import Settings
    from theta_daemon.store.removal import Stored

_POINTED = re.compile(rb"oid sha256:([0-9a-f]{64})")
_ANY = re.compile(rb"[0-9a-f]{64}")
_MARKS = (b'"lfs_metadata"', b'"theta_daemon"', b"\\u")  # with escapes it could hold the others in other letters
_TRIES = 5


class Old(Frozen):
    """The objects of our store, by id, that are older than some time.

    `unneeded` are those that nothing needs. Of the others, `ours` are those that no pointer of Git LFS names. `roots`
    are where the walk began that told.
    """

    unneeded: Mapping[str, Stored]
    ours: Mapping[str, Stored]
    roots: Roots | None = None


def look(settings: Settings, before: int, meter: Meter) -> Old:
    """Return what is older than `before` (ns of the file system) of our store, and what of that nothing needs.

    Counts the metadata that it reads. Raises RepositoryError where the history is not all here, or others keep
    changing it, and MetadataError or UnsupportedError for metadata that cannot be read.
    """
    old = {stored.oid: stored for stored in stored_in(settings.theta_dir) if stored.modified < before}
    if not old:
        return Old({}, {})
    for _ in range(_TRIES):
        reachable = Reachable(settings)
        roots, names = reachable.roots(), _Names(old, meter)
        pending = names.take(reachable.everything(roots))
        seen: set[str] = set()
        while pending := pending - seen:
            seen |= pending
            pending = names.take(reachable.behind(sorted(pending)))
        if reachable.absent:
            raise _not_all_here(reachable.absent)
        if reachable.roots() == roots:
            return Old(
                {oid: old[oid] for oid in old.keys() - names.ours - names.pointed},
                {oid: old[oid] for oid in names.ours - names.pointed},
                roots,
            )
    raise RepositoryError("the repository was changed whenever it was looked through", hint="try again in a while")


def look_again(settings: Settings, old: Old) -> None:
    """Raise RepositoryError where others have changed the repository since the look that found `old`."""
    if Reachable(settings).roots() != old.roots:
        raise RepositoryError(
            "the repository was changed while the remote was asked", hint="nothing was deleted; run the command again"
        )


def only_on_remote(settings: Settings, remote: str, ours: Mapping[str, Stored], meter: Meter) -> dict[str, Stored]:
    """Return those of `ours` that only commits name which `remote` has, and that are not in use here.

    That the remote has these objects too is for who removes them to make sure. Counts and raises as `look` does.
    """
    if not ours:
        return {}
    reachable, names = Reachable(settings), _Names(ours, meter)
    if names.take(reachable.kept_beside(remote)):
        raise RepositoryError(
            "updates that git-theta stored need the objects of earlier commits, pushed or not",
            hint="store these files dense first (git theta compact), or prune without --pushed",
        )
    if reachable.absent:
        raise _not_all_here(reachable.absent)
    return {oid: stored for oid, stored in ours.items() if oid not in names.ours}


class _Names:
    """Which objects of `old` metadata names (`ours`), and which pointers of Git LFS do (`pointed`)."""

    def __init__(self, old: Mapping[str, Stored], meter: Meter) -> None:
        self._old = old
        self._meter = meter
        self.ours: set[str] = set()
        self.pointed: set[str] = set()

    def take(self, contents: Iterator[Content]) -> set[str]:
        """Note what `contents` name; return the commits that they name for more."""
        commits: set[str] = set()
        for content in contents:
            if not content.data.lstrip().startswith(b"{"):  # a pointer, or sides of a conflict: they may be pointers
                self.pointed.update(oid for oid in _hexadecimal(_POINTED, content.data) if oid in self._old)
            named = _named(content, commits)
            if named is not None:
                self._meter.advance(items=1)
                self.ours.update(oid for oid in named if oid in self._old)
        return commits


def _named(content: Content, commits: set[str]) -> list[str] | None:
    """Return the objects that a blob names, None where it is no metadata; add the commits that it names."""
    data = content.data
    if not any(mark in data for mark in _MARKS):
        return None
    try:
        metadata = text.read(data)
    except ThetaError as error:
        raise error.at(
            path=content.path,
            hint=f"nothing is removed while what blob {content.blob} names is unknown; git theta fsck --metadata tells "
            "which commit has it",
        ) from None
    if not isinstance(metadata, Metadata):
        # Sides of a conflict, or something torn: whatever in it may be the id of an object is one.
        return _hexadecimal(_ANY, data) if metadata is Kind.CONFLICT or b'"lfs_metadata"' in data else None
    commits |= {
        entry.last_commit
        for entry in metadata.entries.values()
        if entry.last_commit is not None and needs_history(entry)
    }
    return [found.oid for found in objects.of(metadata)]


def _hexadecimal(pattern: re.Pattern[bytes], data: bytes) -> list[str]:
    return [found.decode("ascii") for found in pattern.findall(data)]


def _not_all_here(number: int) -> RepositoryError:
    return RepositoryError(
        f"{number} files or directories of the history are not here, and what metadata among them names is unknown",
        hint="in a partial clone, get them with git fetch --refetch --no-filter; else see git fsck",
    )
