"""Objects on disk: immutable files under the SHA-256 of their bytes, where Git LFS keeps its own.

    <lfs.storage>/objects/ab/cd/<abcd...>     read and written by Git LFS too
    <common dir>/theta/objects/ab/cd/<...>    ours: a second name (hard link) of each
    <lender>/lfs/objects, .../theta/objects   those of repositories that this one borrows from: only read

`git lfs prune` deletes from its store whatever no pointer file names, pushed or not, and that is every object of
ours. So an object is written into our store first and then given its name in Git LFS's: at no moment can a prune take
the only copy. What is missing or truncated in Git LFS's store is put back from ours whenever it is read.

A name is claimed by a whole file alone (durable.py). Nobody should ever change an object in place, and so the mapped
memory that `open` returns stays what it is when the object is deleted meanwhile. Whoever hands such memory on asks
afterwards, with `require_unchanged`, whether it was what he had verified: that costs one system call, a copy a fifth of
the time of a checkout.

An object counts as present when a file of the right name and size is there. `verify` compares the contents; for whom
a digest of what is inside vouches need not call it.

A large object is mapped, and the system counts the pages that were read as memory of this process. Whoever goes through
one front to back gives each part back when it is through with it:

    view = store.open(ref)
    ... view[part] ...
    forget(view, part)

A checkpoint may have ten thousand small objects, so paths are strings here, and each costs as few calls of the system
as can be.
"""

from __future__ import annotations

import hashlib
import mmap
import os
import re
import stat
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final
from weakref import WeakKeyDictionary

from theta_daemon import durable
from theta_daemon.errors import CorruptObject, MissingObject, RepositoryError, reason
from theta_daemon.metadata.entries import ObjectRef

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

_is_oid: Final = re.compile(r"[0-9a-f]{64}").fullmatch

# O_NONBLOCK: a pipe in the place of an object must not hang us.
_READ: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK

# Up to here reading is faster than mapping (measured, to read or map and then to hash: 48 against 52 us for 128 KiB, 77
# against 72 us for 256 KiB, 284 against 237 us for 1000 KiB).
MAPPED_FROM: Final = 256 << 10
# A mapping keeps a descriptor, and 256 of those are all that some systems give a process.
MOST_MAPPED: Final = 96

_WINDOW: Final = 16 << 20  # bytes that are hashed before they are forgotten

_OLD: Final = -1  # in the place of a size: to be replaced

_OID_LENGTH: Final = 64
_NAME_LENGTH: Final = len("/ab/cd/") + _OID_LENGTH

_Origin = tuple[str, int, int, int]  # of a mapping: name below a place, device, inode, time of the last change in ns


