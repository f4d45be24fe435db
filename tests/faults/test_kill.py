"""Invariant 4, with real git: kill any process at any moment, and nothing that was committed is lost.

The filter, or git, dies at a moment drawn from a fixed seed. Then the store must hold whole objects alone, the same
command run again must succeed, and in the end every commit must check out as it was committed, with no litter left.
"""

from __future__ import annotations

import hashlib
import os
import random
import select
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.e2e.git.conftest import leftovers
from tests.support import models
from tests.support.fake_git import PATIENCE, FakeGit
from tests.support.repository import Repository
from tests.support.wrapped import FILTER, Harm, Moment
from theta_daemon.wire.events import Outcome, Request

KILL_THE_FILTER = "os.kill(os.getpid(), signal.SIGKILL)"
KILL_GIT = "os.kill(os.getppid(), signal.SIGKILL)"

FILES = ("model.pt", "model.safetensors")


def version(number: int) -> dict[str, bytes]:
    """Return the two models of a version: some groups change from one to the next, and some do not."""
    large = torch.from_numpy(np.random.default_rng(number // 2).normal(0, 1, 400_000).astype(np.float32))
    tensors = models.state_dict(number) | {"large": large, "same": torch.ones(1000)}
    return {"model.pt": models.torch_bytes(tensors), "model.safetensors": models.safetensors_bytes(tensors)}


@dataclass
class Story:
    """A repository that is mistreated, and what its commits must hold."""

    repository: Repository
    harm: Harm
    committed: dict[str, dict[str, bytes]] = field(default_factory=dict)
    number: int = 0

    def change(self) -> dict[str, bytes]:
        """Write the next version to the work tree and return it."""
        self.number += 1
        contents = version(self.number)
        for name, content in contents.items():
            self.repository.write(name, content)
        return contents

    def committed_now(self, contents: dict[str, bytes]) -> None:
        """Note that HEAD holds `contents`."""
        self.committed[self.repository.git("rev-parse", "HEAD")] = contents

    def assert_whole(self) -> None:
        """Fail unless every object of the stores is what its name says."""
        for store in ("lfs", "theta"):
            for path in (self.repository.path / ".git" / store / "objects").glob("??/??/*"):
                assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name

    def assert_nothing_is_lost(self) -> None:
        """Fail unless git finds no fault, and every commit holds what was committed."""
        self.repository.git("fsck", "--strict", "--no-dangling")
        asked = [(commit, name) for commit in self.committed for name in FILES]
        found = self.repository.git_bytes(  # all in one filter process
            "cat-file",
            "--batch=%(rest)",
            "--filters",
            stdin="".join(f"{commit}:{name} {name}\n" for commit, name in asked).encode(),
        )
        pieces = [b"%b\n%b\n" % (name.encode(), self.committed[commit][name]) for commit, name in asked]
        assert found == b"".join(pieces)
        first = next(iter(self.committed))
        self.repository.git("checkout", "--quiet", "--force", first)
        assert {name: self.repository.read(name) for name in FILES} == self.committed[first]
        assert self.repository.status() == ""
        self.repository.git("checkout", "--quiet", "--force", "main")

    def assert_no_litter(self) -> None:
        """Fail unless the next command that stores something leaves no temporary file behind, be it its own or not."""
        self.change()
        self.repository.git("add", "--all")
        assert leftovers(self.repository) == []

    def unlock(self) -> None:
        """Remove git's lock, as git asks for when a git was killed."""
        (self.repository.path / ".git" / "index.lock").unlink(missing_ok=True)


@pytest.fixture
def story(repository: Repository, tmp_path: Path) -> Story:
    """Return a repository with two commits."""
    repository.git("theta", "track", *FILES)
    story = Story(repository, Harm(repository, tmp_path / "harm"))
    for _ in range(2):
        contents = story.change()
        repository.commit("before")
        story.committed_now(contents)
    return story


def add(story: Story, run: Callable[..., object]) -> None:
    contents = story.change()
    run("git", "add", "--all")
    story.repository.git("add", "--all")
    story.repository.git("commit", "--quiet", "--message", "added")
    story.committed_now(contents)


def commit_all(story: Story, run: Callable[..., object]) -> None:
    contents = story.change()
    command = ("commit", "--quiet", "--all", "--allow-empty", "--message", "all of it")
    run("git", *command)
    story.repository.git(*command)
    story.committed_now(contents)


def checkout(story: Story, run: Callable[..., object]) -> None:
    # --force: git itself takes the files that a killed checkout brought for changes of ours.
    commits = list(story.committed)
    command = ("checkout", "--quiet", "--force", commits[story.number % 2])
    story.number += 1
    run("git", *command)
    story.repository.git(*command)
    assert {name: story.repository.read(name) for name in FILES} == story.committed[command[-1]]
    assert story.repository.status() == ""


def stash(story: Story, run: Callable[..., object]) -> None:
    repository = story.repository
    contents = story.change()
    run("git", "stash", "push", "--quiet")
    repository.git("stash", "push", "--quiet")
    stashes = repository.git("stash", "list", "--format=%H").split()
    found = [repository.git_bytes("cat-file", "--filters", f"{stashes[-1]}:{name}") for name in FILES]
    assert found == list(contents.values())  # the oldest: the one killed may have come as far as to save it
    repository.git("stash", "clear")
    repository.git("checkout", "--quiet", "--force", "main")


COMMANDS = {"add": add, "commit --all": commit_all, "checkout": checkout, "stash": stash}
# command -> how often it is killed; twice as often where most can happen
KILLS = {"add": 7, "commit --all": 4, "checkout": 4, "stash": 4}


def kill_on_and_on(story: Story, name: str, do: str, kills: int, seed: int) -> None:
    """Run the command `kills` times, each time killed at another moment, and again; then look at what remains."""
    act = COMMANDS[name]
    act(story, story.harm.run)  # unharmed: it counts the moments
    moments = story.harm.moments(random.Random(seed), kills)
    died = 0

    for moment in moments:

        def killed(*command: str, moment: Moment = moment) -> None:
            nonlocal died
            done = story.harm.run(*command, do=do, moment=moment)
            died += done.returncode != 0
            assert b"Traceback" not in done.stderr
            story.unlock()
            story.assert_whole()

        act(story, killed)
    assert died * 2 >= kills  # else the moments are not those of this command; some git commands outlive their children
    story.assert_nothing_is_lost()
    story.assert_no_litter()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_filter_is_killed(story: Story, name: str) -> None:
    kill_on_and_on(story, name, KILL_THE_FILTER, KILLS[name], seed=4)


@pytest.mark.parametrize("name", COMMANDS)
def test_git_is_killed(story: Story, name: str) -> None:
    kill_on_and_on(story, name, KILL_GIT, 2, seed=5)


@pytest.mark.heavy
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("victim", [KILL_THE_FILTER, KILL_GIT], ids=["filter", "git"])
@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_many_moments(story: Story, name: str, victim: str, seed: int) -> None:
    kill_on_and_on(story, name, victim, 25, seed)


SIGNALS = {
    "SIGTERM": "os.kill(os.getpid(), signal.SIGTERM)",
    "SIGINT": "os.kill(os.getpid(), signal.SIGINT)",
    "Ctrl-C": "os.killpg(0, signal.SIGINT)",  # reaches git as well, which then sends the filter another
}


def signal_on_and_on(story: Story, name: str, times: int) -> None:
    """Let the signal come at many moments of `git add`, which must end in silence and leave nothing behind."""
    add(story, story.harm.run)
    for moment in story.harm.moments(random.Random(6), times):
        story.change()
        done = story.harm.run("git", "add", "--all", do=SIGNALS[name], moment=moment, own_group=True)
        ours = [line for line in done.stderr.splitlines() if not line.startswith((b"error: ", b"fatal: "))]
        assert ours == []
        assert done.returncode in {0, 128, -signal.SIGINT}  # 0: git had all its answers
        assert leftovers(story.repository) == []
        assert not (story.repository.path / ".git" / "index.lock").exists()
        story.assert_whole()
        story.repository.git("add", "--all")


@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_ends_the_filter_without_a_word_or_a_temporary_file(story: Story, name: str) -> None:
    signal_on_and_on(story, name, 6)


@pytest.mark.heavy
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", SIGNALS)
def test_a_signal_at_many_moments(story: Story, name: str) -> None:
    signal_on_and_on(story, name, 100)


MANY_INTERRUPTS = """
import subprocess, sys, time
many = "import os, sys\\nfor _ in range(20_000): os.kill(int(sys.argv[1]), 2)"
subprocess.Popen([sys.executable, "-c", many, str(os.getpid())], stderr=subprocess.DEVNULL)
time.sleep(9)
"""


def test_one_interrupt_after_the_other_from_the_start(story: Story) -> None:
    story.change()
    done = story.harm.run("git", "add", "--all", do=MANY_INTERRUPTS, moment=Moment(1, 1, "fstat"), own_group=True)
    assert done.returncode != 0
    assert [line for line in done.stderr.splitlines() if not line.startswith((b"error: ", b"fatal: "))] == []
    assert leftovers(story.repository) == []
    story.assert_whole()


def test_a_killed_filter_takes_its_children_along(story: Story) -> None:
    """The `git cat-file` that reads the record must not stay behind."""
    contents = story.change()
    environment = {**story.repository.environment, "GIT_DIR": str(story.repository.path / ".git")}
    with FakeGit(environment=environment, command=(str(FILTER),)) as git:
        git.shake_hands()
        assert git.ask(Request("clean", b"model.pt"), contents["model.pt"]).final is Outcome.SUCCESS
        pid = git.process.pid
        children = [
            child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
        ]
        assert children != []
        watched = [os.pidfd_open(int(child)) for child in children]
        git.process.kill()
        for descriptor in watched:
            assert select.select([descriptor], [], [], PATIENCE)[0], "it outlived the filter"
            os.close(descriptor)


def test_what_the_dead_left_is_swept_by_the_next_who_writes(story: Story) -> None:
    for _ in range(2):
        story.change()
        # What is to be flushed has a temporary name from the start; everything else has none, and leaves nothing.
        story.harm.run("git", "-c", "core.fsync=all", "add", "--all", do=KILL_THE_FILTER, moment=Moment(1, 1, "link"))
        assert len(leftovers(story.repository)) == 1  # written, and not yet an object; the one before is gone
        story.assert_whole()
    story.assert_no_litter()
