"""`git theta fsck` finds what is wrong, says where, and mends it."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.e2e.cli import written
from tests.e2e.transfer import kept
from tests.support import models
from tests.support.repository import Repository
from theta_daemon.metadata import text
from theta_daemon.metadata.entries import Metadata

PATH = "models/m.safetensors"


def checkpoint(number: int) -> bytes:
    tensors = {f"w{index}": torch.full((50,), float(number * index)) for index in range(3)}
    return models.safetensors_bytes(tensors)


@pytest.fixture
def real(repository: Repository) -> Repository:
    """Return a repository with two commits of a real checkpoint."""
    repository.git("theta", "track", "*.safetensors")
    for number in range(2):
        repository.write(PATH, checkpoint(number))
        repository.commit(f"number {number}")
    return repository


@pytest.fixture
def made(repository: Repository) -> Repository:
    """Return a repository with metadata that a test wrote, and its object."""
    kept.set_up(repository)
    kept.commit(repository, "m.pt", b"first")
    return repository


def fsck(repository: Repository, *arguments: str, code: int = 0) -> list[str]:
    """Return the lines that fsck prints."""
    done = repository.run("git", "theta", "fsck", *arguments)
    assert done.returncode == code, done.stdout + done.stderr
    assert b"Traceback" not in done.stderr
    return done.stdout.decode().splitlines()


def damage(path: Path, data: bytes = b"x") -> None:
    """Change the bytes of a file under all its names; its size stays."""
    with path.open("r+b") as file:
        file.write(data)


def entry(repository: Repository, name: str, revision: str = "HEAD") -> str:
    """Return the object of a group."""
    return text.parse(repository.blob(PATH, revision)).entries[(name,)].oid


def test_nothing_is_wrong(real: Repository) -> None:
    for arguments in ([], ["--metadata"], ["--objects"], ["--values"], ["HEAD"], ["HEAD~1..HEAD"], ["--repair"]):
        assert fsck(real, *arguments) == []
    assert fsck(real.at(real.path / "models")) == []


def test_an_empty_repository(repository: Repository) -> None:
    assert fsck(repository) == []


def test_nothing_is_tracked(repository: Repository) -> None:
    repository.write("a.json", b'{"w": 1}\n')
    repository.commit("nothing of ours")
    for arguments in ([], ["--values"], ["--repair"], ["HEAD"]):
        assert fsck(repository, *arguments) == []
    assert not (repository.git_directory / "theta").exists()


def test_a_shallow_clone(real: Repository) -> None:
    shallow = real.at(real.path.parent / "shallow")
    real.git("clone", "--quiet", "--no-checkout", "--depth=1", real.path.as_uri(), str(shallow.path))
    lines = fsck(shallow, code=1)
    tip = real.git("rev-parse", "HEAD")
    assert lines
    assert all(line.startswith(f"{tip} {PATH} ") and " is missing; " in line for line in lines)
    for oid in {line.split(" object ")[1].split()[0] for line in lines}:
        kept.place(shallow, "lfs", oid).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(kept.place(real, "lfs", oid), kept.place(shallow, "lfs", oid))
    assert fsck(shallow, "--values") == []


def test_a_missing_object(real: Repository) -> None:
    oid = entry(real, "w1", "HEAD~1")
    for store in ("lfs", "theta"):
        kept.place(real, store, oid).unlink()
    first = real.git("rev-parse", "HEAD~1")
    lines = fsck(real, code=1)
    assert f"{first} {PATH} w1: object {oid} is missing; git theta fsck --repair fetches it" in lines
    # The object of zeros is that of other groups too, and of w0 in the second commit.
    assert all(f" {PATH} w" in line and oid in line for line in lines)
    assert fsck(real, "--metadata") == []
    assert [line.split()[2] for line in fsck(real, "HEAD", code=1)] == ["w0:"]


def test_a_damaged_object_is_told_once_for_a_path_and_parameter(real: Repository) -> None:
    real.git("mv", PATH, "moved.safetensors")
    real.commit("moved")
    oid = entry(real, "w2", "HEAD~1")
    damage(kept.place(real, "lfs", oid))
    [one] = fsck(real, code=1)
    places = " and ".join(str(kept.place(real, store, oid)) for store in ("lfs", "theta"))
    assert f"w2: object {oid} is damaged in {places}; " in one


@pytest.mark.parametrize("size", [0, 3, 10_000])
def test_an_object_of_another_size(real: Repository, size: int) -> None:
    oid = entry(real, "w2")
    path = kept.place(real, "lfs", oid)
    os.truncate(path, size)
    [line] = fsck(real, "--objects", code=1)
    assert f"w2: object {oid} is damaged" in line


@pytest.mark.parametrize("store", ["lfs", "theta"])
def test_one_copy_is_damaged(real: Repository, store: str) -> None:
    oid = entry(real, "w2")
    path = kept.place(real, store, oid)
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(b"x" + data[1:])
    [line] = fsck(real, code=1)
    assert f"object {oid} is damaged in {path}; the other copy is good; git theta fsck --repair restores it" in line
    [line] = fsck(real, "--repair")
    assert line.endswith(": restored; nothing is left to do")
    assert path.read_bytes() == data
    bad = real.git_directory / ("lfs" if store == "lfs" else "theta") / "bad" / oid
    assert bad.read_bytes() == b"x" + data[1:]
    assert fsck(real) == []


def test_what_lies_where_an_object_should(real: Repository) -> None:
    oid = entry(real, "w2")
    path = kept.place(real, "lfs", oid)
    path.unlink()
    os.mkfifo(path)
    [line] = fsck(real, "--repair")
    assert line.endswith("restored; nothing is left to do")
    path.unlink()
    path.mkdir()
    assert len(fsck(real, "--repair")) == 1
    assert path.is_file()


def test_damaged_in_all_places_and_no_remote(real: Repository) -> None:
    oid = entry(real, "w2")
    damage(kept.place(real, "lfs", oid))
    [line] = fsck(real, "--repair", code=1)
    assert f"object {oid} is damaged" in line
    assert "and cannot be had" in line
    assert (real.git_directory / "lfs" / "bad" / oid).exists()  # the only copy, moved aside
    assert (real.git_directory / "theta" / "bad" / oid).exists()
    [line] = fsck(real, code=1)
    aside = " and ".join(str(real.git_directory / store / "bad" / oid) for store in ("lfs", "theta"))
    assert f"object {oid} is missing; its damaged bytes are in {aside}; git theta fsck --repair fetches it" in line


@pytest.mark.needs_git_lfs
def test_repair_fetches_from_the_remote(real: Repository) -> None:
    remote = Repository.init(real.path.parent / "remote.git", real.environment, "--bare")
    shutil.copytree(real.git_directory / "lfs" / "objects", remote.path / "lfs" / "objects")
    real.git("remote", "add", "origin", remote.path.as_uri())
    real.git("push", "--quiet", "--no-verify", "origin", "main")
    missing, damaged = entry(real, "w1"), entry(real, "w2")
    for store in ("lfs", "theta"):
        kept.place(real, store, missing).unlink()
    damage(kept.place(real, "lfs", damaged))
    lines = fsck(real, "--repair")
    assert len(lines) == 2
    assert all(line.endswith(": fetched; nothing is left to do") for line in lines)
    assert fsck(real, "--values") == []
    assert all(kept.place(real, store, oid).exists() for store in ("lfs", "theta") for oid in (missing, damaged))
    real.checkout_again()
    assert real.read(PATH) == checkpoint(1)


@pytest.mark.needs_git_lfs
def test_repair_fetches_into_an_empty_clone(real: Repository) -> None:
    remote = Repository.init(real.path.parent / "remote.git", real.environment, "--bare")
    shutil.copytree(real.git_directory / "lfs" / "objects", remote.path / "lfs" / "objects")
    real.git("push", "--quiet", "--no-verify", str(remote.path), "main")
    clone = real.at(real.path.parent / "clone")
    real.git("clone", "--quiet", "--no-checkout", remote.path.as_uri(), str(clone.path))
    clone.git("theta", "install", "--local")
    assert len(fsck(clone, code=1)) >= 5
    assert len(fsck(clone, "--repair")) >= 5
    assert fsck(clone) == []
    clone.git("checkout", "--quiet", "main")
    assert clone.read(PATH) == checkpoint(1)


def test_a_copy_of_the_lender_will_do(real: Repository) -> None:
    borrower = real.at(real.path.parent / "borrower")
    real.git("clone", "--quiet", "--shared", "--no-checkout", str(real.path), str(borrower.path))
    assert fsck(borrower, "--values") == []
    oid = entry(real, "w2")
    mine = kept.place(borrower, "lfs", oid)
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"x")
    [line] = fsck(borrower, code=1)
    assert f"object {oid} is damaged in {mine}; the other copy is good" in line
    assert len(fsck(borrower, "--repair")) == 1
    assert fsck(borrower) == []
    lent = kept.place(real, "lfs", oid)
    damage(lent)
    assert fsck(borrower) == []  # the repair has put a copy of our own there
    for store in ("lfs", "theta"):
        kept.place(borrower, store, oid).unlink()
    assert oid in fsck(borrower, code=1)[0]
    before = lent.read_bytes()
    borrower.git("config", "theta.transferRetries", "0")
    fsck(borrower, "--repair", code=1)
    assert lent.read_bytes() == before  # another repository's is not ours to move


@pytest.fixture
def borrower(real: Repository) -> Repository:
    """Return a repository that borrows, in which nothing is checked out; the lender's copies are files of their own."""
    for path in (real.git_directory / "lfs" / "objects").glob("??/??/*"):
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data)
    made = real.at(real.path.parent / "borrower")
    real.git("clone", "--quiet", "--shared", "--no-checkout", str(real.path), str(made.path))
    made.git("theta", "install", "--local")
    return made


