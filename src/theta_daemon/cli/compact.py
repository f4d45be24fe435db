"""`git theta compact`: store tracked files dense again, so that their updates need not be replayed any more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from theta_daemon.cli.git import Git
from theta_daemon.cli.terminal import count, note, shown, warn
from theta_daemon.cli.verb import Place, Verb
from theta_daemon.errors import ThetaError, UsageError
from theta_daemon.history import index

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add git's pathspecs."""
    parser.add_argument("pathspecs", nargs="*", metavar="PATH", help="only these, as in git ls-files (default: all)")


def run(arguments: argparse.Namespace, place: Place) -> int:
    """Give the index metadata without increments."""
    from theta_daemon.pipelines.compact import compacted
    from theta_daemon.pipelines.services import open_services

    here, git = place.settings(), place.git
    meaning = {name: value for name, value in place.environment.items() if name.endswith("_PATHSPECS")}
    asked = Git({**git.environment, **meaning}, git.directory) if arguments.pathspecs else git.at_top()
    listed = asked.items("ls-files", "-z", "--stage", "--full-name", "--", *arguments.pathspecs)
    if arguments.pathspecs and not listed:
        raise UsageError("no file of the index is meant by these paths")
    files = [_file(row) for row in listed]
    services = open_services(here, lambda path, text: warn(f"{shown(path)}: {text}"))
    rows, groups = [], 0
    try:
        held = {look.id: look.data for look in index.looks(here, (blob for _, blob, _ in files))}
        for mode, blob, path in files:
            data = held.get(blob)
            if data is None:
                continue
            try:
                found, number = compacted(services, path, data)
            except ThetaError as error:
                raise error.at(path=path) from None
            if number:
                written = git.output("hash-object", "-w", "--stdin", stdin=found).strip()
                rows.append(mode + b" " + written + b"\t" + path + b"\0")
                groups += number
    finally:
        services.close()
    if rows:
        top = git.at_top()
        top.output("update-index", "-z", "--index-info", stdin=b"".join(rows))
        top.answer("update-index", "-q", "--refresh")
    note(f"{count(len(rows), 'file')} with {count(groups, 'update')} stored dense again")
    return 0


def _file(row: bytes) -> tuple[bytes, str, bytes]:
    """Return mode, blob and path of a row of `git ls-files --stage`. Raises UsageError in an unfinished merge."""
    facts, _, path = row.partition(b"\t")
    mode, blob, stage = facts.split(b" ")
    if stage != b"0":
        raise UsageError("it is in conflict", path=path, hint="finish the merge first")
    return mode, blob.decode("ascii"), path


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
