"""`git theta prune` in every kind of repository, and of objects that a remote has."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.cli import written
from tests.e2e.transfer import kept
from tests.support.repository import Repository

BLOB_NONE = ("--filter=blob:none", "-c", "maintenance.auto=false", "-c", "gc.auto=0")


@pytest.fixture
def local(repository: Repository) -> Repository:
    """Return a repository with three commits, of one object each, and an object that nothing names."""
    kept.set_up(repository)
    for group in (b"first", b"second", b"third"):
        kept.commit(repository, "m.pt", group)
    kept.keep(repository, b"nobody's")
    return repository


@pytest.fixture
def published(local: Repository) -> Repository:
    """Return a bare repository that has all of `local`; `local` knows it as origin."""
    remote = Repository.init(local.path.parent / "remote.git", local.environment, "--bare")
    local.git("remote", "add", "origin", remote.path.as_uri())
    local.git("push", "--quiet", "--no-verify", "origin", "main")
    put(local, remote, "lfs")
    return remote


def put(source: Repository, target: Repository, store: str) -> None:
    shutil.copytree(source.git_directory / "lfs" / "objects", target.git_directory / store / "objects")


def clone(source: Repository, *arguments: str, name: str = "clone") -> Repository:
    """Return a clone with the objects of `local`, all old, and an object of nobody's."""
    made = source.at(source.path.parent / name)
    source.git("clone", "--quiet", "--no-checkout", *arguments, source.path.as_uri(), str(made.path))
    made.git("config", "filter.theta.clean", "cat")
    return made


def fill(repository: Repository, *contents: bytes) -> Repository:
    kept.keep(repository, *contents, b"nobody's")
    return repository


def prune(repository: Repository, *arguments: str) -> str:
    return repository.git("theta", "prune", *arguments)


def assert_kept(repository: Repository, *contents: bytes) -> None:
    assert kept.stored(repository, "theta") == kept.stored(repository, "lfs") == set(contents)


# --- kinds of repositories


def test_a_bare_repository(local: Repository) -> None:
    bare = fill(clone(local, "--mirror", name="bare.git"), b"first", b"second", b"third")
    assert prune(bare) == "1 object deleted, 8 bytes freed"
    assert_kept(bare, b"first", b"second", b"third")


def test_a_shallow_clone_needs_what_it_has_the_commits_of(local: Repository) -> None:
    shallow = fill(clone(local, "--depth=1"), b"second", b"third")
    assert prune(shallow).startswith("2 objects ")
    assert_kept(shallow, b"third")


def test_a_partial_clone_does_not_know_what_it_needs(local: Repository) -> None:
    local.git("config", "uploadpack.allowFilter", "true")
    partial = fill(clone(local, *BLOB_NONE), b"first", b"third")
    partial.git("checkout", "--quiet", "main")
    before = written.packs(partial)
    error = partial.git_fails("theta", "prune")
    assert "files or directories of the history are not here" in error
    assert written.packs(partial) == before
    assert_kept(partial, b"first", b"third", b"nobody's")
    assert "git fetch --refetch --no-filter" in error
    partial.git("fetch", "--quiet", "--refetch", "--no-filter")
    assert prune(partial).startswith("1 object ")
    assert_kept(partial, b"first", b"third")


def test_a_treeless_clone(local: Repository) -> None:
    local.git("config", "uploadpack.allowFilter", "true")
    partial = fill(clone(local, "--filter=tree:0", "-c", "gc.auto=0"), b"first")
    assert "files or directories of the history are not here" in partial.git_fails("theta", "prune")
    assert_kept(partial, b"first", b"nobody's")


