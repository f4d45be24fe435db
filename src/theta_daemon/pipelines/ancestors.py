"""What entries of git-theta build on: the same parameter group at the same path in an earlier commit, and so on.

git-theta writes an increment together with the commit that was HEAD then, which holds the previous value; it has
nothing like our replay. Each commit is visited once for all parameter groups of a file that need it, and each blob that
such a visit finds is read and parsed once for all files and commits that hold it, within a bound of memory.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, Protocol

from theta_daemon.errors import MetadataError, RepositoryError
from theta_daemon.metadata import text
from theta_daemon.metadata.digest import digest as digest_of
from theta_daemon.metadata.entries import Metadata

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from theta_daemon.cache.parsed import Parsed
    from theta_daemon.metadata.entries import Entry, Name
    from theta_daemon.trace import Trace

MOST_STEPS = 4096  # of one chain: a checkout of so long a one would take minutes, and memory for each step


class Version(Protocol):
    """A path's metadata in a commit."""

    @property
    def data(self) -> bytes:
        """The blob."""


class History(Protocol):
    """Where earlier versions come from."""

    def blob(self, commit: str, path: bytes) -> str | None:
        """Return the id of the blob that `path` is in `commit`, None where there is none, or not here."""

    def version(self, commit: str, path: bytes) -> Version | None:
        """Return `path` as `commit` holds it, None where it does not, or is not here."""

    def is_here(self, commit: str) -> bool:
        """Whether the repository holds this commit."""


class Ancestors:
    """Finds them; may be used from any thread. Remembers metadata with at most `limit` entries in all.

    `fetch` tries to get a commit, with what it holds of a path, from a remote; it returns the path's metadata, or says
    why there is none.
    """

    def __init__(
        self,
        history: History,
        parsed: Parsed,
        trace: Trace,
        limit: int,
        fetch: Callable[[str, bytes], bytes | str],
    ) -> None:
        self._history = history
        self._parsed = parsed
        self._trace = trace
        self._limit = limit
        self._fetch = fetch
        self._known: OrderedDict[str, Metadata] = OrderedDict()  # by the blob's id
        self._held = 0
        self._lock = threading.Lock()

    def chains(self, path: bytes, entries: Mapping[Name, Entry]) -> dict[Name, tuple[Entry, ...]]:
        """Return for each of `entries` what it builds on, the oldest first, and itself as the last.

        The first is dense or carries a digest, and all others do neither.

        Raises RepositoryError for a commit that is not here and cannot be fetched, MetadataError for one that does not
        hold the parameter group.
        """
        found = {name: [entry] for name, entry in entries.items()}
        waiting: dict[str, list[Name]] = {}
        for name, entry in entries.items():
            if needs_history(entry):
                waiting.setdefault(_commit_before(name, entry), []).append(name)
        with self._lock:
            while waiting:
                commit = next(iter(waiting))
                names = waiting.pop(commit)
                metadata = self._metadata(commit, path, names[0])
                for name in names:
                    before = metadata.entries.get(name)
                    if before is None or len(found[name]) > MOST_STEPS:
                        what = "does not hold it" if before is None else f"is {MOST_STEPS} updates back"
                        raise MetadataError(
                            f"its previous value is looked for here, but this commit {what}",
                            path=path,
                            parameter="/".join(name),
                            commit=commit,
                            hint="check it out from a commit that holds it, and add it again",
                        )
                    found[name].append(before)
                    if needs_history(before):
                        waiting.setdefault(_commit_before(name, before), []).append(name)
        return {name: tuple(reversed(chain)) for name, chain in found.items()}

    def _metadata(self, commit: str, path: bytes, name: Name) -> Metadata:
        blob = self._history.blob(commit, path)
        if blob is not None and blob in self._known:
            self._known.move_to_end(blob)
            return self._known[blob]
        version = self._history.version(commit, path) if blob is not None else None
        if version is not None:
            data = version.data
        else:
            fetched = self._fetch(commit, path)
            if isinstance(fetched, str):
                raise _gone(commit, path, name, fetched, is_here=self._history.is_here(commit))
            data, blob = fetched, self._history.blob(commit, path)
        with self._trace.stage("read an earlier version", len(data)):
            found = self._parsed.get(text.read, digest_of(data), lambda: data)
        if not isinstance(found, Metadata):
            raise MetadataError(
                "its previous value is looked for here, but this commit holds no metadata",
                path=path,
                parameter="/".join(name),
                commit=commit,
            )
        if blob is None or blob in self._known:
            return found
        self._known[blob] = found
        self._held += len(found.entries)
        while self._held > self._limit and len(self._known) > 1:
            _, dropped = self._known.popitem(last=False)
            self._held -= len(dropped.entries)
        return found


def needs_history(entry: Entry) -> bool:
    """Whether the value of `entry` builds on one that only the history names."""
    return entry.update_type != "dense" and not entry.replay


def _commit_before(name: Name, entry: Entry) -> str:
    if entry.last_commit is None:
        raise MetadataError(
            f"its {entry.update_type} update names neither replay nor the commit that holds the previous value",
            parameter="/".join(name),
            hint="check it out from another commit",
        )
    return entry.last_commit


def _gone(commit: str, path: bytes, name: Name, why: str, *, is_here: bool) -> Exception:
    parameter = "/".join(name)
    if is_here:
        return MetadataError(
            "its previous value is looked for here, but this commit does not hold the file",
            path=path,
            parameter=parameter,
            commit=commit,
            hint="was it renamed? check it out under its old name, and add it again",
        )
    return RepositoryError(
        f"its previous value stands in this commit, which is not here ({why})",
        path=path,
        parameter=parameter,
        commit=commit,
        hint=f"run 'git fetch REMOTE {commit}' with a remote that has it",
    )