class ObjectStore:
    """The objects of one repository; any number of threads and processes may use the same directories.

    `lfs_objects`, `theta_objects` and the `alternates` are the directories that hold `ab/cd/`. `temporary` is one on
    the file system of `theta_objects`; where Git LFS's store is on another, copies pass through `tmp` beside it, which
    is Git LFS's own. `mode` are the permission bits of new objects (core.sharedRepository); None leaves them to the
    umask, as Git LFS does. With `fsync` an object survives a power failure once it is written.
    """

    def __init__(
        self,
        lfs_objects: Path,
        theta_objects: Path,
        temporary: Path,
        alternates: tuple[Path, ...] = (),
        fsync: bool = False,
        mode: int | None = None,
    ) -> None:
        self.lfs_objects = lfs_objects
        self.theta_objects = theta_objects
        self.temporary = temporary
        self.alternates = alternates
        self.fsync = fsync
        self.mode = mode
        self._lfs = str(lfs_objects)
        self._theta = str(theta_objects)
        self._places = (self._lfs, self._theta, *map(str, alternates))
        self._mapped: WeakKeyDictionary[mmap.mmap, _Origin] = WeakKeyDictionary()
        self._unswept = threading.Lock()

    def write(self, pieces: Sequence[bytes | memoryview]) -> ObjectRef:
        """Store the concatenation of `pieces`, unless it is there already, and return its reference.

        `pieces` is iterated twice, and may make each piece when it is asked for it: no more than two, and 64 KiB of
        small ones, are held at a time. Raises RepositoryError where the disk does not take it; then there is no
        object, or a whole one.
        """
        digest = hashlib.sha256()
        size = 0
        for piece in pieces:
            digest.update(piece)
            size += memoryview(piece).nbytes
        ref = ObjectRef(digest.hexdigest(), size)
        self._put(ref, pieces)
        return ref

    def put(self, ref: ObjectRef, view: memoryview) -> None:
        """Store the bytes of an object that were verified, as `write` does. Raises RepositoryError."""
        self._put(ref, [view])

    def lend(self, ref: ObjectRef, pieces: Iterable[bytes | memoryview]) -> None:
        """Put an object, whose bytes are `pieces`, into Git LFS's store alone: it can be made again.

        Raises RepositoryError, and what `pieces` raises.
        """
        name = _name(ref.oid)
        if _size(self._lfs + name) == ref.size:
            return
        try:
            durable.write(self._lfs + name, pieces, temporary=self._lfs_temporary, fsync=self.fsync, mode=self.mode)
        except OSError as error:
            raise RepositoryError(f"cannot write object {ref.oid}: {reason(error)}", hint="make room") from error

    def forgo(self, ref: ObjectRef) -> None:
        """Remove an object from Git LFS's store, where it is still there."""
        with suppress(OSError):
            os.unlink(self._lfs + _name(ref.oid))

    def _put(self, ref: ObjectRef, pieces: Sequence[bytes | memoryview]) -> None:
        name, size = _name(ref.oid), ref.size
        lfs, theta = self._lfs + name, self._theta + name
        in_lfs, in_theta = _size(lfs), _size(theta)
        is_here = size in (in_lfs, in_theta)
        if in_theta == size and not _freshened(theta):
            in_theta = _OLD
        if in_theta != size and in_lfs == size and not _freshened(lfs):
            in_lfs = _OLD
        if in_lfs == in_theta == size:
            return
        self._sweep_once()
        try:
            if in_theta != size:
                # Files that exist with another size are replaced.
                self._give_to_theta(pieces, lfs if in_lfs == size else None, theta, replace=in_theta is not None)
            if in_lfs != size:
                self._give_to_lfs(theta, lfs, replace=in_lfs is not None)
        except OSError as error:
            if is_here and self.contains(ref.oid, ref.size):
                return  # only its second name is missing, and `git status` must work where nothing can be written
            raise RepositoryError(
                f"cannot write object {ref.oid}: {reason(error)}",
                hint="make room or permit writing, and run the command again",
            ) from error

    def open(self, ref: ObjectRef) -> memoryview:
        """Return the bytes of `ref`, read-only; mapped when they are many. They are not verified.

        Raises MissingObject, CorruptObject where only files of another size have its name, and RepositoryError where
        they cannot be read.
        """
        name = _name(ref.oid)
        wrong, unreadable = [], []
        for place in self._places:
            path = place + name
            try:
                view = self._read(path, ref.size)
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                unreadable.append(f"{path}: {error.strerror or error}")
                continue
            if isinstance(view, int):
                wrong.append(f"{path} has {view} bytes instead of {ref.size}")
                continue
            if place is self._theta:
                self._restore(name)
            return view
        if unreadable:
            raise RepositoryError(f"object {ref.oid} cannot be read: {', '.join(unreadable)}")
        if wrong:
            raise CorruptObject(
                f"object {ref.oid} is not whole: {', '.join(wrong)}", hint="restore it from a clone that has it"
            )
        raise MissingObject(
            f"object {ref.oid} ({ref.size} bytes) is not in {', '.join(self._places)}",
            hint="restore it from a clone that has it",
        )

    def contains(self, oid: str, size: int) -> bool:
        """Whether `open` would find the object."""
        name = _name(oid)
        for place in self._places:  # noqa: SIM110 - a generator costs half as much as the system's answer
            if _size(place + name) == size:
                return True
        return False

    def take_in(self, ref: ObjectRef, *, hashed: bool = True) -> None:
        """Take an object that Git LFS has just put into its store: verify it whole, and give it its name in ours.

        Where it is not `hashed` only its size is verified. No more than a window of it is in memory at a time. Raises
        MissingObject, CorruptObject, RepositoryError; an object that is not what its name says stays out of our store,
        and leaves Git LFS's.
        """
        name = _name(ref.oid)
        if hashed:
            try:
                self.verify(ref, self.open(ref), forgetting=True)
            except CorruptObject:
                with suppress(OSError):
                    os.unlink(self._lfs + name)
                raise
        elif not self.contains(ref.oid, ref.size):
            raise MissingObject(f"object {ref.oid} ({ref.size} bytes) is missing")
        if _size(self._theta + name) == ref.size or _size(self._lfs + name) != ref.size:
            return
        try:
            self._give_to_theta((), self._lfs + name, self._theta + name, replace=_size(self._theta + name) is not None)
        except OSError as error:
            raise RepositoryError(
                f"cannot keep object {ref.oid}: {reason(error)}", hint="make room or permit writing"
            ) from error

    def copy_from(self, store: Path, ref: ObjectRef) -> None:
        """Take an object that is whole in `store`, another repository's: its two names here are those of a new file.

        Raises MissingObject, CorruptObject where it is not whole after all, RepositoryError.
        """
        try:
            view = self._read(str(store) + _name(ref.oid), ref.size)
        except OSError as error:
            raise MissingObject(f"object {ref.oid} cannot be read in {store}: {reason(error)}") from error
        if isinstance(view, int) or self.write([view[at : at + _WINDOW] for at in range(0, ref.size, _WINDOW)]) != ref:
            raise CorruptObject(f"object {ref.oid} has changed in {store}")

    def alone(self) -> ObjectStore:
        """Return this store without alternates: what is only there counts as missing."""
        return ObjectStore(self.lfs_objects, self.theta_objects, self.temporary, (), self.fsync, self.mode)

    def verify(self, ref: ObjectRef, view: memoryview, *, forgetting: bool = False) -> None:
        """Compare `view` with the SHA-256 that is its name. Raises CorruptObject.

        `forgetting` is for a large `view` as `open` returned it: no more than a window of it stays in memory.
        """
        digest = hashlib.sha256()
        if len(view) == ref.size:
            for start in range(0, ref.size, _WINDOW):
                part = slice(start, start + _WINDOW)
                digest.update(view[part])
                if forgetting:
                    forget(view, part)
        if len(view) != ref.size or digest.hexdigest() != ref.oid:
            raise CorruptObject(
                f"object {ref.oid} is damaged: its bytes have another SHA-256",
                hint="remove it and restore it from a clone or remote that has it",
            )

    def require_unchanged(self, view: memoryview) -> None:
        """Raise CorruptObject if the file of `view`, a part of what `open` returned, was written to since then.

        What lies in memory of our own cannot change. An object that has lost all its names passes: nobody can open it
        any more.
        """
        mapped = view.obj
        if not isinstance(mapped, mmap.mmap) or (origin := self._mapped.get(mapped)) is None:
            return
        name, device, inode, modified = origin
        for place in self._places:
            with suppress(OSError):
                status = os.stat(place + name)
                if (status.st_dev, status.st_ino) == (device, inode):
                    # Another time alone may be that of a `write` of the same bytes: then only they can tell.
                    if status.st_mtime_ns != modified and not _is_whole(name[-_OID_LENGTH:], mapped):
                        raise CorruptObject(
                            f"object {name[-_OID_LENGTH:]} was changed while it was read",
                            hint="run the command again; should the object be damaged now, that says what to do",
                        )
                    return

    def sweep(self) -> int:
        """Remove what killed processes left behind; return the number of files removed."""
        return sum(map(durable.sweep, {self.temporary, self._lfs_temporary}))

    def _sweep_once(self) -> None:
        # Whoever makes temporary files clears away those of the dead; reading, and status above all, is spared it.
        if self._unswept.acquire(blocking=False):  # never released: one of all threads gets it, once
            self.sweep()

    def _read(self, path: str, size: int) -> memoryview | int:
        """Return the bytes of the file, or its size where that is another."""
        descriptor = os.open(path, _READ)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size != size:
                return status.st_size
            if size < MAPPED_FROM:
                data = os.read(descriptor, size)
                return memoryview(data) if len(data) == size else len(data)
            if len(self._mapped) >= MOST_MAPPED:
                with open(descriptor, "rb", buffering=0, closefd=False) as file:
                    data = file.readall()
                return memoryview(data) if len(data) == size else len(data)
            mapped = mmap.mmap(descriptor, size, access=mmap.ACCESS_READ)
        finally:
            os.close(descriptor)
        self._mapped[mapped] = (path[-_NAME_LENGTH:], status.st_dev, status.st_ino, status.st_mtime_ns)
        return memoryview(mapped)

    def _restore(self, name: str) -> None:
        # Reading must work where nothing can be written.
        with suppress(OSError):
            self._give_to_lfs(self._theta + name, self._lfs + name, replace=_size(self._lfs + name) is not None)

    def _give_to_theta(
        self, pieces: Sequence[bytes | memoryview], lfs: str | None, theta: str, *, replace: bool
    ) -> None:
        if lfs is not None:
            with suppress(FileNotFoundError):  # pruned since
                durable.link(lfs, theta, temporary=self.temporary, replace=replace, fsync=self.fsync, mode=self.mode)
                return
        durable.write(theta, pieces, temporary=self.temporary, replace=replace, fsync=self.fsync, mode=self.mode)

    def _give_to_lfs(self, theta: str, lfs: str, *, replace: bool) -> None:
        durable.link(theta, lfs, temporary=self._lfs_temporary, replace=replace, fsync=self.fsync, mode=self.mode)

    @property
    def _lfs_temporary(self) -> Path:
        return self.lfs_objects.parent / "tmp"