def test_a_damaged_copy_of_the_lender_hides_a_good_one(real: Repository, borrower: Repository) -> None:
    oid = entry(real, "w2")
    lent, good = (kept.place(real, store, oid) for store in ("lfs", "theta"))
    damage(lent)
    before = lent.read_bytes(), good.read_bytes()
    assert "w2" in borrower.git_fails("checkout", "main")
    [line] = fsck(borrower, code=1)
    assert f"w2: object {oid} is damaged in {lent}; the other copy is good; git theta fsck --repair restores" in line
    [line] = fsck(borrower, "--repair")
    assert line.endswith("restored; nothing is left to do")
    assert (lent.read_bytes(), good.read_bytes()) == before
    copy = kept.place(borrower, "lfs", oid)
    assert copy.samefile(kept.place(borrower, "theta", oid))
    assert not copy.samefile(good)
    assert fsck(borrower) == []
    borrower.git("checkout", "--quiet", "--force", "main")
    assert borrower.read(PATH) == checkpoint(1)


@pytest.mark.needs_git_lfs
def test_a_damaged_copy_of_the_lender_is_fetched_from_the_remote(real: Repository, borrower: Repository) -> None:
    remote = Repository.init(real.path.parent / "remote.git", real.environment, "--bare")
    shutil.copytree(real.git_directory / "lfs" / "objects", remote.path / "lfs" / "objects")
    real.git("push", "--quiet", "--no-verify", str(remote.path), "main")
    borrower.git("remote", "set-url", "origin", remote.path.as_uri())
    oid = entry(real, "w2")
    for store in ("lfs", "theta"):
        damage(kept.place(real, store, oid))
    before = kept.place(real, "lfs", oid).stat().st_ctime_ns
    [line] = fsck(borrower, "--repair")
    assert line.endswith(": fetched; nothing is left to do")
    assert kept.place(real, "lfs", oid).stat().st_ctime_ns == before  # not even another link
    assert fsck(borrower, "--values") == []
    assert not list((borrower.git_directory / "theta" / "tmp").iterdir())
    assert len(fsck(real, code=1)) == 1


