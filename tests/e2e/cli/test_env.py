from __future__ import annotations

from collections.abc import Callable

from tests.e2e.cli.written import store
from tests.support.repository import Repository
from theta_daemon import __version__


def test_env_in_a_repository(repository: Repository) -> None:
    store(repository, b"1234", b"12")
    kept = repository.git_directory / "theta" / "objects"
    store(repository, b"123", place=kept)
    repository.git("config", "theta.fetchHistory", "no")
    named = repository.in_environment(GIT_THETA_CHECKPOINT_TYPE="safetensors", GIT_THETA_UPDATE_TYPE="sparse")
    lines = named.git("theta", "env").splitlines()
    assert lines[0] == f"theta-daemon {__version__}"
    assert repository.git("version") in lines
    assert any(line.startswith("Python 3.") for line in lines)
    assert any(line.startswith("numpy 2") for line in lines)
    assert "Installed: yes" in lines
    assert "Updates: sparse, at most 32 on one another, missing commits are fetched: False" in lines
    assert "GIT_THETA_UPDATE_TYPE=sparse" in lines
    assert "theta.fetchhistory=no (file:.git/config)" in lines
    assert "filter.theta.process=theta-daemon (file:.git/config)" in lines
    assert "GIT_THETA_CHECKPOINT_TYPE=safetensors" in lines
    assert f"Work tree: {repository.path}" in lines
    assert f"Git directory: {repository.git_directory}" in lines
    assert f"LFS objects: {repository.git_directory}/lfs/objects (2 objects, 6 bytes)" in lines
    assert f"Kept objects: {kept} (1 object, 3 bytes)" in lines
    assert not any(line.startswith("Shared git directory") for line in lines)


def test_env_shows_no_credentials(repository: Repository) -> None:
    repository.git("config", "lfs.url", "https://me:secret@example.invalid/lfs")
    said = repository.git("theta", "env")
    assert "secret" not in said
    assert "lfs.url=https://***@example.invalid/lfs (file:.git/config)" in said.splitlines()


def test_env_in_a_linked_work_tree(repository: Repository) -> None:
    repository.git("commit", "--quiet", "--allow-empty", "--message", "first")
    repository.git("worktree", "add", "--quiet", "../linked")
    linked = repository.at(repository.path.parent / "linked")
    lines = linked.git("theta", "env").splitlines()
    assert f"Work tree: {linked.path}" in lines
    assert f"Shared git directory: {repository.git_directory}" in lines


def test_env_outside_of_a_repository(new_repository: Callable[[str], Repository]) -> None:
    outside = new_repository("x")
    lines = outside.at(outside.path.parent).git("theta", "env").splitlines()
    assert "Installed: no" in lines
    assert lines[-1].startswith("Repository: none (")


def test_env_warns_where_pushes_leave_objects_behind(repository: Repository) -> None:
    hook = repository.git_directory / "hooks" / "pre-push"

    def said() -> tuple[str, list[str]]:
        done = repository.run("git", "theta", "env")
        return done.stdout.decode().splitlines()[-1], done.stderr.decode().splitlines()

    repository.git("theta", "install", "--local")
    assert said() == (f"Pre-push hook: {hook} sends objects", [])
    hook.unlink()
    assert said() == (f"Pre-push hook: {hook} does not send objects", [])  # there is nothing to be sent
    repository.write("sub/.gitattributes", b"*.pt filter=theta\n")
    blob = repository.git("hash-object", "-w", "--stdin", stdin=b"metadata")
    repository.git("update-index", "--add", "--cacheinfo", f"100644,{blob},sub/a.pt")
    last, [warning] = said()
    assert last == f"Pre-push hook: {hook} does not send objects"
    assert warning.startswith("git-theta: warning: pushes leave the objects of checkpoints behind: ")
    assert warning.endswith("run `git theta install` here")
    hook.write_bytes(b"#!/usr/bin/env python3\n")
    assert "not executable" in said()[1][0]
    hook.chmod(0o755)
    assert "no script for the shell" in said()[1][0]
    hook.unlink()
    repository.git("theta", "install", "--local")
    assert said() == (f"Pre-push hook: {hook} sends objects", [])
