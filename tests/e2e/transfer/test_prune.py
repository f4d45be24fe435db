"""`git theta prune` takes what nothing needs, and nothing else."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.cli import written
from tests.e2e.transfer import kept
from tests.support import models
from tests.support.repository import Repository
from theta_daemon import settings
from theta_daemon.errors import RepositoryError
from theta_daemon.history.reachable import Content, Reachable, Roots
from theta_daemon.metadata import text
from theta_daemon.metadata.entries import Entry, Metadata
from theta_daemon.pipelines.unneeded import look
from theta_daemon.progress import SILENT

LOST = written.reference(b"lost").oid

Place = Callable[[Repository, str], object]
"""Puts a commit where git keeps it."""


@pytest.fixture
def local(repository: Repository) -> Repository:
    """Return a repository whose `main` needs the object `used`."""
    kept.set_up(repository)
    kept.commit(repository, "m.pt", b"used")
    return repository


@pytest.fixture
def lost(local: Repository) -> str:
    """Return a commit that nothing names any more, whose metadata names the object `lost`."""
    found = kept.commit(local, "m.pt", b"lost")
    kept.forget(local, found)
    return found


def prune(repository: Repository, *arguments: str) -> str:
    return repository.git("theta", "prune", *arguments)


def assert_kept(repository: Repository, *contents: bytes) -> None:
    assert kept.stored(repository, "theta") == kept.stored(repository, "lfs") == set(contents)


def test_what_nothing_names_is_deleted(local: Repository, lost: str) -> None:
    assert prune(local) == "1 object deleted, 4 bytes freed"
    assert_kept(local, b"used")
    assert prune(local) == "0 objects deleted, 0 bytes freed"
    assert not any((local.git_directory / "theta" / "objects").glob("removed-*"))


def linked(repository: Repository, *arguments: str) -> Repository:
    repository.git("worktree", "add", "--quiet", "--detach", "../linked", *arguments)
    return repository.at(repository.path.parent / "linked")


def own(repository: Repository) -> Path:
    """Return the git directory of a worktree."""
    return repository.path / repository.git("rev-parse", "--git-dir")


def write_head(repository: Repository, name: str, text: str) -> None:
    path = own(repository) / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)


def stages(repository: Repository, lost: str) -> None:
    blob = repository.git("rev-parse", f"{lost}:m.pt")
    repository.git("update-index", "--force-remove", "m.pt")
    repository.git("update-index", "--index-info", stdin=f"100644 {blob} 3\tm.pt\n".encode())


def replaced(repository: Repository, lost: str) -> None:
    """Let history go through `lost`, but for a replacement that stands for it."""
    child = repository.git("commit-tree", "-p", lost, "-m", "child", "HEAD^{tree}")
    repository.git("update-ref", "refs/heads/child", child)
    repository.git("replace", lost, "HEAD")


def worktree_without_directory(repository: Repository, lost: str) -> None:
    other = linked(repository, lost)
    other.path.rename(other.path.with_name("moved"))


def stash_below(repository: Repository, lost: str) -> None:
    repository.git("stash", "store", "-m", "older", lost)
    repository.git("stash", "store", "-m", "newer", repository.git("rev-parse", "HEAD"))


def packed(repository: Repository, lost: str) -> None:
    repository.git("branch", "other", lost)
    repository.git("pack-refs", "--all")


def look_there(repository: Repository, lost: str) -> None:
    repository.git("checkout", "--quiet", lost)
    repository.git("checkout", "--quiet", "main")


def read_tree(repository: Repository, lost: str) -> None:
    repository.git("read-tree", lost)


def a_ref(name: str, what: str = "") -> Place:
    return lambda repository, lost: repository.git("update-ref", name, repository.git("rev-parse", lost + what))


def a_file(name: str, form: str = "{}\n") -> Place:
    return lambda repository, lost: write_head(repository, name, form.format(lost))


def abbreviated(repository: Repository, lost: str) -> None:
    write_head(repository, "rebase-merge/git-rebase-todo", f"pick {lost[:9]} a checkpoint\n")


PLACES: dict[str, Place] = {
    "branch": a_ref("refs/heads/other"),
    "annotated tag": lambda repository, lost: repository.git("tag", "-a", "-m", "x", "v1", lost),
    "tag of a tree": a_ref("refs/tags/tree", "^{tree}"),
    "tag of a blob": a_ref("refs/tags/blob", ":m.pt"),
    "notes": a_ref("refs/notes/commits"),
    "hidden ref": a_ref("refs/hidden/x"),
    "remote-tracking ref": a_ref("refs/remotes/origin/main"),
    "packed ref": packed,
    "stash": lambda repository, lost: repository.git("stash", "store", "-m", "x", lost),
    "stash below another": stash_below,
    "reflog of HEAD": look_there,
    "index": read_tree,
    "index in conflict": stages,
    "bisect": a_ref("refs/bisect/bad"),
    "ORIG_HEAD": a_ref("ORIG_HEAD"),
    "MERGE_HEAD": a_file("MERGE_HEAD"),
    "FETCH_HEAD": a_file("FETCH_HEAD", "{}\t\tbranch 'main' of ../other\n"),
    "CHERRY_PICK_HEAD": a_ref("CHERRY_PICK_HEAD"),
    "autostash": a_file("rebase-merge/autostash"),
    "todo of a rebase": abbreviated,
    "am": a_file("rebase-apply/orig-head"),
    "todo of a cherry-pick": a_file("sequencer/todo", "pick {} a checkpoint\n"),
    "replaced": replaced,
}


@pytest.mark.parametrize("name", PLACES)
def test_what_keeps_an_object(local: Repository, lost: str, name: str) -> None:
    PLACES[name](local, lost)
    assert prune(local, "--expire=now") == "0 objects deleted, 0 bytes freed"
    assert_kept(local, b"used", b"lost")


IN_LINKED = ("reflog of HEAD", "index", "index in conflict", "bisect", "ORIG_HEAD", "MERGE_HEAD", "FETCH_HEAD")


@pytest.mark.parametrize(
    ("number", "name"), list(enumerate([*IN_LINKED, "autostash", "todo of a cherry-pick", "worktree ref"]))
)
def test_what_a_linked_worktree_keeps(local: Repository, lost: str, number: int, name: str) -> None:
    other = linked(local)
    places = {**PLACES, "reflog of HEAD": detached_there, "worktree ref": a_ref("refs/worktree/x")}
    places[name](other, lost)
    assert prune(other if number % 2 else local, "--expire=now").startswith("0 objects")
    assert_kept(local, b"used", b"lost")


def detached_there(repository: Repository, lost: str) -> None:
    repository.git("checkout", "--quiet", lost)
    repository.git("checkout", "--quiet", "--detach", "main")


def test_the_head_of_a_linked_worktree(local: Repository, lost: str) -> None:
    other = linked(local, lost)
    (own(other) / "logs" / "HEAD").unlink()
    assert prune(local).startswith("0 objects")
    worktree = own(other)
    other.path.rename(other.path.with_name("moved"))
    assert worktree.exists()
    assert prune(local).startswith("0 objects")
    assert_kept(local, b"used", b"lost")


def test_the_main_worktree_when_called_in_a_linked_one(local: Repository, lost: str) -> None:
    other = linked(local)
    read_tree(local, lost)
    assert prune(other).startswith("0 objects")
    assert_kept(local, b"used", b"lost")


@pytest.mark.parametrize("gone", ["missing", "empty"])
@pytest.mark.parametrize("name", ["index", "index in conflict", "reflog of HEAD"])
def test_a_linked_worktree_that_git_skips(local: Repository, lost: str, gone: str, name: str) -> None:
    """As for a moment in `git worktree move`, which empties this file before it writes it."""
    other = linked(local)
    {**PLACES, "reflog of HEAD": detached_there}[name](other, lost)
    if gone == "empty":
        (own(other) / "gitdir").write_bytes(b"")
    else:
        (own(other) / "gitdir").unlink()
    assert prune(local, "--expire=now").startswith("0 objects")
    assert_kept(local, b"used", b"lost")


def test_a_locked_worktree_whose_directory_is_gone(local: Repository, lost: str) -> None:
    other = linked(local)
    read_tree(other, lost)
    local.git("worktree", "lock", "../linked")
    shutil.rmtree(other.path)
    assert prune(local, "--expire=now").startswith("0 objects")
    assert_kept(local, b"used", b"lost")


def test_a_long_list_of_what_was_fetched(local: Repository, lost: str) -> None:
    write_head(local, "FETCH_HEAD", "0" * 40 + "\t\tbranch 'x' of y\n" * 1_000_000 + f"{lost}\t\tbranch 'z' of y\n")
    assert prune(local).startswith("0 objects")
    assert_kept(local, b"used", b"lost")


def test_another_index(local: Repository, lost: str) -> None:
    elsewhere = local.in_environment(GIT_INDEX_FILE=str(local.path.parent / "index"))
    read_tree(elsewhere, lost)
    assert prune(elsewhere).startswith("0 objects")
    # ... beside the one that git uses without it
    staged = kept.commit(local, "m.pt", b"staged")
    kept.forget(local, staged)
    read_tree(local, staged)
    assert prune(elsewhere).startswith("0 objects")
    assert_kept(local, b"used", b"lost", b"staged")


def test_a_file_that_is_only_intended_to_be_added(local: Repository, lost: str) -> None:
    local.write("new.pt", b"something")
    local.git("add", "--intent-to-add", "new.pt")
    assert prune(local).startswith("1 object ")
    assert_kept(local, b"used")


def test_all_that_metadata_names_is_kept(local: Repository) -> None:
    contents = (b"base", b"step", b"layout", b"opaque")
    kept.keep(local, *contents)
    data: dict[tuple[str, ...], Entry] = {("w",): written.entry(b"step", b"base")}
    file = text.parse(written.metadata({}, layout=b"layout", opaque=(b"opaque",))).file
    local.write("n.pt", text.serialize(Metadata(data, file)))
    local.commit("an update")
    local.git("rm", "--quiet", "n.pt")
    local.commit("and gone")
    assert prune(local).startswith("0 objects")
    assert_kept(local, b"used", *contents)


# --- age


def test_what_is_young_stays(local: Repository) -> None:
    [young] = kept.keep(local, b"young", age=None)
    kept.keep(local, b"old")
    assert prune(local) == "1 object deleted, 3 bytes freed"
    assert_kept(local, b"used", b"young")
    a_week = kept.place(local, "theta", young).stat().st_mtime - 7 * 24 * 3600
    os.utime(kept.place(local, "theta", young), (a_week, a_week))
    assert prune(local).startswith("0 objects")
    assert prune(local, "--expire=never").startswith("0 objects")
    local.git("config", "gc.pruneExpire", "3.days.ago")
    assert prune(local).startswith("1 object ")


def test_what_is_written_again_is_young(repository: Repository) -> None:
    repository.git("theta", "track", "*.pt")
    repository.write("m.pt", models.torch_bytes(models.state_dict()))
    repository.git("add", "m.pt")
    for path in (repository.git_directory / "theta" / "objects").glob("??/??/*"):
        os.utime(path, (kept.OLD, kept.OLD))
    before = repository.objects()
    repository.git("rm", "--quiet", "--cached", "m.pt")
    repository.git("hash-object", "--path=m.pt", "m.pt")  # cleans it, and keeps nothing in git
    assert prune(repository).startswith("0 objects")
    assert repository.objects() == before
    for path in (repository.git_directory / "theta" / "objects").glob("??/??/*"):
        os.utime(path, (kept.OLD, kept.OLD))
    assert prune(repository).startswith(f"{len(before)} object")


def test_a_time_that_is_none(local: Repository) -> None:
    done = local.run("git", "theta", "prune", "--expire=whenever")
    assert done.returncode == 2
    assert b"'whenever' is no time" in done.stderr


def test_what_comes_from_the_future_stays(local: Repository, lost: str) -> None:
    path = kept.place(local, "theta", written.reference(b"lost").oid)
    os.utime(path, (1 << 33, 1 << 33))
    assert prune(local, "--expire=now").startswith("0 objects")
    os.utime(path, (0, 0))
    assert prune(local).startswith("1 object ")


# --- Git LFS


def test_objects_of_git_lfs_are_not_touched(local: Repository, lost: str) -> None:
    written.store(local, b"a file of Git LFS")
    [both] = kept.keep(local, b"both")
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{both}\nsize 4\n"
    local.write("both.bin", pointer.encode())
    local.commit("a pointer")
    local.git("rm", "--quiet", "both.bin")
    local.commit("of which only the history knows")
    assert prune(local) == "1 object deleted, 4 bytes freed"
    assert kept.stored(local, "lfs") == {b"used", b"a file of Git LFS", b"both"}
    assert kept.stored(local, "theta") == {b"used", b"both"}


def test_pointers_in_conflict(local: Repository, lost: str) -> None:
    sides = [f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize 4\n" for oid in ("0" * 64, LOST)]
    local.write("both.bin", f"<<<<<<< ours\n{sides[0]}=======\n{sides[1]}>>>>>>> theirs\n".encode())
    local.commit("unsolved")
    assert prune(local).startswith("0 objects")


def test_what_only_git_lfs_has(local: Repository, lost: str) -> None:
    kept.place(local, "theta", written.reference(b"lost").oid).unlink()
    assert prune(local).startswith("0 objects")
    assert kept.stored(local, "lfs") == {b"used", b"lost"}


# --- what it says


def test_a_dry_run_deletes_nothing(local: Repository, lost: str) -> None:
    oid = written.reference(b"lost").oid
    assert prune(local, "--dry-run", "--verbose") == f"4\t{oid}\n1 object would be deleted, 4 bytes freed"
    assert_kept(local, b"used", b"lost")
    assert prune(local, "-v") == f"4\t{oid}\n1 object deleted, 4 bytes freed"


def test_bytes_that_are_freed(local: Repository) -> None:
    [copied, shared] = kept.keep(local, b"twice", b"shared")
    theta = kept.place(local, "theta", copied)
    theta.unlink()
    theta.write_bytes(b"twice")
    os.utime(theta, (kept.OLD, kept.OLD))
    (local.path.parent / "another name").hardlink_to(kept.place(local, "lfs", shared))
    assert prune(local, "-n") == "2 objects would be deleted, 10 bytes freed"
    assert prune(local) == "2 objects deleted, 10 bytes freed"
    assert (local.path.parent / "another name").read_bytes() == b"shared"


def test_nothing_there(repository: Repository) -> None:
    assert prune(repository) == "0 objects deleted, 0 bytes freed"
    assert prune(repository, "--dry-run") == "0 objects would be deleted, 0 bytes freed"


def test_files_that_are_no_objects(local: Repository, lost: str) -> None:
    store = local.git_directory / "theta" / "objects"
    strange = [store / "README", store / "ab" / "cd" / ("e" * 64), store / "xx" / "yy" / ("a" * 64)]
    for path in strange:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    link = store / "aa" / "aa" / ("a" * 64)
    link.parent.mkdir(parents=True)
    link.symlink_to(local.path / "m.pt")
    assert prune(local, "--expire=now").startswith("1 object ")
    assert all(path.exists() for path in strange)
    assert link.is_symlink()
    assert local.read("m.pt")


# --- where what is needed cannot be known


def refused(repository: Repository, *arguments: str) -> str:
    objects = kept.stored(repository, "theta"), kept.stored(repository, "lfs")
    error = repository.git_fails("theta", "prune", "--expire=now", *arguments)
    assert (kept.stored(repository, "theta"), kept.stored(repository, "lfs")) == objects
    return error


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b'{"w": {"lfs_metadata": {"oid": "../../x"}, "tensor_metadata": {}}}', "n.pt: parameter 'w'"),
        (written.metadata({"w": b"1"}).replace(b'"theta_metadata"', b'"new_metadata"'), "n.pt: parameter 'w'"),
        (written.metadata({"w": b"1"}).replace(b'"lfs_metadata"', b'"lfs\\u005fmetadata"')[:-1] + b',"x":{}}', "n.pt"),
    ],
)
def test_metadata_that_cannot_be_read(local: Repository, lost: str, data: bytes, why: str) -> None:
    local.write("n.pt", data)
    local.commit("by a newer version, perhaps")
    local.git("rm", "--quiet", "n.pt")
    local.commit("gone")
    error = refused(local)
    assert why in error
    assert "nothing is removed" in error


def test_metadata_in_conflict_keeps_what_both_sides_name(local: Repository, lost: str) -> None:
    kept.keep(local, b"ours", b"theirs")
    ours, theirs = (written.metadata({"w": side}) for side in (b"ours", b"theirs"))
    local.write("n.pt", b"<<<<<<< a\n" + ours + b"\n=======\n" + theirs + b"\n>>>>>>> b\n")
    local.commit("an octopus")
    assert prune(local).startswith("1 object ")
    assert_kept(local, b"used", b"ours", b"theirs")


def test_other_json(local: Repository, lost: str) -> None:
    local.write("config.json", b'{"model": {"layers": 3}, "name": "\\u00e9"}')
    local.write("empty.pt", b"{}")
    local.write("broken.json", b'{"\\u00e9": ')
    local.write("version.txt", b"version 3\n")
    local.commit("nothing of ours")
    assert prune(local).startswith("1 object ")


def test_a_broken_ref(local: Repository, lost: str) -> None:
    ref = local.git_directory / "refs" / "heads" / "broken"
    ref.write_text("no id\n")
    assert "broken" in refused(local)
    ref.write_text("1" * 40 + "\n")
    assert "broken" in refused(local)


def test_a_broken_ref_of_a_linked_worktree(local: Repository, lost: str) -> None:
    other = linked(local)
    a_ref("refs/bisect/bad")(other, lost)
    (own(other) / "refs" / "bisect" / "bad").write_text("no id\n")
    assert "a ref is broken" in refused(local)


def test_a_broken_index_of_a_linked_worktree(local: Repository, lost: str) -> None:
    (own(linked(local)) / "index").write_bytes(b"no index, and long enough to be one")
    assert "index" in refused(local)


@pytest.mark.parametrize("what", ["HEAD", "HEAD^{tree}", "HEAD:m.pt"])
def test_a_broken_history(local: Repository, lost: str, what: str) -> None:
    found = local.git("rev-parse", what)
    kept.commit(local, "m.pt", b"next")
    (local.git_directory / "objects" / found[:2] / found[2:]).unlink()
    error = refused(local)
    assert "Failed to traverse parents" in error or "1 files or directories of the history are not here" in error


def test_a_file_in_the_place_of_a_directory(local: Repository, lost: str) -> None:
    (local.git_directory / "worktrees").write_text("")
    assert "the linked worktrees cannot be listed" in refused(local)


def test_precious_objects(local: Repository, lost: str) -> None:
    """How git is told that others borrow from a repository."""
    local.git("config", "extensions.preciousObjects", "true")
    assert "precious" in local.git_fails("prune")
    assert "extensions.preciousObjects" in refused(local)
    assert "extensions.preciousObjects" in local.git_fails("theta", "prune", "--dry-run")
    local.git("config", "extensions.preciousObjects", "false")
    assert prune(local).startswith("1 object ")


def test_two_at_once(local: Repository, lost: str) -> None:
    descriptor = os.open(local.git_directory / "theta" / "objects", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    try:
        assert "another git theta prune is at work" in refused(local)
    finally:
        os.close(descriptor)
    assert prune(local).startswith("1 object ")


# --- while others work


def looked(repository: Repository, during: Callable[[int], None], patch: pytest.MonkeyPatch) -> set[str]:
    """Return what nothing needs, where `during` runs after each walk, before anybody asks what has changed."""
    walk, number = Reachable.everything, 0

    def walked(self: Reachable, roots: Roots) -> Iterator[Content]:
        nonlocal number
        yield from walk(self, roots)
        number += 1
        during(number)

    patch.setattr(Reachable, "everything", walked)
    return set(look(settings.load(repository.environment, repository.path), time.time_ns(), SILENT).unneeded)


def test_what_moves_while_it_looks(local: Repository, lost: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From where it has not looked yet to where it has looked already, as far as it can tell."""

    def move(number: int) -> None:
        if number == 1:
            local.git("update-ref", "refs/heads/moved", lost)
            local.git("read-tree", "HEAD")

    assert looked(local, move, monkeypatch) == set()