def forget(view: memoryview, part: slice) -> None:
    """Give back the memory of the bytes `part` of `view`, which is a whole object as `ObjectStore.open` returned it.

    They stay readable: reading them again takes longer, and is all the same. Does nothing for an object that is not
    mapped. Raises ValueError for a slice of a mapped one: it does not know where it lies.
    """
    mapped = view.obj
    if not isinstance(mapped, mmap.mmap) or not hasattr(mmap, "MADV_DONTNEED"):
        return
    if len(view) != len(mapped):
        raise ValueError("only parts of a whole object can be forgotten")
    start, stop, _ = part.indices(len(view))
    start -= start % mmap.PAGESIZE
    if start < stop:
        mapped.madvise(mmap.MADV_DONTNEED, start, stop - start)


def _name(oid: str) -> str:
    if _is_oid(oid) is None:
        raise CorruptObject(f"{oid[:80]!r} is not the id of an object")
    return f"/{oid[:2]}/{oid[2:4]}/{oid}"


def _freshened(path: str) -> bool:
    """Make an object as young as one written now, which `git theta prune` leaves alone.

    Its metadata may be in no index for as long as a `git add` takes. False where it is gone, or another user's: then it
    is written anew.
    """
    try:
        os.utime(path)
        os.stat(path)  # the system finds a file by its name first, and may change its time when that name is gone
    except (FileNotFoundError, PermissionError):
        return False
    except OSError:
        pass  # nothing can be written here
    return True


def _is_whole(oid: str, mapped: mmap.mmap) -> bool:
    digest = hashlib.sha256()
    with memoryview(mapped) as view:
        for start in range(0, len(view), _WINDOW):
            part = slice(start, start + _WINDOW)
            digest.update(view[part])
            forget(view, part)
    return digest.hexdigest() == oid


def _size(path: str) -> int | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else -1
