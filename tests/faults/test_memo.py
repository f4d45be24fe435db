"""The memo when the disk fails: no fault is ever an error, and no fact is ever wrong."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from theta_daemon.cache.memo import LIMIT, Memo, key

FACTS = {key(str(number)): f"{number:064x}" for number in range(3)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of a memo that holds FACTS."""
    path = tmp_path / "theta" / "memo"
    remember_all(path)
    return path


def remember_all(path: Path, limit: int = LIMIT) -> Memo:
    memo = Memo(path, limit)
    for name, digest in FACTS.items():
        memo.remember(name, digest)
    memo.flush()
    return memo


def known(path: Path) -> int:
    """Return how many facts are known, and fail the test where one is wrong."""
    memo = Memo(path)
    found = {name: memo.digest_of(name) for name in FACTS}
    assert all(digest in (None, FACTS[name]) for name, digest in found.items())
    return sum(digest is not None for digest in found.values())


def test_torn_at_every_byte(path: Path) -> None:
    whole = path.read_bytes()
    for end in range(len(whole)):
        path.write_bytes(whole[:end])
        assert known(path) == end // 147  # a line break before the first, and one behind each
        remember_all(path)
        assert known(path) == len(FACTS)


def test_every_byte_changed(path: Path) -> None:
    whole = path.read_bytes()
    for at in range(len(whole)):
        for changed in (whole[at] ^ 1, 0x0A):
            path.write_bytes(whole[:at] + bytes([changed]) + whole[at + 1 :])
            assert known(path) >= len(FACTS) - 2


def test_lines_that_are_not_the_memos_own(path: Path) -> None:
    name, digest = next(iter(FACTS.items()))
    with path.open("ab") as file:
        file.write(b"\n" + os.urandom(10_000) + b"\n")
        file.write(f"\n{name} {'f' * 64} {'0' * 16}\n".encode())  # another digest, unchecked
    assert known(path) == len(FACTS) - 1
    memo = Memo(path)
    memo.remember(name, digest)
    memo.flush()
    assert known(path) == len(FACTS)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO, errno.EDQUOT, errno.EACCES])
@pytest.mark.parametrize("function", ["open", "write"])
def test_a_disk_that_refuses(path: Path, monkeypatch: pytest.MonkeyPatch, function: str, number: int) -> None:
    memo = Memo(path)
    memo.remember(key("new"), "f" * 64)

    def refuse(*_: Any) -> int:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patched:
        patched.setattr(os, function, refuse)
        memo.flush()
    assert memo.digest_of(key("new")) == "f" * 64
    assert known(path) == len(FACTS)
    assert Memo(path).digest_of(key("new")) is None


def test_a_disk_that_is_full_in_the_middle_of_a_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:100]))
        memo = Memo(path)
        memo.remember(key("new"), "f" * 64)
        memo.flush()
    assert Memo(path).digest_of(key("new")) is None
    memo = Memo(path)
    memo.remember(key("newer"), "f" * 64)
    memo.flush()
    assert Memo(path).digest_of(key("newer")) == "f" * 64
    assert known(path) == len(FACTS)


def test_a_real_full_disk(tmp_path: Path) -> None:
    (tmp_path / "memo").symlink_to("/dev/full")
    memo = remember_all(tmp_path / "memo", 1000)  # the device has zeros without end to read
    assert {name: memo.digest_of(name) for name in FACTS} == FACTS


def test_cutting_the_file_that_fails_leaves_it_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memo = Memo(tmp_path / "memo", 300)

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("theta_daemon.durable.write", refuse)
    for name, digest in FACTS.items():
        memo.remember(name, digest)
    memo.flush()
    assert known(tmp_path / "memo") == len(FACTS)


@pytest.mark.parametrize("place", ["a directory", "below a file", "below nothing", "a dangling link"])
def test_a_path_that_cannot_be(tmp_path: Path, place: str) -> None:
    path = tmp_path / "memo"
    match place:
        case "a directory":
            path.mkdir()
        case "below a file":
            path.write_bytes(b"")
            path /= "memo"
        case "below nothing":
            path = Path("/proc/nothing/memo")
        case "a dangling link":
            path.symlink_to(tmp_path / "nowhere" / "memo")
    assert Memo(path).digest_of(key("a")) is None
    memo = remember_all(path)
    assert memo.digest_of(next(iter(FACTS))) == next(iter(FACTS.values()))
    assert known(path) == 0
