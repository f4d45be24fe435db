"""A commit that is not here, from a remote.

Only what git-theta wrote needs this: its updates name a commit that holds the previous value, and a shallow clone, or
one of a single branch, may not have that commit. It is fetched by its id; nothing points to it afterwards, and git's
garbage collection takes it again some weeks later.

This runs inside git's own checkout or clone, so it touches no reference, no FETCH_HEAD and no index, starts no
maintenance, and asks no questions on the terminal: `git status` must never wait for a password. (Credential helpers
and askpass programs are asked as always.)
"""

from __future__ import annotations

import os
import re
import tempfile
from typing import TYPE_CHECKING

from theta_daemon import gitcmd
from theta_daemon.errors import printable
from theta_daemon.history.catfile import local_environment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from theta_daemon.settings import Settings

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")

_CREDENTIALS = re.compile(r"://[^/@\s]+@")  # of a branch that follows a URL; git itself hides them
_NO_CONNECTION = b"fatal: Could not read from remote repository."

# --refmap= and --no-prune: whatever is configured for the remote, no reference of ours follows one of its own.
_FETCH = (
    *("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--no-recurse-submodules", "--refmap=", "--no-prune"),
    "--no-auto-maintenance",
)


def fetch_commit(settings: Settings, commit: str) -> str | None:
    """Get `commit`, a full hexadecimal id, from the first remote that gives it; return None when it is here.

    Asked are the remote that the current branch follows, `origin`, and then all others. Where none gives the commit,
    the reason is returned, in git's words. Takes as long as the network takes. Raises RepositoryError when git cannot
    be run.
    """
    if _COMMIT.fullmatch(commit) is None:
        return f"{commit[:80]!r} is no id of a commit"
    if _is_here(settings, commit):
        return None  # to fetch it with --depth would cut off its history
    reasons = []
    for remote in remotes(settings):
        complaint = _fetch(settings, remote, commit)
        if _is_here(settings, commit):
            return None
        name = _CREDENTIALS.sub("://***@", printable(os.fsencode(remote)))
        reasons.append(f"{name}: {complaint or 'git fetch did not get it'}")
    return ", ".join(reasons) or "the repository has no remote"


def remotes(settings: Settings) -> Iterator[str]:
    """Yield the names of the remotes to ask, each once; what a branch follows may also be a URL or a path."""
    head = _said(settings, "symbolic-ref", "--quiet", "HEAD")
    upstream = (
        _said(settings, "config", "--get", f"branch.{head[0].removeprefix('refs/heads/')}.remote") if head else []
    )
    named = _said(settings, "remote")
    first = [remote for remote in upstream if remote != "."]  # this repository itself
    yield from dict.fromkeys([*first, *(name for name in named if name == "origin"), *named])


def _fetch(settings: Settings, remote: str, commit: str) -> str:
    """Ask `remote` for `commit`; return what git complains of."""
    environment = {**settings.child_environment, "GIT_TERMINAL_PROMPT": "0"}
    # A clone that has all of its history must not become a shallow one.
    depth = ["--depth=1"] if _said(settings, "rev-parse", "--is-shallow-repository") == ["true"] else []
    # A file, because a connection that ssh keeps open for others would hold a pipe open as well.
    with tempfile.TemporaryFile() as said:
        arguments = [*_FETCH, *depth, "--", remote, commit]
        with gitcmd.start(arguments, environment, settings.directory, stderr=said) as child:
            try:
                child.communicate()
            except BaseException:
                child.terminate()  # not killed: it has lock files to remove
                raise
        said.seek(0)
        return gitcmd.plain_complaint(_cause(said.read(1 << 16)))


def _cause(err: bytes) -> bytes:
    """Return what git complains of before it says that there is no connection, all where that is nothing."""
    before, _, _ = err.partition(_NO_CONNECTION)
    return before if before.strip() else err


def _is_here(settings: Settings, commit: str) -> bool:
    return bool(_said(settings, "rev-parse", "--quiet", "--verify", f"{commit}^{{commit}}"))


def _said(settings: Settings, *arguments: str) -> list[str]:
    """Return the lines that git prints, none where it fails."""
    code, out, _ = gitcmd.collect(gitcmd.start(arguments, local_environment(settings), settings.directory))
    return os.fsdecode(out).split("\n")[:-1] if code == 0 else []
