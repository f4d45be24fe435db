"""What clean compares a checkpoint with: the record of its path, read only as far as needed.

Clean asks two questions. For each parameter group, in the workers: does the record hold this value under
this name? Then for the whole file: is it exactly what smudge would make of an earlier metadata? Both go through the
candidates in the record's order and take the first that is equal, so the answer depends on the content
and the record alone.
"""

from __future__ import annotations

import threading
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from theta_daemon.errors import ThetaError
from theta_daemon.frozen import Frozen
from theta_daemon.metadata import text
from theta_daemon.metadata.digest import digest as digest_of
from theta_daemon.metadata.entries import Metadata
from theta_daemon.pipelines.known import stored_digest
from theta_daemon.pipelines.skeleton import skeleton
from theta_daemon.pipelines.tolerance import is_rounded_otherwise

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from theta_daemon.metadata.entries import Entry, FileEntry, Name
    from theta_daemon.pipelines.services import Services


class Earlier(Frozen):
    """An earlier metadata of the path, as it stands and as what it says."""

    data: bytes
    metadata: Metadata


class Baseline:
    """The earlier metadata of one path; safe to use from the workers.

    Every method raises RepositoryError where git cannot read the record.
    """

    def __init__(self, services: Services, path: bytes) -> None:
        self._services = services
        self.path = path
        self._known: list[Earlier] = []
        self._more = self._read()
        self._failure: BaseException | None = None
        self._lock = threading.Lock()
        self._compatible: bool | None = None
        self._rounded: set[tuple[Name, str, str]] = set()

    def prepare(self) -> None:
        """Read the latest metadata now: whoever asks first need not wait for it. Raises nothing."""
        with suppress(ThetaError):  # raised again where it is needed
            self._at(0)

    @property
    def compatible(self) -> bool:
        """Whether new entries must suit git-theta (its LSH): by setting, or because it wrote the latest record."""
        if self._compatible is None:
            self._compatible = self._is_compatible()
        return self._compatible

    def _is_compatible(self) -> bool:
        setting = self._services.settings.compatible
        if setting != "auto":
            return setting == "true"
        latest = self._at(0)
        if latest is None:
            return False
        return latest.metadata.file is None or any(any(entry.hash) for entry in latest.metadata.entries.values())

    def find(
        self, name: Name, dtype: str, shape: tuple[int, ...], digest: str, value: memoryview | None = None
    ) -> Entry | None:
        """Return the first entry of the record under `name` that holds the value with `digest`.

        With `value`, and where no entry holds exactly this: the first one of git-theta of which another machine would
        make it.
        """
        for earlier in self._all():
            entry = earlier.metadata.entries.get(name)
            if entry is not None and self._holds(name, entry, dtype, shape, digest):
                return entry
        for earlier in self._all() if value is not None else ():
            entry = earlier.metadata.entries.get(name)
            if value is None or entry is None or not _may_hold(entry, dtype, shape, digest):
                continue
            if is_rounded_otherwise(self._services, self.path, name, entry, value):
                self._rounded.add((name, entry.oid, digest))
                return entry
        return None

    def may_find(self, name: Name, dtype: str, shape: tuple[int, ...]) -> bool:
        """Whether `find` may return an entry, for some digest."""
        entries = (earlier.metadata.entries.get(name) for earlier in self._all())
        return any(entry is not None and (entry.dtype, entry.shape) == (dtype, shape) for entry in entries)

    def may_find_at_once(self, name: Name, dtype: str, shape: tuple[int, ...]) -> bool:
        """Whether `find` may return an entry without reading its object."""
        latest = self._at(0)
        entry = None if latest is None else latest.metadata.entries.get(name)
        return entry is not None and entry.digest is not None and (entry.dtype, entry.shape) == (dtype, shape)

    def whole(self, groups: Mapping[Name, tuple[str, tuple[int, ...], str]], file: FileEntry) -> Earlier | None:
        """Return the first earlier metadata whose whole file is this one.

        `groups` gives dtype, shape and digest of every parameter group, `file` the layout of the content.
        """
        for earlier in self._all():
            metadata = earlier.metadata
            if metadata.entries.keys() != groups.keys():
                continue
            if not all(_may_hold(entry, *groups[name]) for name, entry in metadata.entries.items()):
                continue
            if not _is_same(metadata.file, file) and not self._same_skeleton(metadata, file):
                continue
            if all(self._holds(name, entry, *groups[name]) for name, entry in metadata.entries.items()):
                return earlier
        return None

    def earlier(self) -> Iterator[Metadata]:
        """Yield the earlier metadata of the path, the latest first."""
        return (found.metadata for found in self._all())

    def _same_skeleton(self, metadata: Metadata, file: FileEntry) -> bool:
        """Tell whether smudge would make this layout of `metadata`, though it does not name it."""
        try:
            return skeleton(self._services, self.path, metadata, quiet=True).file_entry() == file
        except ThetaError:
            return False  # a record that cannot be smudged here cannot be what this content came from

    def _holds(self, name: Name, entry: Entry, dtype: str, shape: tuple[int, ...], digest: str) -> bool:
        if not _may_hold(entry, dtype, shape, digest):
            return False
        if entry.digest is not None or (name, entry.oid, digest) in self._rounded:
            return True
        return stored_digest(self._services, self.path, name, entry) == digest

    def _all(self) -> Iterator[Earlier]:
        index = 0
        while (known := self._at(index)) is not None:
            yield known
            index += 1

    def _at(self, index: int) -> Earlier | None:
        if index < len(self._known):
            return self._known[index]
        with self._lock:
            if self._failure is not None:
                raise self._failure
            while len(self._known) <= index:
                try:
                    found = next(self._more, None)
                except BaseException as error:
                    self._failure = error  # a generator that has raised looks like one at its end
                    raise
                if found is None:
                    return None
                self._known.append(found)
            return self._known[index]

    def _read(self) -> Iterator[Earlier]:
        seen: set[bytes] = set()
        for data in self._blobs():
            if data in seen:
                continue
            seen.add(data)
            try:
                found = self._services.parsed.get(text.read, digest_of(data), partial(bytes, data))
            except ThetaError:
                continue
            if isinstance(found, Metadata):  # else raw content or conflict markers: no earlier version of anything
                yield Earlier(data, found)

    def _blobs(self) -> Iterator[bytes]:
        yield from self._services.recent.of(self.path)
        for candidate in self._services.record.candidates(self.path):
            yield candidate.data


def _is_same(one: FileEntry | None, other: FileEntry) -> bool:
    """Tell whether two file entries describe the same file: packs have no part in that."""
    return one is not None and (one.format, one.layout, one.opaque) == (other.format, other.layout, other.opaque)


def _may_hold(entry: Entry, dtype: str, shape: tuple[int, ...], digest: str) -> bool:
    """Tell by the entry alone whether it can hold the value; it surely does when it carries a digest."""
    return (entry.dtype, entry.shape) == (dtype, shape) and entry.digest in (None, digest)