@pytest.mark.needs_git_lfs
def test_what_the_lender_lacks_is_fetched_into_a_storage_elsewhere(
    real: Repository, borrower: Repository, tmp_path: Path
) -> None:
    remote = Repository.init(real.path.parent / "remote.git", real.environment, "--bare")
    (real.git_directory / "lfs").rename(remote.path / "lfs")
    shutil.rmtree(real.git_directory / "theta" / "objects")
    real.git("push", "--quiet", "--no-verify", str(remote.path), "main")
    borrower.git("remote", "set-url", "origin", remote.path.as_uri())
    borrower.git("config", "lfs.storage", str(tmp_path / "storage"))
    assert fsck(borrower, "--repair")
    assert fsck(borrower, "--values") == []


def test_a_disk_that_cannot_read(real: Repository) -> None:
    oid = entry(real, "w2")
    path = kept.place(real, "lfs", oid)
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    inode = path.stat().st_ino
    script = f"""
import errno, os, sys
from theta_daemon.cli import main
read = os.readv
def failing(descriptor, buffers):
    if os.fstat(descriptor).st_ino == {inode}:
        raise OSError(errno.EIO, "Input/output error")
    return read(descriptor, buffers)
os.readv = failing
sys.exit(main.main(["fsck", *sys.argv[1:]]))
"""
    done = real.run(sys.executable, "-c", script)
    assert done.returncode == 1, done.stderr
    assert f"w2: object {oid} is damaged in {path}; the other copy is good" in done.stdout.decode()
    assert real.run(sys.executable, "-c", script, "--repair").returncode == 0
    assert path.samefile(kept.place(real, "theta", oid))


