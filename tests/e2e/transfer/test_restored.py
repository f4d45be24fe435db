"""What took an object from Git LFS's store, whatever it was: it is put back from ours wherever it is needed."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support import models
from tests.support.repository import Repository
from theta_daemon.metadata import objects, text

PATH = "m.safetensors"


def checkpoint(number: int) -> bytes:
    tensors = models.state_dict(1)
    return models.safetensors_bytes({**tensors, "layers.0.bias": tensors["layers.0.bias"] + number})


@pytest.fixture
def local(repository: Repository) -> Repository:
    """Return a repository with three commits of a checkpoint."""
    repository.git("theta", "track", "*.safetensors")
    repository.git("config", "theta.packs", "false")  # the objects of these tests are counted one by one
    for number in range(3):
        repository.write(PATH, checkpoint(number))
        repository.commit(f"number {number}")
    return repository


def storage(repository: Repository) -> Path:
    chosen = repository.run("git", "config", "lfs.storage").stdout.decode().strip()
    return repository.git_directory / (chosen or "lfs")


def lfs_files(repository: Repository) -> list[Path]:
    return sorted((storage(repository) / "objects").glob("??/??/*"))


def stray_rm(repository: Repository) -> None:
    shutil.rmtree(storage(repository) / "objects")


def lfs_prune(repository: Repository) -> None:
    repository.git("lfs", "prune")


def cut_off(repository: Repository) -> None:
    """Leave empty files, as after a power failure; ours keep their bytes, in files of their own."""
    for path in lfs_files(repository):
        path.unlink()
        path.write_bytes(b"")


def gc(repository: Repository) -> None:
    repository.git("reflog", "expire", "--expire=now", "--all")
    repository.git("gc", "--quiet", "--prune=now")
    stray_rm(repository)


TAKEN: dict[str, Callable[[Repository], None]] = {"rm": stray_rm, "cut off": cut_off, "git gc and rm": gc}


@pytest.fixture(params=[*TAKEN, pytest.param("git lfs prune", marks=pytest.mark.needs_git_lfs)])
def taken(request: pytest.FixtureRequest, local: Repository) -> Repository:
    """Return the repository after something took all objects from Git LFS's store."""
    {**TAKEN, "git lfs prune": lfs_prune}[request.param](local)
    assert all(path.stat().st_size == 0 for path in lfs_files(local))
    return local


def silently(repository: Repository, *arguments: str) -> str:
    """Run git and return its output; nothing may be said beside it."""
    done = repository.run("git", *arguments)
    assert done.returncode == 0, done.stderr
    assert done.stderr == b""
    return done.stdout.decode().removesuffix("\n")


def test_checkout(taken: Repository) -> None:
    for number in range(2):
        silently(taken, "checkout", "--quiet", f"main~{2 - number}")
        assert taken.read(PATH) == checkpoint(number)
        assert taken.status() == ""
    assert lfs_files(taken)
    assert all(path.stat().st_size for path in lfs_files(taken) if path.name in needed_by(taken))


def needed_by(repository: Repository) -> set[str]:
    return {found.oid for found in objects.of(text.parse(repository.blob(PATH, "HEAD")))}


def test_status_and_adding_again(taken: Repository) -> None:
    before = taken.blob(PATH)
    os.utime(taken.path / PATH, (1, 1))
    assert taken.status() == ""
    taken.write(PATH, checkpoint(7))
    taken.write(PATH, checkpoint(2))
    silently(taken, "add", PATH)
    assert taken.blob(PATH) == before
    silently(taken, "checkout", "--quiet", "HEAD~1")
    silently(taken, "checkout", "--quiet", "main")
    assert taken.read(PATH) == checkpoint(2)


def test_adding_what_an_older_commit_has(taken: Repository) -> None:
    taken.write(PATH, checkpoint(0))
    silently(taken, "add", PATH)
    assert taken.blob(PATH) == taken.blob(PATH, "HEAD~2")


def test_fsck_and_prune(taken: Repository) -> None:
    done = taken.run("git", "theta", "fsck", "--repair", "--values")
    assert done.returncode == 0
    assert silently(taken, "theta", "fsck", "--values") == ""
    assert silently(taken, "theta", "prune", "--expire=now").startswith("0 objects")
    silently(taken, "checkout", "--quiet", "HEAD~2")
    assert taken.read(PATH) == checkpoint(0)


@pytest.mark.needs_git_lfs
def test_push(taken: Repository) -> None:
    remote = Repository.init(taken.path.parent / "remote.git", taken.environment, "--bare")
    taken.git("remote", "add", "origin", remote.path.as_uri())
    hook = taken.git_directory / "hooks" / "pre-push"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text('#!/bin/sh\nexec git theta pre-push "$@"\n')
    hook.chmod(0o755)
    taken.git("push", "--quiet", "origin", "main")
    sent = {path.name for path in (remote.path / "lfs" / "objects").glob("??/??/*")}
    assert sent == {path.name for path in (taken.git_directory / "theta" / "objects").glob("??/??/*")}