@pytest.mark.parametrize("what", ["ref", "index", "head"])
def test_a_repository_that_never_rests(
    local: Repository, lost: str, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    def move(number: int) -> None:
        match what:
            case "ref":
                local.git("update-ref", f"refs/tags/t{number}", "HEAD")
            case "index":
                local.write(f"new{number}", b"")
                local.git("add", f"new{number}")
            case "head":
                write_head(local, "MERGE_HEAD", lost if number % 2 else local.git("rev-parse", "HEAD"))

    with pytest.raises(RepositoryError, match="was changed whenever it was looked through"):
        looked(local, move, monkeypatch)


# --- what git-theta wrote


def update_of(repository: Repository, commit: str) -> None:
    """Commit an update as git-theta writes it: it builds on what `commit` holds, and says so by its id alone."""
    kept.keep(repository, b"update")
    entry = written.entry(b"update").replace(update_type="sparse", digest=None, last_commit=commit)
    repository.write("m.pt", text.serialize(Metadata({("w0",): entry}, None)))
    repository.commit("an update of git-theta's")


def test_an_update_of_git_thetas_keeps_what_it_builds_on(local: Repository, lost: str) -> None:
    update_of(local, lost)
    kept.keep(local, b"nobody's")
    assert prune(local, "--expire=now").startswith("1 object ")
    assert_kept(local, b"used", b"lost", b"update")


def test_an_update_whose_base_is_not_here(local: Repository, lost: str) -> None:
    update_of(local, "2" * 40)
    error = refused(local)
    assert f"commit {'2' * 40}" in error
    assert "git fetch --unshallow" in error
