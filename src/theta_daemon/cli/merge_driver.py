"""`git theta merge-driver`: what git runs to merge two versions of a checkpoint's metadata.

It keeps our side whole and reports a conflict, so that no conflict marker ever gets into metadata. git has put our
side into the file %A, which is also where it looks for the result: leaving it alone is the whole work.
"""

from __future__ import annotations

import filecmp
import os
from typing import TYPE_CHECKING

from theta_daemon.cli.terminal import note, shown
from theta_daemon.cli.verb import Place, Verb
from theta_daemon.errors import UsageError

if TYPE_CHECKING:
    import argparse

_MERGED, _CONFLICT = 0, 1  # gitattributes(5), "Defining a custom merge driver"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what git passes."""
    parser.add_argument("arguments", nargs="*", metavar="%O %A %B %P", help="ancestor, ours, theirs, path")


def run(arguments: argparse.Namespace, place: Place) -> int:
    """Return 0 where both sides are equal, else 1 after saying how to choose."""
    match arguments.arguments:
        case [_, ours, theirs, path]:
            pass
        case _:
            raise UsageError("takes the four arguments %O %A %B %P", hint="git runs it; see `git theta install`")
    if filecmp.cmp(ours, theirs, shallow=False):
        return _MERGED
    name = shown(os.fsencode(path))
    note(
        f"conflict in {name}: both sides changed this checkpoint; ours is in place. Keep it or take theirs "
        f"(in a rebase, theirs is your own commit): git checkout --ours -- {name} or "
        f"git checkout --theirs -- {name}, then git add -- {name}"
    )
    return _CONFLICT


VERB = Verb(
    name="merge-driver",
    summary="keep our side of a checkpoint in a merge, and report the conflict",
    description="git runs this as merge.theta.driver: git theta merge-driver %%O %%A %%B %%P",
    run=run,
    add_arguments=add_arguments,
    raw=True,
    for_hooks=True,
)
