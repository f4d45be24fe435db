"""Child git processes: the one way in which this program runs git.

Arguments are a list, never a shell's line. A child's environment and directory are given by the caller
(`Settings.child_environment`, `Settings.directory`); nothing of the parent's leaks in, and no child of a short
command outlives the call that collects it. git speaks English here (LC_ALL=C), so that its complaints can be
quoted and told apart.

At the bottom of the import order because settings and history both need it.
"""

from __future__ import annotations

import subprocess
from typing import IO, TYPE_CHECKING

from theta_daemon.errors import RepositoryError, printable

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

Child = subprocess.Popen[bytes]
PIPE = subprocess.PIPE
TimeoutExpired = subprocess.TimeoutExpired

# Both, because git before 2.45 (unless its distributor added it) does not know the first.
_NO_FETCH = {"GIT_NO_LAZY_FETCH": "1", "GIT_ALLOW_PROTOCOL": ""}


def without_fetching(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for children that must not fetch what a partial clone lacks."""
    return {**environment, **_NO_FETCH}


def lacks_what_was_promised(err: bytes) -> bool:
    """Tell by its complaints whether a child of `without_fetching` ended for an object that a partial clone lacks."""
    return b"promisor" in err


def start(
    arguments: Sequence[str],
    environment: Mapping[str, str],
    directory: Path,
    *,
    stdin: int | IO[bytes] = subprocess.DEVNULL,
    stderr: int | IO[bytes] = subprocess.PIPE,
) -> Child:
    """Start `git <arguments>` and return at once; its standard output is a pipe.

    Raises RepositoryError when git cannot be started.
    """
    try:
        return subprocess.Popen(
            ["git", *arguments], env=environment, cwd=directory, stdin=stdin, stdout=subprocess.PIPE, stderr=stderr
        )
    except OSError as error:
        # Popen names what it could not use: the program, or the directory to start it in.
        if error.filename != "git":
            raise RepositoryError(f"git cannot be run in {directory}: {error.strerror}") from error
        raise RepositoryError(f"git cannot be run: {error.strerror}", hint="install it, or put it on PATH") from error


def collect(child: Child, given: bytes | None = None) -> tuple[int, bytes, bytes]:
    """Wait for a child from `start` and return its exit status, output, and complaints.

    `given` goes to its standard input, which must then be a pipe.
    """
    with child:
        out, err = child.communicate(given)
    return child.returncode, out, err or b""


def output(arguments: Sequence[str], environment: Mapping[str, str], directory: Path, given: bytes = b"") -> bytes:
    """Run `git <arguments>` with `given` on its standard input and return its output.

    Raises RepositoryError with git's own words when git fails.
    """
    code, out, err = collect(start(arguments, environment, directory, stdin=PIPE), given)
    if code != 0:
        raise failure(f"git {arguments[0]}", code, err)
    return out


def hand_over(arguments: Sequence[str], environment: Mapping[str, str], directory: Path) -> int:
    """Run `git <arguments>` on the streams of this process and return its exit status."""
    return subprocess.run(["git", *arguments], env=environment, cwd=directory, check=False).returncode


def failure(what: str, code: int, err: bytes) -> RepositoryError:
    """Return the error that says that `what` ended with exit status `code`, in git's own words."""
    how = f"exit {code}" if code >= 0 else f"signal {-code}"
    said = complaint(err)
    return RepositoryError(f"{what} failed ({how})" + (f": {said}" if said else ""))


def complaint(err: bytes) -> str:
    """Return the line of git's standard error that says why: the last fatal one, else the last one of all."""
    lines = [line.strip() for line in err.splitlines() if line.strip()]
    fatal = [line for line in lines if line.startswith(b"fatal:")]
    return printable((fatal or lines or [b""])[-1])


def plain_complaint(err: bytes) -> str:
    """Return git's complaint without the word that says how bad it is, for an error that is all git's own."""
    said = complaint(err)
    return said.removeprefix("fatal: ").removeprefix("error: ")
