"""Every verb that works long shows how far it is, but not where nobody wants it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.updates.conftest import base_model, copy_of, noise, touched, tracking
from tests.support import models
from tests.support.checkouts import repository_below
from tests.support.repository import Repository
from theta_daemon.cli import lfs

PATH = "model.safetensors"

# git-theta, which tells on stderr what each meter was told, however short the work was.
PROGRAM = """
import json, sys, threading
from theta_daemon import progress
from theta_daemon.cli.main import run

class Told:
    def __init__(self, what, items, size, screen):
        self.what, self.total, self.done, self.lock = what, [items, size], [0, 0], threading.RLock()
    def advance(self, items=0, size=0):
        with self.lock:
            self.done = [self.done[0] + items, self.done[1] + size]
    def expect(self, items=0, size=0):
        with self.lock:
            self.total = [self.total[0] + items, self.total[1] + size]
    def wipe(self):
        pass
    def close(self):
        print(json.dumps([self.what, self.done, self.total]), file=sys.stderr)

progress._Display = Told
run()
"""


def meters(repository: Repository, *arguments: str, **environment: str) -> dict[str, tuple[list[int], list[int]]]:
    """Run a verb; return what its meters were told: items and bytes that were done, and that there are."""
    done = repository.in_environment(**environment).run(sys.executable, "-c", PROGRAM, *arguments)
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in done.stderr.splitlines() if line.startswith(b"[")]
    return {what: (done, total) for what, done, total in told}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """Return a repository with two commits of a model, the second stored as updates."""
    repository = tracking(repository_below(tmp_path_factory.mktemp("template")))
    repository.git("config", "theta.updateType", "auto")
    for tensors in (base_model(), touched(base_model(), 1)):
        repository.write(PATH, models.safetensors_bytes(tensors))
        repository.commit("version")
    return repository


@pytest.fixture
def changed(template: Repository, tmp_path: Path, git_environment: dict[str, str]) -> Repository:
    """Return a copy of it."""
    return copy_of(template, tmp_path / "repository", git_environment)


def of_fsck(repository: Repository) -> None:
    objects = meters(repository, "fsck")["Checking"]
    values = meters(repository, "fsck", "--values")["Checking"]
    assert objects[0][0] == values[0][0] == 2
    assert values[0][1] >= objects[0][1] + 2 * (repository.path / PATH).stat().st_size - 4000


def of_pull(repository: Repository) -> None:
    size = (repository.path / PATH).stat().st_size
    (repository.path / PATH).unlink()
    (done, total) = meters(repository, "pull")["Pulling checkpoints"]
    assert done == total == [1, size]


def of_compact(repository: Repository) -> None:
    done, total = meters(repository, "compact")["Storing"]
    assert done == total
    assert done[0] == 1
    assert done[1] > 12_000


def of_prune(repository: Repository) -> None:
    repository.git("reset", "--quiet", "--hard", "HEAD^")
    repository.git("reflog", "expire", "--expire=now", "--all")
    repository.git("update-ref", "-d", "ORIG_HEAD")
    told = meters(repository, "prune", "--expire=now")
    assert told["Reading metadata"][0][0] >= 1
    done, total = told["Deleting objects"]
    assert done == total
    assert done[0] >= 1


def of_prune_of_what_was_pushed(repository: Repository) -> None:
    remote = published(repository)
    repository.git("theta", "push", "--quiet", "origin")
    repository.git("push", "--quiet", "--no-verify", "origin", "main")
    repository.git("reset", "--quiet", "--hard", "HEAD^")
    repository.git("reflog", "expire", "--expire=now", "--all")
    repository.git("update-ref", "-d", "ORIG_HEAD")
    done, total = meters(repository, "prune", "--expire=now", "--pushed=origin")["Checking objects"]
    assert done == total
    assert done[0] >= 1
    assert done[1] > 100
    shutil.rmtree(remote)


def of_fetch(repository: Repository) -> None:
    published(repository)
    repository.git("theta", "push", "--quiet", "origin")
    shutil.rmtree(repository.path / ".git" / "lfs" / "objects")
    shutil.rmtree(repository.path / ".git" / "theta" / "objects")
    done, total = meters(repository, "fetch")["Fetching objects"]
    assert done == total
    assert done[0] >= 4
    assert done[1] > 10_000


def of_updates(repository: Repository) -> None:
    repository.git("checkout", "--quiet", "HEAD^")
    updates = {"a.weight/R": noise(60, 2, seed=1), "a.weight/C": noise(2, 50, seed=2)}
    repository.write("../updates.safetensors", models.safetensors_bytes(updates))
    size = (repository.path / PATH).stat().st_size
    done, total = meters(repository, *ADD)["Storing updates"]
    assert (done[1], total[1]) == (size, size)
    repository.git("reset", "--quiet", "--hard")


ADD = ("add", PATH, "--update-type", "low-rank", "--update-path", "../updates.safetensors")
VERBS: dict[str, tuple[Callable[[Repository], None], tuple[str, ...], bool]] = {
    "fsck": (of_fsck, ("fsck", "--values"), True),
    "pull": (of_pull, ("pull",), True),
    "compact": (of_compact, ("compact",), True),
    "prune": (of_prune, ("prune", "--expire=now"), True),
    "fetch": (of_fetch, ("fetch",), True),
    "add": (of_updates, ADD, False),
}


def published(repository: Repository) -> Path:
    """Give the repository a remote that git-lfs can send to, and return that one's folder."""
    remote = repository.path.parent / "remote.git"
    repository.git("init", "--quiet", "--bare", str(remote))
    repository.git("remote", "add", "origin", remote.as_uri())
    return remote


