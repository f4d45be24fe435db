"""Files that exist whole or not at all.

A file is written without a name, or under a temporary one, in a directory of the same file system, filled, flushed
if asked for, and only then given its real name. Giving the name is the sole commit point:

    1. create a file without a name (O_TMPFILE) in `temporary`; where that cannot be, or where an existing file is to
       be replaced, or with `fsync`, create `<temporary>/theta-<pid>-<random>.tmp`, locked
    2. write every piece
    3. fsync the file                     (only with `fsync`)
    4. link or rename it to the target
    5. fsync the target's directory       (only with `fsync`)

A crash before 4 leaves nothing of a file without a name, and of another a temporary file that nobody reads and that
`sweep` removes; a crash after 4 leaves the whole file. An exception at any step (no space left, Ctrl-C) removes the
temporary file before it goes on.

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

# Small pieces are written together: each call costs more than copying them. (IOV_MAX is 1024.)
_TOGETHER_BYTES = 1 << 16
_TOGETHER_PIECES = 256

_UNNAMED = os.O_RDWR | os.O_CLOEXEC | getattr(os, "O_TMPFILE", 0)  # without O_TMPFILE no directory can be opened so


def write(
    target: Path | str,
    pieces: Iterable[bytes | memoryview],
    *,
    temporary: Path | str,
    replace: bool = True,
    fsync: bool = False,
    mode: int | None = None,
) -> None:
    """Write `pieces` as the file `target`, atomically.

    `temporary` is a directory on the target's file system; it and the target's directory are made where missing.
    Without `replace` a target that exists stays as it is, and of several concurrent writers the first wins.
    `mode` are the permission bits; None leaves them to the umask.

    `pieces` is iterated once; no more than two, and 64 KiB of small ones, are held at a time. They must not change
    before `write` returns.

    Raises OSError, with the target untouched and the temporary file removed.
    """
    target, temporary = os.fspath(target), os.fspath(temporary)
    if not (replace or fsync):  # only a rename replaces; and Btrfs need not flush what has no name
        descriptor = _open_unnamed(temporary)
        if descriptor is not None:
            try:
                _fill(descriptor, pieces, fsync=False, mode=mode)
                if not _name(descriptor, target, mode=mode):
                    pieces = _blocks(descriptor)
                    _write_named(target, pieces, temporary, replace=False, fsync=False, mode=mode)
            finally:
                os.close(descriptor)
            return
    _write_named(target, pieces, temporary, replace=replace, fsync=fsync, mode=mode)


def link(
    source: Path | str,
    target: Path | str,
    *,
    temporary: Path | str,
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
    source, target = os.fspath(source), os.fspath(target)
    if replace:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(target)
    try:
        _in_directory(target, lambda: os.link(source, target), fsync=False, mode=mode)
    except FileExistsError:
        return
    except FileNotFoundError:
        raise
    except OSError:
        write(target, _blocks(source), temporary=temporary, replace=False, fsync=fsync, mode=mode)


def make_directories(directory: Path | str, *, mode: int | None = None) -> None:
    """Make `directory` and what is missing above it; `mode` are the permission bits of files in them.

    Raises OSError.
    """
    _make_directories(os.fspath(directory), fsync=False, mode=mode)


def temporary_name(directory: Path | str) -> str:
    """Return the path of a new file in `directory` that `sweep` removes once this process is dead."""
    return os.path.join(directory, f"theta-{os.getpid()}-{os.urandom(8).hex()}.tmp")


def sweep(directory: Path | str) -> int:
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
        path = os.path.join(directory, name)
        with contextlib.suppress(OSError):
            if _is_stale(path, int(match[1])):
                os.unlink(path)
                removed += 1
    return removed


def _open_unnamed(directory: str) -> int | None:
    try:
        return os.open(directory, _UNNAMED, 0o666)
    except OSError:
        # Not made yet, not possible here, or no room: the other way works, or meets the same error and raises it.
        return None


def _name(descriptor: int, target: str, *, mode: int | None) -> bool:
    """Give a file that has none the name `target`, unless that exists; tell whether it is there."""

    def give() -> None:
        # Only with a descriptor for a directory, though an absolute path needs none, does os.link follow a symbolic
        # link on Linux, as this one must be.
        os.link(f"/proc/self/fd/{descriptor}", target, src_dir_fd=descriptor, follow_symlinks=True)

    try:
        _in_directory(target, give, fsync=False, mode=mode)
    except FileExistsError:
        return True
    except OSError:
        return False  # no /proc, no hard links here, no room: the other way works, or tells
    return True


def _write_named(
    target: str,
    pieces: Iterable[bytes | memoryview],
    temporary: str,
    *,
    replace: bool,
    fsync: bool,
    mode: int | None,
) -> None:
    with _temporary_file(temporary, mode) as (path, lock):
        _fill(lock, pieces, fsync=fsync, mode=mode)
        _in_directory(target, lambda: _publish(path, target, replace=replace), fsync=fsync, mode=mode)


@contextlib.contextmanager
def _temporary_file(directory: str, mode: int | None) -> Iterator[tuple[str, int]]:
    path = temporary_name(directory)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    lock = _in_directory(path, lambda: os.open(path, flags, 0o666), fsync=False, mode=mode)
    try:
        # Where there are no locks, `sweep` finds none either and goes by age.
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield path, lock
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        os.close(lock)


def _fill(file: int, pieces: Iterable[bytes | memoryview], *, fsync: bool, mode: int | None) -> None:
    # Network file systems report failed writes no earlier than at close, so close before publishing;
    # the other descriptor keeps the file, and its lock.
    descriptor = os.dup(file)
    try:
        together: list[memoryview] = []
        size = 0
        for piece in pieces:
            view = memoryview(piece).cast("B")
            together.append(view)
            size += len(view)
            if size >= _TOGETHER_BYTES or len(together) == _TOGETHER_PIECES:
                _write_all(descriptor, together)
                together, size = [], 0
        _write_all(descriptor, together)
        if mode is not None:
            os.fchmod(descriptor, mode)
        if fsync:
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, views: list[memoryview]) -> None:
    written = os.writev(descriptor, views)
    for view in views:
        rest = view[written:]
        written = max(written - len(view), 0)
        while rest:
            rest = rest[os.write(descriptor, rest) :]


def _publish(path: str, target: str, *, replace: bool) -> None:
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
    os.replace(path, target)


def _in_directory(path: str, action: Callable[[], _T], *, fsync: bool, mode: int | None) -> _T:
    """Run `action`, which makes the name `path`; make its directory only if that turns out to be needed."""
    try:
        result = action()
    except FileNotFoundError:
        _make_directories(_parent(path), fsync=fsync, mode=mode)
        result = action()
    if fsync:
        _flush(_parent(path))
    return result


def _make_directories(directory: str, *, fsync: bool, mode: int | None) -> None:
    missing = [directory]
    while not _make_directory(missing[-1], fsync=fsync, mode=mode):
        missing.append(_parent(missing[-1]))
    for path in reversed(missing[:-1]):
        if not _make_directory(path, fsync=fsync, mode=mode):
            return  # somebody removes them meanwhile; what needs them will say so


def _make_directory(path: str, *, fsync: bool, mode: int | None) -> bool:
    """Tell whether there is something at `path` now; if not, its parent is missing too."""
    try:
        os.mkdir(path)
    except FileNotFoundError:
        return False
    except FileExistsError:
        pass
    else:
        if mode is not None:
            # As git: who may read files may search directories, and what a group shares remains the group's.
            group = stat.S_ISGID if mode & 0o060 else 0
            os.chmod(path, mode | (mode & 0o444) >> 2 | group)
    if fsync:
        _flush(_parent(path))
    return True


def _parent(path: str) -> str:
    return os.path.dirname(path) or "."


def _flush(directory: str) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _blocks(source: str | int) -> Iterator[bytes]:
    """Yield the bytes of a file, or of an open one from its beginning."""
    with open(source, "rb", buffering=0, closefd=isinstance(source, str)) as file:
        file.seek(0)
        while block := file.read(COPY_BYTES):
            yield block


def _is_stale(path: str, pid: int) -> bool:
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
