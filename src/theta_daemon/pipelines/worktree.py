"""Files of the work tree, looked at and written directly.

Below the top of the work tree no symbolic link is followed: each directory of a path is opened by itself, and
everything is done relative to the last of them.

A new content replaces a file in steps:

    1. a file without a name in the target's directory (under a temporary name where the system has no O_TMPFILE)
    2. fill it
    3. set the time of its last change to the end of the second before, see below
    4. look at the target: is it still what was to be replaced?
    5. give the new file the name, where nothing has it; else a temporary one, and exchange the two (renameat2)
    6. look at what was taken out: somebody may have changed it between 4 and 5, and then gets it back
    7. remove it, under its temporary name

Killed at any moment, the name stands for the old content or for the new one, whole. What may be left, between 5 and 7,
is a temporary file, which the next pull removes (durable.sweep).

Exchanged, not renamed over, for two reasons. A rename replaces whatever is there by then. And ext4 sends a file to the
disk when it is renamed over another, and waits: measured, 28 ms for 57 MB, a third of what decoding and writing it
takes. So a power failure within the next half a minute may leave the file empty, as with every file that git checks
out. Where the system cannot exchange, the file is renamed.

Git takes a file that was changed in the second in which the index was written, or later, for one that may have been
changed again since, and cleans it every time, since most systems' clocks of files are no finer than git's memory of
them. A file that says it was last changed before that second is spared it, and loses nothing: whoever writes to it sets
the time anew, and that is never the one that git remembers.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import hashlib
import os
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from theta_daemon import durable
from theta_daemon.errors import RepositoryError
from theta_daemon.frozen import Frozen
from theta_daemon.history.catfile import begins_like_json
from theta_daemon.metadata import text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_DIRECTORY: Final = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe in its place must not hang us
_UNNAMED: Final = getattr(os, "O_TMPFILE", 0)
_HEAD: Final = 64
_EXCHANGE: Final = 2  # RENAME_EXCHANGE, linux/fs.h
_SECOND: Final = 1_000_000_000
_CANNOT: Final = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP}


class Found(Frozen):
    """What stands at a path: whether it is a regular file, its bytes, and its content if that is what was asked for."""

    is_file: bool
    size: int
    data: bytes | None


class Place(Frozen):
    """A path of the work tree: its directory, open, and its name there."""

    directory: int
    name: bytes


class WorkTree:
    """A work tree, by the descriptor of its top; close it."""

    def __init__(self, top: Path) -> None:
        self._top = os.open(top, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._swept: set[bytes] = set()

    def close(self) -> None:
        """Close it; every place is out of use."""
        os.close(self._top)

    @contextmanager
    def place(self, path: bytes, *, make: bool = False) -> Iterator[Place]:
        """Open the directory of `path`; with `make` directories that are missing are made.

        Raises OSError: FileNotFoundError and NotADirectoryError where there is no such directory, or a symbolic link is
        on the way. Raises RepositoryError for paths that git would not have in a work tree.
        """
        *parts, name = path.split(b"/")
        if any(part in (b"", b".", b"..") or part.lower() == b".git" for part in (*parts, name)):
            raise RepositoryError("this is no path in a work tree", path=path)
        directory = os.dup(self._top)
        try:
            for part in parts:
                below = _open_directory(part, directory, make=make)
                os.close(directory)
                directory = below
            yield Place(directory, name)
        finally:
            os.close(directory)

    def look(self, path: bytes, blob: str) -> Found | None:
        """Return what `look` finds at `path`, None also where one of its directories is missing, or none.

        Raises as `place` and `look` do.
        """
        try:
            with self.place(path) as place:
                return look(place, blob)
        except (FileNotFoundError, NotADirectoryError):
            return None

    def sweep(self, path: bytes) -> None:
        """Remove what killed writers left in the directory of `path`, once for each directory."""
        directory = os.path.dirname(path)
        if directory in self._swept:
            return
        self._swept.add(directory)
        with suppress(OSError, RepositoryError), self.place(path) as place:
            durable.sweep(f"/proc/self/fd/{place.directory}")


class NewFile:
    """A file that is not there yet: nobody can see it before it is published. Close it in any case."""

    def __init__(self, place: Place, *, executable: bool) -> None:
        self._place = place
        self._temporary: bytes | None = None
        mode = 0o777 if executable else 0o666
        try:
            self._file = os.open(".", _UNNAMED | os.O_WRONLY | os.O_CLOEXEC, mode, dir_fd=place.directory)
        except OSError as error:
            if error.errno not in (errno.EISDIR, errno.ENOTSUP, errno.EINVAL):
                raise
            self._temporary = _temporary_name()
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._file = os.open(self._temporary, flags, mode, dir_fd=place.directory)
        with suppress(OSError):
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # durable.sweep leaves it alone

    def close(self) -> None:
        """Forget it, unless it was published."""
        try:
            if self._temporary is not None:
                with suppress(FileNotFoundError):
                    os.unlink(self._temporary, dir_fd=self._place.directory)
        finally:
            os.close(self._file)

    def write(self, piece: bytes | memoryview, at: int) -> None:
        """Write `piece` at an offset; any thread may. Raises OSError."""
        written = os.pwrite(self._file, piece, at)
        if written < len(piece):
            rest = memoryview(piece)
            while written < len(rest):
                written += os.pwrite(self._file, rest[written:], at + written)

    def publish(self, blob: str) -> os.stat_result:
        """Give the file its name, where nothing stands there, or a file that holds what `blob`, by its id, holds.

        Returns what its descriptor says of it then. Raises RepositoryError where something else stands there; OSError.
        """
        os.close(os.dup(self._file))  # network file systems tell of failed writes here
        changed = os.fstat(self._file).st_mtime_ns
        os.utime(self._file, ns=(changed, changed // _SECOND * _SECOND - 1))
        found = look(self._place, blob)
        if found is None:
            self._name_first()
        elif found.data is None:
            raise _changed()
        else:
            self._replace(blob)
        return os.fstat(self._file)

    def _name_first(self) -> None:
        directory, name = self._place.directory, self._place.name
        try:
            self._link(name)
        except FileExistsError:
            raise _changed() from None
        except OSError as error:
            if self._temporary is None or error.errno not in (errno.EPERM, errno.ENOTSUP):
                raise
            os.rename(self._temporary, name, src_dir_fd=directory, dst_dir_fd=directory)  # no hard links here
        if self._temporary is not None:
            with suppress(FileNotFoundError):
                os.unlink(self._temporary, dir_fd=directory)  # now: it changes the signature
            self._temporary = None

    def _replace(self, blob: str) -> None:
        directory, name = self._place.directory, self._place.name
        if self._temporary is None:
            temporary = _temporary_name()
            self._link(temporary)
            self._temporary = temporary
        if not _exchange(directory, self._temporary, name):
            os.rename(self._temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
            return
        taken_out = look(Place(directory, self._temporary), blob)
        if taken_out is None or taken_out.data is None:
            _exchange(directory, self._temporary, name)
            raise _changed()

    def _link(self, name: bytes) -> None:
        """Give the file a further name, which nothing has."""
        directory = self._place.directory
        if self._temporary is not None:
            os.link(self._temporary, name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
            return
        # With a descriptor for a directory os.link follows the symbolic link that this is.
        source = f"/proc/self/fd/{self._file}"
        os.link(source, name, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=True)


def look(place: Place, blob: str) -> Found | None:
    """Return what stands at `place`, None where nothing does; its content only if it is that of `blob`, by its id.

    Line ends do not count: where core.autocrlf is set and no attribute forbids it, git writes CRLF into metadata.
    Raises OSError.
    """
    try:
        status = os.stat(place.name, dir_fd=place.directory, follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode) or status.st_size > text.MAX_SIZE:
            return Found(stat.S_ISREG(status.st_mode), status.st_size, None)
        with open(os.open(place.name, _READ, dir_fd=place.directory), "rb") as file:
            data = file.read(_HEAD)
            if begins_like_json(data):
                data += file.read(status.st_size + 1)
                for content in dict.fromkeys((data, data.replace(b"\r\n", b"\n"))):
                    if blob_id(content, blob) == blob:
                        return Found(True, status.st_size, content)
    except FileNotFoundError:
        return None
    return Found(True, status.st_size, None)


def blob_id(content: bytes, like: str) -> str:
    """Return the id that git gives a blob, by the hash whose ids are as long as `like`."""
    digest = hashlib.sha1(usedforsecurity=False) if len(like) == 40 else hashlib.sha256()
    digest.update(b"blob %d\0" % len(content))
    digest.update(content)
    return digest.hexdigest()


def _changed() -> RepositoryError:
    return RepositoryError("it was changed meanwhile, and stays as it is")


def _temporary_name() -> bytes:
    return os.fsencode(os.path.basename(durable.temporary_name("")))


def _open_directory(name: bytes, above: int, *, make: bool) -> int:
    try:
        return os.open(name, _DIRECTORY, dir_fd=above)
    except FileNotFoundError:
        if not make:
            raise
    with suppress(FileExistsError):
        os.mkdir(name, dir_fd=above)
    return os.open(name, _DIRECTORY, dir_fd=above)


def _exchange(directory: int, one: bytes, other: bytes) -> bool:
    """Let two names of a directory change places, at one moment; tell whether the system can. Raises OSError."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:  # another C library than GNU's
        return False
    if renameat2(directory, one, directory, other, _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _CANNOT:
        return False
    raise OSError(number, os.strerror(number), os.fsdecode(other))
