"""D: files that git lets wait, as it does in every checkout; test_delay_unseen.py plays what it never does."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.git.conftest import leftovers
from tests.e2e.protocol.conftest import NAMES, Traced, assert_files, written
from tests.support.fake_git import TOY
from tests.support.repository import Repository

MORE = ("a.pt", "b/c.safetensors", "b=d.pt", "c d.safetensors", "e.pt", "z.safetensors")


@pytest.fixture
def two(traced: Traced) -> tuple[Traced, str, str]:
    """Return a repository with two commits on main, whose checkpoints all differ."""
    repository = traced.repository
    first = repository.git("rev-parse", "HEAD")
    for name in NAMES:
        repository.write(name, written(name, 1))
    return traced, first, repository.commit("second")


Two = tuple[Traced, str, str]


def assert_delayed(traced: Traced, count: int = len(NAMES)) -> None:
    """Fail unless each of `count` files was delayed, and asked for once more with the same header."""
    assert traced.starts() == 1
    asked = traced.smudges()
    assert len(asked) == len({request.pathname for request in asked}) == count
    assert all(request.can_delay for request in asked)
    assert traced.again() == sorted(asked, key=lambda request: os.fsencode(request.pathname))


def assert_clean(repository: Repository) -> None:
    """Fail unless nothing has changed, as far as git sees and as far as the filter does."""
    assert repository.status() == ""
    for name in repository.git_bytes("ls-files", "-z").split(b"\0")[:-1]:
        os.utime(os.fsencode(repository.path) + b"/" + name)
    assert repository.status() == ""
    assert leftovers(repository) == []


COMMANDS: dict[str, tuple[str, ...]] = {
    "checkout of a branch": ("checkout", "--quiet", "side"),
    "checkout of a commit": ("checkout", "--quiet", "--detach", "side"),
    "switch": ("switch", "--quiet", "side"),
    "reset to a branch": ("reset", "--quiet", "--hard", "side"),
    "checkout of paths of a commit": ("checkout", "--quiet", "side", "--", "."),
    "restore of a commit": ("restore", "--source=side", "--staged", "--worktree", "."),
    "read-tree": ("read-tree", "-m", "-u", "main", "side"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_D5_what_git_checks_out_is_delayed_and_right(two: Two, command: str) -> None:
    traced, first, _ = two
    repository = traced.repository
    repository.git("branch", "side", first)
    traced.git(*COMMANDS[command])
    assert_delayed(traced)
    assert_files(repository)
    assert repository.git("diff", "--cached", "--name-only", "side") == ""
    repository.git("reset", "--quiet", "--soft", "side")
    assert_clean(repository)


def test_D5_a_reset_brings_back_what_was_changed_and_deleted(two: Two) -> None:
    traced, _, _ = two
    repository = traced.repository
    repository.write("a.pt", b"not a checkpoint")
    (repository.path / "b.safetensors").unlink()
    repository.write("c.pt", written("c.pt", 3))
    traced.git("reset", "--quiet", "--hard")
    assert_delayed(traced)
    assert_files(repository, 1)
    assert_clean(repository)


def test_D5_clone(two: Two, tmp_path: Path) -> None:
    traced, _, _ = two
    origin = traced.repository
    origin.git("theta", "install", "--global")
    clone = origin.at(tmp_path / "clone")
    traced.git("clone", "--quiet", "--shared", str(origin.path), str(clone.path))
    assert_delayed(traced)
    assert_files(clone, 1)
    assert_clean(clone)


def test_D5_worktree(two: Two, tmp_path: Path) -> None:
    traced, first, _ = two
    traced.git("worktree", "add", "--quiet", str(tmp_path / "linked"), first)
    assert_delayed(traced)
    linked = traced.repository.at(tmp_path / "linked")
    assert_files(linked)
    assert_clean(linked)
    assert_files(traced.repository, 1)


def test_D5_one_process_may_check_out_again_and_again(two: Two) -> None:
    """A rebase is one, and each of its steps a checkout of the same paths."""
    traced, first, _ = two
    repository = traced.repository
    repository.git("checkout", "--quiet", "-b", "side", first)
    for seed in (2, 3):
        repository.write("d.pt", written("d.pt", seed))
        repository.commit(f"side {seed}")
    repository.git("checkout", "--quiet", "main")
    repository.git("checkout", "--quiet", "side")
    repository.git("rebase", "--quiet", "main")
    assert_files(repository, 1)
    assert_files(repository, 3, ["d.pt"])
    assert_clean(repository)
    repository.git("stash", "list")
    repository.write("a.pt", written("a.pt", 4))
    repository.git("stash", "push", "--quiet")
    assert_files(repository, 1)
    repository.git("stash", "pop", "--quiet")
    assert_files(repository, 4, ["a.pt"])


def test_D2_odd_paths(tracked: Repository) -> None:
    names = [" ", "a=b", "pathname=c", "d\n", "e'\"$x", "f,g", "h\\i", "j\tk", "l m/n o"]
    for name in names:
        tracked.write(f"{name}.pt", written(name))
    raw = os.fsencode(tracked.path) + b"/caf\xe9.pt"
    Path(os.fsdecode(raw)).write_bytes(written("raw"))
    tracked.commit("odd")
    tracked.checkout_again()
    for name in names:
        assert tracked.read(f"{name}.pt") == written(name)
    assert Path(os.fsdecode(raw)).read_bytes() == written("raw")
    assert_clean(tracked)


def test_D1_what_need_not_wait_is_answered_at_once(traced: Traced) -> None:
    """Empty files, files from before they were tracked, and conflict markers, between files that wait."""
    repository = traced.repository
    plain = {
        "a.empty.pt": b"",
        "b.raw.pt": b"raw" * 70_000,
        "c.conflict.pt": b"<<<<<<< ours\n{}\n=======\n{}\n>>>>>>> theirs\n",
    }
    for name, content in plain.items():
        repository.write(f"{name}.tmp", content)
        blob = repository.git("hash-object", "-w", "--no-filters", f"{name}.tmp")
        repository.git("update-index", "--add", "--cacheinfo", f"100644,{blob},{name}")
    repository.git("commit", "--quiet", "--message", "plain")
    for name in NAMES:
        (repository.path / name).unlink()
    traced.git("checkout", "--", ".")
    assert {name: repository.read(name) for name in plain} == plain
    assert_files(repository)
    assert sorted(request.pathname for request in traced.again()) == sorted(NAMES)
    assert sorted(request.pathname for request in traced.smudges()) == sorted([*NAMES, *plain])


class TestCounts:
    """D10: git counts what it updated; a file that is answered twice would count twice."""

    def test_D10_updated_paths(self, two: Two) -> None:
        traced, _, _ = two
        repository = traced.repository
        for name in NAMES:
            (repository.path / name).unlink()
        said = repository.run("git", "checkout", ".").stderr.decode()
        assert f"Updated {len(NAMES)} paths from the index" in said
        (repository.path / "b.safetensors").unlink()
        said = repository.run("git", "checkout", ".").stderr.decode()
        assert "Updated 1 path from the index" in said
        said = repository.run("git", "checkout", "HEAD~1", ".").stderr.decode()
        assert re.search(rf"Updated {len(NAMES)} paths from [0-9a-f]+", said)

    @pytest.mark.parametrize("arguments", [("main~1",), ("main~1", "--", ".")])
    def test_D10_progress(self, two: Two, arguments: tuple[str, ...]) -> None:
        traced, _, _ = two
        repository = traced.repository.in_environment(GIT_PROGRESS_DELAY="0")
        said = repository.run("git", "checkout", "--progress", *arguments).stderr.decode()
        assert f"Filtering content: 100% ({len(NAMES)}/{len(NAMES)})" in said
        assert_files(repository)

    def test_D10_no_progress_without_a_terminal(self, two: Two) -> None:
        traced, _, _ = two
        done = traced.repository.run("git", "checkout", "main~1")
        assert b"Filtering content" not in done.stderr
        assert_files(traced.repository)


def oids(metadata: bytes) -> list[str]:
    """Return the ids of a checkpoint's objects, in the order of its parameter groups."""
    entries = json.loads(metadata)
    return [entry["lfs_metadata"]["oid"] for name, entry in entries.items() if "lfs_metadata" in entry]


