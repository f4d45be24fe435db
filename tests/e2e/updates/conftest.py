"""Models that change by little from one commit to the next, in a repository where that is stored as updates."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support import models
from tests.support.repository import Repository
from theta_daemon.metadata import text
from theta_daemon.metadata.entries import Entry, Metadata

KINDS: dict[str, Callable[[models.StateDict], bytes]] = {
    "model.safetensors": lambda tensors: models.safetensors_bytes(tensors, {"format": "pt"}),
    "model.pt": models.torch_bytes,
}

LARGE = {"a.weight", "b.weight", "c.weight"}
"""The groups of `base_model` that are large enough to be stored as updates."""


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return values as a model has them."""
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 0.02, shape).astype(np.float32))


def base_model() -> models.StateDict:
    """Return three groups that are large enough for updates, and one that is not; with a -0.0 and a NaN."""
    tensors = {
        "a.weight": noise(60, 50, seed=1),
        "b.weight": noise(40, 70, seed=2).to(torch.bfloat16),
        "bias": noise(9, seed=3),
        "c.weight": noise(3000, seed=4),
    }
    tensors["a.weight"][3, 3] = -0.0
    tensors["c.weight"][5] = float("nan")
    return tensors


def touched(tensors: models.StateDict, seed: int, *names: str) -> models.StateDict:
    """Return the model with ten elements changed in each of `names`; without any, in each that is large enough."""
    rng = np.random.default_rng(seed + 1000)
    new = dict(tensors)
    for name in names or sorted(LARGE):
        changed = new[name] = tensors[name].clone()
        at = torch.from_numpy(rng.choice(changed.numel(), 10, replace=False))
        changed.view(-1)[at] = torch.from_numpy(rng.normal(0, 1, 10).astype(np.float32)).to(changed.dtype)
    return new


def entries(repository: Repository, path: str, revision: str = "HEAD") -> Mapping[str, Entry]:
    """Return the entries of a file, by the names of its groups; `revision` is "" for the index."""
    found = text.parse(repository.blob(path, revision))
    assert isinstance(found, Metadata)
    return {"/".join(name): entry for name, entry in found.entries.items()}


def increments(repository: Repository, path: str, revision: str = "HEAD") -> set[str]:
    """Return the names of the groups that `revision` ("": the index) holds as updates."""
    return {name for name, entry in entries(repository, path, revision).items() if entry.update_type != "dense"}


@dataclass(frozen=True, slots=True)
class Story:
    """A repository with one model in both formats, in which small changes are stored as updates."""

    repository: Repository

    def at(self, repository: Repository) -> Story:
        """Return the story of a clone, or of a linked worktree."""
        return Story(repository)

    def write(self, tensors: models.StateDict) -> None:
        """Write the model to the work tree."""
        for path, dump in KINDS.items():
            self.repository.write(path, dump(tensors))

    def commit(self, tensors: models.StateDict, message: str) -> str:
        """Commit the model and return the commit's id."""
        self.write(tensors)
        return self.repository.commit(message)

    def take(self, side: str) -> None:
        """End a conflict by taking one side of both files."""
        self.repository.git("checkout", side, "--", *KINDS)
        self.repository.git("add", *KINDS)

    def increments(self, revision: str = "HEAD") -> set[str]:
        """Return the names of the groups that `revision` ("": the index) holds as updates, which are the same twice."""
        one, other = (increments(self.repository, path, revision) for path in KINDS)
        assert one == other
        return one

    def depth(self, name: str) -> int:
        """Return how many updates the group's value is made of."""
        depths = {len(entries(self.repository, path)[name].replay) for path in KINDS}
        assert len(depths) == 1
        return depths.pop()

    def assert_holds(self, tensors: models.StateDict) -> None:
        """Fail unless the work tree holds exactly these bytes."""
        for path, dump in KINDS.items():
            assert self.repository.read(path) == dump(tensors), path

    def assert_is(self, tensors: models.StateDict) -> None:
        """Fail unless the work tree holds the model, is clean, also when touched, and comes back when removed."""
        self.assert_holds(tensors)
        assert self.repository.status() == ""
        for path in KINDS:
            (self.repository.path / path).touch()
        assert self.repository.status() == ""
        self.repository.checkout_again()
        self.assert_holds(tensors)


@pytest.fixture
def plain(repository: Repository) -> Repository:
    """Return a repository that tracks *.pt and *.safetensors, with that committed; changes are stored dense."""
    return tracking(repository)


@pytest.fixture
def updating(plain: Repository) -> Repository:
    """Return the same where changes are stored as updates."""
    plain.git("config", "theta.updateType", "auto")
    return plain


def tracking(repository: Repository) -> Repository:
    """Let a repository track *.pt and *.safetensors, and commit that."""
    repository.git("theta", "track", "*.pt", "*.safetensors")
    repository.commit("track checkpoints", ".gitattributes")
    return repository


def copy_of(template: Repository, directory: Path, environment: Mapping[str, str]) -> Repository:
    """Return a copy of a repository, with nothing left to look at."""
    shutil.copytree(template.path, directory, symlinks=True)
    repository = Repository(directory, environment)
    repository.git("update-index", "-q", "--refresh")
    return repository


def prune(repository: Repository) -> None:
    """Remove what no branch and no tag reaches."""
    repository.git("update-ref", "-d", "ORIG_HEAD")
    repository.git("reflog", "expire", "--expire=now", "--expire-unreachable=now", "--all")
    repository.git("gc", "--quiet", "--prune=now")


def is_here(repository: Repository, commit: str) -> bool:
    """Whether a commit is in the repository."""
    return repository.run("git", "cat-file", "-e", commit).returncode == 0


def clone(repository: Repository, directory: Path, *options: str) -> Repository:
    """Return a clone with the filter and the objects; nothing is checked out yet."""
    repository.git("config", "uploadpack.allowFilter", "true")
    repository.git("config", "uploadpack.allowAnySHA1InWant", "true")
    repository.git("clone", "--quiet", "--no-checkout", *options, repository.path.as_uri(), str(directory))
    made = repository.at(directory)
    made.git("theta", "install", "--local")
    made.git("config", "theta.updateType", "auto")
    shutil.copytree(repository.git_directory / "lfs" / "objects", directory / ".git" / "lfs" / "objects")
    return made
