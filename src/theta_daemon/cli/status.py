"""`git theta status`: what the tracked files in the work tree are, and what is missing for them."""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING

from theta_daemon.cli.paths import Paths
from theta_daemon.cli.terminal import count, emit, note
from theta_daemon.cli.verb import Place, Verb
from theta_daemon.history import tracked

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from theta_daemon.pipelines.status import State


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the output options and git's pathspecs."""
    parser.add_argument("-z", dest="zero", action="store_true", help="end lines with NUL and do not quote paths")
    parser.add_argument("--porcelain", action="store_true", help="for scripts: lines only, no summary")
    parser.add_argument("pathspecs", nargs="*", metavar="PATTERN", help="only these, as in git ls-files (default: all)")


def run(arguments: argparse.Namespace, place: Place) -> int:
    """Print a line for each tracked file of the index, and how many files need `git theta pull`."""
    from theta_daemon.pipelines import status
    from theta_daemon.pipelines.worktree import WorkTree

    here = place.settings()
    top = tracked.work_tree(here)
    meaning = {name: value for name, value in place.environment.items() if name.endswith("_PATHSPECS")}
    pathspecs = [os.fsencode(spec) for spec in arguments.pathspecs]
    files = tracked.tracked(here, pathspecs, meaning)
    paths = Paths(place, top)
    found: dict[State, int] = {}
    lacking: dict[str, int] = {}
    with closing(WorkTree(top)) as tree:
        for each in status.status(here, tree, files, lambda: tracked.modified(here, pathspecs, meaning)):
            found[each.state] = found.get(each.state, 0) + 1
            lacking |= each.lacking
            numbers = (each.size, len(each.lacking), sum(each.lacking.values()))
            columns = (each.state, *("-" if number is None else str(number) for number in numbers))
            emit("".join(f"{column}\t" for column in columns).encode("ascii"))
            emit(paths.relative(each.path) + b"\0" if arguments.zero else paths.line(each.path) + b"\n")
    if files and not (arguments.porcelain or arguments.zero):
        note(_summary(found, lacking))
    return 0


def _summary(found: Mapping[State, int], lacking: Mapping[str, int]) -> str:
    states = ", ".join(f"{number} {state}" for state, number in sorted(found.items()))
    text = f"{count(sum(found.values()), 'file')}: {states}"
    if lacking:
        text += f"; {count(len(lacking), 'object')} ({sum(lacking.values())} bytes) not here"
    if not found.keys().isdisjoint(("metadata", "missing")):
        text += "; `git theta pull` writes the checkpoints"
    return text


VERB = Verb(
    name="status",
    summary="list tracked files of the work tree, their state, and what is missing",
    description=(
        "Print, separated by tabs, for each tracked file: its state in the work tree (full; metadata: to be filled by "
        "git theta pull; modified; missing; sparse: a sparse checkout leaves it out; conflict), the bytes of the "
        "checkpoint, the number of objects that are not here and their bytes, and its path. A dash stands where the "
        "size is not known. A summary goes to standard error."
    ),
    run=run,
    add_arguments=add_arguments,
)