def files_of(repository: Repository, oid: str) -> list[Path]:
    return [file for file in (repository.path / ".git").rglob(oid) if file.is_file()]


def lose(file: Path) -> None:
    file.unlink()


def damage(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-20] ^= 1
    file.unlink()  # its other names lead to the same bytes
    file.write_bytes(data)


def cut(file: Path) -> None:
    data = file.read_bytes()[:-7]
    file.unlink()
    file.write_bytes(data)


@pytest.fixture
def many(repository: Repository) -> Repository:
    """Return a repository with more checkpoints, none of them in the work tree."""
    repository.git("theta", "track", "*.pt", "*.safetensors")
    for name in MORE:
        repository.write(name, written(name))
    repository.commit("more")
    for name in MORE:
        (repository.path / name).unlink()
    return repository


@pytest.mark.parametrize("harm", [lose, damage, cut])
@pytest.mark.parametrize("bad", [MORE[0], MORE[2], MORE[-1]], ids=["first", "middle", "last"])
def test_D6_a_file_that_fails_leaves_all_others_on_the_disk(
    many: Repository, harm: Callable[[Path], None], bad: str
) -> None:
    (oid, *_) = oids(many.blob(bad, "HEAD"))[1:]
    kept = {file: file.read_bytes() for file in files_of(many, oid)}
    for file in kept:
        harm(file)
    said = many.git_fails("checkout", "--", ".")
    assert said.count("theta-daemon: error: ") == 1
    assert f"theta-daemon: error: {bad}: parameter 'layers.0.weight': object {oid} " in said
    assert f"fatal: {bad}: smudge filter theta failed" in said
    assert not (many.path / bad).exists()
    others = [name for name in MORE if name != bad]
    assert_files(many, names=others)
    assert leftovers(many) == []
    for file, data in kept.items():
        file.unlink(missing_ok=True)
        file.write_bytes(data)
    many.git("checkout", "--", ".")
    assert_files(many, names=MORE)
    assert_clean(many)


