"""The attribute `theta-format` as real git tells it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.history.conftest import git_version, metadata, settings_of
from tests.support.repository import Repository
from theta_daemon.errors import RepositoryError
from theta_daemon.history.attributes import GitAttributes


def checkpoint_type(repository: Repository, path: bytes = b"m.pt") -> str | None:
    return GitAttributes(settings_of(repository)).checkpoint_type(path)


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("", None),
        ("*.pt filter=theta", None),
        ("*.pt theta-format=safetensors", "safetensors"),
        ("*.pt theta-format=of-a-plugin", "of-a-plugin"),
        ("*.pt theta-format=", ""),
        ("*.pt theta-format", None),
        ("*.pt -theta-format", None),
        ("* theta-format=pytorch\n*.pt !theta-format", None),
        ("*.safetensors theta-format=pytorch", None),
    ],
)
def test_what_a_line_says(stored: Repository, line: str, value: str | None) -> None:
    stored.write(".gitattributes", f"{line}\n".encode())
    assert checkpoint_type(stored) == value


@pytest.mark.parametrize(
    "path", [b"line\nbreak\r.pt", b"-dash.pt", b"--", b":(top)x.pt", b"\xff.pt", b" .pt", b"d/m.pt"]
)
def test_every_path_means_itself(repository: Repository, path: bytes) -> None:
    repository.write(".gitattributes", b"* theta-format=pytorch\nm.pt theta-format=no\n/m.pt theta-format=other\n")
    assert checkpoint_type(repository, path) == ("no" if path == b"d/m.pt" else "pytorch")


def test_what_no_path_can_be_has_no_attributes(repository: Repository) -> None:
    repository.write(".gitattributes", b"* theta-format=pytorch\n")
    assert checkpoint_type(repository, b"a\0b") is None
    with pytest.raises(RepositoryError, match=r"git check-attr failed .*outside repository"):
        checkpoint_type(repository, b"../m.pt")


def test_paths_start_from_the_top_wherever_git_is_run(repository: Repository, tmp_path: Path) -> None:
    repository.write("d/.gitattributes", b"m.pt theta-format=below\n")
    repository.write(".gitattributes", b"m.pt theta-format=top\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    apart = repository.at(elsewhere).in_environment(GIT_DIR="../repository/.git", GIT_WORK_TREE="../repository")
    for place in (repository, repository.at(repository.path / "d"), apart):
        assert checkpoint_type(place) == "top"
        assert checkpoint_type(place, b"d/m.pt") == "below"


def test_a_linked_worktree_has_its_own(repository: Repository, tmp_path: Path) -> None:
    repository.write(".gitattributes", b"*.pt theta-format=first\n")
    repository.commit("first")
    repository.git("worktree", "add", "--quiet", str(tmp_path / "linked"))
    linked = repository.at(tmp_path / "linked")
    linked.write(".gitattributes", b"*.pt theta-format=second\n")
    assert (checkpoint_type(repository), checkpoint_type(linked)) == ("first", "second")


def test_an_answer_is_never_older_than_the_question(repository: Repository) -> None:
    attributes = GitAttributes(settings_of(repository))
    for value in ("one", "two"):
        repository.write(".gitattributes", f"*.pt theta-format={value}\n".encode())
        assert attributes.checkpoint_type(b"m.pt") == value


def test_attributes_of_the_index_where_the_work_tree_has_none(repository: Repository) -> None:
    repository.write(".gitattributes", b"*.pt theta-format=pytorch\n")
    repository.git("add", ".gitattributes")
    (repository.path / ".gitattributes").unlink()
    assert checkpoint_type(repository) == "pytorch"


def test_a_bare_repository_falls_through(repository: Repository, tmp_path: Path) -> None:
    repository.write(".gitattributes", b"*.pt theta-format=pytorch\n")
    repository.commit("first")
    repository.git("clone", "--quiet", "--bare", ".", str(tmp_path / "bare"))
    found = checkpoint_type(repository.at(tmp_path / "bare"))
    assert found is None or git_version() >= (2, 43)  # from there on, some versions read HEAD's
    assert checkpoint_type(repository.at(repository.path / ".git")) is None


def test_a_partial_clone_is_never_filled(repository: Repository, tmp_path: Path) -> None:
    repository.write("in/m.pt", metadata(1))
    repository.write("out/.gitattributes", b"*.pt theta-format=pytorch\n")
    repository.write("out/m.pt", metadata(2))
    repository.commit("first")
    repository.git("config", "uploadpack.allowFilter", "true")
    quiet = ("--quiet", "--no-checkout", "--filter=blob:none", "-c", "maintenance.auto=false", "-c", "gc.auto=0")
    repository.git("clone", *quiet, f"file://{repository.path}", str(tmp_path / "partial"))
    partial = repository.at(tmp_path / "partial")
    partial.git("sparse-checkout", "set", "--no-cone", "/in/")
    partial.git("checkout", "--quiet", "main")
    packs = sorted(partial.path.glob(".git/objects/pack/*.pack"))
    assert checkpoint_type(partial, b"out/m.pt") is None
    assert sorted(partial.path.glob(".git/objects/pack/*.pack")) == packs


def test_a_git_that_fails_is_an_error(repository: Repository) -> None:
    attributes = GitAttributes(settings_of(repository))
    (repository.path / ".git" / "config").write_text("[core\n")
    with pytest.raises(RepositoryError, match=r"^git check-attr failed \(exit 128\): fatal: bad config"):
        attributes.checkpoint_type(b"m.pt")