def test_a_linked_worktree(taken: Repository) -> None:
    taken.git("worktree", "add", "--quiet", "--detach", "../linked", "HEAD~2")
    assert (taken.path.parent / "linked" / PATH).read_bytes() == checkpoint(0)


@pytest.mark.needs_git_lfs
def test_objects_that_only_git_lfs_has_are_kept_safe_by_a_repair(local: Repository) -> None:
    shutil.rmtree(local.git_directory / "theta" / "objects")
    assert silently(local, "theta", "fsck") == ""
    assert not (local.git_directory / "theta" / "objects").exists()
    assert silently(local, "theta", "fsck", "--repair") == ""
    lfs_prune(local)
    assert lfs_files(local) == []
    silently(local, "checkout", "--quiet", "HEAD~2")
    assert local.read(PATH) == checkpoint(0)


# --- another file system


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """Return a directory on another file system than the tests' own."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as path:
        yield Path(path)


def test_storage_on_another_file_system(repository: Repository, elsewhere: Path) -> None:
    assert elsewhere.stat().st_dev != repository.path.stat().st_dev
    repository.git("config", "lfs.storage", str(elsewhere / "storage"))
    repository.git("theta", "track", "*.safetensors")
    for number in range(3):
        repository.write(PATH, checkpoint(number))
        repository.commit(f"number {number}")
    assert lfs_files(repository)
    assert all(path.stat().st_nlink == 1 for path in lfs_files(repository))  # a copy
    assert silently(repository, "theta", "fsck", "--values") == ""
    repository.git("checkout", "--quiet", "HEAD~1")
    stray_rm(repository)
    silently(repository, "checkout", "--quiet", "main~2")
    assert repository.read(PATH) == checkpoint(0)
    assert {path.name for path in lfs_files(repository)} >= needed_by(repository)
    # and the other way round
    shutil.rmtree(repository.git_directory / "theta" / "objects")
    silently(repository, "checkout", "--quiet", "--force", "main~2")
    repository.git("rm", "--quiet", "--cached", PATH)
    repository.git("add", PATH)
    silently(repository, "theta", "prune", "--expire=now", "--shared-storage")
    assert silently(repository, "theta", "fsck", "HEAD") == ""


def test_prune_with_storage_on_another_file_system(repository: Repository, elsewhere: Path) -> None:
    repository.git("config", "lfs.storage", str(elsewhere / "storage"))
    repository.git("theta", "track", "*.safetensors")
    repository.write(PATH, checkpoint(0))
    repository.commit("kept")
    kept = {path.name for path in lfs_files(repository)}
    repository.write(PATH, checkpoint(1))
    repository.git("add", PATH)
    repository.git("reset", "--quiet", "--hard")
    gone = [path for path in lfs_files(repository) if path.name not in kept]
    [size] = [path.stat().st_size for path in gone]
    said = silently(repository, "theta", "prune", "--expire=now", "--shared-storage")
    assert said == f"1 object deleted, {2 * size} bytes freed"
    assert {path.name for path in lfs_files(repository)} == kept


# --- borrowed objects


@pytest.mark.parametrize("kind", ["--shared", "--reference"])
def test_a_clone_that_borrows(local: Repository, kind: str) -> None:
    borrower = local.at(local.path.parent / "borrower")
    how = [kind] if kind == "--shared" else [kind, str(local.path)]
    local.git("clone", "--quiet", *how, "--config", "filter.theta.process=theta-daemon", str(local.path), "../borrower")
    assert borrower.read(PATH) == checkpoint(2)
    assert borrower.status() == ""
    lent = local.objects()
    borrower.write(PATH, checkpoint(9))
    borrower.git("add", PATH)
    borrower.git("reset", "--quiet", "--hard")
    assert borrower.git("theta", "prune", "--expire=now").startswith("1 object ")
    assert local.objects() == lent
    borrower.git("checkout", "--quiet", "main~2")
    assert borrower.read(PATH) == checkpoint(0)
    assert borrower.git("theta", "fsck", "--values") == ""


@pytest.mark.needs_git_lfs
def test_a_borrower_pushes(local: Repository) -> None:
    borrower = local.at(local.path.parent / "borrower")
    local.git(
        "clone", "--quiet", "--shared", "--config", "filter.theta.process=theta-daemon", str(local.path), "../borrower"
    )
    remote = Repository.init(local.path.parent / "remote.git", local.environment, "--bare")
    hook = borrower.git_directory / "hooks" / "pre-push"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text('#!/bin/sh\nexec git theta pre-push "$@"\n')
    hook.chmod(0o755)
    borrower.git("push", "--quiet", remote.path.as_uri(), "main")
    assert {path.name for path in (remote.path / "lfs" / "objects").glob("??/??/*")} == local.objects()
