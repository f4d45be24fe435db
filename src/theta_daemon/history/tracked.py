"""The tracked files of the index: those that .gitattributes gives our filter."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from theta_daemon import gitcmd
from theta_daemon.errors import RepositoryError, UsageError
from theta_daemon.frozen import Frozen
from theta_daemon.history.catfile import local_environment
from theta_daemon.history.index import REGULAR

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from theta_daemon.settings import Settings

_FILTER = b"theta"
_MERGED = b"0"
_SKIPPED = b"S"


class Tracked(Frozen):
    """A regular file of the index, by its path from the top of the work tree.

    `blob` is the id of its blob, None where the stages of an unfinished merge stand. `is_skipped` tells that it is not
    meant to be in the work tree (a sparse checkout).
    """

    path: bytes
    blob: str | None
    is_executable: bool
    is_skipped: bool


def work_tree(settings: Settings) -> Path:
    """Return the top of the work tree. Raises RepositoryError in a bare repository."""
    if settings.work_tree is None:
        raise RepositoryError("there is no work tree here", hint="run it in a clone that is not bare")
    return settings.work_tree


def tracked(
    settings: Settings, pathspecs: Sequence[bytes], environment: Mapping[str, str] | None = None
) -> list[Tracked]:
    """Return the tracked files that `pathspecs` choose, without any those of the whole work tree, in git's order.

    `pathspecs` are relative to the directory of `settings`; `environment` adds variables that change what they mean
    (GIT_LITERAL_PATHSPECS and its kind). Raises RepositoryError in a bare repository and when git fails, UsageError
    where pathspecs choose no file of the index at all.
    """
    out = _ls_files(settings, ["-t", "--stage"], pathspecs, environment)
    if pathspecs and not out:
        raise UsageError("no file of the index is meant by these paths")
    files = list(_regular(out))
    if not files:
        return []
    asked = b"".join(file.path + b"\0" for file in files)
    arguments = ["check-attr", "-z", "--stdin", "filter"]
    answers = gitcmd.output(arguments, local_environment(settings), work_tree(settings), asked).split(b"\0")
    return [file for file, value in zip(files, answers[2::3], strict=True) if value == _FILTER]


def modified(
    settings: Settings, pathspecs: Sequence[bytes], environment: Mapping[str, str] | None = None
) -> frozenset[bytes]:
    """Return the paths of the files that git takes for modified; arguments and errors are those of `tracked`.

    Like `git status`, git reads only files whose times are not what it remembers, through their filters. A file that
    the filter refuses is compared as it is, and does not end the command.
    """
    return frozenset(_ls_files(settings, ["-m"], pathspecs, environment).split(b"\0")[:-1])


def _ls_files(
    settings: Settings, options: list[str], pathspecs: Sequence[bytes], environment: Mapping[str, str] | None
) -> bytes:
    top = work_tree(settings)
    return gitcmd.output(
        [
            "-c",
            "filter.theta.required=false",
            "ls-files",
            "-z",
            "--full-name",
            *options,
            "--",
            *map(os.fsdecode, pathspecs),
        ],
        {**local_environment(settings), **(environment or {})},
        settings.directory if pathspecs else top,
    )


def _regular(listing: bytes) -> Iterator[Tracked]:
    """Yield the regular files of `git ls-files -z -t --stage`, each once."""
    last = None
    for row in listing.split(b"\0")[:-1]:
        facts, _, path = row.partition(b"\t")
        tag, mode, blob, stage = facts.split(b" ")
        if mode.startswith(REGULAR) and path != last:
            last = path
            is_merged = stage == _MERGED
            yield Tracked(path, blob.decode("ascii") if is_merged else None, mode.endswith(b"755"), tag == _SKIPPED)
