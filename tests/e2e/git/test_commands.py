"""Every git command that runs a filter, in every state a repository can be in: right bytes, clean status."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.git.conftest import Model, assert_clean
from tests.support.repository import Repository


@pytest.fixture
def two(tracked: Repository, model: Model) -> tuple[Repository, str, str]:
    """Return a repository with two versions of one model on main, and the commits."""
    tracked.write(model.path, model.version(1))
    one = tracked.commit("one")
    tracked.write(model.path, model.version(1, changed=1))
    return tracked, one, tracked.commit("two")


Two = tuple[Repository, str, str]


def test_stash_and_pop(two: Two, model: Model) -> None:
    repository, _, _ = two
    repository.write(model.path, model.version(7))
    repository.git("stash", "push", "--quiet")
    assert repository.read(model.path) == model.version(1, changed=1)
    assert_clean(repository)
    repository.git("stash", "pop", "--quiet")
    assert repository.read(model.path) == model.version(7)
    repository.git("add", model.path)
    repository.git("stash", "push", "--quiet", "--include-untracked")
    assert_clean(repository)
    repository.git("stash", "pop", "--quiet", "--index")
    assert repository.read(model.path) == model.version(7)
    assert repository.git("diff", "--name-only") == ""


def test_rebase_of_another_file_and_of_the_model(two: Two, model: Model) -> None:
    repository, one, _ = two
    repository.git("checkout", "--quiet", "-b", "side", one)
    repository.write("notes.txt", b"side\n")
    repository.commit("notes")
    repository.write("other-" + model.path, model.version(5))
    repository.commit("another model")
    repository.git("rebase", "--quiet", "main")
    assert repository.read(model.path) == model.version(1, changed=1)
    assert repository.read("other-" + model.path) == model.version(5)
    assert_clean(repository)


def test_cherry_pick_and_revert(two: Two, model: Model) -> None:
    repository, one, second = two
    repository.git("checkout", "--quiet", "-b", "side", one)
    repository.write("notes.txt", b"side\n")
    repository.commit("notes")
    repository.git("cherry-pick", second)
    assert repository.read(model.path) == model.version(1, changed=1)
    assert_clean(repository)
    repository.git("revert", "--no-edit", "HEAD")
    assert repository.read(model.path) == model.version(1)
    assert_clean(repository)
    blob = repository.git("rev-parse", f"HEAD:{model.path}")
    assert blob == repository.git("rev-parse", f"{one}:{model.path}")


def test_amend_and_commit_all(two: Two, model: Model) -> None:
    repository, _, _ = two
    repository.write(model.path, model.version(3))
    repository.git("commit", "--quiet", "--all", "--amend", "--message", "amended")
    repository.checkout_again()
    assert repository.read(model.path) == model.version(3)
    assert_clean(repository)


def test_merge_without_conflict_and_octopus(two: Two, model: Model) -> None:
    repository, one, _ = two
    for side in ("a", "b"):
        repository.git("checkout", "--quiet", "-b", side, one)
        repository.write(f"{side}-{model.path}", model.version(ord(side)))
        repository.commit(side)
    repository.git("checkout", "--quiet", "main")
    repository.git("merge", "--quiet", "--no-edit", "a", "b")
    for side in ("a", "b"):
        assert repository.read(f"{side}-{model.path}") == model.version(ord(side))
    assert repository.read(model.path) == model.version(1, changed=1)
    assert_clean(repository)


def test_merge_conflict_keeps_our_model_whole(two: Two, model: Model) -> None:
    repository, one, _ = two
    repository.git("checkout", "--quiet", "-b", "side", one)
    repository.write(model.path, model.version(1, changed=2))
    repository.commit("side")
    repository.git("checkout", "--quiet", "main")
    said = repository.git_fails("merge", "side")
    assert model.path in said
    assert repository.read(model.path) == model.version(1, changed=1)
    assert repository.git("diff", "--name-only", "--diff-filter=U") == model.path
    repository.git("checkout", "--theirs", "--", model.path)
    assert repository.read(model.path) == model.version(1, changed=2)
    repository.git("add", model.path)
    repository.git("commit", "--quiet", "--no-edit")
    assert_clean(repository)
    assert repository.git("rev-parse", f"HEAD:{model.path}") == repository.git("rev-parse", f"side:{model.path}")


def test_merge_with_renormalize(two: Two, model: Model) -> None:
    repository, one, _ = two
    repository.git("checkout", "--quiet", "-b", "side", one)
    repository.write("notes.txt", b"side\n")
    repository.write("moved-" + model.path, repository.read(model.path))
    repository.commit("notes")
    before = repository.git("rev-parse", f"main:{model.path}")
    repository.git("merge", "--quiet", "--no-edit", "-X", "renormalize", "main")
    assert repository.git("rev-parse", f"HEAD:{model.path}") == before
    assert repository.read(model.path) == model.version(1, changed=1)
    assert_clean(repository)


def test_rebase_conflict_never_writes_markers(two: Two, model: Model) -> None:
    repository, one, _ = two
    repository.git("checkout", "--quiet", "-b", "side", one)
    repository.write(model.path, model.version(1, changed=2))
    repository.commit("side")
    repository.git_fails("rebase", "main")
    assert b"<<<<<<<" not in repository.read(model.path)
    assert repository.read(model.path) == model.version(1, changed=1)
    repository.git("rebase", "--abort")
    assert repository.read(model.path) == model.version(1, changed=2)
    assert_clean(repository)


def test_bisect_and_detached_head(two: Two, model: Model) -> None:
    repository, one, second = two
    repository.git("bisect", "start", second, one)
    repository.git("bisect", "reset")
    repository.git("checkout", "--quiet", "--detach", one)
    assert repository.read(model.path) == model.version(1)
    repository.write(model.path, model.version(9))
    repository.commit("on a detached HEAD")
    repository.checkout_again()
    assert repository.read(model.path) == model.version(9)
    assert_clean(repository)


def test_linked_worktree(two: Two, model: Model) -> None:
    repository, one, _ = two
    linked = repository.at(repository.path.parent / "linked")
    repository.git("worktree", "add", "--quiet", "--detach", str(linked.path), one)
    assert linked.read(model.path) == model.version(1)
    assert_clean(linked)
    linked.write(model.path, model.version(4))
    commit = linked.commit("from the linked worktree")
    repository.git("checkout", "--quiet", commit)
    assert repository.read(model.path) == model.version(4)
    assert not (linked.path / ".git").is_dir()


def test_submodule(two: Two, model: Model, git_environment: dict[str, str]) -> None:
    repository, _, _ = two
    outer = Repository.init(repository.path.parent / "outer", git_environment)
    outer.git("theta", "install", "--global")
    outer.git("clone", "--quiet", "--no-checkout", str(repository.path), "inner")
    store = outer.path / "inner" / ".git" / "lfs"
    store.parent.mkdir(exist_ok=True)
    shutil.copytree(repository.path / ".git" / "lfs", store)
    outer.git("submodule", "--quiet", "add", str(repository.path), "inner")
    outer.git("submodule", "--quiet", "absorbgitdirs")
    inner = outer.at(outer.path / "inner")
    inner.git("checkout", "--quiet", "main")
    assert (inner.path / ".git").is_file()
    assert inner.read(model.path) == model.version(1, changed=1)
    inner.write(model.path, model.version(6))
    inner.commit("from the submodule")
    inner.checkout_again()
    assert inner.read(model.path) == model.version(6)
    assert_clean(inner)


def test_bare_repository_archives(two: Two, model: Model, git_environment: dict[str, str]) -> None:
    repository, one, _ = two
    bare = repository.at(repository.path.parent / "bare.git")
    repository.git("clone", "--quiet", "--bare", str(repository.path), str(bare.path))
    shutil.copytree(repository.path / ".git" / "lfs", bare.path / "lfs")
    bare.git("theta", "install", "--local")
    for commit, content in ((one, model.version(1)), ("main", model.version(1, changed=1))):
        with tarfile.open(fileobj=io.BytesIO(bare.git_bytes("archive", "--format=tar", commit))) as archive:
            member = archive.extractfile(model.path)
            assert member is not None
            assert member.read() == content


def test_git_dir_and_work_tree_in_the_environment(two: Two, model: Model, tmp_path: Path) -> None:
    repository, one, _ = two
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    apart = repository.in_environment(GIT_DIR=str(repository.path / ".git"), GIT_WORK_TREE=str(elsewhere)).at(elsewhere)
    apart.git("checkout", "--quiet", "--force", one, "--", ".")
    assert apart.read(model.path) == model.version(1)
    apart.write(model.path, model.version(8))
    apart.git("add", model.path)
    assert apart.git("diff", "--name-only") == ""
    apart.git("checkout-index", "--force", "--all", "--prefix=out/")
    assert apart.read(f"out/{model.path}") == model.version(8)


def test_from_a_sub_directory(tracked: Repository, model: Model) -> None:
    tracked.write(f"models/deep/{model.path}", model.version(1))
    inside = tracked.path / "models" / "deep"
    tracked.git("add", model.path, cwd=inside)
    tracked.git("commit", "--quiet", "--message", "deep", cwd=inside)
    (inside / model.path).unlink()
    tracked.git("checkout", "--", model.path, cwd=inside)
    assert tracked.read(f"models/deep/{model.path}") == model.version(1)
    assert_clean(tracked)


def test_split_index_and_another_index_file(two: Two, model: Model) -> None:
    repository, _, _ = two
    repository.git("update-index", "--split-index")
    repository.write(model.path, model.version(1, changed=5))
    repository.git("add", model.path)
    repository.git("commit", "--quiet", "--message", "split")
    assert_clean(repository)
    other = repository.in_environment(GIT_INDEX_FILE=str(repository.path / ".git" / "other-index"))
    other.git("read-tree", "HEAD~1")
    other.write(model.path, model.version(1, changed=1))
    other.git("update-index", "--refresh")
    assert other.git("diff-files", "--name-only") == ""


def test_sparse_index(two: Two, model: Model) -> None:
    repository, _, _ = two
    repository.write(f"in/{model.path}", model.version(1))
    repository.write(f"out/{model.path}", model.version(2))
    repository.commit("folders")
    repository.git("sparse-checkout", "init", "--cone", "--sparse-index")
    repository.git("sparse-checkout", "set", "in")
    assert not (repository.path / "out").exists()
    assert_clean_sparse(repository, f"in/{model.path}")
    repository.write(f"in/{model.path}", model.version(3))
    repository.git("commit", "--quiet", "--all", "--message", "sparse")
    repository.git("sparse-checkout", "disable")
    assert repository.read(f"out/{model.path}") == model.version(2)
    assert_clean(repository)


def assert_clean_sparse(repository: Repository, present: str) -> None:
    """Fail unless the status is clean after `present` was touched."""
    (repository.path / present).touch()
    assert repository.git("status", "--porcelain") == ""


ODD_NAMES = [
    b"with space",
    b"quote'and\"double",
    b"new\nline",
    b"not-utf8-\xff\xfe",
    b"a=b,c",
    b"$HOME `x`",
    b"-dash",
    b":colon",
    b"tab\there",
]


@pytest.mark.parametrize("name", ODD_NAMES, ids=[repr(name) for name in ODD_NAMES])
def test_odd_paths(tracked: Repository, model: Model, name: bytes) -> None:
    folder = os.fsencode(tracked.path) + b"/dir " + name
    os.mkdir(folder)
    path = folder + b"/" + name + os.fsencode(Path(model.path).suffix)
    relative = os.path.relpath(path, os.fsencode(tracked.path))
    Path(os.fsdecode(path)).write_bytes(model.version(1))
    tracked.git("add", "--", relative)
    tracked.git("commit", "--quiet", "--message", "odd")
    first = tracked.git("ls-files", "--stage").split()
    Path(os.fsdecode(path)).unlink()
    tracked.git("checkout", "--", relative)
    assert Path(os.fsdecode(path)).read_bytes() == model.version(1)
    assert_clean(tracked)
    Path(os.fsdecode(path)).write_bytes(model.version(1, changed=1))
    tracked.git("commit", "--quiet", "--all", "--message", "odd again")
    assert tracked.git("ls-files", "--stage").split() != first
    assert_clean(tracked)


@pytest.mark.needs_git_lfs
@pytest.mark.parametrize("first", ["git-lfs", "theta"])
def test_beside_git_lfs(new_repository: Callable[[str], Repository], model: Model, first: str) -> None:
    """Whoever comes first: the files of both are pushed, and come back in a fresh clone."""
    repository = new_repository("repository")
    set_up_both(repository, first)
    weights = os.urandom(100_000)
    repository.write("weights.bin", weights)
    repository.write(model.path, model.version(1))
    repository.commit("both")
    assert_clean(repository)
    remote = publish(repository)
    repository.git("push", "--quiet", "origin", "main")
    clone = cloned(repository, remote)
    assert clone.read(model.path) == model.version(1)
    assert clone.read("weights.bin") == weights
    assert_clean(clone)


@pytest.mark.needs_git_lfs
def test_what_git_lfs_overwrites_comes_back(new_repository: Callable[[str], Repository], model: Model) -> None:
    repository = new_repository("repository")
    set_up_both(repository, "theta")
    hook = repository.git_directory / "hooks" / "pre-push"
    for renew in (("theta", "install", "--local"), ("add", model.path)):
        repository.git("lfs", "update", "--force")
        git_lfs = hook.read_text()
        assert "theta" not in git_lfs
        repository.write(model.path, model.version(1))
        repository.git(*renew)
        renewed = hook.read_text()
        assert "git theta pre-push" in renewed
        assert [renewed.count(call) for call in ("git lfs pre-push", *git_lfs.splitlines())] == [1] * 4
    repository.write("weights.bin", b"weights" * 1000)
    repository.commit("both")
    remote = publish(repository)
    repository.git("push", "--quiet", "origin", "main")
    clone = cloned(repository, remote)
    assert clone.read(model.path) == model.version(1)
    assert clone.read("weights.bin") == b"weights" * 1000


def set_up_both(repository: Repository, first: str) -> None:
    """Set up git-lfs for *.bin and us for models."""
    if first == "git-lfs":
        repository.git("lfs", "install", "--local")
    repository.git("theta", "install", "--local")
    repository.git("theta", "track", "*.pt", "*.safetensors")
    if first == "theta":
        # That is how it is with any hook that it did not write; its settings are written all the same.
        assert "Hook already exists: pre-push" in repository.git_fails("lfs", "install", "--local")
    repository.git("lfs", "track", "*.bin")


def publish(repository: Repository) -> Repository:
    """Return a new bare repository, which is `origin` now."""
    remote = Repository.init(repository.path.parent / "remote.git", repository.environment, "--bare")
    repository.git("remote", "add", "origin", remote.path.as_uri())
    return remote


def cloned(repository: Repository, remote: Repository) -> Repository:
    """Return a fresh clone, in which both filters ran."""
    clone = repository.at(repository.path.parent / "clone")
    repository.git("theta", "install", "--global")
    repository.git("lfs", "install", "--skip-repo")
    repository.git("clone", "--quiet", remote.path.as_uri(), str(clone.path))
    return clone


def test_git_streams_large_files_to_clean(tracked: Repository, minilm: Path) -> None:
    """T21 'filtering large input to small output should use little memory': git itself must not hold the file."""
    tracked.write("minilm.safetensors", minilm.read_bytes())
    limited = tracked.in_environment(GIT_MMAP_LIMIT="1m", GIT_ALLOC_LIMIT="1m")
    limited.git("add", "minilm.safetensors")


def test_many_files_in_one_command(tracked: Repository, model: Model) -> None:
    contents = {f"shard-{n:02}-{model.path}": model.version(n) for n in range(40)}
    for name, content in contents.items():
        tracked.write(name, content)
    tracked.commit("shards")
    assert_clean(tracked)
    tracked.checkout_again()
    assert {name: tracked.read(name) for name in contents} == contents
