"""`git theta pull` and `status` where git, the file system or the repository are not as usual."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import models
from tests.support.pulls import clean_without_reading, litter, to_metadata
from tests.support.repository import Repository

CONTENTS = {
    "a.pt": models.torch_bytes(models.state_dict(1)),
    "sub/b.pt": models.torch_bytes(models.state_dict(2)),
    "sub/é.pt": models.torch_bytes(models.state_dict(3)),
}


@pytest.fixture
def clone(repository: Repository) -> Repository:
    """Return a repository whose work tree holds metadata."""
    repository.write(".gitattributes", b"*.pt filter=theta -text\n")
    for name, content in CONTENTS.items():
        repository.write(name, content)
    repository.commit("all")
    to_metadata(repository)
    return repository


def states(repository: Repository, *arguments: str) -> list[str]:
    rows = repository.git("theta", "status", "--porcelain", *arguments).splitlines()
    return [f"{row.split(chr(9))[0]} {row.split(chr(9))[-1]}" for row in rows]


def test_paths_are_printed_as_git_prints_them(clone: Repository) -> None:
    clone.write('sub/q"\\.pt', CONTENTS["a.pt"])
    clone.commit("quotes")
    to_metadata(clone)
    below = clone.path / "sub"
    for setting in ("true", "false"):
        clone.git("config", "core.quotePath", setting)
        listed = clone.git("ls-files", "--", ":/*.pt", cwd=below).splitlines()
        assert len(listed) == 4
        for verb in (["pull", "--dry-run"], ["status"]):
            rows = clone.git("theta", *verb, cwd=below).splitlines()
            assert [row.split("\t")[-1] for row in rows] == listed


def test_pathspecs_with_magic(clone: Repository) -> None:
    listed = clone.git("theta", "pull", "-n", ":(top,glob)**/*.pt", ":(exclude)é*", cwd=clone.path / "sub")
    assert [row.split("\t")[-1] for row in listed.splitlines()] == ["../a.pt", "b.pt"]


def test_a_hook_that_watches_the_files(clone: Repository) -> None:
    """core.fsmonitor: git looks at no file but those that the hook names."""
    hook = clone.git_directory / "watch"
    hook.write_text(f"#!/bin/sh\nprintf 'token\\0'\ncat {clone.git_directory / 'changed'}\n")
    hook.chmod(0o755)
    (clone.git_directory / "changed").write_bytes(b"/\0")
    clone.git("config", "core.fsmonitor", str(hook))
    clone.git("config", "core.untrackedCache", "true")
    clone.git("update-index", "--fsmonitor", "--untracked-cache", "--force-write-index")
    clone.status()
    (clone.git_directory / "changed").write_bytes(b"")
    assert b"FSMN" in (clone.git_directory / "index").read_bytes()
    (clone.git_directory / "changed").write_bytes(b"".join(os.fsencode(name) + b"\0" for name in CONTENTS))
    clone.git("theta", "pull")
    assert all(clone.read(name) == content for name, content in CONTENTS.items())
    assert clean_without_reading(clone)
    clone.write("a.pt", CONTENTS["sub/b.pt"])
    assert clone.git("diff", "--name-only") == "a.pt"


def test_a_directory_in_the_way_stays(clone: Repository) -> None:
    (clone.path / "a.pt").unlink()
    (clone.path / "a.pt").mkdir()
    (clone.path / "a.pt/mine").write_bytes(b"mine")
    shutil.rmtree(clone.path / "sub")
    (clone.path / "sub").write_bytes(b"a file")
    done = clone.run("git", "theta", "pull", "-q")
    assert done.stderr.decode().splitlines() == [
        "git-theta: error: sub/b.pt: the file cannot be written: Not a directory",
        "git-theta: error: sub/é.pt: the file cannot be written: Not a directory",
    ]
    assert (clone.path / "a.pt/mine").read_bytes() == b"mine"
    assert (clone.path / "sub").read_bytes() == b"a file"
    assert litter(clone) == []
    assert states(clone)[0] == "modified a.pt"


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """Return a directory of a file system in memory."""
    path = Path(f"/dev/shm/theta-test-{os.getpid()}")
    path.mkdir()
    yield path
    shutil.rmtree(path)


def test_objects_on_another_file_system(repository: Repository, elsewhere: Path) -> None:
    assert elsewhere.stat().st_dev != repository.path.stat().st_dev
    repository.git("config", "lfs.storage", str(elsewhere))
    repository.write(".gitattributes", b"*.pt filter=theta -text\n")
    repository.write("a.pt", CONTENTS["a.pt"])
    repository.commit("a")
    assert list(elsewhere.glob("objects/??/??/*"))
    to_metadata(repository)
    repository.git("theta", "pull")
    assert repository.read("a.pt") == CONTENTS["a.pt"]
    assert clean_without_reading(repository)


def test_a_work_tree_on_another_file_system(clone: Repository, elsewhere: Path) -> None:
    there = clone.at(elsewhere / "tree")
    clone.in_environment(GIT_THETA_SKIP_SMUDGE="1").git("worktree", "add", "--quiet", str(there.path), "-b", "other")
    there.git("theta", "pull")
    assert all(there.read(name) == content for name, content in CONTENTS.items())
    assert clean_without_reading(there)
    assert litter(there) == []


def test_a_shared_repository_keeps_the_mode_of_its_index(clone: Repository) -> None:
    clone.git("config", "core.sharedRepository", "group")
    clone.git("update-index", "--force-write-index")
    index = clone.git_directory / "index"
    before = stat.S_IMODE(index.stat().st_mode)
    assert before & 0o060 == 0o060
    assert clone.run("sh", "-c", "umask 077 && git theta pull").returncode == 0
    assert stat.S_IMODE(index.stat().st_mode) == before
    assert clean_without_reading(clone)


def test_a_partial_clone(clone: Repository, tmp_path: Path) -> None:
    clone.git("config", "uploadpack.allowFilter", "true")
    partial = clone.at(tmp_path / "partial")
    clone.git("clone", "--quiet", "--no-checkout", "--filter=blob:none", f"file://{clone.path}", str(partial.path))
    partial.git("config", "lfs.storage", str(clone.git_directory / "lfs"))
    partial.git("reset", "--quiet")  # an index, and no file
    partial.git("checkout", "--", ".gitattributes")
    assert states(partial) == ["missing a.pt", "missing sub/b.pt", 'missing "sub/\\303\\251.pt"']
    done = partial.run("git", "theta", "pull", "-q")
    assert done.stderr.decode().splitlines() == [
        f"git-theta: error: {name}: its metadata is not here; `git restore` fetches it (partial clone)"
        for name in CONTENTS
    ]
    assert done.returncode == 1
    to_metadata(partial, "a.pt")
    assert partial.run("git", "theta", "pull", "-q", "a.pt").returncode == 0
    assert partial.read("a.pt") == CONTENTS["a.pt"]
    assert states(partial, "a.pt") == ["full a.pt"]


def test_status_of_what_is_staged_untracked_and_deleted(clone: Repository) -> None:
    clone.git("theta", "pull")
    clone.write("untracked.pt", CONTENTS["a.pt"])
    clone.write("new.pt", CONTENTS["a.pt"])
    clone.git("add", "new.pt")
    clone.write("sub/b.pt", CONTENTS["a.pt"])
    clone.git("add", "sub/b.pt")
    (clone.path / "a.pt").unlink()
    assert states(clone, "*.pt", ":!sub/é.pt") == ["missing a.pt", "full new.pt", "full sub/b.pt"]
    clone.write("sub/b.pt", b"more")
    clone.git("rm", "--quiet", "--cached", "new.pt")
    clone.git("update-index", "--skip-worktree", "a.pt")
    assert states(clone, "*.pt", ":!sub/é.pt") == ["sparse a.pt", "modified sub/b.pt"]
    clone.write("a.pt", CONTENTS["a.pt"])
    assert states(clone, "a.pt") == ["full a.pt"]
