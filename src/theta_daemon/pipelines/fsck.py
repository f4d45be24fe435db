"""Whether what a repository holds can be had from it: metadata, the objects that it names, layouts, values.

One metadata file at a time, so that what is in memory is what one names. An object is hashed once, however often and
under however many hard links it is found; a damaged one is told wherever metadata names it under another path or
parameter group.

Mending never removes a file: a damaged one is moved aside (`<lfs.storage>/bad`, where `git lfs fsck` puts its own, or
`<theta directory>/bad`), and then the object comes from the other store, from an alternate, or from a remote.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from theta_daemon import dtypes
from theta_daemon.errors import CorruptObject, RepositoryError, ThetaError, reason
from theta_daemon.frozen import Frozen
from theta_daemon.metadata import objects, text
from theta_daemon.metadata.entries import Metadata, ObjectRef
from theta_daemon.metadata.objects import NamedObject
from theta_daemon.metadata.text import Kind
from theta_daemon.pipelines import dense
from theta_daemon.pipelines.ancestors import needs_history
from theta_daemon.pipelines.chains import Chain, chains, is_increment
from theta_daemon.pipelines.replay import replay
from theta_daemon.pipelines.skeleton import skeleton
from theta_daemon.pipelines.tolerance import verify_replayed
from theta_daemon.pipelines.value import SLACK
from theta_daemon.store.codec import MAX_EXPANSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from theta_daemon.history.reachable import Content
    from theta_daemon.metadata.entries import Entry, Name
    from theta_daemon.pipelines.services import Services
    from theta_daemon.progress import Meter

    Fetch = Callable[[Sequence[ObjectRef], bool], Mapping[ObjectRef, ThetaError]]

_WINDOW = 1 << 20
_MARKS = (b'"lfs_metadata"', b'"theta_daemon"')
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
_ADD_AGAIN = "add the checkpoint again, from a commit or a clone where it is whole"
_ELSEWHERE = "copy it into lfs/objects from a clone that has it"


class Scope(Frozen):
    """What is looked at: the form of metadata, the objects and layouts that it names, and whether values come out."""

    metadata: bool = True
    objects: bool = True
    values: bool = False


class Problem(Frozen):
    """Something wrong. `parameter` is None for what belongs to the whole file; `mended` tells that it is no more."""

    path: bytes
    blob: str
    parameter: str | None
    what: str
    hint: str
    mended: bool = False


class Copies(Frozen):
    """The copies of an object that were looked at.

    `good` is the store of one that is good, and `size` that one's; `bad` are those in our stores that are damaged, and
    `lent` tells whether one in an alternate is. `why` says what is wrong; it is empty where all is as it should be.
    """

    good: Path | None
    size: int | None
    bad: tuple[Path, ...]
    lent: bool
    why: str


class Fsck:
    """Checks metadata and what it names.

    `fetch` brings objects from a remote into our stores, and is told whether an alternate has damaged copies of them;
    it returns those that it could not get, and why. Without it nothing is mended.
    """

    def __init__(self, services: Services, scope: Scope, meter: Meter, fetch: Fetch | None = None) -> None:
        self._services = services
        self._scope = scope
        self._meter = meter
        self._fetch = fetch
        here = services.settings
        self._stores = (here.lfs_objects, here.theta_dir / "objects")
        self._fine: dict[bytes, int] = {}  # the size of each object that is whole
        self._not_fine: dict[str, Copies] = {}
        self._mended: dict[str, str] = {}
        self._told: set[tuple[str, bytes, str | None]] = set()
        self._right: set[bytes] = set()  # values, by a hash of what names them

    def check(self, content: Content) -> Iterator[Problem]:
        """Yield what is wrong with a blob that may be metadata, and with what it names.

        Raises RepositoryError where git fails, or the disk.
        """
        if not any(mark in content.data for mark in _MARKS):
            return
        problem = partial(Problem, content.path, content.blob)
        try:
            metadata = text.read(content.data)
        except ThetaError as error:
            yield problem(error.parameter, error.message, error.hint or _ADD_AGAIN)
            return
        self._meter.advance(items=1)
        if metadata is Kind.CONFLICT:
            yield problem(None, "the metadata holds conflict markers", _ADD_AGAIN)
            return
        if not isinstance(metadata, Metadata):
            if content.data.lstrip().startswith(b"{") and _MARKS[0] in content.data:
                yield problem(None, "the metadata is damaged", _ADD_AGAIN)
            return
        if self._scope.metadata and not _is_canonical(metadata, content.data):
            yield problem(None, "the metadata is not in its canonical form", _ADD_AGAIN)
        if not self._scope.objects:
            return
        behind: Mapping[Name, Chain] = {}
        try:
            behind = chains(self._services, content.path, metadata.entries)
        except ThetaError as error:
            yield problem(error.parameter, error.message, error.hint or _ADD_AGAIN)
        yield from self._objects(content, metadata, behind)
        try:
            yield from self._layout(content, metadata)
        except ThetaError as error:
            yield problem(error.parameter, error.message, error.hint or _ADD_AGAIN)
        if self._scope.values:
            yield from self._values(content, metadata, behind)

    def _objects(self, content: Content, metadata: Metadata, behind: Mapping[Name, Chain]) -> Iterator[Problem]:
        named = {(found.oid, found.parameter): found for found in objects.of(metadata)}
        for name, chain in behind.items():
            if needs_history(metadata.entries[name]):
                parameter = "/".join(name)
                named |= {(ref.oid, parameter): NamedObject(ref.oid, ref.size, parameter) for ref in chain.objects()}
        self._look({found.oid for found in named.values() if bytes.fromhex(found.oid) not in self._fine})
        if self._fetch is not None:
            self._mend({found.oid: ObjectRef(found.oid, found.size) for found in named.values()})
        for found in named.values():
            key = (found.oid, content.path, found.parameter)
            if key not in self._told and (problem := self._problem(content, found)) is not None:
                self._told.add(key)
                yield problem

    def _problem(self, content: Content, found: NamedObject) -> Problem | None:
        problem = partial(Problem, content.path, content.blob, found.parameter)
        if (how := self._mended.get(found.oid)) is not None:
            return problem(how, "nothing is left to do", mended=True)
        size = self._fine.get(bytes.fromhex(found.oid))
        if size is not None:
            if size == found.size:
                return None
            return problem(f"object {found.oid} has {size} bytes, and the metadata says {found.size}", _ADD_AGAIN)
        copies = self._not_fine[found.oid]
        hint = "git theta fsck --repair fetches it" if copies.good is None else "git theta fsck --repair restores it"
        return problem(f"object {found.oid} {copies.why}", hint if self._fetch is None else _ELSEWHERE)

    def _look(self, oids: Iterable[str]) -> None:
        """Find out about objects, some at a time."""
        waiting: deque[tuple[str, Future[Copies]]] = deque()
        for oid in oids:
            if len(waiting) == 4 * self._services.pool.workers:
                self._note(*waiting.popleft())
            self._not_fine.pop(oid, None)
            waiting.append((oid, self._services.pool.submit(partial(self._copies, oid))))
        while waiting:
            self._note(*waiting.popleft())

    def _note(self, oid: str, future: Future[Copies]) -> None:
        copies = future.result()
        if copies.size is not None and not copies.why:
            self._fine[bytes.fromhex(oid)] = copies.size
        else:
            self._not_fine[oid] = copies

    def _copies(self, oid: str) -> Copies:
        """Look at the copies of an object in the two stores, and in alternates where these have no good one.

        Whoever reads the object takes the first copy of the right size: one that is damaged hides those behind it.
        """
        good: Path | None = None
        size: int | None = None
        bad: list[Path] = []
        why: list[str] = []
        known: dict[tuple[int, int], str | None] = {}
        for store in (*self._stores, *self._services.settings.alternates):
            own = store in self._stores
            if not own and good is not None:
                break
            path = _place(store, oid)
            try:
                found = self._hashed(path, known)
                if found == oid:
                    good, size = store, path.stat().st_size
                    continue
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                if not own:
                    continue
                if error.errno != errno.EIO:  # the disk says so itself
                    raise RepositoryError(f"object {oid} cannot be read: {reason(error)}") from error
            if own:
                bad.append(path)
            why.append(str(path))
        if why:
            rest = "; the other copy is good" if good is not None else ""
            lent = len(why) > len(bad)
            return Copies(good, size, tuple(bad), lent, f"is damaged in {' and '.join(why)}{rest}")
        if good is None:
            aside = [str(path) for path in map(self._aside, self._stores, (oid, oid)) if path.exists()]
            rest = f"; its damaged bytes are in {' and '.join(aside)}" if aside else ""
            return Copies(None, None, (), False, f"is missing{rest}")
        return Copies(good, size, (), False, "")

    def _hashed(self, path: Path, known: dict[tuple[int, int], str | None]) -> str | None:
        """Return the SHA-256 of a file, None for what is none; that of another name of one that was hashed is known."""
        descriptor = os.open(path, _READ)
        try:
            status = os.fstat(descriptor)
            key = status.st_dev, status.st_ino
            if key not in known:
                known[key] = self._digest(descriptor) if stat.S_ISREG(status.st_mode) else None
            return known[key]
        finally:
            os.close(descriptor)

    def _digest(self, descriptor: int) -> str:
        digest, buffer = hashlib.sha256(), memoryview(bytearray(_WINDOW))
        while size := os.readv(descriptor, [buffer]):
            digest.update(buffer[:size])
            self._meter.advance(size=size)
        return digest.hexdigest()

    def _mend(self, refs: Mapping[str, ObjectRef]) -> None:
        """Bring what is not fine of `refs`, from here or from a remote; what only Git LFS's store has, ours gets."""
        lfs, theta = self._stores
        for oid, ref in refs.items():
            if self._is_whole(ref) and not _place(theta, oid).exists() and _place(lfs, oid).exists():
                self._services.store.take_in(ref)
        broken = {oid: self._not_fine[oid] for oid in refs if oid in self._not_fine and oid not in self._mended}
        for oid, copies in broken.items():
            for path in copies.bad:
                self._move_aside(path, oid)
        failed: dict[ObjectRef, ThetaError] = {}
        for lent in (False, True):
            missing = [refs[oid] for oid, copies in broken.items() if copies.good is None and copies.lent is lent]
            if missing and self._fetch is not None:
                failed |= self._fetch(missing, lent)
        for oid, before in broken.items():
            error = failed.get(refs[oid])
            if error is None:
                try:
                    self._take(refs[oid], before)
                except ThetaError as refused:
                    error = refused
            self._look([oid])
            if oid not in self._not_fine:
                self._mended[oid] = f"object {oid} {before.why}: {'fetched' if before.good is None else 'restored'}"
            elif error is not None:
                said = f"{before.why}, and cannot be had: {error.message}"
                self._not_fine[oid] = self._not_fine[oid].replace(why=said)

    def _take(self, ref: ObjectRef, before: Copies) -> None:
        """Give an object that was fetched, or has a good copy, its two names here. Raises ThetaError."""
        store = self._services.store
        if before.good is None or before.size is None:
            store.take_in(ref)
        elif before.good in self._stores:
            store.take_in(ref.replace(size=before.size))
        else:
            store.copy_from(before.good, ref.replace(size=before.size))

    def _move_aside(self, path: Path, oid: str) -> None:
        aside = self._aside(path.parents[2], oid)
        try:
            aside.parent.mkdir(parents=True, exist_ok=True)
            if aside.exists():
                aside = aside.with_name(f"{oid}.{os.urandom(4).hex()}")
            os.rename(path, aside)
        except OSError as error:
            raise RepositoryError(f"object {oid} cannot be moved aside: {reason(error)}") from error

    def _aside(self, store: Path, oid: str) -> Path:
        """Return where the damaged bytes of an object in one of the two stores are kept."""
        return store.parent / "bad" / oid

    def _layout(self, content: Content, metadata: Metadata) -> Iterator[Problem]:
        """Yield what is wrong with the layout, where it is whole and what belongs to it too."""
        if metadata.file is None or not all(
            self._is_whole(ref) for ref in (metadata.file.layout, *metadata.file.opaque)
        ):
            return
        said: list[str] = []
        services = self._services.replace(warn=lambda _path, why: said.append(why))
        skeleton(services, content.path, metadata)
        for why in said:
            what, _, hint = why.partition("; ")
            yield Problem(content.path, content.blob, None, what, hint)

    def _is_whole(self, ref: ObjectRef) -> bool:
        return self._fine.get(bytes.fromhex(ref.oid)) == ref.size

    def _values(self, content: Content, metadata: Metadata, behind: Mapping[Name, Chain]) -> Iterator[Problem]:
        """Yield the values that do not come out as the metadata says; those that lack an object were told."""
        waiting: deque[tuple[Name, bytes, Future[None]]] = deque()
        for name, entry in metadata.entries.items():
            if name not in behind and is_increment(entry):
                continue
            chain = behind.get(name) or _dense(name, entry)
            names = f"{chain.key} {entry.digest} {json.dumps(name) if name in behind else ''}"
            key = hashlib.blake2b(names.encode("ascii"), digest_size=16).digest()
            if key in self._right or not all(self._is_whole(ref) for ref in chain.objects()):
                continue
            if len(waiting) == 4 * self._services.pool.workers:
                yield from self._compared(content, *waiting.popleft())
            rebuild = partial(_rebuild, self._services, entry, chain, self._meter)
            waiting.append((name, key, self._services.pool.submit(rebuild)))
        while waiting:
            yield from self._compared(content, *waiting.popleft())

    def _compared(self, content: Content, name: Name, key: bytes, future: Future[None]) -> Iterator[Problem]:
        try:
            future.result()
        except RepositoryError:
            raise
        except ThetaError as error:
            yield Problem(content.path, content.blob, "/".join(name), error.message, error.hint or _ADD_AGAIN)
        else:
            self._right.add(key)


def _is_canonical(metadata: Metadata, data: bytes) -> bool:
    try:
        return text.serialize(metadata) == data
    except ThetaError:  # with less space between its parts than we put there, it holds more than we would write
        return False


def _dense(name: Name, entry: Entry) -> Chain:
    return Chain(name, entry.dtype, entry.shape, ObjectRef(entry.oid, entry.size), (), entry.digest is not None)


def _rebuild(services: Services, entry: Entry, chain: Chain, meter: Meter) -> None:
    """Raise CorruptObject unless the value of an entry comes out as it says."""
    size = dtypes.nbytes(entry.dtype, entry.shape)
    if size > MAX_EXPANSION * chain.base.size + SLACK:  # before anything gets so much room
        raise CorruptObject(f"object {chain.base.oid} of {chain.base.size} bytes cannot hold {size} bytes")
    with dense.room(services, size) as (value, forget):
        replay(services, chain, value, forget)
        found = dense.digest(value, forget)
        if chain.updates or entry.digest is not None:
            verify_replayed(services, entry, chain, value, found, forget)
    meter.advance(size=size)


def _place(store: Path, oid: str) -> Path:
    return store / oid[:2] / oid[2:4] / oid
