"""`git theta compact`: store tracked files dense again, so that their updates need not be replayed any more."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from theta_daemon.cli.git import Git
from theta_daemon.cli.terminal import count, note, shown, warn
from theta_daemon.cli.verb import Place, Verb
from theta_daemon.errors import ThetaError, UsageError
from theta_daemon.history import index
from theta_daemon.progress import meter

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add git's pathspecs, and what is said meanwhile."""
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing but what is wrong")
    parser.add_argument("pathspecs", nargs="*", metavar="PATH", help="only these, as in git ls-files (default: all)")


def run(arguments: argparse.Namespace, place: Place) -> int:
    """Give the index metadata without increments."""
    from theta_daemon.pipelines.compact import compacted
    from theta_daemon.pipelines.services import open_services

    here, git = place.settings(), place.git
    meaning = {name: value for name, value in place.environment.items() if name.endswith("_PATHSPECS")}
    asked = Git({**git.environment, **meaning}, git.directory) if arguments.pathspecs else git.at_top()
    listed = asked.items("ls-files", "-z", "-v", "--stage", "--full-name", "--", *arguments.pathspecs)
    if arguments.pathspecs and not listed:
        raise UsageError("no file of the index is meant by these paths")
    files = [_file(row) for row in _tracked(git, listed)]
    services = open_services(here, lambda path, text: warn(f"{shown(path)}: {text}"))
    rows, groups = [], 0
    flagged: dict[str, list[bytes]] = {}
    with closing(services), meter("Storing", len(files), 0, shown=here.progress and not arguments.quiet) as told:
        held = {look.id: look.data for look in index.looks(here, (file.blob for file in files))}
        for file in files:
            path, data = file.path, held.get(file.blob)
            if data is None:
                continue
            try:
                found, number = compacted(services, path, data, told)
            except ThetaError as error:
                raise error.at(path=path) from None
            told.advance(items=1)
            if number:
                written = git.output("hash-object", "-w", "--stdin", stdin=found).strip()
                rows.append(file.mode + b" " + written + b"\t" + path + b"\0")
                groups += number
                for flag in file.flags:
                    flagged.setdefault(flag, []).append(path + b"\0")
    if rows:
        top = git.at_top()
        top.output("update-index", "-z", "--index-info", stdin=b"".join(rows))
        for flag, paths in flagged.items():  # a new entry has none
            top.output("update-index", flag, "-z", "--stdin", stdin=b"".join(paths))
        top.answer("update-index", "-q", "--refresh")
    if not arguments.quiet:
        note(f"{count(len(rows), 'file')} with {count(groups, 'update')} stored dense again")
    return 0


@dataclass(frozen=True, slots=True)
class _File:
    """A file of the index; `flags` are the options that give its entry what it has beside mode and blob."""

    mode: bytes
    blob: str
    path: bytes
    flags: tuple[str, ...]


def _tracked(git: Git, rows: list[bytes]) -> Iterator[bytes]:
    """Yield those rows of `git ls-files -v --stage` that are of regular files with our filter."""
    regular = [row for row in rows if row.split(b" ", 2)[1].startswith(index.REGULAR)]
    paths = b"".join(row.partition(b"\t")[2] + b"\0" for row in regular)
    answers = git.at_top().items("check-attr", "-z", "--stdin", "filter", stdin=paths) if regular else []
    for row, value in zip(regular, answers[2::3], strict=True):
        if value == b"theta":
            yield row


def _file(row: bytes) -> _File:
    """Return what a row of `git ls-files -v --stage` says. Raises UsageError in an unfinished merge."""
    facts, _, path = row.partition(b"\t")
    tag, mode, blob, stage = facts.split(b" ")
    if stage != b"0":
        raise UsageError("it is in conflict", path=path, hint="finish the merge first")
    flags = []
    if tag.upper() == b"S":
        flags.append("--skip-worktree")
    if tag.islower():
        flags.append("--assume-unchanged")
    return _File(mode, blob.decode("ascii"), path, tuple(flags))


VERB = Verb(
    name="compact",
    summary="store files that consist of updates dense again",
    description=(
        "Rewrite the metadata of tracked files in the index so that every parameter group has a dense object again, "
        "and stage that. The checkpoints stay the same, byte for byte; their checkout replays nothing any more."
    ),
    run=run,
    add_arguments=add_arguments,
)
