"""The index and files that are written without git: `mark` before, `note` after.

Git compares the times and the size of a file with those that its index remembers. Differs the size, it takes the file
for modified and asks no filter. So before a file is written the index is made to remember no size for it; git then
looks at the content, through the filter, whatever it finds: killed in between, `git status` is slow once, and right.
Afterwards the index is told what the file's own descriptor said when the file had got its name. If somebody changed it
since, the file has another time than that, as it would have if he did so later. So nothing has to be looked at, in no
order, and nothing taken back.

Where the index is of a kind that `index_file` does not understand (a split index), git does both, and for the second
reads the files through the filter.
"""

from __future__ import annotations

import os
import time
from functools import partial
from typing import TYPE_CHECKING

from theta_daemon import gitcmd
from theta_daemon.errors import RepositoryError
from theta_daemon.history.catfile import local_environment
from theta_daemon.history.index_file import Note, noted
from theta_daemon.history.tracked import work_tree
from theta_daemon.interrupts import Interrupts

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from theta_daemon.history.tracked import Tracked
    from theta_daemon.settings import Settings

_SECOND = 10**9
_PATIENCE, _PAUSE = 1.0, 0.02  # seconds


def mark(settings: Settings, files: Iterable[Tracked]) -> None:
    """Let git look at the content of these files, which are not in conflict, until `note`.

    Raises RepositoryError, for the lock of the index above all: then nothing was changed.
    """
    known = {file.path: file for file in files}
    if _write(settings, {path: Note(file.blob or "", None) for path, file in known.items()}):
        return
    rows = (
        b"%o %b 0\t%b\0" % (0o100755 if file.is_executable else 0o100644, (file.blob or "").encode("ascii"), path)
        for path, file in known.items()
    )
    _git(settings, "update-index", "-z", "--index-info", given=b"".join(rows))


def note(settings: Settings, files: Mapping[bytes, Note]) -> None:
    """Remember these files, by their paths from the top of the work tree, unless the index has another blob by now.

    Raises RepositoryError, for the lock of the index above all: then git still looks at the content of them all.
    """
    if files and not _write(settings, files):
        _git(settings, "add", "--refresh", "--pathspec-from-file=-", "--pathspec-file-nul", given=b"\0".join(files))


def _write(settings: Settings, notes: Mapping[bytes, Note]) -> bool:
    """Edit the index; return False, with nothing changed, where it is not understood."""
    top = os.fsencode(work_tree(settings))
    path = os.path.realpath(settings.index_file)  # as git does: a lock and a new index lie beside the real one
    lock = f"{path}.lock"
    with Interrupts():  # between making the lock and removing it nothing is raised from outside
        descriptor = _lock(lock)
        try:
            with open(descriptor, "wb") as new, open(path, "rb") as old:
                status = os.fstat(old.fileno())
                edited = noted(old.read(), notes, status.st_mtime_ns // _SECOND, partial(_status, top))
                if edited is not None:
                    os.fchmod(descriptor, status.st_mode & 0o777)
                    new.write(edited)
            if edited is not None:
                os.rename(lock, path)
                return True
        except BaseException as error:
            os.unlink(lock)
            if isinstance(error, OSError):
                what = f"the index cannot be written: {error.strerror}"
                raise RepositoryError(what, hint="run `git status`") from error
            raise
        os.unlink(lock)
        return False


def _status(top: bytes, path: bytes) -> os.stat_result | None:
    try:
        return os.lstat(os.path.join(top, path))
    except OSError:
        return None


def _lock(lock: str) -> int:
    """Make the lock of the index and return its descriptor; wait a moment for whoever has it, mostly `git status`."""
    give_up = time.monotonic() + _PATIENCE
    while True:
        try:
            return os.open(lock, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except FileExistsError as error:
            if time.monotonic() > give_up:
                raise RepositoryError(
                    f"the index is locked: {lock} exists",
                    hint="wait for the git command that made it; if none runs, it was killed: remove the file",
                ) from error
            time.sleep(_PAUSE)
        except OSError as error:
            raise RepositoryError(f"the index cannot be written: {error.strerror}: {lock}") from error


def _git(settings: Settings, *arguments: str, given: bytes) -> None:
    gitcmd.output(["--literal-pathspecs", *arguments], local_environment(settings), work_tree(settings), given)
