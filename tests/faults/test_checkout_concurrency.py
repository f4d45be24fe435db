"""Several git commands at once on one store, delayed checkouts among them: each gets exactly its files.

They meet: each stops in the middle of its work, at a call of the operating system, until the other has come as far.
"""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.git.conftest import leftovers
from tests.support import models
from tests.support.checkouts import noise, of_size
from tests.support.repository import Repository
from tests.support.wrapped import Harm, Moment

AT_THE_FIRST_NAME = Moment(1, 1, "link")  # of an object that is stored
WHILE_IT_DELAYS = Moment(1, 4, "writev")  # after the handshake: some files are delayed, none is written
WHILE_IT_WRITES = Moment(1, 14, "writev")  # after eight that say which files are delayed and can be had

FILES = ("a.pt", "b.safetensors", "c.pt", "d.safetensors")


def version(number: int, size: int = 4_300_000) -> dict[str, bytes]:
    """Return the files of a version; they share a group with each other and with the other versions."""
    contents = {}
    for place, name in enumerate(FILES):
        tensors = of_size(size, seed=10 * number + place) | {"shared": noise(50_000, seed=99)}
        contents[name] = models.torch_bytes(tensors) if name.endswith(".pt") else models.safetensors_bytes(tensors)
    return contents


@dataclass(frozen=True, slots=True)
class Side:
    """A git command, and where it waits for the other one."""

    repository: Repository
    command: tuple[str, ...]
    moment: Moment


def meet(directory: Path, *sides: Side) -> None:
    """Run two commands at once; both must succeed, without a word."""
    gate = directory / "gate"
    gate.unlink(missing_ok=True)
    os.mkfifo(gate)

    opened: list[int] = []
    # Before the threads: a program that is open for writing, be it in the fork of another thread, cannot be run.
    harms = [Harm(side.repository, directory / f"harm-{number}") for number, side in enumerate(sides)]

    def run(number: int) -> None:
        direction = ("os.O_RDONLY", "os.O_WRONLY")[number]  # each waits for the other
        side = sides[number]
        try:
            done = harms[number].run(*side.command, do=f"real_open({str(gate)!r}, {direction})", moment=side.moment)
        finally:
            opened.append(os.open(gate, os.O_RDWR))  # from now on nobody waits: this side is through, or has failed
        assert done.returncode == 0, done.stderr
        assert done.stderr == b""

    try:
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(run, range(2)))
    finally:
        for descriptor in opened:
            os.close(descriptor)


def assert_files(repository: Repository, contents: dict[str, bytes]) -> None:
    """Fail unless the work tree holds these files, and git finds them unchanged."""
    assert [name for name, content in contents.items() if repository.read(name) != content] == []
    assert repository.status() == ""


def assert_whole(repository: Repository) -> None:
    """Fail unless every object is what its name says, and nothing else is left."""
    for store in ("lfs", "theta"):
        for path in (repository.git_directory / store / "objects").glob("??/??/*"):
            assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    assert leftovers(repository) == []


@pytest.fixture
def tracked(repository: Repository) -> Repository:
    """Return a repository with as little memory as may be, and two versions of its files in two branches."""
    repository.git("config", "theta.memoryLimit", "64m")
    repository.git("theta", "track", "*.pt", "*.safetensors")
    for number in range(2):
        for name, content in version(number).items():
            repository.write(name, content)
        repository.commit(f"version {number}")
        repository.git("branch", f"version-{number}")
    return repository


@pytest.mark.parametrize("moment", [WHILE_IT_DELAYS, WHILE_IT_WRITES], ids=["delaying", "writing"])
def test_two_linked_worktrees_are_checked_out(tracked: Repository, tmp_path: Path, moment: Moment) -> None:
    """One goes from the first version to the second, the other the opposite way."""
    linked = tracked.at(tmp_path / "linked")
    tracked.git("worktree", "add", "--quiet", "--detach", str(linked.path), "version-1")
    tracked.git("checkout", "--quiet", "version-0")
    meet(
        tmp_path,
        Side(tracked, ("git", "checkout", "--quiet", "version-1"), moment),
        Side(linked, ("git", "checkout", "--quiet", "--detach", "version-0"), moment),
    )
    assert_files(tracked, version(1))
    assert_files(linked, version(0))
    assert_whole(tracked)


def test_a_worktree_is_added_while_another_adds_files(tracked: Repository, tmp_path: Path) -> None:
    for name, content in version(2).items():
        tracked.write(name, content)
    linked = tracked.at(tmp_path / "linked")
    meet(
        tmp_path,
        Side(tracked, ("git", "add", "--all"), AT_THE_FIRST_NAME),
        Side(
            tracked,
            ("git", "worktree", "add", "--quiet", "--detach", str(linked.path), "version-0"),
            WHILE_IT_WRITES,
        ),
    )
    tracked.git("commit", "--quiet", "--message", "version 2")
    assert_files(linked, version(0))
    assert_whole(tracked)
    linked.git("checkout", "--quiet", "--detach", "main")
    assert_files(linked, version(2))


def test_different_files_are_added_in_two_worktrees(tracked: Repository, tmp_path: Path) -> None:
    linked = tracked.at(tmp_path / "linked")
    tracked.git("worktree", "add", "--quiet", "-b", "linked", str(linked.path))
    ours, theirs = version(3), version(4)
    for worktree, contents in ((tracked, ours), (linked, theirs)):
        for name, content in contents.items():
            worktree.write(name, content)
    meet(
        tmp_path,
        Side(tracked, ("git", "add", "--all"), AT_THE_FIRST_NAME),
        Side(linked, ("git", "add", "--all"), AT_THE_FIRST_NAME),
    )
    tracked.git("commit", "--quiet", "--message", "ours")
    linked.git("commit", "--quiet", "--message", "theirs")
    assert_whole(tracked)
    tracked.git("checkout", "--quiet", "--detach", "linked")
    linked.git("checkout", "--quiet", "--detach", "main")
    assert_files(tracked, theirs)
    assert_files(linked, ours)


def test_a_shared_clone_reads_while_its_origin_adds(tracked: Repository, tmp_path: Path) -> None:
    for name, content in version(5).items():
        tracked.write(name, content)
    tracked.git("config", "--file", tracked.environment["GIT_CONFIG_GLOBAL"], "theta.memoryLimit", "64m")
    tracked.git("theta", "install")  # for clones too
    reader = tracked.at(tmp_path / "reader")
    meet(
        tmp_path,
        Side(tracked, ("git", "add", "--all"), AT_THE_FIRST_NAME),
        Side(tracked, ("git", "clone", "--quiet", "--shared", str(tracked.path), str(reader.path)), WHILE_IT_WRITES),
    )
    assert_files(reader, version(1))
    tracked.git("commit", "--quiet", "--message", "version 5")
    reader.git("pull", "--quiet")
    assert_files(reader, version(5))
    assert_whole(tracked)


@pytest.mark.parametrize("moment", [WHILE_IT_DELAYS, WHILE_IT_WRITES], ids=["delaying", "writing"])
def test_git_lfs_prunes_its_store_meanwhile(tracked: Repository, tmp_path: Path, moment: Moment) -> None:
    harm = Harm(tracked, tmp_path / "harm")
    store = tracked.path / ".git" / "lfs" / "objects"
    done = harm.run(
        *("git", "checkout", "--quiet", "version-0"),
        do=f"import shutil; shutil.rmtree({str(store)!r}, ignore_errors=True)",
        moment=moment,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    assert_files(tracked, version(0))
    tracked.git("checkout", "--quiet", "version-1")
    assert_files(tracked, version(1))
    assert_whole(tracked)
