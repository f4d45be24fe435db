"""`git theta pull`: turn the metadata in the work tree into checkpoints."""

from __future__ import annotations

import gc
import os
from contextlib import closing
from typing import TYPE_CHECKING

from theta_daemon import settings
from theta_daemon.cli.paths import Paths
from theta_daemon.cli.terminal import count, emit, fail, note, shown, warn
from theta_daemon.cli.verb import Place, Verb
from theta_daemon.errors import ThetaError
from theta_daemon.history import tracked
from theta_daemon.interrupts import Interrupts

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from theta_daemon.pipelines.pull import Target, Written
    from theta_daemon.pipelines.services import Services
    from theta_daemon.pipelines.worktree import WorkTree


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add git's pathspecs, and what is said meanwhile."""
    parser.add_argument("-n", "--dry-run", action="store_true", help="only list what would be written")
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing but what is wrong")
    parser.add_argument("pathspecs", nargs="*", metavar="PATTERN", help="only these, as in git ls-files (default: all)")


def run(arguments: argparse.Namespace, place: Place) -> int:
    """Fetch what is missing, write the files, and let git know."""
    pending = settings.begin(place.environment, place.directory)  # git works while the rest is imported
    from theta_daemon.pipelines import pull
    from theta_daemon.pipelines.services import open_services
    from theta_daemon.pipelines.worktree import WorkTree

    gc.freeze()  # what is imported stays: not to be looked through again and again
    here = pending.result()
    meaning = {name: value for name, value in place.environment.items() if name.endswith("_PATHSPECS")}
    files = tracked.tracked(here, [os.fsencode(spec) for spec in arguments.pathspecs], meaning)
    told = _Told()
    services = open_services(here, lambda path, text: warn(f"{shown(path)}: {text}"))
    with Interrupts() as interrupts, closing(services), closing(WorkTree(tracked.work_tree(here))) as tree:
        if not arguments.pathspecs:  # who names a file wants it
            files = [file for file in files if services.selection.includes(file.path)]
        targets = interrupts.hear(lambda: list(pull.targets(services, tree, files, told.error)))
        if arguments.dry_run:
            paths = Paths(place, tracked.work_tree(here))
            interrupts.hear(lambda: _list(services, targets, told, paths))
        else:
            written = _written(services, tree, targets, told, interrupts, quiet=arguments.quiet)
            if not (arguments.quiet or targets or told.errors):
                note("nothing to do: no tracked file is metadata, or missing")
            elif not arguments.quiet:
                note(f"{count(written, 'file')} written" + (f", {told.errors} failed" if told.errors else ""))
    return 1 if told.errors else 0


class _Told:
    """What went wrong, told when it does: nothing of it stops the command."""

    def __init__(self) -> None:
        self.errors = 0

    def error(self, error: ThetaError) -> None:
        fail(str(error))
        self.errors += 1


def _list(services: Services, targets: Sequence[Target], told: _Told, paths: Paths) -> None:
    """Print what would be fetched for each file."""
    from theta_daemon.pipelines import smudge

    for target in targets:
        path = target.file.path
        try:
            plan = smudge.plan(services, path, target.held)
        except ThetaError as error:
            told.error(error.at(path=path))
            continue
        refs = plan.objects if isinstance(plan, smudge.Lacking) else {}
        emit(b"%d\t%d\t%b\n" % (len(refs), sum(ref.size for ref in refs), paths.line(path)))


def _written(
    services: Services, tree: WorkTree, targets: Sequence[Target], told: _Told, interrupts: Interrupts, *, quiet: bool
) -> int:
    """Write the files and refresh the index, also after Ctrl-C; return their number."""
    from theta_daemon.pipelines import pull
    from theta_daemon.progress import meter

    written: list[Written] = []
    try:
        with (
            meter(
                "Pulling checkpoints", len(targets), 0, shown=services.settings.progress and not quiet
            ) as shown_meter,
            closing(pull.Pull(services, tree, shown_meter, told.error, interrupts).files(targets)) as files,
        ):
            written.extend(files)
    finally:
        try:
            pull.note(services.settings, written)
        except ThetaError as error:
            told.error(error)
    return len(written)


VERB = Verb(
    name="pull",
    summary="turn metadata in the work tree into checkpoints",
    description=(
        "Write the checkpoints of all tracked files of the work tree, or of those that PATTERN chooses, that are their "
        "metadata so far (GIT_THETA_SKIP_SMUDGE, theta.skipSmudge) or are missing. Objects that are missing are "
        "fetched first. Files that were changed stay as they are. With --dry-run, print, separated by tabs, how many "
        "objects would be fetched for each file, their bytes, and its path."
    ),
    run=run,
    add_arguments=add_arguments,
)
