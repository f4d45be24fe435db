"""What the verbs ask of git beyond its history: configuration, attributes, places, the index.

Arguments and output are bytes, lists are NUL-terminated. Where git fails, its own words are the error. Nothing is
fetched into a partial clone.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from theta_daemon import gitcmd
from theta_daemon.errors import RepositoryError

if TYPE_CHECKING:
    from collections.abc import Mapping

Argument = str | bytes

# Writing the index cleans files whose times are too close to tell whether they changed; ours must not run then.
_NO_FILTER = tuple(
    part
    for setting in ("process=", "clean=", "smudge=", "required=false")
    for part in ("-c", f"filter.theta.{setting}")
)
_NO = 1  # how git's queries say "there is none"


@dataclass(frozen=True, slots=True)
class Git:
    """git in one directory, with an environment in which arguments mean what they say."""

    environment: Mapping[str, str]
    directory: Path

    def at_top(self) -> Git:
        """Return git in the top-level directory of the work tree. Raises RepositoryError where there is none."""
        return replace(self, directory=Path(os.fsdecode(self.line("rev-parse", "--show-toplevel"))))

    def output(self, *arguments: Argument, stdin: bytes = b"") -> bytes:
        """Return what `git ARGUMENTS` prints. Raises RepositoryError with git's words."""
        code, out, err = self._run(arguments, stdin)
        if code != 0:
            raise _error(arguments, code, err)
        return out

    def answer(self, *arguments: Argument) -> bytes | None:
        """Like `output`, or None where git exits 1, which its queries do for "no such thing"."""
        code, out, err = self._run(arguments, b"")
        if code not in (0, _NO):
            raise _error(arguments, code, err)
        return out if code == 0 else None

    def line(self, *arguments: Argument) -> bytes:
        """Return git's output without its last newline: a path may hold newlines of its own."""
        return self.output(*arguments).removesuffix(b"\n")

    def items(self, *arguments: Argument, stdin: bytes = b"") -> list[bytes]:
        """Return the NUL-terminated items that git prints."""
        return self.output(*arguments, stdin=stdin).split(b"\0")[:-1]

    def stage(self, path: bytes) -> None:
        """Add one file that has no filter to the index, starting none for other files."""
        self.output(*_NO_FILTER, "add", "--", path)

    def _run(self, arguments: tuple[Argument, ...], stdin: bytes) -> tuple[int, bytes, bytes]:
        command = [os.fsdecode(argument) for argument in arguments]
        environment = gitcmd.without_fetching(self.environment)
        child = gitcmd.start(command, environment, self.directory, stdin=gitcmd.PIPE)
        return gitcmd.collect(child, stdin)


def _error(arguments: tuple[Argument, ...], code: int, err: bytes) -> RepositoryError:
    verb = next((a for a in arguments if isinstance(a, str) and not a.startswith("-")), "")
    return RepositoryError(gitcmd.plain_complaint(err) or f"git {verb} exited {code}")
