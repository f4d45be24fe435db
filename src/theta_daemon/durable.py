"""Files that exist whole or not at all.

A file is written under a temporary name in a directory of the same file system, filled, flushed if asked for,
and only then given its real name. Giving the name is the sole commit point:

    1. create `<temporary>/theta-<pid>-<random>.tmp`, locked
    2. write every piece
    3. fsync the file                     (only with `fsync`)
    4. link or rename it to the target
    5. fsync the target's directory       (only with `fsync`)

A crash before 4 leaves a temporary file that nobody reads and that `sweep` removes; a crash after 4 leaves the
whole file. An exception at any step (no space left, Ctrl-C) removes the temporary file before it goes on.

Guaranteed, as far as the kernel keeps its own promises:

* No reader ever sees a part of a file under the target's name, whatever is killed, and whoever else writes it.
* With `fsync`, a file whose write has returned survives a power failure, name included.
* `sweep` never removes the temporary file of a writer that is alive: writers hold a lock (flock) on theirs, and
  the kernel drops it when they die, however they die.

Not guaranteed:

* Without `fsync` a power failure may leave the target absent, empty or filled with zeros: rename orders
  names, not contents. (A killed process is harmless; the kernel still has its bytes.)
* POSIX says nothing about power failures, and disks lie about their caches. What has to be believed must be
  verified when it is read.
* On file systems without locks `sweep` goes by age alone: a writer stalled for over an hour may lose its
  temporary file. It then fails with an error; it does not publish anything wrong.
* `link` with `replace` is not atomic: for a moment the target does not exist.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import stat
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

_T = TypeVar("_T")

STALE_SECONDS = 3600
COPY_BYTES = 1 << 20
_TEMPORARY = re.compile(r"theta-([0-9]{1,10})-[0-9a-f]{16}\.tmp")


def write(
    target: Path,
    pieces: Iterable[bytes | memoryview],
    *,
    temporary: Path,
    replace: bool = True,
    fsync: bool = False,
    mode: int | None = None,
) -> None:
    """Write `pieces` as the file `target`, atomically.

    `temporary` is a directory on the target's file system; it and the target's directory are made where missing.
    Without `replace` a target that exists stays as it is, and of several concurrent writers the first wins.
    `mode` are the permission bits; None leaves them to the umask.

    Raises OSError, with the target untouched and the temporary file removed.
    """
    with _temporary_file(temporary, mode) as (path, lock):
        # Network file systems report failed writes no earlier than at close, so close before publishing;
        # the other descriptor keeps the lock.
        descriptor = os.dup(lock)
        try:
            _fill(descriptor, pieces)
            if mode is not None:
                os.fchmod(descriptor, mode)
            if fsync:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        _in_directory(target.parent, lambda: _publish(path, target, replace=replace), fsync=fsync, mode=mode)


def link(
    source: Path,
    target: Path,
    *,
    temporary: Path,
    replace: bool = False,
    fsync: bool = False,
    mode: int | None = None,
) -> None:
    """Give the file `source` the second name `target`; copy it where hard links do not work.

    They do not across file systems (EXDEV), on some file systems and for files of other users (EPERM), and past the
    limit of links (EMLINK). `temporary`, `fsync` and `mode` are those of `write`, and used for copies alone.
    A target that exists is left alone, or, with `replace`, removed first.

    Raises OSError; FileNotFoundError where `source` does not exist.
    """
    if replace:
        target.unlink(missing_ok=True)
    try:
        _in_directory(target.parent, lambda: os.link(source, target), fsync=False, mode=mode)
    except FileExistsError:
        return
    except FileNotFoundError:
        raise
    except OSError:
        write(target, _blocks(source), temporary=temporary, replace=False, fsync=fsync, mode=mode)


def sweep(directory: Path) -> int:
    """Remove what killed writers left in `directory`; return the number of files removed.

    Only names that `write` gives are touched, and of those only the files of writers that are gone. Never raises:
    what cannot be removed stays.
    """
    removed = 0
    try:
        names = os.listdir(directory)
    except OSError:
        return 0
    for name in names:
        match = _TEMPORARY.fullmatch(name)
        if match is None:
            continue
        path = directory / name
        with contextlib.suppress(OSError):
            if _is_stale(path, int(match[1])):
                path.unlink()
                removed += 1
    return removed


@contextlib.contextmanager
def _temporary_file(directory: Path, mode: int | None) -> Iterator[tuple[Path, int]]:
    path = directory / f"theta-{os.getpid()}-{secrets.token_hex(8)}.tmp"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    lock = _in_directory(directory, lambda: os.open(path, flags, 0o666), fsync=False, mode=mode)
    try:
        # Where there are no locks, `sweep` finds none either and goes by age.
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield path, lock
    finally:
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        os.close(lock)


def _fill(descriptor: int, pieces: Iterable[bytes | memoryview]) -> None:
    for piece in pieces:
        view = memoryview(piece).cast("B")
        while view:
            view = view[os.write(descriptor, view) :]


def _publish(path: Path, target: Path, *, replace: bool) -> None:
    if not replace:
        # A rename would replace what another writer has just published, and so part it from its other names.
        try:
            os.link(path, target)
        except FileExistsError:
            return
        except FileNotFoundError:
            raise
        except OSError:
            pass  # no hard links here: a rename is atomic too, only that the last writer wins
        else:
            return
    path.replace(target)


def _in_directory(directory: Path, action: Callable[[], _T], *, fsync: bool, mode: int | None) -> _T:
    """Run `action`, which makes a name in `directory`; make the directory only if that turns out to be needed."""
    try:
        result = action()
    except FileNotFoundError:
        _make_directories(directory, fsync=fsync, mode=mode)
        result = action()
    if fsync:
        _flush(directory)
    return result


def _make_directories(directory: Path, *, fsync: bool, mode: int | None) -> None:
    missing = []
    while not directory.is_dir():
        missing.append(directory)
        directory = directory.parent
    for path in reversed(missing):
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            if mode is not None:
                path.chmod(mode | (mode & 0o444) >> 2)  # who may read files may search directories
        if fsync:
            _flush(path.parent)


def _flush(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _blocks(source: Path) -> Iterator[bytes]:
    with source.open("rb", buffering=0) as file:
        while block := file.read(COPY_BYTES):
            yield block


def _is_stale(path: Path, pid: int) -> bool:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            return False
        old = time.time() - status.st_mtime > STALE_SECONDS
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:
            return old
        # Unlocked, yet its process may be about to lock it; a process of that number that is not its writer
        # (process numbers are reused) delays the removal by an hour.
        return old or not _is_alive(pid)
    finally:
        os.close(descriptor)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
