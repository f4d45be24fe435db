"""Conflicts between real checkpoints, through the real filter: what is in the work tree is always a checkpoint."""

from __future__ import annotations

import pytest

from tests.support import models
from tests.support.repository import Repository

BASE, OURS, THEIRS = (models.safetensors_bytes(models.state_dict(seed)) for seed in range(3))


@pytest.fixture
def diverged(repository: Repository) -> Repository:
    repository.git("theta", "track", "*.safetensors")
    for branch, content in (("base", BASE), ("theirs", THEIRS), ("main", OURS)):
        repository.git("checkout", "--quiet", *(["-B", branch, "base"] if branch != "base" else ["-b", branch]))
        repository.write("model.safetensors", content)
        repository.commit(branch)
    return repository


def test_both_sides_can_be_taken(diverged: Repository) -> None:
    assert "git-theta: conflict in model.safetensors" in diverged.git_fails("merge", "theirs")
    assert diverged.read("model.safetensors") == OURS
    diverged.git("checkout", "--theirs", "--", "model.safetensors")
    assert diverged.read("model.safetensors") == THEIRS
    diverged.git("add", "--", "model.safetensors")
    diverged.git("commit", "--quiet", "--message", "merged")
    assert diverged.blob("model.safetensors", "HEAD") == diverged.blob("model.safetensors", "theirs")
    diverged.checkout_again()
    assert diverged.read("model.safetensors") == THEIRS
    assert diverged.status() == ""


def test_what_an_octopus_leaves_behind_cannot_be_added(diverged: Repository) -> None:
    diverged.git("checkout", "--quiet", "-b", "third", "base")
    diverged.write("readme", b"")
    diverged.commit("third")
    # git merges several branches with a text merge of its own and asks no driver.
    diverged.git_fails("merge", "main", "theirs")
    assert b"<<<<<<<" in diverged.read("model.safetensors")
    assert "conflict markers" in diverged.git_fails("add", "model.safetensors")
    diverged.git("checkout", "--ours", "--", "model.safetensors")
    assert diverged.read("model.safetensors") == OURS
    diverged.git("add", "model.safetensors")
