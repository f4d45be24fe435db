"""Commits are pushed with their objects, by the hook and by hand; and what was pushed can be fetched."""

from __future__ import annotations

import re
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
    repository.git("config", "theta.packs", "false")  # the objects of these tests are counted one by one
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


def other_server(source: Repository, name: str = "other") -> Repository:
    return Repository.init(source.path.parent / name, source.environment, "--bare")


def next_version(source: Repository, seed: int) -> bytes:
    """Commit a version of the model in which one bias differs from the second one."""
    tensors = models.state_dict(1)
    name = min(tensors)
    tensors[name] = tensors[name] + seed
    data = models.safetensors_bytes(tensors)
    source.write("model.safetensors", data)
    source.commit(f"version {seed}")
    return data


def test_nothing_to_push_is_no_error(source: Repository) -> None:
    source.git("push", "--quiet", "origin", "main")
    source.git("push", "--quiet", "origin", "main")
    source.git("push", "--quiet", "origin", ":refs/heads/none", "main")


def test_a_push_all_or_nothing_with_a_lease(source: Repository, server: Repository, tmp_path: Path) -> None:
    source.git("push", "--quiet", "origin", "main")
    source.git("tag", "-a", "-m", "a tag", "v1")
    source.git("commit", "--quiet", "--amend", "--message", "again")
    data = next_version(source, 5)
    source.git("push", "--quiet", "--atomic", "--force-with-lease", "--follow-tags", "--all", "origin")
    assert checked_out(source, server, tmp_path / "clone") == data


def test_a_failing_push_of_several_refs_leaves_none_of_them(source: Repository, server: Repository) -> None:
    source.git("branch", "old", "HEAD~1")
    source.git("config", "lfs.url", "file:///nowhere/at/all")
    source.git_fails("push", "origin", "main", "old", "HEAD:refs/tags/v1")
    assert server.git("for-each-ref") == ""


@pytest.mark.parametrize("how", ["--depth=1", "--filter=blob:none"])
def test_from_a_clone_that_has_not_everything(source: Repository, server: Repository, tmp_path: Path, how: str) -> None:
    source.git("push", "--quiet", "origin", "main")
    server.git("config", "uploadpack.allowFilter", "true")
    source.git("theta", "install", "--global")
    source.git("clone", "--quiet", how, server.path.as_uri(), str(tmp_path / "clone"))
    clone = source.at(tmp_path / "clone")
    data = next_version(clone, 3)
    clone.git("push", "--quiet", "origin", "HEAD:refs/heads/side", "main")
    assert objects(server) == objects(source, below=".git") | objects(clone, below=".git")
    assert checked_out(source, server, tmp_path / "other") == data


ELSEWHERE = {
    "pushurl": ("remote.origin.pushurl", "{url}"),
    "pushInsteadOf": ("url.{url}.pushInsteadOf", "nick:"),
    "remote.pushDefault": ("remote.pushDefault", "second"),
}


@pytest.mark.parametrize("how", ELSEWHERE)
def test_what_is_pushed_elsewhere_is_whole_there(
    source: Repository, server: Repository, tmp_path: Path, how: str
) -> None:
    """Remote-tracking refs tell what the remote has from which is fetched."""
    source.git("push", "--quiet", "origin", "main")
    other = other_server(source)
    url = other.path.as_uri()
    source.git("remote", "add", "second", url)
    key, value = ELSEWHERE[how]
    if how == "pushInsteadOf":
        source.git("config", "remote.origin.url", "nick:")
        source.git("config", f"url.{server.path.as_uri()}.insteadOf", "nick:")
    source.git("config", key.format(url=url), value.format(url=url))
    source.git("config", "push.default", "current")
    source.git("push", "--quiet")
    assert objects(other) == objects(source, below=".git")
    # By hand, to where `git push` goes.
    shutil.rmtree(other.path / "lfs")
    source.git("theta", "push", "--all")
    assert objects(other) == objects(source, below=".git")


@pytest.mark.parametrize("key", ["lfs.url", "remote.origin.lfspushurl", ".lfsconfig"])
def test_objects_may_have_a_place_of_their_own(source: Repository, server: Repository, key: str) -> None:
    other = other_server(source)
    if key == ".lfsconfig":
        source.git("config", "--file", ".lfsconfig", "lfs.url", other.path.as_uri())
        source.commit("where objects are")
    else:
        source.git("config", key, other.path.as_uri())
    source.git("push", "--quiet", "origin", "main")
    assert objects(other) == objects(source, below=".git")
    assert objects(server) == set()
    assert server.git("rev-parse", "main") == source.git("rev-parse", "main")


def test_several_push_urls_are_all_whole(source: Repository, server: Repository) -> None:
    other = other_server(source)
    for each in (server, other):
        source.git("config", "--add", "remote.origin.pushurl", each.path.as_uri())
    source.git("push", "--quiet", "origin", "main")
    assert objects(server) == objects(other) == objects(source, below=".git")


def test_a_remote_that_moved_gets_everything(source: Repository) -> None:
    source.git("push", "--quiet", "origin", "main", "HEAD~1:refs/heads/old")
    moved = other_server(source)
    source.git("remote", "set-url", "origin", moved.path.as_uri())
    source.git("push", "--quiet", "origin", "main")
    assert objects(moved) == objects(source, below=".git")


def test_a_deleted_branch_is_pushed_again_without_what_is_there(source: Repository, server: Repository) -> None:
    source.git("push", "--quiet", "origin", "HEAD~1:refs/heads/kept", "main")
    before = objects(server)
    server.git("update-ref", "-d", "refs/heads/main")
    data = next_version(source, 6)
    for store in ("lfs", "theta"):  # what only the commit that the server has needs: not here, and not asked for
        for oid in before - objects_of(source, "main"):
            (source.path / ".git" / store / "objects" / oid[:2] / oid[2:4] / oid).unlink(missing_ok=True)
    source.git("push", "--quiet", "origin", "main")
    assert data == source.read("model.safetensors")
    assert objects(server) == before | objects(source, below=".git")


def objects_of(repository: Repository, *range_: str) -> set[str]:
    """Return what the metadata of the model in some commits names, at every version of it."""
    found: set[str] = set()
    for commit in repository.git("rev-list", *range_, "--", "model.safetensors").split():
        found |= set(re.findall(r'"oid": "([0-9a-f]{64})"', repository.git("show", f"{commit}:model.safetensors")))
    return found


def test_refs_of_a_remote_inside_of_another_ones_name(source: Repository, server: Repository) -> None:
    other = other_server(source)
    source.git("remote", "rename", "origin", "up")
    source.git("push", "--quiet", "up", "main")
    source.git("update-ref", "-d", "refs/remotes/up/main")
    source.git("config", "remote.up/stream.url", server.path.as_uri())
    source.git("config", "remote.up/stream.fetch", "+refs/heads/*:refs/remotes/up/stream/*")
    source.git("fetch", "--quiet", "up/stream")
    source.git("remote", "set-url", "up", other.path.as_uri())
    source.git("push", "--quiet", "up", "HEAD:refs/heads/new")
    assert objects(other) == objects(source, below=".git")
