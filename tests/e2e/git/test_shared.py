"""core.sharedRepository: what one user writes into the git directory, others can read, write and replace.

git's own directories are the model. Two users are not tried: what lets them in are the permission bits, seen here.
"""

from __future__ import annotations

import shutil
import stat
from pathlib import Path

import pytest
import torch

from tests.support import models
from tests.support.repository import Repository

CONTENT = models.torch_bytes(models.state_dict(1))

SHARED = [
    ("group", "077", 0o660),
    ("group", "022", 0o664),
    ("true", "027", 0o660),
    ("all", "077", 0o664),
    ("0640", "022", 0o640),
]


def below(*directories: Path) -> tuple[set[int], set[int]]:
    """Return the modes of directories and all below them, and those of the files."""
    paths = [path for directory in directories for path in (directory, *directory.rglob("*"))]
    modes = [path.lstat().st_mode for path in paths]
    return (
        {stat.S_IMODE(mode) for mode in modes if stat.S_ISDIR(mode)},
        {stat.S_IMODE(mode) for mode in modes if stat.S_ISREG(mode)},
    )


def under(umask: str, repository: Repository, command: str) -> None:
    done = repository.run("sh", "-c", f"umask {umask} && {command}")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(("shared", "umask", "mode"), SHARED)
def test_what_is_written_is_shared_as_git_shares(repository: Repository, shared: str, umask: str, mode: int) -> None:
    repository.git("config", "core.sharedRepository", shared)
    repository.write(".gitattributes", b"*.pt filter=theta -text\n")
    repository.write("model.pt", CONTENT)
    theta, lfs = repository.git_directory / "theta", repository.git_directory / "lfs"
    under(umask, repository, "git add --all && git commit -qm model && git theta post-commit")
    of_git = {stat.S_IMODE(path.lstat().st_mode) for path in repository.git_directory.glob("objects/??")}
    assert len(of_git) == 1
    assert below(theta, lfs) == (of_git, {mode})

    shutil.rmtree(lfs)
    repository.path.joinpath("model.pt").unlink()
    under(umask, repository, "git checkout -- model.pt")  # brings the second names back
    assert repository.read("model.pt") == CONTENT
    assert below(theta, lfs) == (of_git, {mode})


def test_the_directory_of_temporary_files_is_shared_whoever_makes_it(repository: Repository) -> None:
    """A value that is spooled makes it before any object is written."""
    repository.git("config", "core.sharedRepository", "group")
    repository.git("config", "theta.memoryLimit", "64m")
    repository.write(".gitattributes", b"*.pt filter=theta -text\n")
    repository.write("large.pt", models.torch_bytes({"w": torch.zeros(10 << 20)}))
    under("077", repository, "git add --all")
    of_git = {stat.S_IMODE(path.lstat().st_mode) for path in repository.git_directory.glob("objects/??")}
    assert below(repository.git_directory / "theta")[0] == of_git


def test_the_work_tree_keeps_the_umask(repository: Repository) -> None:
    repository.git("config", "core.sharedRepository", "group")
    repository.write(".gitattributes", b"*.pt filter=theta -text\n")
    repository.write("model.pt", CONTENT)
    repository.commit("model")
    path = repository.path / "model.pt"
    path.unlink()
    under("077", repository, "GIT_THETA_SKIP_SMUDGE=1 git checkout -- model.pt && git theta pull -q")
    assert path.read_bytes() == CONTENT
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
