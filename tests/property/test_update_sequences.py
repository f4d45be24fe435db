"""Random walks through a repository that stores updates, with real git and a plain dictionary of files as the model.

Any sequence of edits, adds with any update type, side-loaded updates, commits, amends, resets, cherry-picks, rebases,
stashes and checkouts: after every step the work tree holds what the model says, and `git status` names exactly the
files that differ. In the end the history is pruned, and every commit that is left checks out as it was committed.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import numpy as np
import pytest
import torch

from tests.support import models
from tests.support.repository import Repository
from theta_daemon.metadata import text
from theta_daemon.metadata.entries import Metadata

KINDS: dict[str, Callable[[models.StateDict], bytes]] = {
    "model.pt": models.torch_bytes,
    "model.safetensors": models.safetensors_bytes,
}
TYPES = ("dense", "sparse", "low-rank", "ia3", "auto")
SPECIAL = (-0.0, 0.0, float("nan"), float("inf"), -float("inf"), 1e-40)
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int32)

Files = dict[str, bytes]


class Walk:
    """A repository, and what HEAD, the index, the work tree and every commit must hold."""

    def __init__(self, repository: Repository, seed: int) -> None:
        self.repository = repository
        self.points = random.Random(seed)
        self.numbers = np.random.default_rng(seed)
        self.tensors: dict[bytes, models.StateDict] = {}
        self.commits: dict[str, Files] = {}
        self.seen: set[str] = set()  # types of updates that were stored
        self.log: list[str] = []
        model = {
            "a": self.noise(50, 40),
            "b": self.noise(4000).to(torch.bfloat16),
            "c": torch.from_numpy(self.numbers.integers(-(2**20), 2**20, (40, 50)).astype(np.float32)),
            "small": self.noise(7),
        }
        self.work: Files = {}
        for path in KINDS:
            self.write(path, model)
        repository.git("add", "--all")
        self.index = self.head = self.work
        self.commit("--message", "base")

    def noise(self, *shape: int) -> torch.Tensor:
        return torch.from_numpy(self.numbers.normal(0, 0.02, shape).astype(np.float32))

    def git(self, *arguments: str) -> str:
        self.log.append(" ".join(arguments))
        return self.repository.git(*arguments)

    def write(self, path: str, tensors: models.StateDict) -> None:
        """Write a model to the work tree."""
        self.write_expected(path, tensors)
        self.repository.write(path, self.work[path])

    def commit(self, *options: str) -> None:
        """Commit the index."""
        self.git("commit", "--quiet", "--allow-empty", *options)
        self.head = self.index
        self.commits[self.repository.git("rev-parse", "HEAD")] = self.head

    @property
    def is_clean(self) -> bool:
        """Whether git would switch from here: a staged `compact` changes no content, but what is staged."""
        staged = self.repository.run("git", "diff", "--cached", "--quiet").returncode
        return self.head == self.index == self.work and not staged

    def edit(self) -> None:
        """Change one of the files."""
        path = self.points.choice(list(KINDS))
        tensors = dict(self.tensors[self.work[path]])
        change = self.points.choice(
            (self.few, self.few, self.few, self.like, self.all_of_it, self.groups, self.special)
        )
        self.log.append(f"{change.__name__} of {path}")
        change(tensors)
        self.write(path, tensors)

    def some(self, tensors: models.StateDict) -> str:
        name = self.points.choice(sorted(tensors))
        tensors[name] = tensors[name].clone()
        return name

    def few(self, tensors: models.StateDict) -> None:
        flat = tensors[self.some(tensors)].view(-1)
        at = torch.from_numpy(self.numbers.choice(len(flat), min(9, len(flat)), replace=False))
        flat[at] += torch.from_numpy(self.numbers.integers(1, 99, len(at))).to(flat.dtype)

    def like(self, tensors: models.StateDict) -> None:
        """Change the matrix of whole numbers in a way that an update of one of git-theta's types can make."""
        weight = tensors["c"].to(torch.float32)
        if self.points.random() < 0.5:
            weight = weight * torch.from_numpy(self.numbers.choice([1.0, 2.0, 0.5], (1, weight.shape[-1]))).float()
        else:
            weight = weight + torch.ones(weight.shape[0], 1) @ torch.arange(float(weight.shape[-1]))[None]
        tensors["c"] = weight.to(tensors["c"].dtype)

    def all_of_it(self, tensors: models.StateDict) -> None:
        name = self.some(tensors)
        tensors[name] = self.noise(*tensors[name].shape).to(tensors[name].dtype)

    def special(self, tensors: models.StateDict) -> None:
        flat = tensors[self.some(tensors)].view(-1)
        if flat.dtype.is_floating_point:
            at = torch.from_numpy(self.numbers.choice(len(flat), min(4, len(flat)), replace=False))
            flat[at] = torch.tensor(self.points.choices(SPECIAL, k=len(at))).to(flat.dtype)

    def groups(self, tensors: models.StateDict) -> None:
        """Add a group, remove one, or give one another dtype or shape."""
        name = self.points.choice("abd")
        if name not in tensors:
            tensors[name] = self.noise(30, 60)
        elif self.points.random() < 0.3:
            del tensors[name]
        elif self.points.random() < 0.5:
            tensors[name] = tensors[name].to(self.points.choice(DTYPES))
        else:
            tensors[name] = tensors[name].reshape(-1, 10)

    def add(self) -> None:
        paths = self.points.choice((("model.pt",), ("model.safetensors",), tuple(KINDS)))
        if self.points.random() < 0.5:
            self.git("add", *paths)
        else:
            self.git("theta", "add", f"--update-type={self.points.choice(TYPES)}", *paths)
        self.index = self.index | {path: self.work[path] for path in paths}

    def commit_index(self) -> None:
        self.commit("--message", "more")

    def commit_all(self) -> None:
        self.index = self.work
        self.commit("--all", "--message", "all")

    def amend(self) -> None:
        self.commit("--amend", "--message", "amended")

    def reset(self) -> None:
        option = self.points.choice(("--soft", "--mixed", "--hard"))
        commit = self.points.choice(list(self.commits))
        self.git("reset", "--quiet", option, commit)
        self.head = self.commits[commit]
        if option != "--soft":
            self.index = self.head
        if option == "--hard":
            self.work = self.head

    def switch(self) -> None:
        if not self.is_clean:
            self.commit_all()
        commit = self.points.choice(list(self.commits))
        self.git("checkout", "--quiet", "--detach", commit)
        self.head = self.index = self.work = self.commits[commit]

    def cherry_pick(self) -> None:
        """Of the file that both sides changed, take theirs."""
        if not self.is_clean:
            self.commit_all()
        commit = self.points.choice(list(self.commits))
        changed = self.repository.git("diff-tree", "-r", "--name-only", "--no-commit-id", commit).split()
        self.log.append(f"cherry-pick {commit}")
        if not changed:
            return
        done = self.repository.run("git", "cherry-pick", "--allow-empty", "--keep-redundant-commits", commit)
        self.work = self.index = self.work | {path: self.commits[commit][path] for path in changed}
        if done.returncode == 0:
            self.head = self.index
            self.commits[self.repository.git("rev-parse", "HEAD")] = self.head
            return
        unmerged = self.repository.git("diff", "--name-only", "--diff-filter=U").split()
        assert set(unmerged) <= set(changed), done.stderr
        self.git("checkout", "--theirs", "--", *unmerged)
        self.git("add", *unmerged)
        self.commit("--message", "picked")

    def rebase(self) -> None:
        """Move the last commits elsewhere; of a file that both sides changed, take the moved one."""
        if not self.is_clean:
            self.commit_all()
        moved = self.repository.git("rev-list", f"--max-count={self.points.randint(2, 4)}", "HEAD").split()[::-1]
        onto = self.points.choice(list(self.commits))
        expected = [self.commits[onto]]
        for before, commit in itertools.pairwise(moved):
            changed = self.repository.git("diff", "--name-only", before, commit).split()
            expected.append(expected[-1] | {path: self.commits[commit][path] for path in changed})
        self.log.append(f"rebase --onto {onto} {moved[0]}")
        options = ("--quiet", "--reapply-cherry-picks", "--empty=keep", "--keep-empty", "--onto", onto, moved[0])
        done = self.repository.run("git", "rebase", *options)
        for _ in moved:
            unmerged = self.repository.git("diff", "--name-only", "--diff-filter=U").split()
            if not unmerged:
                break
            self.git("checkout", "--theirs", "--", *unmerged)
            self.git("add", *unmerged)
            done = self.repository.run("git", "-c", "core.editor=true", "rebase", "--continue")
        assert done.returncode == 0, (done.stderr, self.log)
        self.work = self.index = self.head = expected[-1]
        made = self.repository.git("rev-list", f"--max-count={len(expected)}", "HEAD").split()[::-1]
        self.commits |= dict(zip(made, expected, strict=True))

    def side_load(self) -> None:
        """Add updates from a file; of whole numbers, so that every machine computes the same."""
        if not self.is_clean:
            self.commit_all()
        path = self.points.choice(list(KINDS))
        tensors = dict(self.tensors[self.work[path]])
        rows, columns = tensors["c"].shape
        left, right = (
            torch.from_numpy(self.numbers.integers(-9, 9, shape).astype(np.float32))
            for shape in ((rows, 2), (2, columns))
        )
        tensors["c"] = tensors["c"] + left @ right
        updates = self.repository.path.with_name("updates.safetensors")
        updates.write_bytes(models.safetensors_bytes({"c/R": left, "c/C": right}))
        self.git("theta", "add", path, "--update-type=low-rank", f"--update-path={updates}")
        self.write_expected(path, tensors)
        self.index = self.work

    def write_expected(self, path: str, tensors: models.StateDict) -> None:
        """Note what a file of the work tree must hold."""
        content = KINDS[path](tensors)
        self.tensors[content] = tensors
        self.work = self.work | {path: content}

    def stash(self) -> None:
        # While git restores the index, the filter sees the one before: of two metadata for one content it cannot know
        # which one git compares with, and git takes the file for changed and refuses.
        staged = self.repository.git("diff", "--cached", "--name-only").split()
        if self.is_clean or any(self.index[path] == self.head[path] for path in staged):
            return
        index, work = self.index, self.work
        self.git("stash", "push", "--quiet")
        self.index = self.work = self.head
        self.check()
        self.git("stash", "pop", "--quiet", "--index")
        self.index, self.work = index, work

    def checkout_again(self) -> None:
        paths = [path for path in KINDS if self.points.random() < 0.7]
        for path in paths:
            (self.repository.path / path).unlink()
            self.git("checkout", "--", path)
        self.work = self.work | {path: self.index[path] for path in paths}

    def compact(self) -> None:
        self.git("theta", "compact")

    def step(self) -> None:
        """Do something, and look whether all is well."""
        actions: dict[Callable[[], None], int] = {
            self.edit: 9,
            self.add: 4,
            self.commit_index: 2,
            self.commit_all: 5,
            self.amend: 2,
            self.reset: 2,
            self.switch: 2,
            self.cherry_pick: 2,
            self.rebase: 2,
            self.side_load: 2,
            self.stash: 2,
            self.checkout_again: 2,
            self.compact: 1,
        }
        self.points.choices(list(actions), list(actions.values()))[0]()
        self.check()

    def check(self) -> None:
        """Fail unless the files are those of the model, and git sees just those as changed that are."""
        for path, content in self.work.items():
            assert self.repository.read(path) == content, (path, self.log)
            (self.repository.path / path).touch()
        found = self.repository.git("diff-files", "--name-only").split()  # by their times: all
        assert set(found) <= set(KINDS)
        rows = self.repository.git("status", "--porcelain").splitlines()
        unstaged = {row[3:] for row in rows if row[1] != " "}
        staged = {row[3:] for row in rows if row[0] != " "}
        assert unstaged == {path for path in KINDS if self.work[path] != self.index[path]}, self.log
        assert staged >= {path for path in KINDS if self.index[path] != self.head[path]}, self.log
        for path in KINDS:
            metadata = text.parse(self.repository.blob(path))
            assert isinstance(metadata, Metadata)
            self.seen |= {entry.update_type for entry in metadata.entries.values()}

    def finish(self) -> None:
        """Prune what nothing reaches, and look at every commit that is left."""
        self.git("update-ref", "-d", "ORIG_HEAD")
        self.git("reflog", "expire", "--expire=now", "--expire-unreachable=now", "--all")
        self.git("gc", "--quiet", "--prune=now")
        left = [
            commit for commit in self.commits if self.repository.run("git", "cat-file", "-e", commit).returncode == 0
        ]
        asked = [(commit, path) for commit in left for path in KINDS]
        found = self.repository.git_bytes(  # all in one filter process
            "cat-file",
            "--batch=%(rest)",
            "--filters",
            stdin="".join(f"{commit}:{path} {path}\n" for commit, path in asked).encode(),
        )
        expected = b"".join(b"%b\n%b\n" % (path.encode(), self.commits[commit][path]) for commit, path in asked)
        assert found == expected, self.log
        self.check()


def walk(repository: Repository, seed: int, steps: int) -> set[str]:
    """Go some steps and return the types of updates that were stored on the way."""
    repository.git("theta", "track", *KINDS)
    repository.git("config", "theta.updateType", "auto")
    repository.git("config", "theta.maxChain", "4")
    if seed % 3 == 2:
        repository.git("config", "theta.compatible", "true")
    going = Walk(repository, seed)
    for _ in range(steps):
        going.step()
    going.finish()
    return going.seen


@pytest.mark.parametrize("seed", [0, *(pytest.param(seed, marks=pytest.mark.heavy) for seed in (1, 2))])
def test_walk(repository: Repository, seed: int) -> None:
    assert len(walk(repository, seed, 30)) > 1


@pytest.mark.heavy
@pytest.mark.timeout(900)
@pytest.mark.parametrize("seed", range(100, 110))
def test_long_walk(repository: Repository, seed: int) -> None:
    assert len(walk(repository, seed, 200)) > 2
