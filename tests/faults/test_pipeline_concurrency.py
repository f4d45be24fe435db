"""Two git commands at once in linked worktrees of one repository, which share the stores.

They meet: each stops just before it gives its first object its name, until the other has come as far.
"""

from __future__ import annotations

import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.git.conftest import leftovers, objects
from tests.support import models
from tests.support.repository import Repository
from tests.support.wrapped import Harm, Moment

AT_THE_FIRST_NAME = Moment(1, 1, "link")

CONTENTS = {
    "model.pt": models.torch_bytes(models.state_dict(1, layers=8)),
    "model.safetensors": models.safetensors_bytes(models.state_dict(1, layers=8)),
}


@pytest.fixture
def worktrees(repository: Repository) -> list[Repository]:
    """Return two worktrees of one repository, both with the same new checkpoints."""
    repository.git("theta", "track", *CONTENTS)
    repository.commit("track")
    linked = repository.at(repository.path.parent / "linked")
    repository.git("worktree", "add", "--quiet", "-b", "linked", str(linked.path))
    for worktree in (repository, linked):
        for name, content in CONTENTS.items():
            worktree.write(name, content)
    return [repository, linked]


def both(worktrees: list[Repository], directory: Path, *command: str) -> None:
    """Run `command` in both worktrees at once; they meet."""
    gate = directory / "gate"
    gate.unlink(missing_ok=True)
    os.mkfifo(gate)

    # Beforehand: a program that is being written cannot be run by a child of the other thread, which has it open too.
    harms = [Harm(worktree, directory / f"harm-{number}") for number, worktree in enumerate(worktrees)]

    def run(number: int) -> None:
        side = ("os.O_RDONLY", "os.O_WRONLY")[number]  # each waits for the other
        done = harms[number].run(*command, do=f"real_open({str(gate)!r}, {side})", moment=AT_THE_FIRST_NAME)
        assert (done.returncode, done.stderr) == (0, b"")

    with ThreadPoolExecutor(2) as threads:
        list(threads.map(run, range(2)))


def test_the_same_content_is_added_twice_at_once(worktrees: list[Repository], tmp_path: Path) -> None:
    repository, linked = worktrees
    both(worktrees, tmp_path, "git", "add", "--all")
    blobs = [worktree.blob(name) for name in CONTENTS for worktree in worktrees]
    assert blobs[0] == blobs[1]
    assert blobs[2] == blobs[3]
    repository.git("commit", "--quiet", "--message", "ours")
    linked.git("commit", "--quiet", "--message", "theirs")
    names = objects(repository)
    for store in ("lfs", "theta"):
        assert {path.name for path in (repository.path / ".git" / store / "objects").glob("??/??/*")} == names
    assert leftovers(repository) == []
    for worktree in worktrees:
        worktree.checkout_again()
        assert {name: worktree.read(name) for name in CONTENTS} == CONTENTS
        assert worktree.status() == ""


def test_the_same_objects_are_restored_twice_at_once(worktrees: list[Repository], tmp_path: Path) -> None:
    repository, linked = worktrees
    repository.commit("both")
    linked.commit("both")
    names = objects(repository)
    shutil.rmtree(repository.path / ".git" / "lfs" / "objects")  # as `git lfs prune` would
    for worktree in worktrees:
        for name in CONTENTS:
            (worktree.path / name).unlink()
    both(worktrees, tmp_path, "git", "checkout", "--", ".")
    for worktree in worktrees:
        assert {name: worktree.read(name) for name in CONTENTS} == CONTENTS
        assert worktree.status() == ""
    assert objects(repository) == names
    assert leftovers(repository) == []


def test_one_is_killed_while_the_other_adds_the_same(worktrees: list[Repository], tmp_path: Path) -> None:
    repository, linked = worktrees
    harm = Harm(repository, tmp_path / "harm")
    harm.run("git", "add", "--all", do="os.kill(os.getpid(), signal.SIGKILL)", moment=AT_THE_FIRST_NAME)
    assert len(leftovers(repository)) >= 1
    linked.commit("the other")
    assert leftovers(repository) == []  # the living clear away after the dead
    repository.git("add", "--all")
    repository.git("merge", "--quiet", "linked")
    assert {name: repository.read(name) for name in CONTENTS} == CONTENTS
