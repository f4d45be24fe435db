"""Repositories for what only a real git shows of its filter protocol.

The tests are named after the checklist in protocol/filter-process.md; git's own, in t/t0021-conversion.sh, are their
model.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support import models
from tests.support.repository import Repository

# Of what one side said: here "git>", "clone>"; the filter is "git<".
_HEADER_LINE = re.compile(r"packet: +\S+> (?:(command)=(clean|smudge)|(pathname|ref|treeish|blob|can-delay)=(.*))")

NAMES = ("a.pt", "b.safetensors", "c.pt")


def written(name: str, seed: int = 0) -> bytes:
    """Return a small checkpoint, another for each name and seed."""
    tensors = models.state_dict(100 * seed + sum(name.encode()))
    return models.torch_bytes(tensors) if name.endswith(".pt") else models.safetensors_bytes(tensors)


@dataclass(frozen=True, slots=True)
class Request:
    """What git sent of one request: its header. Requests that differ in whether they can wait are equal."""

    command: str
    pathname: str
    ref: str | None = None
    treeish: str | None = None
    blob: str | None = None
    can_delay: bool = field(default=False, compare=False)


class Traced:
    """A repository whose git commands are traced, each anew."""

    def __init__(self, repository: Repository, directory: Path) -> None:
        self._trace, self._packets = directory / "trace", directory / "packets"
        self.repository = repository.in_environment(GIT_TRACE=str(self._trace), GIT_TRACE_PACKET=str(self._packets))

    def git(self, *arguments: str, cwd: Path | None = None) -> str:
        """Run git; `starts` and `requests` tell of this command alone."""
        for trace in (self._trace, self._packets):
            trace.unlink(missing_ok=True)
        return self.repository.git(*arguments, cwd=cwd)

    def starts(self, program: str = "theta-daemon") -> int:
        """Return how often git started `program`."""
        lines = self._trace.read_text("utf-8", "replace").splitlines()
        return sum("run_command: " in line and program in line.partition("run_command: ")[2] for line in lines)

    def requests(self) -> list[Request]:
        """Return what git asked the filter."""
        headers: list[dict[str, str]] = []
        lines = self._packets.read_text("utf-8", "replace").splitlines() if self._packets.exists() else []
        for line in lines:
            found = _HEADER_LINE.search(line)
            if found is not None:
                if found[1]:
                    headers.append({"command": found[2]})
                else:
                    headers[-1][found[3]] = found[4]
        return [
            Request(
                header["command"],
                header["pathname"],
                header.get("ref"),
                header.get("treeish"),
                header.get("blob"),
                can_delay="can-delay" in header,
            )
            for header in headers
        ]

    def smudges(self) -> list[Request]:
        """Return what git asked the filter to smudge, once for each file, in the order in which it asked first.

        Before that, git may look whether a file has changed.
        """
        asked = [request for request in self.requests() if request.command == "smudge"]
        delayed = {request.pathname for request in asked if request.can_delay}
        return [request for request in asked if request.can_delay or request.pathname not in delayed]

    def again(self) -> list[Request]:
        """Return what git asked the filter to smudge though it had asked before, and was told to wait."""
        asked = [request for request in self.requests() if request.command == "smudge"]
        delayed = {request.pathname for request in asked if request.can_delay}
        return [request for request in asked if not request.can_delay and request.pathname in delayed]


@pytest.fixture
def tracked(repository: Repository) -> Repository:
    """Return a repository with three small checkpoints and a text file committed."""
    repository.git("theta", "track", "*.pt", "*.safetensors")
    repository.write("notes.txt", b"notes\n")
    for name in NAMES:
        # Older than the index: what is as young as that, git compares with it by content, whenever it feels like it.
        os.utime(repository.write(name, written(name)), (10**9, 10**9))
    repository.commit("first")
    return repository


@pytest.fixture
def traced(tracked: Repository, tmp_path: Path) -> Traced:
    """Return that repository, traced."""
    return Traced(tracked, tmp_path)


def assert_files(repository: Repository, seed: int = 0, names: Sequence[str] = NAMES) -> None:
    """Fail unless the work tree holds the checkpoints of `seed`."""
    different = [name for name in names if repository.read(name) != written(name, seed)]
    assert different == []
