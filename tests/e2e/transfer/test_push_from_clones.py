"""Pushes from an ordinary clone, which has the objects of what it has checked out and no others."""

from __future__ import annotations

import json

import pytest

from tests.support import models
from tests.support.repository import Repository

pytestmark = pytest.mark.needs_git_lfs

VERSIONS = [models.safetensors_bytes(models.state_dict(seed)) for seed in range(3)]
NAME = "model.safetensors"


def objects(repository: Repository) -> set[str]:
    return {path.name for path in (repository.git_directory / "lfs" / "objects").glob("??/??/*")}


def bare(repository: Repository, name: str) -> Repository:
    return Repository.init(repository.path.parent / name, repository.environment, "--bare")


@pytest.fixture
def source(repository: Repository) -> Repository:
    """Return a repository with three versions of a model, pushed."""
    repository.git("theta", "install")
    repository.git("theta", "track", "*.safetensors")
    repository.git("config", "--global", "theta.packs", "false")  # objects are counted one by one
    repository.git("config", "--global", "theta.transferRetries", "0")
    repository.git("remote", "add", "origin", bare(repository, "server").path.as_uri())
    for data in VERSIONS:
        repository.write(NAME, data)
        repository.commit("a version")
    repository.git("push", "--quiet", "origin", "main")
    return repository


@pytest.fixture
def server(source: Repository) -> Repository:
    return source.at(source.path.parent / "server")


@pytest.fixture
def clone(source: Repository, server: Repository) -> Repository:
    """Return a clone with a commit of its own."""
    made = source.at(source.path.parent / "clone")
    source.git("clone", "--quiet", server.path.as_uri(), str(made.path))
    made.write(NAME, models.safetensors_bytes(models.state_dict(9)))
    made.commit("mine")
    assert len(objects(made)) < len(objects(source) | objects(made))
    return made


def test_to_a_fork(source: Repository, clone: Repository) -> None:
    fork = bare(source, "fork")
    clone.git("remote", "add", "fork", fork.path.as_uri())
    clone.git("push", "--quiet", "fork", "HEAD:refs/heads/mine")
    assert objects(fork) == objects(source) | objects(clone)


@pytest.mark.parametrize("spelling", ["path", "uri"])
def test_to_the_url_of_its_remote(source: Repository, server: Repository, clone: Repository, spelling: str) -> None:
    before = objects(clone)
    url = str(server.path) if spelling == "path" else server.path.as_uri()
    clone.git("push", "--quiet", url, "HEAD:refs/heads/mine")
    assert objects(server) == objects(source) | before
    assert objects(clone) == before  # what the server has is not fetched to be sent


def test_all_by_hand(source: Repository, server: Repository, clone: Repository) -> None:
    clone.git("push", "--quiet", "origin", "main")
    lost = min(objects(clone))
    path = server.path / "lfs" / "objects" / lost[:2] / lost[2:4] / lost
    path.unlink()
    said = clone.run("git", "theta", "push", "--all")
    assert said.returncode == 0
    unseen = len(objects(source) - objects(clone))
    assert f"{unseen} objects are not here; origin has commits that name them" in said.stderr.decode()
    assert objects(server) == objects(source) | objects(clone)


def test_what_is_nowhere_does_not_keep_the_rest(source: Repository, server: Repository, clone: Repository) -> None:
    """By hand: the hook would let git go on."""
    fork = bare(source, "fork")
    history = sorted(objects(source) - objects(clone))
    lost = history[0]
    (server.path / "lfs" / "objects" / lost[:2] / lost[2:4] / lost).unlink()
    said = clone.git_fails("theta", "push", "--all", fork.path.as_uri())
    assert lost in said
    assert objects(fork) == (objects(source) | objects(clone)) - {lost}
    clone.git_fails("push", "--quiet", fork.path.as_uri(), "HEAD:refs/heads/mine")
    assert fork.git("for-each-ref") == ""


def test_by_hand_after_a_push_without_the_hook(clone: Repository, server: Repository) -> None:
    before = objects(server)
    clone.git("push", "--quiet", "--no-verify", "origin", "main")
    assert objects(server) == before
    clone.git("theta", "push")
    assert objects(server) == before | objects(clone)
    said = clone.run("git", "theta", "push", "-q", str(server.path))
    assert (said.returncode, said.stderr) == (0, b"")


def test_by_hand_newer_metadata_is_told(source: Repository, clone: Repository) -> None:
    """Nobody here knows what it needs, so it cannot be said that all has arrived."""
    newer = json.loads(source.blob(NAME))
    newer["theta_daemon"]["version"] = {"999": {}}
    clone.write(".gitattributes", b"")
    clone.write("newer.safetensors", json.dumps(newer).encode())
    clone.commit("newer")
    clone.git("push", "--quiet", "--no-verify", "origin", "main")
    assert "newer.safetensors" in clone.git_fails("theta", "push")


def test_newer_metadata_does_not_keep_others_from_being_fetched(source: Repository, clone: Repository) -> None:
    newer = json.loads(source.blob(NAME))
    newer["theta_daemon"]["version"] = {"999": {}}
    clone.write(".gitattributes", b"")
    clone.write("newer.safetensors", json.dumps(newer).encode())
    clone.commit("newer")
    done = clone.run("git", "theta", "fetch", "--all")
    assert done.returncode == 1
    assert b"newer.safetensors" in done.stderr
    assert objects(clone) >= objects(source)
