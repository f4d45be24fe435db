"""A real git repository to test in: thin, and loud when git fails."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self


@dataclass(frozen=True, slots=True)
class Repository:
    """A work tree, and the environment in which its git commands run."""

    path: Path
    environment: Mapping[str, str]

    @classmethod
    def init(cls, path: Path, environment: Mapping[str, str], *arguments: str) -> Self:
        """Make an empty repository at `path` with the branch `main`; `arguments` go to `git init`."""
        command = ["git", "init", "--quiet", "--initial-branch=main", *arguments, str(path)]
        subprocess.run(command, env=dict(environment), check=True)
        return cls(path, environment)

    def at(self, path: Path) -> Repository:
        """Return the repository at `path` (a clone, a linked worktree), in the same environment."""
        return replace(self, path=path)

    def in_environment(self, **changes: str) -> Repository:
        """Return this repository with variables of its environment set."""
        return replace(self, environment={**self.environment, **changes})

    def run(
        self, *command: str | bytes, stdin: bytes = b"", cwd: Path | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run `command` in the work tree and return what came of it, failed or not."""
        return subprocess.run(
            command,
            cwd=cwd or self.path,
            env=dict(self.environment),
            input=stdin,
            capture_output=True,
            check=False,
            timeout=100,
        )

    def git(self, *arguments: str | bytes, stdin: bytes = b"", cwd: Path | None = None) -> str:
        """Run git, fail the test when git fails, and return its output without the last newline."""
        return self.git_bytes(*arguments, stdin=stdin, cwd=cwd).decode("utf-8", "surrogateescape").removesuffix("\n")

    def git_bytes(self, *arguments: str | bytes, stdin: bytes = b"", cwd: Path | None = None) -> bytes:
        """Like `git`, with the output as it is."""
        done = self.run("git", *arguments, stdin=stdin, cwd=cwd)
        assert done.returncode == 0, f"git {arguments} exited {done.returncode}: {_text(done.stderr)}"
        return done.stdout

    def git_fails(self, *arguments: str | bytes, stdin: bytes = b"", cwd: Path | None = None) -> str:
        """Run git, fail the test when git does *not* fail, and return what it said on stderr."""
        done = self.run("git", *arguments, stdin=stdin, cwd=cwd)
        assert done.returncode != 0, f"git {arguments} should have failed, and said: {_text(done.stdout + done.stderr)}"
        return _text(done.stderr)

    def write(self, name: str, data: bytes) -> Path:
        """Write a file of the work tree."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return path

    def read(self, name: str) -> bytes:
        """Return a file of the work tree."""
        return (self.path / name).read_bytes()

    def commit(self, message: str, *paths: str) -> str:
        """Add `paths` (without any: everything), commit, and return the commit's id."""
        self.git("add", *(("--", *paths) if paths else ("--all",)))
        self.git("commit", "--quiet", "--message", message)
        return self.git("rev-parse", "HEAD")

    def checkout_again(self) -> None:
        """Remove every tracked file from the work tree and let git bring it back."""
        for name in self.git_bytes("ls-files", "-z").split(b"\0")[:-1]:
            (self.path / name.decode("utf-8", "surrogateescape")).unlink(missing_ok=True)
        self.git("checkout", "--", ".")

    def blob(self, name: str, revision: str = "") -> bytes:
        """Return what git itself stores for a path, in the index or in `revision`."""
        return self.git_bytes("cat-file", "blob", f"{revision}:{name}")

    def status(self) -> str:
        """Return `git status --porcelain`, empty when the work tree is clean."""
        return self.git("status", "--porcelain", "--untracked-files=no")

    def objects(self) -> set[str]:
        """Return the ids of the objects in the store that git-lfs shares."""
        store = self.git_directory / "lfs" / "objects"
        return {path.name for path in store.glob("??/??/*")}

    @property
    def git_directory(self) -> Path:
        """The directory that all worktrees share."""
        return self.path / self.git("rev-parse", "--git-common-dir")


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")
