"""`git theta prune` with real checkpoints: beside `git add`, killed, and after a history that nobody planned."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import threading

import pytest
import torch

from tests.support import models
from tests.support.repository import Repository
from theta_daemon.metadata import objects, text

NAMES = ("a.safetensors", "b.safetensors")
OLD = 1_000_000_000


def checkpoint(number: int, *, groups: int = 4) -> bytes:
    """Return the checkpoint of this number: neighbours have groups in common."""
    tensors = {f"w{index}": torch.full((40,), float(number // (index + 1))) for index in range(groups)}
    return models.safetensors_bytes(tensors)


@pytest.fixture
def tracked(repository: Repository) -> Repository:
    """Return a repository that tracks checkpoints, with one commit."""
    repository.git("theta", "track", "*.safetensors")
    for number, name in enumerate(NAMES):
        repository.write(name, checkpoint(number))
    repository.commit("first")
    return repository


def theta_objects(repository: Repository) -> set[str]:
    return {path.name for path in (repository.git_directory / "theta" / "objects").glob("??/??/*")}


def make_old(repository: Repository) -> None:
    for path in (repository.git_directory / "theta" / "objects").glob("??/??/*"):
        os.utime(path, (OLD, OLD))


def assert_whole(repository: Repository) -> None:
    for store in ("lfs", "theta"):
        for path in (repository.git_directory / store / "objects").glob("??/??/*"):
            assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name


def run_theta(repository: Repository, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["git", "theta", *arguments],
        cwd=repository.path,
        env=dict(repository.environment),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize("verb", [("theta", "add"), ("add",)])
def test_add_and_prune_at_the_same_time(tracked: Repository, verb: tuple[str, ...]) -> None:
    """All objects of the file are in the store, old, and unneeded until it is added again."""
    contents = [checkpoint(number, groups=30) for number in (100, 200)]
    for content in contents:
        tracked.write("new.safetensors", content)
        tracked.git("add", "new.safetensors")
    for number in range(10):
        tracked.git("rm", "--quiet", "--cached", "--ignore-unmatch", "new.safetensors")
        tracked.write("new.safetensors", contents[number % 2])
        make_old(tracked)
        prunes = [run_theta(tracked, "prune") for _ in range(1 + number % 2)]
        tracked.git(*verb, "new.safetensors")
        for child in prunes:
            _, said = child.communicate()
            assert child.returncode == 0 or b"another git theta prune" in said or b"was changed whenever" in said, said
        assert_whole(tracked)
        assert tracked.git_bytes("cat-file", "--filters", ":new.safetensors") == contents[number % 2]
    tracked.git("rm", "--quiet", "--force", "new.safetensors")
    make_old(tracked)
    tracked.git("theta", "prune")
    assert theta_objects(tracked) == named(tracked, blobs(tracked))
    tracked.checkout_again()
    assert [tracked.read(name) for name in NAMES] == [checkpoint(number) for number in range(2)]


@pytest.mark.heavy
def test_prune_in_a_loop_while_commits_are_made(tracked: Repository) -> None:
    """Objects younger than the grace period are never taken, whatever is under way."""
    done = threading.Event()
    failures: list[bytes] = []

    def prune() -> None:
        while not done.is_set():
            child = run_theta(tracked, "prune", "--expire=1.minute.ago")
            _, said = child.communicate()
            if child.returncode != 0 and b"was changed whenever" not in said:
                failures.append(said)

    pruner = threading.Thread(target=prune)
    pruner.start()
    try:
        commits = {}
        for number in range(12):
            content = checkpoint(1000 + number * 7)
            tracked.write(NAMES[0], content)
            tracked.git("theta", "add", NAMES[0])
            tracked.git("commit", "--quiet", "--message", "next")
            commits[tracked.git("rev-parse", "HEAD")] = content
            if number % 3 == 2:  # away with it, and back again
                tracked.git("reset", "--quiet", "--hard", "HEAD~1")
                tracked.git("reset", "--quiet", "--hard", "HEAD@{1}")
    finally:
        done.set()
        pruner.join()
    assert failures == []
    for commit, content in commits.items():
        assert tracked.git_bytes("cat-file", "--filters", f"{commit}:{NAMES[0]}") == content


def test_checkout_and_pull_while_two_prune(tracked: Repository) -> None:
    """Nothing that a ref needs ever goes, not even for a moment, however old it is and whatever else goes."""
    for number in range(4):
        tracked.write(NAMES[0], checkpoint(2000 + number * 7, groups=12))
        tracked.commit("next", NAMES[0])
    contents = [checkpoint(2000 + number * 7, groups=12) for number in range(4)]
    done = threading.Event()
    failures: list[bytes] = []

    def prune() -> None:
        while not done.is_set():
            child = run_theta(tracked, "prune", "--expire=now")
            _, said = child.communicate()
            if child.returncode != 0 and b"was changed whenever" not in said and b"another git theta prune" not in said:
                failures.append(said)

    pruners = [threading.Thread(target=prune) for _ in range(2)]
    for pruner in pruners:
        pruner.start()
    skipping = tracked.in_environment(GIT_THETA_SKIP_SMUDGE="1")
    try:
        for number in range(4):
            make_old(tracked)
            tracked.git("checkout", "--quiet", f"main~{number % 4}")
            assert tracked.read(NAMES[0]) == contents[3 - number % 4]
            skipping.git("checkout", "--quiet", f"main~{(number + 1) % 4}")
            tracked.git("theta", "pull", "-q")
            assert tracked.read(NAMES[0]) == contents[3 - (number + 1) % 4]
    finally:
        done.set()
        for pruner in pruners:
            pruner.join()
    assert failures == []
    assert tracked.git("theta", "fsck") == ""
    assert theta_objects(tracked) == named(tracked, blobs(tracked))


def test_killed(tracked: Repository) -> None:
    kept = theta_objects(tracked)
    points = random.Random(3)
    for number in range(8):
        tracked.write(NAMES[0], checkpoint(500 + number, groups=40))
        tracked.git("add", NAMES[0])
        tracked.git("reset", "--quiet", "--hard")
        make_old(tracked)
        child = run_theta(tracked, "prune")
        removed = tracked.git_directory / "theta" / "objects"
        while child.poll() is None and not any(removed.glob("removed-*")):
            if points.random() < 0.02 and len(theta_objects(tracked)) < len(kept) + 30:
                break
        child.send_signal(signal.SIGKILL)
        child.communicate()
        assert_whole(tracked)
        assert kept <= theta_objects(tracked) | {
            path.name.removeprefix("removed-") for path in removed.glob("removed-*")
        }
        tracked.checkout_again()
        assert [tracked.read(name) for name in NAMES] == [checkpoint(number) for number in range(2)]
    tracked.git("theta", "prune")
    assert theta_objects(tracked) == tracked.objects() == kept


# --- any history


class History:
    """A repository to which anything happens; `made` holds the content of every blob of metadata there was."""

    def __init__(self, repository: Repository, seed: int) -> None:
        self.repository = repository
        self.points = random.Random(seed)
        self.made: dict[str, bytes] = {}
        self.linked: list[Repository] = []
        self.number = 0

    def somewhere(self) -> Repository:
        return self.points.choice([self.repository, *self.linked])

    def change(self, where: Repository) -> None:
        for name in self.points.sample(NAMES, self.points.randint(1, 2)):
            content = checkpoint(self.points.randrange(60))
            where.write(name, content)
            where.git("add", "--", name)
            self.made[where.git("rev-parse", f":{name}")] = content

    def commit(self, where: Repository) -> None:
        self.change(where)
        where.git("commit", "--quiet", "--allow-empty", "--message", "next")

    def branch(self, where: Repository) -> None:
        self.number += 1
        where.git("checkout", "--quiet", "--force", "-b", f"b{self.number}", self.any_commit(where))

    def detach(self, where: Repository) -> None:
        where.git("checkout", "--quiet", "--force", "--detach", self.any_commit(where))

    def delete(self, where: Repository) -> None:
        where.git("checkout", "--quiet", "--force", "--detach")
        names = where.git("for-each-ref", "--format=%(refname:short) %(worktreepath)", "refs/heads/").splitlines()
        for name in [name.strip() for name in names if len(name.split()) == 1][:2]:
            where.git("branch", "--quiet", "-D", name)

    def reset(self, where: Repository) -> None:
        where.git("reset", "--quiet", "--hard", self.any_commit(where))

    def amend(self, where: Repository) -> None:
        self.change(where)
        where.git("commit", "--quiet", "--amend", "--allow-empty", "--message", "amended")

    def stash(self, where: Repository) -> None:
        self.change(where)
        where.git("stash", "push", "--quiet")

    def drop(self, where: Repository) -> None:
        if where.git("stash", "list"):
            where.git("stash", "drop", "--quiet")

    def tag(self, where: Repository) -> None:
        self.number += 1
        where.git("tag", "-a", "-m", "x", f"t{self.number}", self.any_commit(where))

    def expire(self, where: Repository) -> None:
        where.git("reflog", "expire", "--expire=now", "--expire-unreachable=now", "--all")

    def worktree(self, where: Repository) -> None:
        if len(self.linked) < 2:
            self.number += 1
            path = self.repository.path.parent / f"linked{self.number}"
            where.git("worktree", "add", "--quiet", "--force", "--detach", str(path), self.any_commit(where))
            self.linked.append(self.repository.at(path))

    def merge(self, where: Repository) -> None:
        done = where.run("git", "merge", "--quiet", "--no-edit", self.any_commit(where))
        if done.returncode != 0 and self.points.random() < 0.7:  # else it stays in conflict
            where.run("git", "merge", "--abort")  # it may not have begun, for what lies in its way

    def gc(self, where: Repository) -> None:
        where.git("gc", "--quiet", "--prune=now")

    def any_commit(self, where: Repository) -> str:
        return self.points.choice(where.git("rev-list", "--all", "--reflog").split())

    def live(self) -> None:
        """Do something."""
        what = self.points.choice(
            [self.commit] * 5
            + [self.branch, self.detach, self.delete, self.reset, self.amend, self.stash, self.drop, self.tag]
            + [self.expire, self.worktree, self.merge, self.gc, self.change]
        )
        where = self.somewhere()
        if where.run("git", "rev-parse", "--verify", "--quiet", "MERGE_HEAD").returncode == 0:
            where.git("merge", "--abort") if self.points.random() < 0.5 else None
            return
        what(where)


def blobs(repository: Repository) -> set[str]:
    """Return all blobs that git itself would keep."""
    listed = repository.git("rev-list", "--objects", "--all", "--reflog", "--indexed-objects", "--no-object-names")
    heads = [
        (repository.git_directory / place).read_text().split()[0]
        for place in ("ORIG_HEAD", "MERGE_HEAD", "FETCH_HEAD")
        if (repository.git_directory / place).exists()
    ]
    for own in (repository.git_directory / "worktrees").glob("*"):
        heads += [(own / name).read_text().split()[0] for name in ("ORIG_HEAD", "MERGE_HEAD") if (own / name).exists()]
    here = [head for head in heads if repository.run("git", "cat-file", "-e", f"{head}^{{tree}}").returncode == 0]
    more = repository.git("rev-list", "--objects", "--no-object-names", *here) if here else ""
    kinds = repository.git("cat-file", "--batch-check", stdin=f"{listed}\n{more}\n".encode())
    return {row.split()[0] for row in kinds.splitlines() if row.split()[1:2] == ["blob"]}


def named(repository: Repository, wanted: set[str]) -> set[str]:
    """Return the objects that metadata in these blobs names."""
    found: set[str] = set()
    for blob in wanted:
        metadata = text.read(repository.git_bytes("cat-file", "blob", blob))
        if not isinstance(metadata, text.Kind):
            found.update(each.oid for each in objects.of(metadata))
    return found


def live_and_prune(repository: Repository, seed: int, length: int) -> None:
    history = History(repository, seed)
    for number, name in enumerate(NAMES):
        history.made[repository.git("rev-parse", f":{name}")] = checkpoint(number)
    gone = 0
    for _ in range(3):
        for _ in range(length):
            history.live()
        before = theta_objects(repository)
        history.somewhere().git("theta", "prune", "--expire=now")
        wanted = blobs(repository)
        assert theta_objects(repository) == named(repository, wanted)
        assert_whole(repository)
        gone += len(before) - len(theta_objects(repository))
        # git lfs prune, or somebody else, takes all the other names: nothing is lost by that either.
        for path in (repository.git_directory / "lfs" / "objects").glob("??/??/*"):
            path.unlink()
        held = [blob for blob in history.made if blob in wanted]
        asked = "".join(f"{blob} {NAMES[0]}\n" for blob in held)
        found = repository.git_bytes("cat-file", "--batch=%(rest)", "--filters", stdin=asked.encode())
        assert found == b"".join(b"%b\n%b\n" % (NAMES[0].encode(), history.made[blob]) for blob in held)
    assert gone > 0


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.heavy) for seed in (1, 2))])
def test_any_history(tracked: Repository, seed: int) -> None:
    live_and_prune(tracked, seed, 15)


@pytest.mark.heavy
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(100, 110))
def test_any_long_history(tracked: Repository, seed: int) -> None:
    live_and_prune(tracked, seed, 60)