# --- metadata


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b'{"w": {"lfs_metadata": {"oid": "../../x"}, "tensor_metadata": {}}}', "w"),
        (b'{"w": {"lfs_metadata": {"oid": "', "the metadata is damaged"),
        (b"<<<<<<< a\n" + written.metadata({"w": b"1"}) + b"\n=======\n{}\n>>>>>>> b\n", "conflict markers"),
        (written.metadata({"w": b"first"}) + b"\n", "the metadata is not in its canonical form"),
        (written.metadata({"w": b"first"}).replace(b'"w"', b'"w": ' + b'{"a": ' * 100_000 + b'"x"'), ""),
        (b'{"w": {"lfs_metadata": ' + b"[" * 1_000_000, ""),
        (written.metadata({"w": b"first"}).replace(b'"theta_metadata"', b'"newer_metadata"'), "w: "),
    ],
)
def test_bad_metadata(made: Repository, data: bytes, what: str) -> None:
    made.write("bad name.pt", data)
    commit = made.commit("bad")
    [line] = fsck(made, "--metadata", code=1)
    assert line.startswith(f"{commit} bad name.pt ")
    assert what in line
    assert "; " in line
    assert line in fsck(made, code=1)


def test_metadata_that_would_be_too_large_if_we_wrote_it(made: Repository) -> None:
    """It ends no check: what comes after it is looked at too."""
    data = written.metadata({f"w{number}": b"first" for number in range(8)})
    compact = json.dumps(json.loads(data), separators=(",", ":")).encode()
    made.write("n.pt", compact)
    made.write("o.pt", written.metadata({"x": b"nowhere"}))
    made.commit("bad")
    script = (
        "import sys\nfrom theta_daemon.cli import main\nfrom theta_daemon.metadata import text\n"
        f"text.MAX_SIZE = {len(compact)}\nsys.exit(main.main(['fsck']))"
    )
    done = made.run(sys.executable, "-c", script)
    assert done.returncode == 1
    assert [line.split()[1:3] for line in done.stdout.decode().splitlines()] == [["n.pt", "-:"], ["o.pt", "x:"]]


