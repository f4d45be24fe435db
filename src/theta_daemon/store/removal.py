"""Objects that nobody needs leave the stores, so that nobody who begins to need one meanwhile loses it.

Who writes an object that is there already makes it young again (`ObjectStore.write`), and may do so at any moment. So
an object leaves in steps, each of which can be the last:

    1. its name in our store becomes `removed-<id>`, right below the store's directory: no object's name
    2. was it made young meanwhile? Then it gets its name back, and stays
    3. its name in Git LFS's store goes
    4. the name `removed-<id>` goes

Who comes after step 1 finds no object in our store, and writes one. Who came before is found out in step 2. A removal
that was killed before step 4 is undone by the next one (`recover`): then the object is there again, and old.

Times are those of the file system, which may have another clock than this machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import stat
from typing import TYPE_CHECKING, Self

from theta_daemon.errors import RepositoryError, reason
from theta_daemon.frozen import Frozen

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_is_oid = re.compile(r"[0-9a-f]{64}").fullmatch
_REMOVED = "removed-"


class Stored(Frozen):
    """An object of our store: its size in bytes, and when it was written or made young, in ns of the file system."""

    oid: str
    size: int
    modified: int


class Removal:
    """Removes objects of one repository; one at a time works, as a context, in it.

    `lfs_objects` is None where nothing may be removed from Git LFS's store. As a context it raises RepositoryError
    where another works, or nothing can be written.
    """

    def __init__(self, theta_dir: Path, lfs_objects: Path | None) -> None:
        self._theta = theta_dir / "objects"
        self._lfs = lfs_objects
        self._lock: int | None = None

    def __enter__(self) -> Self:
        """Keep others out, and undo what a killed removal left undone."""
        try:
            os.makedirs(self._theta, exist_ok=True)
            self._lock = os.open(self._theta, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            _keep_out(self._lock)
            self._recover()
        except BaseException as error:
            self._unlock()
            if isinstance(error, OSError):
                raise RepositoryError(f"nothing can be removed: {reason(error)}") from error
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Let others in."""
        self._unlock()

    def now(self) -> int:
        """Return the time of the file system, in ns. Raises RepositoryError where it does not tell."""
        try:
            os.utime(self._theta)
            return os.stat(self._theta).st_mtime_ns
        except OSError as error:
            raise RepositoryError(f"nothing can be removed: {reason(error)}") from error

    def remove(self, stored: Stored) -> int | None:
        """Remove an object unless it was made young since; return the bytes that this frees, None where it stays.

        Names of one file count once, and not at all while the file has others. Raises RepositoryError.
        """
        ours, removed = _place(self._theta, stored.oid), self._theta / f"{_REMOVED}{stored.oid}"
        try:
            if os.lstat(ours).st_mtime_ns != stored.modified:
                return None
            os.rename(ours, removed)
            if os.lstat(removed).st_mtime_ns != stored.modified:
                self._give_back(removed)
                return None
            return self._let_go(stored.oid, removed)
        except FileNotFoundError:
            return None  # somebody else removed it
        except OSError as error:
            raise RepositoryError(f"object {stored.oid} cannot be removed: {reason(error)}") from error

    def _let_go(self, oid: str, removed: Path) -> int:
        freed = 0
        try:
            if self._lfs is not None:
                with contextlib.suppress(FileNotFoundError):
                    freed += _unlinked(_place(self._lfs, oid))
            return freed + _unlinked(removed)
        except OSError:
            with contextlib.suppress(OSError):
                self._give_back(removed)
            raise

    def frees(self, stored: Stored) -> int:
        """Return the bytes that `remove` would free."""
        names: dict[tuple[int, int], list[os.stat_result]] = {}
        for store in (self._theta, self._lfs):
            with contextlib.suppress(OSError):
                if store is not None:
                    status = os.lstat(_place(store, stored.oid))
                    names.setdefault((status.st_dev, status.st_ino), []).append(status)
        return sum(found[0].st_size for found in names.values() if found[0].st_nlink == len(found))

    def _recover(self) -> None:
        for path in _entries(self._theta):
            name = os.path.basename(path)
            if name.startswith(_REMOVED) and _is_oid(name.removeprefix(_REMOVED)) is not None:
                self._give_back(self._theta / name)

    def _give_back(self, removed: Path) -> None:
        ours = _place(self._theta, removed.name.removeprefix(_REMOVED))
        ours.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(removed, ours)
        except FileExistsError:
            pass  # written anew meanwhile
        except OSError:  # no hard links here
            os.replace(removed, ours)
            return
        os.unlink(removed)

    def _unlock(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def stored_in(theta_dir: Path) -> Iterator[Stored]:
    """Yield the objects of our store; whatever else lies there is none. Raises RepositoryError."""
    try:
        for first in _entries(theta_dir / "objects"):
            for second in _entries(first):
                for path in _entries(second):
                    name = os.path.basename(path)
                    if _is_oid(name) is None or path != str(_place(theta_dir / "objects", name)):
                        continue
                    with contextlib.suppress(FileNotFoundError):
                        status = os.lstat(path)
                        if stat.S_ISREG(status.st_mode):
                            yield Stored(name, status.st_size, status.st_mtime_ns)
    except OSError as error:
        raise RepositoryError(f"the stores cannot be read: {reason(error)}") from error


def _keep_out(descriptor: int) -> None:
    """Raise RepositoryError where another removal is at work; where there are no locks nobody can tell."""
    with contextlib.suppress(OSError):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RepositoryError("another git theta prune is at work here", hint="wait for it") from None


def _entries(directory: Path | str) -> list[str]:
    try:
        return sorted(os.path.join(directory, name) for name in os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _unlinked(path: Path) -> int:
    """Remove a name of a file; return the file's size where that was its last."""
    status = os.lstat(path)
    os.unlink(path)
    return status.st_size if status.st_nlink == 1 else 0


def _place(store: Path, oid: str) -> Path:
    return store / oid[:2] / oid[2:4] / oid
