"""`git theta untrack`: take from a pattern the attributes that `track` gave it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from theta_daemon.cli import attributes, tracking
from theta_daemon.cli.terminal import say, shown
from theta_daemon.cli.track import from_top, refuse_unready
from theta_daemon.cli.verb import Place, Verb
from theta_daemon.errors import UsageError

if TYPE_CHECKING:
    import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the patterns."""
    parser.add_argument("patterns", nargs="+", metavar="PATTERN", help="a pattern that `git theta track` lists")


def run(arguments: argparse.Namespace, place: Place) -> int:
    """Remove our attributes from the lines of the patterns; all or none."""
    git = place.git
    prefix = git.line("rev-parse", "--show-prefix")
    git = git.at_top()
    path = git.directory / ".gitattributes"
    refuse_unready(git)
    data, mode = tracking.read(path)
    for typed in map(os.fsencode, arguments.patterns):
        data, pattern = _without(data, typed, prefix, os.fsencode(git.directory))
        say(f"no longer tracked: {shown(pattern)}")
    tracking.write(path, data, mode)
    git.stage(attributes.NAME)
    say(".gitattributes is written and staged. What git holds as metadata stays so until it is added again:")
    say("git add --renormalize -- PATH")
    return 0


def _without(data: bytes, typed: bytes, prefix: bytes, top: bytes) -> tuple[bytes, bytes]:
    """Untrack what was typed: read as `track` reads it, else as it stands in the file."""
    try:
        candidates = [from_top(typed, prefix, top), typed]
    except UsageError:
        candidates = [typed]
    for pattern in candidates:
        changed = attributes.untrack(data, pattern)
        if changed is not None:
            return changed, pattern
    raise UsageError(
        "is not tracked by the top-level .gitattributes", path=typed, hint="`git theta track` lists what is"
    )


VERB = Verb(
    name="untrack",
    summary="stop versioning files of a pattern by parameter groups",
    description=(
        "Remove filter=theta merge=theta diff=theta -text from the PATTERN's line in the top-level .gitattributes, "
        "and the line where nothing else is left, and stage that file."
    ),
    run=run,
    add_arguments=add_arguments,
)
