"""The index as a list: the files it holds, and what their blobs are.

For verbs that list or count. What clean needs of the index, one path at a time, is in `record`.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from theta_daemon import gitcmd
from theta_daemon.frozen import Frozen
from theta_daemon.history import catfile
from theta_daemon.history.catfile import local_environment

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from theta_daemon.history.catfile import Look
    from theta_daemon.settings import Settings

REGULAR = b"100"  # how the mode of a file begins, executable or not
_MERGED = b"0"


class File(Frozen):
    """A regular file of the index; `blob` is the id of its blob, None where the stages of an unfinished merge stand."""

    path: bytes
    blob: str | None


def files(
    settings: Settings, pathspecs: Sequence[bytes] = (), environment: Mapping[str, str] | None = None
) -> Iterator[File]:
    """Yield the files in and below the directory of `settings`, each once and in git's order, by paths from there.

    `pathspecs` choose among them, or name others; `environment` adds variables that change what they mean
    (GIT_LITERAL_PATHSPECS and its kind). Raises RepositoryError when git fails.
    """
    arguments = ["ls-files", "-z", "--stage", "--", *map(os.fsdecode, pathspecs)]
    out = gitcmd.output(arguments, {**local_environment(settings), **(environment or {})}, settings.directory)
    last = None
    for row in out.split(b"\0")[:-1]:
        place, _, path = row.partition(b"\t")
        mode, blob, stage = place.split()
        if mode.startswith(REGULAR) and path != last:
            last = path
            yield File(path, blob.decode("ascii") if stage == _MERGED else None)


def looks(settings: Settings, blobs: Iterable[str], limit: int = catfile.LIMIT) -> Iterator[Look]:
    """Look at those of `blobs`, ids from the index, that are here, each once; see catfile.looks.

    Raises RepositoryError when git fails.
    """
    wanted = dict.fromkeys(blobs)
    if wanted:
        absent = _absent(settings)
        present = [blob for blob in wanted if blob not in absent]
        yield from filter(None, catfile.looks(settings, present, limit))


def _absent(settings: Settings) -> set[str]:
    """Return the ids of the index's blobs that are not here."""
    # `git cat-file` dies of each of them in a partial clone, and searches all packs before it does.
    arguments = ["rev-list", "--objects", "--missing=print", "--indexed-objects", "--no-object-names", "--stdin"]
    rows = gitcmd.output(arguments, local_environment(settings), settings.directory).splitlines()
    return {row[1:].decode("ascii") for row in rows if row.startswith(b"?")}