@pytest.mark.parametrize("kind", [("--shared",), ("--reference", "LENDER")])
def test_a_borrower_takes_nothing_from_its_lender(local: Repository, kind: tuple[str, ...]) -> None:
    arguments = [argument.replace("LENDER", str(local.path)) for argument in kind]
    borrower = local.at(local.path.parent / "borrower")
    local.git("clone", "--quiet", "--no-checkout", *arguments, str(local.path), str(borrower.path))
    fill(borrower, b"third")
    lent = kept.stored(local, "lfs"), kept.stored(local, "theta")
    assert prune(borrower, "--expire=now").startswith("1 object ")
    assert_kept(borrower, b"third")
    assert (kept.stored(local, "lfs"), kept.stored(local, "theta")) == lent


def test_a_submodule(local: Repository, new_repository: Callable[[str], Repository]) -> None:
    super_project = new_repository("super")
    super_project.git("-c", "protocol.file.allow=always", "submodule", "add", "--quiet", str(local.path), "sub")
    super_project.commit("a submodule")
    assert prune(super_project).startswith("0 objects")
    inner = fill(super_project.at(super_project.path / "sub"), b"first", b"second", b"third")
    assert prune(inner).startswith("1 object ")
    assert_kept(inner, b"first", b"second", b"third")


def test_a_storage_outside_is_left_alone(local: Repository) -> None:
    storage = local.path.parent / "storage"
    (local.git_directory / "lfs").rename(storage)
    local.git("config", "lfs.storage", str(storage))
    done = local.run("git", "theta", "prune")
    assert done.stdout == b"1 object deleted, 0 bytes freed\n"
    assert b"storage/objects is outside of the repository and left alone" in done.stderr
    assert len(list((storage / "objects").glob("??/??/*"))) == 4
    kept.place(local, "theta", written.reference(b"nobody's").oid).hardlink_to(
        storage / "objects" / relative(written.reference(b"nobody's").oid)
    )
    assert prune(local, "--shared-storage") == "1 object deleted, 8 bytes freed"
    assert len(list((storage / "objects").glob("??/??/*"))) == 3


def test_a_storage_elsewhere_inside(local: Repository) -> None:
    (local.git_directory / "lfs").rename(local.git_directory / "elsewhere")
    local.git("config", "lfs.storage", "elsewhere")
    assert prune(local) == "1 object deleted, 8 bytes freed"
    assert len(list((local.git_directory / "elsewhere" / "objects").glob("??/??/*"))) == 3


def relative(oid: str) -> Path:
    return Path(oid[:2], oid[2:4], oid)


# --- what the remote has


def on_remote(remote: Repository) -> set[bytes]:
    return kept.stored(remote, "lfs")


@pytest.mark.needs_git_lfs
def test_what_was_pushed_and_is_not_in_use(local: Repository, published: Repository) -> None:
    kept.commit(local, "m.pt", b"unpushed")
    kept.commit(local, "m.pt", b"tip")
    assert prune(local, "--pushed=origin", "--dry-run").startswith("4 objects would be deleted")
    assert prune(local, "--pushed=origin") == "4 objects deleted, 24 bytes freed"
    assert_kept(local, b"unpushed", b"tip")
    assert {b"first", b"second", b"third"} <= on_remote(published)


@pytest.mark.needs_git_lfs
def test_all_files_of_a_commit_that_was_not_pushed(local: Repository, published: Repository) -> None:
    local.write("other", b"and m.pt as it was pushed")
    local.commit("unpushed", "other")
    local.git("rm", "--quiet", "m.pt")
    local.commit("gone")
    assert prune(local, "--pushed=origin").startswith("3 objects ")
    assert_kept(local, b"third")


@pytest.mark.needs_git_lfs
@pytest.mark.parametrize("place", ["branch", "stash", "worktree", "index", "detached", "tag of a blob"])
def test_what_is_in_use(local: Repository, published: Repository, place: str) -> None:
    first = local.git("rev-parse", "HEAD~2")
    commands = {
        "branch": ("branch", "old", first),
        "stash": ("stash", "store", "-m", "x", first),
        "worktree": ("worktree", "add", "--quiet", "--detach", "../linked", first),
        "index": ("read-tree", first),
        "tag of a blob": ("tag", "blob", f"{first}:m.pt"),
        "detached": ("checkout", "--quiet", "--detach", first),
    }
    local.git(*commands[place])
    assert prune(local, "--pushed=origin").startswith("2 objects ")
    assert_kept(local, b"first", b"third")


