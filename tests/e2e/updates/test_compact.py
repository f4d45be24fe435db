"""`git theta compact`: the index holds dense entries afterwards, and nothing else has changed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.updates.conftest import (
    KINDS,
    LARGE,
    base_model,
    copy_of,
    entries,
    increments,
    prune,
    touched,
    tracking,
)
from tests.support import models
from tests.support.checkouts import repository_below
from tests.support.repository import Repository

DEEP = "models/deep.pt"
PATHS = (*KINDS, DEEP)


@dataclass(frozen=True, slots=True)
class Chains:
    """Three files of two updates each, and a dense one."""

    repository: Repository
    tensors: models.StateDict

    def content(self, path: str) -> bytes:
        """Return what is committed."""
        return KINDS.get(path, models.torch_bytes)(self.tensors)

    def compact(self, *arguments: str, cwd: Path | None = None) -> str:
        """Run the command and return what it said."""
        done = self.repository.run("git", "theta", "compact", *arguments, cwd=cwd)
        assert done.returncode == 0, done.stderr
        assert done.stdout == b""
        return done.stderr.decode()

    def compacted(self) -> set[str]:
        """Return the files that the index holds dense."""
        return {path for path in PATHS if not increments(self.repository, path, "")}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Chains:
    """Return what each test gets a copy of."""
    repository = tracking(repository_below(tmp_path_factory.mktemp("template")))
    repository.git("config", "theta.updateType", "auto")
    repository.write("notes.txt", b"text\n")
    chains = Chains(repository, base_model())
    for seed in range(3):
        chains = Chains(repository, touched(chains.tensors, seed))
        for path in PATHS:
            repository.write(path, chains.content(path))
        repository.commit(str(seed))
    assert chains.compacted() == set()
    assert len(entries(repository, DEEP)["a.weight"].replay) == 2
    return chains


@pytest.fixture
def chains(template: Chains, tmp_path: Path, git_environment: dict[str, str]) -> Chains:
    """Return them in a repository of the test's own."""
    return Chains(copy_of(template.repository, tmp_path / "repository", git_environment), template.tensors)


def assert_same(chains: Chains, *changed: str) -> None:
    """Fail unless the files hold what is committed, with nothing left to do; `changed` are staged."""
    repository = chains.repository
    expected = "\n".join(f"M  {path}" for path in sorted(changed))
    assert repository.git("status", "--porcelain") == expected
    for path in PATHS:
        (repository.path / path).touch()
    assert repository.git("status", "--porcelain") == expected
    repository.checkout_again()
    for path in PATHS:
        assert repository.read(path) == chains.content(path)


def test_all_files(chains: Chains) -> None:
    repository = chains.repository
    assert chains.compact() == f"git-theta: 3 files with {3 * len(LARGE)} updates stored dense again\n"
    assert chains.compacted() == set(PATHS)
    for path in PATHS:
        for name, entry in entries(repository, path, "").items():
            assert entry.replay == ()
            assert (entry == entries(repository, path)[name]) == (name not in LARGE)
            assert entry.digest == entries(repository, path)[name].digest
    assert_same(chains, *PATHS)
    staged = repository.git("ls-files", "--stage")
    assert chains.compact() == "git-theta: 0 files with 0 updates stored dense again\n"
    assert repository.git("ls-files", "--stage") == staged
    repository.git("commit", "--quiet", "--message", "compact")
    assert_same(chains)


def test_what_was_compacted_needs_none_of_the_updates(chains: Chains) -> None:
    repository = chains.repository
    before = {update.oid for entry in entries(repository, DEEP).values() for update in entry.replay}
    before |= {entries(repository, DEEP)[name].oid for name in LARGE}
    chains.compact()
    repository.git("commit", "--quiet", "--amend", "--message", "compact")
    prune(repository)
    for oid in before:
        for store in ("lfs", "theta"):
            (repository.git_directory / store / "objects" / oid[:2] / oid[2:4] / oid).unlink(missing_ok=True)
    assert_same(chains)


def test_one_path_and_pathspecs(chains: Chains) -> None:
    chains.compact("model.pt")
    assert chains.compacted() == {"model.pt"}
    chains.compact("deep.pt", cwd=chains.repository.path / "models")
    assert chains.compacted() == {"model.pt", DEEP}
    chains.compact("*.safetensors", ":!models")
    assert_same(chains, *PATHS)


def test_without_a_path_it_is_all_files_from_anywhere(chains: Chains) -> None:
    chains.compact(cwd=chains.repository.path / "models")
    assert chains.compacted() == set(PATHS)


def test_a_path_that_means_nothing(chains: Chains) -> None:
    before = chains.repository.git("ls-files", "--stage")
    for arguments in (("nowhere.pt",), ("nowhere.pt", "also-nowhere.pt")):
        error = chains.repository.git_fails("theta", "compact", *arguments)
        assert error == "git-theta: error: no file of the index is meant by these paths\n"
    assert chains.repository.git("ls-files", "--stage") == before


