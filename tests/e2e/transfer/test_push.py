"""Commits are pushed with their objects, by the hook and by hand; and what was pushed can be fetched."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import models
from tests.support.repository import Repository

pytestmark = pytest.mark.needs_git_lfs

FIRST, SECOND = (models.safetensors_bytes(models.state_dict(seed)) for seed in range(2))


@pytest.fixture
def server(tmp_path: Path, git_environment: dict[str, str]) -> Repository:
    return Repository.init(tmp_path / "server", git_environment, "--bare")


@pytest.fixture
def source(repository: Repository, server: Repository) -> Repository:
    """Return a repository with two commits of a model, the hook installed, nothing pushed."""
    repository.git("theta", "track", "*.safetensors")
    repository.git("remote", "add", "origin", server.path.as_uri())
    for data in (FIRST, SECOND):
        repository.write("model.safetensors", data)
        repository.commit("a model")
    return repository


def objects(repository: Repository, *, below: str = "") -> set[str]:
    return {path.name for path in (repository.path / below / "lfs" / "objects").glob("??/??/*")}


def checked_out(source: Repository, server: Repository, target: Path) -> bytes:
    """Return the model as a clone without network, of what the server has alone, has it."""
    source.git("clone", "--quiet", "--no-checkout", server.path.as_uri(), str(target))
    clone = source.at(target)
    clone.git("theta", "install", "--local")
    clone.git("checkout", "--quiet", "main")
    return clone.read("model.safetensors")


def test_a_push_sends_what_all_pushed_commits_need(source: Repository, server: Repository, tmp_path: Path) -> None:
    source.git("push", "--quiet", "origin", "main")
    assert objects(server) == objects(source, below=".git")
    assert checked_out(source, server, tmp_path / "clone") == SECOND


@pytest.mark.parametrize("name", ["my-remote", "a.b", "up/stream", "größe", "x_1"])
def test_the_remote_may_have_any_name(source: Repository, server: Repository, name: str) -> None:
    source.git("remote", "rename", "origin", name)
    source.git("push", "--quiet", name, "main")
    assert objects(server) == objects(source, below=".git")


@pytest.mark.parametrize("spelling", ["path", "uri"])
def test_the_remote_may_be_a_bare_url(source: Repository, server: Repository, spelling: str) -> None:
    source.git("push", "--quiet", str(server.path) if spelling == "path" else server.path.as_uri(), "main")
    assert objects(server) == objects(source, below=".git")


def test_branches_tags_and_deletions_in_one_push(source: Repository, server: Repository) -> None:
    source.git("branch", "old", "HEAD~1")
    source.git("push", "--quiet", "origin", "old")
    few = objects(server)
    assert few < objects(source, below=".git")
    source.git("tag", "-a", "-m", "a tag", "v1", "main")
    source.git("push", "--quiet", "origin", "main", "v1", ":old")
    assert objects(server) == objects(source, below=".git")


def test_a_mirror_is_whole(source: Repository, server: Repository) -> None:
    source.git("tag", "blob", "HEAD:.gitattributes")
    source.git("push", "--quiet", "--mirror", "origin")
    assert objects(server) == objects(source, below=".git")


def test_a_rewritten_commit_is_pushed_with_its_objects(source: Repository, server: Repository, tmp_path: Path) -> None:
    source.git("push", "--quiet", "origin", "main")
    source.write("model.safetensors", models.safetensors_bytes(models.state_dict(7)))
    source.git("add", "--all")
    source.git("commit", "--quiet", "--amend", "--message", "rewritten")
    source.git("push", "--quiet", "--force", "origin", "main")
    assert checked_out(source, server, tmp_path / "clone") == models.safetensors_bytes(models.state_dict(7))


def test_a_clone_pushes_what_somebody_else_committed(source: Repository, server: Repository, tmp_path: Path) -> None:
    other = Repository.init(tmp_path / "other", source.environment, "--bare")
    source.git("push", "--quiet", "origin", "main")
    source.git("clone", "--quiet", server.path.as_uri(), str(tmp_path / "clone"))
    clone = source.at(tmp_path / "clone")
    clone.git("theta", "install", "--local")
    clone.git("theta", "fetch", "--all")
    clone.git("push", "--quiet", other.path.as_uri(), "HEAD:refs/heads/new")
    assert objects(other) == objects(server)


def test_in_a_clone_the_first_add_sees_to_the_hook(source: Repository, server: Repository, tmp_path: Path) -> None:
    source.git("push", "--quiet", "origin", "main")
    source.git("config", "--global", "filter.theta.process", "theta-daemon")
    source.git("config", "--global", "filter.theta.required", "true")
    source.git("clone", "--quiet", server.path.as_uri(), str(tmp_path / "clone"))
    clone = source.at(tmp_path / "clone")
    assert not (clone.path / ".git" / "hooks" / "pre-push").exists()
    clone.write("model.safetensors", models.safetensors_bytes(models.state_dict(9)))
    clone.commit("mine")
    clone.git("push", "--quiet", "origin", "main")
    assert checked_out(source, server, tmp_path / "other") == models.safetensors_bytes(models.state_dict(9))


def test_a_push_fails_where_an_object_is_nowhere(source: Repository, server: Repository) -> None:
    lost = min(objects(source, below=".git"))
    for store in ("lfs", "theta"):
        (source.path / ".git" / store / "objects" / lost[:2] / lost[2:4] / lost).unlink()
    said = source.git_fails("push", "origin", "main")
    assert lost in said
    assert server.git("for-each-ref") == ""


def test_git_lfs_prune_before_the_first_push_loses_nothing(source: Repository, server: Repository) -> None:
    before = objects(source, below=".git")
    source.git("lfs", "prune", "--force")
    assert objects(source, below=".git") == set()
    source.git("push", "--quiet", "origin", "main")
    assert objects(server) == before


def test_the_hook_of_git_lfs_still_sends_its_files(
    new_repository: Callable[[str], Repository], server: Repository
) -> None:
    made = new_repository("mixed")
    made.git("remote", "add", "origin", server.path.as_uri())
    made.git("lfs", "install", "--local")
    made.git("lfs", "track", "*.bin")
    made.git("theta", "install", "--local")
    made.git("theta", "track", "*.safetensors")
    made.write("model.safetensors", FIRST)
    made.write("data.bin", b"data" * 1000)
    made.commit("both")
    made.git("push", "--quiet", "origin", "main")
    assert objects(server) == objects(made, below=".git")
    # And git-lfs does not take ours away.
    hook = made.read(".git/hooks/pre-push")
    made.run("git", "lfs", "update")
    made.run("git", "lfs", "install", "--local")
    assert made.read(".git/hooks/pre-push") == hook


def test_by_hand_where_no_hook_runs(source: Repository, server: Repository) -> None:
    source.git("push", "--quiet", "--no-verify", "origin", "HEAD~1:refs/heads/main")
    assert objects(server) == set()
    source.git("theta", "push", "--all")
    assert objects(server) == objects(source, below=".git")


def test_what_a_server_lost_is_sent_again(source: Repository, server: Repository, tmp_path: Path) -> None:
    source.git("push", "--quiet", "origin", "main")
    shutil.rmtree(server.path / "lfs")
    source.git("theta", "push", "--all", "origin")
    assert checked_out(source, server, tmp_path / "clone") == SECOND


def test_a_remote_must_be_clear(source: Repository) -> None:
    source.git("remote", "rename", "origin", "one")
    source.git("remote", "add", "two", "/nowhere")
    source.git("config", "--unset-all", "branch.main.remote") if source.run(
        "git", "config", "branch.main.remote"
    ).returncode == 0 else None
    assert "which remote?" in source.git_fails("theta", "push")


def test_fetch_gets_a_commit_and_all_gets_the_history(source: Repository, server: Repository, tmp_path: Path) -> None:
    source.git("push", "--quiet", "origin", "main")
    source.git("clone", "--quiet", "--no-checkout", server.path.as_uri(), str(tmp_path / "clone"))
    clone = source.at(tmp_path / "clone")
    assert "would be fetched" in clone.git("theta", "fetch", "--dry-run")
    assert objects(clone, below=".git") == set()
    clone.git("theta", "fetch", "HEAD~1")
    first = objects(clone, below=".git")
    assert first
    clone.git("theta", "fetch", "--all")
    assert objects(clone, below=".git") == objects(source, below=".git") > first
    clone.git("remote", "set-url", "origin", "/nowhere")
    clone.git("theta", "install", "--local")
    clone.git("checkout", "--quiet", "main")
    assert clone.read("model.safetensors") == SECOND


def test_fetch_says_what_did_not_come(source: Repository, server: Repository, tmp_path: Path) -> None:
    source.git("push", "--quiet", "origin", "main")
    lost = min(objects(server))
    (server.path / "lfs" / "objects" / lost[:2] / lost[2:4] / lost).unlink()
    source.git("clone", "--quiet", "--no-checkout", server.path.as_uri(), str(tmp_path / "clone"))
    clone = source.at(tmp_path / "clone")
    clone.git("config", "theta.transferRetries", "0")
    assert lost in clone.git_fails("theta", "fetch", "--all")
    assert objects(clone, below=".git") == objects(source, below=".git") - {lost}