def test_D6_several_files_fail(many: Repository) -> None:
    """git tells of the first alone: then it is gone."""
    for bad in (MORE[1], MORE[3]):
        for file in files_of(many, oids(many.blob(bad, "HEAD"))[0]):
            lose(file)
    said = many.git_fails("checkout", "--", ".")
    assert said.count("theta-daemon: error: ") == 1
    assert f"fatal: {MORE[1]}: smudge filter theta failed" in said
    assert_files(many, names=[name for name in MORE if name not in (MORE[1], MORE[3])])


def test_D6_every_file_fails(many: Repository) -> None:
    for file in (many.path / ".git" / "lfs" / "objects").rglob("*"):
        if file.is_file():
            file.unlink()
    for file in (many.path / ".git" / "theta" / "objects").rglob("*"):
        if file.is_file():
            file.unlink()
    said = many.git_fails("checkout", "--", ".")
    assert f"fatal: {MORE[0]}: smudge filter theta failed" in said
    assert [name for name in MORE if (many.path / name).exists()] == []


def test_D6_a_clone_keeps_what_it_can(many: Repository, tmp_path: Path) -> None:
    many.git("theta", "install", "--global")
    for file in files_of(many, oids(many.blob(MORE[2], "HEAD"))[0]):
        lose(file)
    clone = many.at(tmp_path / "clone")
    many.git_fails("clone", "--shared", str(many.path), str(clone.path))
    assert_files(clone, names=[name for name in MORE if name != MORE[2]])


def test_D7_another_filter_delays_too(traced: Traced) -> None:
    """T21 'delayed checkout in process filter', with two of them."""
    repository = traced.repository
    repository.git("config", "filter.toy.process", f"{shlex.quote(sys.executable)} {shlex.quote(str(TOY))}")
    repository.git("config", "filter.toy.required", "true")
    attributes = repository.read(".gitattributes") + b"later/** filter=toy\n"
    repository.write(".gitattributes", attributes)
    toys = {f"later/{name}": name.encode() * 1000 for name in ("1", "2", "z")}
    for name, content in toys.items():
        repository.write(name, content)
    repository.commit("toys")
    for name in (*NAMES, *toys):
        (repository.path / name).unlink()
    traced.git("checkout", "--", ".")
    assert_files(repository)
    assert {name: repository.read(name) for name in toys} == toys
    assert sorted(request.pathname for request in traced.again()) == sorted([*NAMES, *toys])
    assert traced.starts() == traced.starts("toy_filter.py") == 1
    assert repository.status() == ""


def test_D7_another_filter_fails(traced: Traced) -> None:
    repository = traced.repository
    repository.git("config", "filter.toy.process", f"{shlex.quote(sys.executable)} {shlex.quote(str(TOY))}")
    repository.write(".gitattributes", repository.read(".gitattributes") + b"later/** filter=toy\n")
    repository.write("later/x", b"toy")
    repository.commit("toy")
    repository.git("mv", "later/x", "later/x.error")
    for name in (*NAMES, "later/x.error"):
        (repository.path / name).unlink()
    repository.run("git", "checkout", "--", ".")  # the toy is not required
    assert_files(repository)


def test_D9_what_stands_in_the_way_is_for_git_to_settle(tracked: Repository, tmp_path: Path) -> None:
    """T21's path collisions: git writes the files, so none goes through a link out of the work tree."""
    tracked.write("dir/x.pt", written("x.pt"))
    tracked.commit("a directory")
    outside = tmp_path / "outside"
    outside.mkdir()
    shutil.rmtree(tracked.path / "dir")
    (tracked.path / "dir").symlink_to(outside)
    tracked.git("checkout", "--", ".")
    assert list(outside.iterdir()) == []
    assert tracked.read("dir/x.pt") == written("x.pt")
    assert not (tracked.path / "dir").is_symlink()
    assert_clean(tracked)