def test_a_work_tree_that_was_changed(chains: Chains) -> None:
    """It is neither staged nor touched, and neither is what was staged before: that is what becomes dense."""
    repository = chains.repository
    staged, later = touched(chains.tensors, 50), touched(chains.tensors, 51)
    repository.write("model.pt", models.torch_bytes(staged))
    repository.git("add", "model.pt")
    repository.write("model.pt", models.torch_bytes(later))
    repository.write("notes.txt", b"changed\n")
    (repository.path / DEEP).unlink()
    times = {path: (repository.path / path).stat().st_mtime_ns for path in KINDS}
    chains.compact()
    assert repository.git("status", "--porcelain") == f"MM model.pt\nM  model.safetensors\nMD {DEEP}\n M notes.txt"
    assert {path: (repository.path / path).stat().st_mtime_ns for path in KINDS} == times
    assert repository.read("model.pt") == models.torch_bytes(later)
    assert chains.compacted() == set(PATHS)
    repository.git("checkout", "--", ".")
    assert repository.read("model.pt") == models.torch_bytes(staged)
    assert repository.read(DEEP) == chains.content(DEEP)


def test_an_object_of_a_chain_is_missing(chains: Chains) -> None:
    repository = chains.repository
    oid = entries(repository, "model.safetensors")["b.weight"].replay[0].oid
    for store in ("lfs", "theta"):
        (repository.git_directory / store / "objects" / oid[:2] / oid[2:4] / oid).unlink()
    before = repository.git("ls-files", "--stage")
    error = repository.git_fails("theta", "compact")
    assert error.count("\n") == 1
    assert "parameter 'b.weight'" in error
    assert f"object {oid} (" in error
    assert ": error: model" in error
    assert repository.git("ls-files", "--stage") == before


def test_in_the_middle_of_a_merge(chains: Chains) -> None:
    repository = chains.repository
    repository.git("checkout", "--quiet", "-b", "side")
    for branch, seed in (("side", 60), ("main", 61)):
        repository.git("checkout", "--quiet", branch)
        repository.write("model.pt", models.torch_bytes(touched(chains.tensors, seed)))
        repository.commit(branch)
    repository.git_fails("merge", "side")
    before = repository.git("ls-files", "--stage")
    assert "model.pt: it is in conflict" in repository.git_fails("theta", "compact")
    assert repository.git("ls-files", "--stage") == before
    chains.compact(DEEP)
    assert chains.repository.git("diff", "--cached", "--name-only", "--", DEEP) == DEEP


def test_files_that_are_not_tracked_by_theta(chains: Chains) -> None:
    """Metadata in a file of another kind is text, and stays what it is; links and submodules hold none."""
    repository = chains.repository
    repository.write("copy.json", repository.blob("model.pt", "HEAD"))
    (repository.path / "link").symlink_to("model.pt")
    (repository.path / "text-link.pt").symlink_to('{"lfs_metadata": 1}')
    repository.git("add", "--all")
    commit = repository.git("rev-parse", "HEAD").replace("0", "1")  # of another repository: it is not here
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{commit},submodule")
    repository.git("commit", "--quiet", "--message", "others")
    chains.compact()
    assert chains.compacted() == set(PATHS)
    assert repository.git("diff", "--cached", "--name-only").split() == sorted(PATHS)


def test_a_sparse_checkout(chains: Chains) -> None:
    """Files that are not in the work tree become dense too, and stay away."""
    repository = chains.repository
    repository.git("sparse-checkout", "set", "--no-cone", "/*", "!/models/")
    assert not (repository.path / DEEP).exists()
    chains.compact()
    assert chains.compacted() == set(PATHS)
    assert not (repository.path / DEEP).exists()
    assert repository.git("status", "--porcelain") == "\n".join(f"M  {path}" for path in sorted(PATHS))
    repository.git("sparse-checkout", "disable")
    assert repository.read(DEEP) == chains.content(DEEP)


def test_marks_of_the_index_stay(chains: Chains) -> None:
    repository = chains.repository
    repository.git("update-index", "--assume-unchanged", "model.pt")
    repository.git("update-index", "--skip-worktree", DEEP)
    chains.compact()
    assert chains.compacted() == set(PATHS)
    marks = repository.git("ls-files", "-v").splitlines()
    assert marks == ["H .gitattributes", "h model.pt", "H model.safetensors", f"S {DEEP}", "H notes.txt"]


def test_nothing_to_do(repository: Repository) -> None:
    done = repository.run("git", "theta", "compact")
    assert (done.returncode, done.stderr) == (0, b"git-theta: 0 files with 0 updates stored dense again\n")
    repository.write("notes.txt", b"")
    repository.git("add", "--intent-to-add", "notes.txt")
    assert repository.run("git", "theta", "compact").returncode == 0