def test_a_size_that_lies(made: Repository) -> None:
    data = written.entry(b"first").replace(size=1 << 60)
    made.write("n.pt", text.serialize(Metadata({("w",): data}, None)))
    made.commit("a lie")
    [line] = fsck(made, code=1)
    assert f"has 5 bytes, and the metadata says {1 << 60}" in line
    fsck(made, "--repair", code=1)
    assert_nothing_moved(made)


def assert_nothing_moved(repository: Repository) -> None:
    assert kept.stored(repository, "lfs") == kept.stored(repository, "theta") == {b"first"}


def test_values_that_no_object_can_hold(made: Repository) -> None:
    data = written.entry(b"first").replace(shape=(1 << 45,))
    made.write("n.pt", text.serialize(Metadata({("w",): data}, None)))
    made.commit("a lie")
    lines = fsck(made, "--values", code=1)
    assert any(" n.pt w: " in line and "cannot hold" in line for line in lines)


def test_control_characters_do_not_reach_the_terminal(made: Repository) -> None:
    name, group = "line\nbreak\x1b.pt", "a\x1b[31m\nb"
    data = written.metadata({group: b"nowhere"})
    made.write(name, data)
    made.commit("bad")
    [line] = fsck(made, code=1)
    assert "\x1b" not in line
    assert "a\\x1b[31m\\nb" in line


# --- layouts and values


def test_a_layout_that_does_not_parse(made: Repository) -> None:
    kept.keep(made, b"no layout")
    made.write("n.pt", written.metadata({"w": b"first"}, layout=b"no layout"))
    commit = made.commit("bad")
    [line] = fsck(made, code=1)
    assert line.startswith(f"{commit} n.pt -: ")
    assert "layout" in line


def test_a_layout_that_does_not_fit(real: Repository) -> None:
    metadata = text.parse(real.blob(PATH))
    entries = {name: each for name, each in metadata.entries.items() if name != ("w1",)}
    data = text.serialize(Metadata(entries, metadata.file))
    real.git("cat-file", "blob", f":{PATH}")
    blob = real.git("hash-object", "-w", "--stdin", stdin=data)
    real.git("update-index", "--cacheinfo", f"100644,{blob},{PATH}")
    [line] = fsck(real, code=1)
    assert line.startswith(f"index {PATH} -: its layout no longer fits (w1 is gone)")


def test_a_value_that_is_not_the_one_that_was_recorded(real: Repository) -> None:
    metadata = text.parse(real.blob(PATH))
    entries = {**metadata.entries, ("w1",): metadata.entries[("w1",)].replace(digest="0" * 64)}
    blob = real.git("hash-object", "-w", "--stdin", stdin=text.serialize(Metadata(entries, metadata.file)))
    real.git("update-index", "--cacheinfo", f"100644,{blob},{PATH}")
    assert fsck(real) == []
    [line] = fsck(real, "--values", code=1)
    assert line.startswith(f"index {PATH} w1: ")


def test_values_of_updates(repository: Repository) -> None:
    repository.git("theta", "track", "*.safetensors")
    repository.git("config", "theta.updateType", "sparse")
    weights = torch.arange(20_000, dtype=torch.float32)
    for number in range(3):
        weights = weights.clone()
        weights[number] = -1.0
        repository.write(PATH, models.safetensors_bytes({"w": weights}))
        repository.commit("next")
    found = text.parse(repository.blob(PATH)).entries[("w",)]
    assert len(found.replay) == 2
    assert fsck(repository, "--values") == []
    damage(kept.place(repository, "lfs", found.replay[1].oid))
    lines = fsck(repository, "--values", code=1)
    assert lines
    assert all(f"object {found.replay[1].oid} is damaged" in line for line in lines)
    assert fsck(repository, "--values", "HEAD~2") == []