@pytest.mark.needs_git_lfs
@pytest.mark.parametrize("verb", VERBS)
def test_what_is_told(changed: Repository, verb: str) -> None:
    check, arguments, has_quiet = VERBS[verb]
    check(changed)
    off = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "theta.progress", "GIT_CONFIG_VALUE_0": "false"}
    assert meters(changed, *arguments, **off) == {}
    if has_quiet:
        assert meters(changed, *arguments, "-q") == {}


@pytest.mark.needs_git_lfs
def test_what_is_told_of_objects_that_a_remote_has(changed: Repository) -> None:
    of_prune_of_what_was_pushed(changed)


@pytest.mark.needs_git_lfs
def test_git_lfs_says_nothing_where_nothing_is_to_be_said(changed: Repository) -> None:
    published(changed)
    for quiet in (["theta", "push", "-q"], ["-c", "theta.progress=false", "theta", "push"]):
        shutil.rmtree(changed.path.parent / "remote.git")
        changed.git("init", "--quiet", "--bare", str(changed.path.parent / "remote.git"))
        said = changed.run("git", *quiet, "--all", "origin")
        assert said.returncode == 0
        assert b"LFS" not in said.stderr
        assert list((changed.path.parent / "remote.git" / "lfs" / "objects").rglob("*"))
    assert changed.run("git", "theta", "push", "-q", "--all", "origin").stderr == b""


@pytest.mark.parametrize("shown", [True, False])
def test_git_lfs_tells_of_what_it_sends(monkeypatch: pytest.MonkeyPatch, shown: bool) -> None:
    outputs = []
    monkeypatch.setattr(lfs, "version", lambda: ("git-lfs", (3, 3)))
    monkeypatch.setattr(lfs, "_run", lambda *arguments: outputs.append(arguments[-1]))
    lfs.push({}, "origin", ["0" * 64], shown=shown)
    assert outputs[0] is (sys.stderr if shown else subprocess.DEVNULL)


@pytest.mark.parametrize("where", ["2>/dev/full", "<&- >&- 2>&-", "2>&1 >/dev/null | :"])
def test_it_works_where_nobody_hears_of_it(changed: Repository, where: str) -> None:
    content = changed.read(PATH)
    (changed.path / PATH).unlink()
    shell = f"set -o pipefail; git-theta pull {where}"
    done = subprocess.run(["bash", "-c", shell], cwd=changed.path, env=dict(changed.environment), check=False)
    assert done.returncode == 0
    assert changed.read(PATH) == content
    assert changed.status() == ""


def test_no_file_is_taken_for_a_closed_standard_error(changed: Repository) -> None:
    """What is opened first gets the lowest free number."""
    program = (
        "import os, sys\n"
        "from theta_daemon.cli import main\n"
        "main.main = lambda: os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT) - 3\n"
        "main.run()\n"
    )
    place = changed.path / "opened"
    shell = 'exec "$0" -c "$1" "$2" <&- >&- 2>&-'
    done = subprocess.run(
        ["bash", "-c", shell, sys.executable, program, str(place)], env={**os.environ, "PYTHONPATH": "src"}, check=False
    )
    assert done.returncode == 0
