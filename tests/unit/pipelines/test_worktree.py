from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from theta_daemon.errors import RepositoryError
from theta_daemon.pipelines import worktree
from theta_daemon.pipelines.worktree import NewFile, WorkTree, blob_id

OLD = b'{"a": 1}\n'
BLOB = blob_id(OLD, "0" * 40)


@pytest.fixture
def tree(tmp_path: Path) -> Iterator[WorkTree]:
    with closing(WorkTree(tmp_path)) as made:
        yield made


def publish(tree: WorkTree, path: bytes, content: bytes, *, executable: bool = False) -> os.stat_result:
    with tree.place(path, make=True) as place, closing(NewFile(place, executable=executable)) as new:
        new.write(content[3:], 3)
        new.write(content[:3], 0)
        return new.publish(BLOB)


@pytest.fixture(params=["", "no O_TMPFILE", "no exchange", "neither"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Be on systems that can less."""
    name: str = request.param
    if name in ("no O_TMPFILE", "neither"):
        monkeypatch.setattr(worktree, "_UNNAMED", 0)
    if name in ("no exchange", "neither"):
        monkeypatch.setattr(worktree, "_exchange", lambda directory, one, other: False)
    return name


@pytest.mark.usefixtures("system")
def test_a_file_is_replaced(tree: WorkTree, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(OLD)
    status = publish(tree, b"a", b"new content")
    assert (tmp_path / "a").read_bytes() == b"new content"
    assert os.listdir(tmp_path) == ["a"]
    found = os.lstat(tmp_path / "a")
    assert (found.st_ino, found.st_mtime_ns) == (status.st_ino, status.st_mtime_ns)
    assert found.st_nlink == 1


def test_what_is_told_of_it_is_what_stays(tree: WorkTree, tmp_path: Path, system: str) -> None:
    (tmp_path / "a").write_bytes(OLD)
    statuses = {name: publish(tree, name.encode(), b"new content") for name in ("a", "b/c")}
    for name, status in statuses.items():
        assert os.lstat(tmp_path / name).st_ctime_ns == status.st_ctime_ns
        assert status.st_mtime_ns % 10**9 == 10**9 - 1
        assert status.st_mtime_ns < status.st_ctime_ns


@pytest.mark.usefixtures("system")
def test_a_file_is_made_with_its_directories(tree: WorkTree, tmp_path: Path) -> None:
    publish(tree, b"sub/deep/a", b"new content", executable=True)
    assert (tmp_path / "sub/deep/a").read_bytes() == b"new content"
    assert os.listdir(tmp_path / "sub/deep") == ["a"]
    assert os.lstat(tmp_path / "sub/deep/a").st_mode & 0o100


@pytest.mark.usefixtures("system")
def test_another_content_stays(tree: WorkTree, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(OLD + b" ")
    with pytest.raises(RepositoryError, match="changed meanwhile"):
        publish(tree, b"a", b"new content")
    assert (tmp_path / "a").read_bytes() == OLD + b" "
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.usefixtures("system")
def test_nothing_is_left_of_what_is_not_published(tree: WorkTree, tmp_path: Path) -> None:
    with tree.place(b"a") as place, closing(NewFile(place, executable=False)) as new:
        new.write(b"new", 0)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL])
def test_a_file_system_without_files_without_a_name(
    tree: WorkTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    real = os.open

    def fake(path: str, flags: int, *arguments: int, **options: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(number, os.strerror(number))
        return real(path, flags, *arguments, **options)

    (tmp_path / "a").write_bytes(OLD)
    monkeypatch.setattr(os, "open", fake)
    publish(tree, b"a", b"new content")
    publish(tree, b"b", b"new content", executable=True)
    assert [(tmp_path / name).read_bytes() for name in ("a", "b")] == [b"new content"] * 2
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_a_directory_or_a_link_in_its_place_stays(tree: WorkTree, tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "file").write_bytes(OLD)
    (tmp_path / "link").symlink_to("file")
    os.mkfifo(tmp_path / "pipe")
    for name in (b"directory", b"link", b"pipe"):
        with pytest.raises(RepositoryError, match="changed meanwhile"):
            publish(tree, name, b"new content")
    assert (tmp_path / "file").read_bytes() == OLD


@pytest.mark.parametrize("path", [b"../a", b"a/../../b", b"/a", b"a//b", b"a/.", b".git/a", b"x/.GIT", b""])
def test_paths_outside_are_refused(tree: WorkTree, path: bytes) -> None:
    with pytest.raises(RepositoryError, match="no path in a work tree"), tree.place(path):
        pass


def test_no_link_is_followed_on_the_way(tree: WorkTree, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real/a").write_bytes(OLD)
    (tmp_path / "link").symlink_to("real")
    assert tree.look(b"link/a", BLOB) is None
    with pytest.raises(NotADirectoryError):
        publish(tree, b"link/a", b"new content")


def test_what_is_found(tree: WorkTree, tmp_path: Path) -> None:
    (tmp_path / "same").write_bytes(OLD)
    (tmp_path / "crlf").write_bytes(OLD.replace(b"\n", b"\r\n"))
    (tmp_path / "raw").write_bytes(b"raw")
    found = {name: tree.look(name.encode(), BLOB) for name in ("same", "crlf", "raw", "none", "none/below")}
    assert {name: each and (each.size, each.data) for name, each in found.items()} == {
        "same": (9, OLD),
        "crlf": (10, OLD),
        "raw": (3, None),
        "none": None,
        "none/below": None,
    }


def test_ids_are_gits() -> None:
    assert blob_id(b"", "0" * 40) == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"
    assert blob_id(b"", "0" * 64) == "473a0f4c3be8a93681a267e3b1e9a7dcda1185436fe141f7749120a303721813"


def test_what_killed_writers_left_is_removed_once(tree: WorkTree, tmp_path: Path) -> None:
    litter = tmp_path / "theta-4194304-0123456789abcdef.tmp"  # no process has this number
    litter.write_bytes(b"half")
    os.utime(litter, (1, 1))
    tree.sweep(b"a")
    assert not litter.exists()
    litter.write_bytes(b"half")
    os.utime(litter, (1, 1))
    tree.sweep(b"b")
    assert litter.exists()
    tree.sweep(b"missing/c")