# --- what is looked at


def test_revisions(made: Repository) -> None:
    made.write("n.pt", written.metadata({"w": b"nowhere"}))
    second = made.commit("second")
    made.git("rm", "--quiet", "n.pt")
    made.write("o.pt", written.metadata({"w": b"neither here"}))
    third = made.commit("third")
    assert [line.split()[:2] for line in fsck(made, "HEAD", code=1)] == [[third, "o.pt"]]
    assert [line.split()[:2] for line in fsck(made, "HEAD~1", code=1)] == [[second, "n.pt"]]
    assert fsck(made, "HEAD~2") == []
    assert len(fsck(made, "HEAD~2..HEAD", code=1)) == 2
    assert len(fsck(made, "HEAD~1..HEAD", code=1)) == 1
    assert len(fsck(made, "HEAD~2..HEAD~1", "HEAD", code=1)) == 2
    assert "there is no commit 'nope'" in made.git_fails("theta", "fsck", "nope")
    assert made.git_fails("theta", "fsck", "nope..HEAD")
    made.git("branch", "old", second)
    made.git("reset", "--quiet", "--hard", "HEAD~2")
    assert [line.split()[:2] for line in fsck(made, code=1)] == [[second, "n.pt"]]


def test_the_index_and_the_stash(made: Repository) -> None:
    made.write("n.pt", written.metadata({"w": b"nowhere"}))
    made.git("add", "n.pt")
    [line] = fsck(made, code=1)
    assert line.startswith("index n.pt w: ")
    made.git("stash", "--quiet")
    [line] = fsck(made, code=1)
    assert line.split()[0] in made.git("rev-list", "stash").split()


def test_a_bare_repository(real: Repository) -> None:
    bare = real.at(real.path.parent / "bare.git")
    real.git("clone", "--quiet", "--mirror", str(real.path), str(bare.path))
    assert fsck(bare, code=1)
    shutil.copytree(real.git_directory / "lfs", bare.path / "lfs")
    assert fsck(bare, "--values") == []


def test_a_partial_clone_is_never_filled(made: Repository) -> None:
    kept.commit(made, "m.pt", b"second")
    clone = written.partial_clone(made, "m.pt", ".gitattributes")
    before = written.packs(clone)
    done = clone.run("git", "theta", "fsck", "--metadata")
    assert done.returncode == 0
    assert b"not here, and so not checked: 1 object of git's" in done.stderr
    assert written.packs(clone) == before


def test_many_problems_have_their_commits(made: Repository) -> None:
    groups = {f"w{number:04}": b"%d" % number for number in range(1500)}
    made.write("n.pt", written.metadata(groups))
    commit = made.commit("many")
    lines = fsck(made, code=1)
    assert [line.split()[:3] for line in lines] == [[commit, "n.pt", f"{name}:"] for name in groups]


def test_hard_links_are_hashed_once(real: Repository, tmp_path: Path) -> None:
    """The bytes that a run reads, as the system counts them, are those of one copy."""
    large = models.safetensors_bytes({"w": torch.from_numpy(np.random.default_rng(0).random((3000, 500)))})
    real.write(PATH, large)
    real.commit("large")
    assert fsck(real) == []
    script = (
        "import sys\nfrom theta_daemon.cli import main\ncode = main.main(['fsck', '-q'])\n"
        "print([line for line in open('/proc/self/io') if line.startswith('rchar')][0].split()[1])\nsys.exit(code)"
    )
    done = real.run(sys.executable, "-c", script)
    assert done.returncode == 0, done.stderr
    stored = sum(path.stat().st_size for path in (real.git_directory / "lfs" / "objects").glob("??/??/*"))
    assert stored > 8 << 20
    assert int(done.stdout) < 1.6 * stored
