"""`git theta push`: send the objects of commits by hand, where no hook does it, or once more."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from theta_daemon.cli import pre_push
from theta_daemon.cli.terminal import note, shown
from theta_daemon.cli.verb import Place, Verb
from theta_daemon.errors import UsageError
from theta_daemon.history.commits import Commits

if TYPE_CHECKING:
    import argparse

    from theta_daemon.cli.git import Git


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the remote, and what to send."""
    parser.add_argument("-q", "--quiet", action="store_true", help="say nothing but what is wrong")
    parser.add_argument("remote", nargs="?", metavar="REMOTE", help="its name or URL (default: as for git push)")
    parser.add_argument("revisions", nargs="*", metavar="REVISION", help="branches, tags, commits (default: HEAD)")
    parser.add_argument(
        "--all", action="store_true", help="all branches and tags, also what the remote should have already"
    )


def run(arguments: argparse.Namespace, place: Place) -> int:
    """Send them; the exit status tells whether all have arrived."""
    if arguments.all and arguments.revisions:
        raise UsageError("--all and revisions exclude one another")
    git = place.git
    remote = arguments.remote or default_remote(git)
    revisions = _all(git) if arguments.all else arguments.revisions or ["HEAD"]
    here = place.settings()
    commits = Commits(here)
    tips = [commits.commit(revision) for revision in revisions]
    on_remote = [] if arguments.all else [*commits.tracked(remote).values()]
    number = pre_push.send(
        place, here, remote, _url(git, remote), tips, on_remote, is_by_hand=True, is_quiet=arguments.quiet
    )
    if not number and not arguments.quiet:
        note(f"{shown(os.fsencode(remote))} has everything that these commits need, as far as is known here")
    return 0


def default_remote(git: Git) -> str:
    """Return the remote that `git push` would take. Raises UsageError where that is not clear."""
    branch = git.answer("symbolic-ref", "--quiet", "--short", "HEAD")
    keys = ["remote.pushDefault"]
    if branch is not None:
        name = os.fsdecode(branch.removesuffix(b"\n"))
        keys = [f"branch.{name}.pushRemote", *keys, f"branch.{name}.remote"]
    for key in keys:
        if (found := git.answer("config", "--get", key)) is not None:
            return os.fsdecode(found.removesuffix(b"\n"))
    remotes = os.fsdecode(git.output("remote")).split("\n")[:-1]
    if "origin" in remotes or len(remotes) == 1:
        return "origin" if "origin" in remotes else remotes[0]
    raise UsageError("which remote?" if remotes else "there is no remote", hint="git theta push REMOTE [REVISION...]")


def _url(git: Git, remote: str) -> str:
    """Return where a push to `remote` goes: what git tells its hook."""
    found = git.answer("config", "--get", f"remote.{remote}.url")
    return remote if found is None else os.fsdecode(found.removesuffix(b"\n"))


def _all(git: Git) -> list[str]:
    rows = git.output(
        "for-each-ref", "--format=%(objectname) %(objecttype) %(*objecttype)", "refs/heads/", "refs/tags/"
    )
    found = [row.split() for row in rows.splitlines()]
    return list(dict.fromkeys(os.fsdecode(row[0]) for row in found if b"commit" in row[1:]))


VERB = Verb(
    name="push",
    summary="send objects to a remote by hand",
    description=(
        "Send the objects that the commits of REVISIONs need and the remote does not have, as the pre-push hook does "
        "in a git push. For servers and tools that run no hooks, and, with --all, to send again what a server lost."
    ),
    run=run,
    add_arguments=add_arguments,
)
