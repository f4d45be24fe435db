"""The index, edited: against what git itself writes and reads."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import Callable
from hashlib import sha1
from pathlib import Path

import pytest

from tests.support.repository import Repository
from theta_daemon.history.index_file import Note, noted

NAMES = ("a", "b" * 200, "c/d/e", "c/d/f", "c/dd", "\xe9", "z")


@pytest.fixture(params=["2", "3", "4"])
def repository(request: pytest.FixtureRequest, new_repository: Callable[[str], Repository]) -> Repository:
    """Return a repository whose index has a version, and entries of several lengths and flags."""
    made = new_repository("repository")
    made.git("config", "index.version", request.param)
    for name in NAMES:
        made.write(name, name.encode()[:1] * 7)
        os.utime(made.path / name, (1_000_000_000, 1_000_000_000))
    made.git("add", ".")
    if request.param == "3":  # git writes it only where an entry needs it
        made.git("update-index", "--skip-worktree", "c/dd")
    made.git("write-tree")  # adds an extension
    return made


def blob_of(repository: Repository, name: str) -> str:
    return repository.git("rev-parse", f":{name}")


def edited(repository: Repository, notes: dict[bytes, Note], written: int = 1 << 40) -> bytes | None:
    def status_of(path: bytes) -> os.stat_result | None:
        return os.lstat(os.path.join(os.fsencode(repository.path), path))

    return noted((repository.path / ".git" / "index").read_bytes(), notes, written, status_of)


def remembered(repository: Repository) -> dict[str, tuple[str, ...]]:
    """Return the times and sizes that git finds in the index."""
    listing = repository.git("-c", "core.quotePath=false", "ls-files", "--debug")
    found = re.findall(r"^(\S.*)\n  ctime: (.*)\n  mtime: (.*)\n.*\n.*\n  size: (\d+)\t", listing, re.MULTILINE)
    return {name: tuple(rest) for name, *rest in found}


def test_a_note_changes_its_entry_and_nothing_else(repository: Repository) -> None:
    before, entries = remembered(repository), repository.git("ls-files", "--stage", "-v")
    path = repository.write("c/d/f", b"another content")
    os.utime(path, (1_100_000_000, 1_100_000_000))  # git trusts what is older than its index
    status = path.stat()
    data = edited(repository, {b"c/d/f": Note(blob_of(repository, "c/d/f"), status)})
    assert data is not None
    (repository.path / ".git" / "index").write_bytes(data)
    after = remembered(repository)
    changed, modified = (divmod(time, 10**9) for time in (status.st_ctime_ns, status.st_mtime_ns))
    assert after.pop("c/d/f") == (*(f"{seconds}:{rest}" for seconds, rest in (changed, modified)), "15")
    before.pop("c/d/f")
    assert after == before
    assert repository.git("ls-files", "--stage", "-v") == entries
    assert repository.git("-c", "core.fileMode=true", "diff-files", "--name-only", "c/d/f") == ""
    repository.git("fsck")


def test_a_file_to_be_looked_at_has_no_size(repository: Repository) -> None:
    data = edited(repository, {b"z": Note(blob_of(repository, "z"), None)})
    assert data is not None
    (repository.path / ".git" / "index").write_bytes(data)
    assert [size for name, (*_, size) in remembered(repository).items() if name == "z"] == ["0"]
    assert repository.git("diff", "--name-only") == ""


def test_another_blob_gets_no_note(repository: Repository) -> None:
    data = edited(repository, {b"z": Note(blob_of(repository, "a"), None)})
    assert data == (repository.path / ".git" / "index").read_bytes()


def test_what_may_have_been_changed_in_the_second_of_the_index_is_looked_at(repository: Repository) -> None:
    note = {b"nowhere": Note(blob_of(repository, "a"), None)}
    (repository.path / "a").write_bytes(b"changed")  # which its times tell
    data = edited(repository, note, written=1_000_000_000)
    assert data is not None
    (repository.path / ".git" / "index").write_bytes(data)
    sizes = {name: size for name, (*_, size) in remembered(repository).items()}
    assert sizes.pop("a") == "7"
    assert sizes.pop("c/dd", "0") in ("0", "7")  # where a sparse checkout leaves it out, nobody looks
    assert set(sizes.values()) == {"0"}
    assert edited(repository, note, written=1_000_000_001) == data


def test_what_is_not_understood_is_left_alone(repository: Repository) -> None:
    data = (repository.path / ".git" / "index").read_bytes()
    note = {b"z": Note(blob_of(repository, "z"), None)}

    def signed(body: bytes) -> bytes:
        return body + sha1(body, usedforsecurity=False).digest()

    def tried(changed: bytes) -> bytes | None:
        return noted(changed, note, 1 << 40, lambda path: None)

    assert tried(data) is not None
    body = data[:-20]
    assert tried(signed(body + b"link" + struct.pack(">I", 3) + b"abc")) is None
    assert tried(signed(body + b"sdir" + struct.pack(">I", 0))) is not None
    assert tried(signed(body + b"NEWS" + struct.pack(">I", 3) + b"abc")) is not None
    assert tried(signed(body + b"NEWS" + struct.pack(">I", 4) + b"abc")) is None
    assert tried(signed(body[:4] + struct.pack(">I", 5) + body[8:])) is None
    assert tried(signed(body[:8] + struct.pack(">I", 1000) + body[12:])) is None
    assert tried(body + bytes(20)) is not None
    assert tried(body + bytes(19) + b"x") is None
    for end in range(0, len(data), 7):
        assert tried(data[:end]) is None


def test_without_a_checksum_none_is_written(repository: Repository, tmp_path: Path) -> None:
    data = (repository.path / ".git" / "index").read_bytes()
    found = noted(data[:-20] + bytes(20), {b"z": Note(blob_of(repository, "z"), None)}, 1 << 40, lambda path: None)
    assert found is not None
    assert found.endswith(bytes(20))