@pytest.mark.needs_git_lfs
def test_what_the_remote_lost_is_sent_first(local: Repository, published: Repository) -> None:
    kept.place(published, "lfs", written.reference(b"first").oid).unlink()
    kept.place(local, "lfs", written.reference(b"first").oid).unlink()  # git lfs prune took it here
    assert prune(local, "--pushed=origin").startswith("3 objects ")
    assert on_remote(published) == {b"first", b"second", b"third", b"nobody's"}
    assert_kept(local, b"third")


@pytest.mark.needs_git_lfs
def test_a_remote_that_cannot_be_asked(local: Repository, published: Repository) -> None:
    shutil.rmtree(published.path / "lfs" / "objects")
    (published.path / "lfs" / "objects").write_text("no directory")
    error = local.git_fails("theta", "prune", "--pushed=origin")
    assert "git lfs push" in error
    assert_kept(local, b"first", b"second", b"third", b"nobody's")


@pytest.mark.needs_git_lfs
@pytest.mark.parametrize("what", ["branch", "index"])
def test_what_is_needed_again_while_the_remote_is_asked(local: Repository, published: Repository, what: str) -> None:
    first = local.git("rev-parse", "HEAD~2")
    command = {"branch": ["git", "branch", "old", first], "index": ["git", "read-tree", first]}[what]
    script = f"""
import subprocess, sys
from theta_daemon.cli import lfs, main
push = lfs.push
def busy(*arguments, **options):
    push(*arguments, **options)
    subprocess.run({command}, check=True)
lfs.push = busy
sys.exit(main.main(["prune", "--pushed=origin"]))
"""
    done = local.run(sys.executable, "-c", script)
    assert done.returncode == 1
    assert b"the repository was changed while the remote was asked" in done.stderr
    assert_kept(local, b"first", b"second", b"third", b"nobody's")
    assert prune(local, "--pushed=origin").startswith("2 objects ")
    assert_kept(local, b"first", b"third")


@pytest.mark.needs_git_lfs
def test_a_damaged_object_does_not_go_to_the_remote(local: Repository, published: Repository) -> None:
    path = kept.place(local, "lfs", written.reference(b"first").oid)
    path.write_bytes(b"damag")
    os.utime(path, (kept.OLD, kept.OLD))
    assert "is damaged" in local.git_fails("theta", "prune", "--pushed=origin")
    assert kept.stored(local, "lfs") == {b"damag", b"second", b"third", b"nobody's"}


def test_objects_of_pointers_stay(local: Repository, published: Repository) -> None:
    for group in (b"first", b"second"):
        oid = written.reference(group).oid
        local.write("f.bin", f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize 5\n".encode())
        local.commit("a pointer")
    local.git("rm", "--quiet", "f.bin")
    local.commit("gone")
    local.git("push", "--quiet", "--no-verify", "origin", "main")
    assert prune(local, "--pushed=origin").startswith("1 object ")
    assert_kept(local, b"first", b"second", b"third")


def test_a_remote_that_does_not_exist(local: Repository) -> None:
    done = local.run("git", "theta", "prune", "--pushed=nowhere")
    assert done.returncode == 2
    assert b"there is no remote 'nowhere'" in done.stderr
    assert_kept(local, b"first", b"second", b"third", b"nobody's")


def test_what_is_young_is_not_freed(local: Repository, published: Repository) -> None:
    for path in (local.git_directory / "theta" / "objects").glob("??/??/*"):
        os.utime(path)
    assert prune(local, "--pushed=origin").startswith("0 objects")
