"""Repositories that borrow objects (`git clone --shared`, `--reference`) while `git lfs prune` runs in the lender.

Whatever the borrower does, nothing in the lender changes: it may be another user's, on a disk that is only read.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import models
from tests.support.repository import Repository
from theta_daemon import settings
from theta_daemon.metadata import objects, text

pytestmark = pytest.mark.needs_git_lfs

PATH = "m.safetensors"
FILTER = ("--config", "filter.theta.process=theta-daemon", "--config", "filter.theta.required=true")


def checkpoint(number: int) -> bytes:
    tensors = models.state_dict(1)
    return models.safetensors_bytes({**tensors, "layers.0.bias": tensors["layers.0.bias"] + number})


def fill(repository: Repository) -> Repository:
    """Commit three versions of a checkpoint, and let Git LFS prune its store."""
    repository.git("theta", "track", "*.safetensors")
    repository.git("config", "theta.packs", "false")  # the objects of these tests are counted one by one
    for number in range(3):
        repository.write(PATH, checkpoint(number))
        repository.commit(f"number {number}")
    repository.git("lfs", "prune")
    assert repository.objects() == set()
    return repository


@pytest.fixture
def lender(repository: Repository) -> Repository:
    """Return a repository with three commits, whose objects are in our store alone."""
    return fill(repository)


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """Return a directory on another file system than the tests' own."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as path:
        yield Path(path)


def borrow(lender: Repository, *how: str, name: str = "borrower") -> Repository:
    made = lender.at(lender.path.parent / name)
    lender.git("clone", "--quiet", *(how or ("--shared",)), *FILTER, str(lender.path), str(made.path))
    return made


def state(repository: Repository) -> dict[str, tuple[int, int, bytes]]:
    """Return whatever could change in the stores of a repository."""
    found = {}
    for path in sorted(repository.git_directory.rglob("*")):
        status = path.lstat()
        if path.is_file():
            found[str(path)] = status.st_ino, status.st_mtime_ns, path.read_bytes()
        else:
            found[str(path)] = status.st_ino, status.st_mtime_ns, b""
    return found


def use_all(borrower: Repository) -> None:
    """Check out, pull, check, push, prune: each needs the objects that only the lender has."""
    for number in range(3):
        borrower.git("checkout", "--quiet", f"origin/main~{2 - number}")
        assert borrower.read(PATH) == checkpoint(number)
        assert borrower.status() == ""
    borrower.in_environment(GIT_THETA_SKIP_SMUDGE="1").git("checkout", "--quiet", "--force", "origin/main~1")
    borrower.git("theta", "pull", "-q")
    assert borrower.read(PATH) == checkpoint(1)
    assert borrower.git("theta", "fsck", "--values") == ""
    assert borrower.git("theta", "fetch", "-q", "--all").startswith("0 objects")
    remote = Repository.init(borrower.path.parent / "remote.git", borrower.environment, "--bare")
    borrower.git("theta", "install", "--local")
    borrower.git("push", "--quiet", remote.path.as_uri(), "HEAD:refs/heads/main")
    borrower.git("checkout", "--quiet", "origin/main")
    borrower.git("push", "--quiet", remote.path.as_uri(), "HEAD:refs/heads/main")
    named = {found.oid for at in range(3) for found in objects.of(text.parse(borrower.blob(PATH, f"HEAD~{at}")))}
    assert {path.name for path in (remote.path / "lfs" / "objects").glob("??/??/*")} == named
    borrower.git("theta", "prune", "--expire=now")
    assert borrower.git("theta", "fsck", "--values") == ""


def test_a_lender_that_pruned(lender: Repository) -> None:
    before = state(lender)
    use_all(borrow(lender))
    assert state(lender) == before


def test_a_lender_on_another_file_system(repository: Repository, elsewhere: Path) -> None:
    assert elsewhere.stat().st_dev != repository.path.stat().st_dev
    lender = fill(Repository.init(elsewhere / "lender", repository.environment))
    borrower = repository.at(repository.path.parent / "borrower")
    before = state(lender)
    lender.git("clone", "--quiet", "--shared", *FILTER, str(lender.path), str(borrower.path))
    use_all(borrower)
    assert state(lender) == before


def test_the_lender_of_a_lender(lender: Repository) -> None:
    borrower = borrow(borrow(lender, "--reference", str(lender.path), name="between"))
    borrower.git("checkout", "--quiet", "origin/main~2")
    assert borrower.read(PATH) == checkpoint(0)


def test_a_lender_with_a_storage_elsewhere(repository: Repository, tmp_path: Path) -> None:
    """git-lfs itself looks in `<git dir>/lfs` of the lender alone, whatever is configured there."""
    repository.git("config", "lfs.storage", str(tmp_path / "storage"))
    borrower = borrow(fill(repository))
    assert borrower.read(PATH) == checkpoint(2)


def test_a_lender_that_is_bare(lender: Repository) -> None:
    bare = lender.at(lender.path.parent / "bare.git")
    lender.git("clone", "--quiet", "--bare", str(lender.path), str(bare.path))
    shutil.copytree(lender.git_directory / "theta" / "objects", bare.path / "theta" / "objects")
    assert borrow(bare).read(PATH) == checkpoint(2)


def test_a_relative_alternate_and_one_of_the_environment(lender: Repository) -> None:
    borrower = borrow(lender, "--shared", "--no-checkout")
    info = borrower.git_directory / "objects" / "info"
    listed = (info / "alternates").read_text().strip()
    (info / "alternates").write_text(os.path.relpath(listed, info.parent) + "\n")
    borrower.git("checkout", "--quiet", "main~1")
    assert borrower.read(PATH) == checkpoint(1)
    (info / "alternates").unlink()
    elsewhere = borrower.in_environment(GIT_ALTERNATE_OBJECT_DIRECTORIES=listed)
    elsewhere.git("checkout", "--quiet", "main~2")
    assert elsewhere.read(PATH) == checkpoint(0)


def test_what_git_cannot_use_either(lender: Repository) -> None:
    borrower = borrow(lender, "--shared", "--no-checkout")
    info = borrower.git_directory / "objects" / "info" / "alternates"
    own = f"{borrower.git_directory}/objects"
    info.write_text(f"/nowhere/objects\n/{'x' * 300}/objects\n{own}\n\n{info.read_text()}{own}\n")
    found = settings.load(borrower.environment, borrower.path)
    assert found.alternates == (lender.git_directory / "lfs" / "objects", lender.git_directory / "theta" / "objects")
    borrower.git("checkout", "--quiet", "main")
    assert borrower.read(PATH) == checkpoint(2)


def test_its_own_stores_are_no_alternates_under_another_name(lender: Repository, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(lender.git_directory)
    lender.git("config", "lfs.storage", str(tmp_path / "link" / "lfs"))
    (lender.git_directory / "objects" / "info" / "alternates").write_text(f"{tmp_path}/link/objects\n")
    assert settings.load(lender.environment, lender.path).alternates == ()
