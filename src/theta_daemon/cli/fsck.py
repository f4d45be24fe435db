"""`git theta fsck`: check metadata, and the objects that it names; bring back what is missing or damaged."""

from __future__ import annotations

import os
import shutil
import tempfile
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from theta_daemon.cli.terminal import count, emit, note, quoted, shown, warn
from theta_daemon.cli.verb import Place, Verb
from theta_daemon.errors import printable
from theta_daemon.frozen import Frozen
from theta_daemon.history.commits import Commits
from theta_daemon.progress import hidden, meter

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping, Sequence

    from theta_daemon.errors import ThetaError
    from theta_daemon.history.reachable import Content, Reachable
    from theta_daemon.metadata.entries import ObjectRef
    from theta_daemon.pipelines.fsck import Fetch, Problem
    from theta_daemon.settings import Settings
    from theta_daemon.store.fetch import Fetcher

_AT_ONCE = 1000  # problems that are told together: each time the history is gone through for their commits


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to look at, and whether to mend it."""
    scope = parser.add_mutually_exclusive_group()
    scope.add_argument("--metadata", action="store_true", help="metadata alone, no objects")
    scope.add_argument("--objects", action="store_true", help="objects and layouts alone, not the form of metadata")
    scope.add_argument("--values", action="store_true", help="all, and whether every value comes out as recorded")
    parser.add_argument("--repair", action="store_true", help="restore or fetch what is missing or damaged")
    parser.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    parser.add_argument(
        "revisions",
        nargs="*",
        metavar="REF",
        help="what these commits hold, or ranges A..B brought (default: all refs)",
    )


class _Asked(Frozen):
    """What to look at: commits, by their ids, and ranges; neither stands for all refs and indexes."""

    commits: tuple[str, ...]
    ranges: tuple[str, ...]

    def contents(self, reachable: Reachable) -> Iterator[Content]:
        if not self.commits and not self.ranges:
            yield from reachable.refs_and_index()
            return
        yield from reachable.trees(self.commits)
        yield from reachable.ranges(self.ranges)

    def origins(self, here: Settings, blobs: Sequence[str]) -> dict[str, str]:
        """Return the commits that brought `blobs`."""
        from theta_daemon.history.reachable import commits_of

        if not self.commits and not self.ranges:
            return {**dict.fromkeys(blobs, "index"), **commits_of(here, blobs, ["--all"])}
        found = commits_of(here, blobs, self.commits) if self.commits else {}
        return {**(commits_of(here, blobs, ["--end-of-options", *self.ranges]) if self.ranges else {}), **found}


def run(arguments: argparse.Namespace, place: Place) -> int:
    """Print a line for each problem; exit with 1 if one is left."""
    from theta_daemon.history.reachable import Reachable
    from theta_daemon.pipelines.fsck import Fsck, Scope
    from theta_daemon.pipelines.services import open_services
    from theta_daemon.store.fetch import Fetcher

    here = place.settings()
    asked = _asked(here, arguments.revisions)
    # Without --repair nothing is fetched: no commit either that an update of git-theta's builds on.
    here = here.replace(fetch_history=here.fetch_history and arguments.repair)
    scope = Scope(metadata=not arguments.objects, objects=not arguments.metadata, values=arguments.values)
    reachable = Reachable(here)
    left = mended = 0
    with ExitStack() as stack:
        services = open_services(here, lambda path, text: warn(f"{shown(path)}: {text}"))
        stack.callback(services.close)
        fetch: Fetch | None = None
        if arguments.repair:
            # What the lenders have is not what is asked for.
            fetcher = Fetcher(here, services.store.alone())
            from_remote = Fetcher(stack.enter_context(_borrowing_nothing(here)), services.store.alone())
            stack.callback(fetcher.close)
            stack.callback(from_remote.close)
            fetch = partial(_fetch, fetcher, from_remote)
        told = stack.enter_context(meter("Checking", 0, 0, shown=here.progress and not arguments.quiet))
        fsck = Fsck(services, scope, told, fetch)
        problems: list[Problem] = []
        origins: dict[str, str] = {}
        for content in asked.contents(reachable):
            for problem in fsck.check(content):
                problems.append(problem)
                left, mended = left + (not problem.mended), mended + problem.mended
                if len(problems) == _AT_ONCE:
                    _tell(here, asked, origins, problems)
                    problems = []
        _tell(here, asked, origins, problems)
    if reachable.absent:
        note(f"not here, and so not checked: {count(reachable.absent, 'object')} of git's (see git fsck)")
    if mended:
        note(f"{count(mended, 'problem')} mended")
    return 1 if left else 0


def _asked(here: Settings, revisions: Sequence[str]) -> _Asked:
    ranges = tuple(revision for revision in revisions if ".." in revision or revision.startswith("^"))
    commits = Commits(here)
    return _Asked(tuple(commits.commit(revision) for revision in revisions if revision not in ranges), ranges)


@contextmanager
def _borrowing_nothing(here: Settings) -> Iterator[Settings]:
    """Yield settings with which git-lfs finds nothing in the repositories that this one borrows from.

    It would link what it finds there, damaged or not, instead of fetching it (tried, 3.3). It looks for the list of
    them in the git directory, without asking git; so it gets one that has HEAD and the objects of Git LFS alone, and
    git says the rest. Only for what they have damaged: so called, git-lfs 3.3 takes an lfs.storage of ours for that of
    a remote with a file:// URL.
    """
    if not here.alternates:
        yield here
        return
    here.temporary.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=here.temporary) as folder:
        storage = os.path.relpath(here.lfs_storage, here.common_dir)
        git_dir = Path(folder, *["git"] * (1 + Path(storage).parts.count(os.pardir)))
        git_dir.mkdir(parents=True)
        for name in ("HEAD", "config.worktree"):
            with suppress(FileNotFoundError):
                shutil.copyfile(here.git_dir / name, git_dir / name)
        # Where a relative lfs.storage leads from there, or the default; one that is absolute is what it was.
        place = Path(os.path.normpath(git_dir / storage))
        place.parent.mkdir(parents=True, exist_ok=True)
        here.lfs_storage.mkdir(parents=True, exist_ok=True)
        place.symlink_to(here.lfs_storage)
        environment = {**here.child_environment, "GIT_DIR": str(git_dir), "GIT_COMMON_DIR": str(here.common_dir)}
        environment.pop("GIT_ALTERNATE_OBJECT_DIRECTORIES", None)
        if here.work_tree is not None:
            environment["GIT_WORK_TREE"] = str(here.work_tree)
        yield here.replace(child_environment=environment)


def _fetch(
    fetcher: Fetcher, from_remote: Fetcher, refs: Sequence[ObjectRef], lent: bool
) -> Mapping[ObjectRef, ThetaError]:
    """Fetch objects, and return those that could not be had, and why; lenders have damaged copies of those `lent`."""
    chosen = from_remote if lent else fetcher
    batch = chosen.want(refs)
    while not batch.is_settled:
        chosen.wait([batch])
    return batch.failed


def _tell(here: Settings, asked: _Asked, origins: dict[str, str], problems: Sequence[Problem]) -> None:
    """Print `problems`; `origins` are the commits of blobs that were told of before."""
    new = dict.fromkeys(problem.blob for problem in problems if problem.blob not in origins)
    if new:
        origins |= {**dict.fromkeys(new, "-"), **asked.origins(here, list(new))}
    with hidden():
        for problem in problems:
            parameter = "-" if problem.parameter is None else _printable(problem.parameter)
            where = f"{origins[problem.blob]} ".encode("ascii") + quoted(problem.path)
            emit(where + f" {parameter}: {_printable(problem.what)}; {_printable(problem.hint)}\n".encode())


def _printable(text: str) -> str:
    return printable(text.encode("utf-8", "backslashreplace"))


VERB = Verb(
    name="fsck",
    summary="check metadata and objects, and repair them",
    description=(
        "Check the metadata of all refs and of the index, and every object that it names, by its SHA-256. Prints a "
        "line for each problem: commit, path, parameter, what is wrong, and what to do; exits with 1 if there is one "
        "that --repair did not mend."
    ),
    run=run,
    add_arguments=add_arguments,
)
