"""Metadata that somebody else committed and that is pushed on: a line each, with commit and path, and no crash."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.e2e.cli.written import metadata, store, without_filter
from tests.support.repository import Repository

pytestmark = pytest.mark.needs_git_lfs

OID = "0" * 64


@pytest.fixture
def local(new_repository: Callable[[str], Repository]) -> Repository:
    """Return a repository that stores metadata as it stands, with our hook and a bare remote."""
    made = new_repository("local")
    made.git("theta", "install", "--local")
    without_filter(made)
    remote = Repository.init(made.path.parent / "remote.git", made.environment, "--bare")
    made.git("remote", "add", "origin", remote.path.as_uri())
    made.write("good.pt", metadata({"w": b"1"}))
    store(made, b"1")
    made.commit("good")
    return made


def entry(oid: str = OID, size: str = "4") -> dict[str, object]:
    return {
        "tensor_metadata": {"shape": "(1,)", "dtype": "float32", "hash": [0] * 16},
        "lfs_metadata": {"version": "https://git-lfs.github.com/spec/v1", "oid": oid, "size": size},
        "theta_metadata": {"update_type": "dense", "last_commit": None},
    }


def nested(depth: int) -> bytes:
    return b'{"a":' * depth + json.dumps(entry()).encode() + b"}" * depth


DAMAGED = {
    "a path as id": json.dumps({"w": entry("../" * 20 + "etc/passwd")}).encode(),
    "an option as id": json.dumps({"w": entry("--all")}).encode(),
    "a line break in the id": json.dumps({"w": entry("0" * 63 + "\n")}).encode(),
    "a negative size": json.dumps({"w": entry(size="-1")}).encode(),
    "a size without end": json.dumps({"w": entry(size="9" * 10_000)}).encode(),
    "conflict markers": b"{\n<<<<<<< a\n=======\n>>>>>>> b\n" + json.dumps({"w": entry()}).encode()[1:],
}
NONE = {
    "nested without end": nested(100_000),
    "no metadata": b'{"lfs_metadata": [], "theta_daemon": 3}',
    "not even JSON": b'"lfs_metadata" \xff\xfe',
}


@pytest.mark.parametrize("what", DAMAGED)
def test_damaged_metadata_is_named_and_stops_nothing(local: Repository, what: str) -> None:
    local.write("sub/bad.pt", DAMAGED[what])
    bad = local.commit("bad")
    local.write("sub/bad.pt", b"mended")
    local.commit("mended")
    done = local.run("git", "push", "origin", "main")
    assert done.returncode == 0, done.stderr
    [line] = [line for line in done.stderr.decode().splitlines() if "warning" in line]
    assert line.startswith(f"git-theta: warning: nothing is sent for damaged metadata: sub/bad.pt: commit {bad}: ")
    assert len(line) < 500


@pytest.mark.parametrize("what", NONE)
def test_what_is_no_metadata_is_passed_over(local: Repository, what: str) -> None:
    local.write("sub/bad.pt", NONE[what])
    local.commit("bad")
    done = local.run("git", "push", "origin", "main")
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr


def test_many_damaged_files_are_a_few_lines(local: Repository) -> None:
    for number in range(50):
        local.write(f"bad{number}.pt", json.dumps({f"w{number}": entry("../x")}).encode())
    local.commit("bad")
    done = local.run("git", "push", "origin", "main")
    assert done.returncode == 0
    warnings = [line for line in done.stderr.decode().splitlines() if "warning" in line]
    assert len(warnings) == 6
    assert warnings[-1] == "git-theta: warning: nothing is sent for 45 more files of damaged metadata"


def test_a_size_that_lies_stops_the_push_with_its_commit(local: Repository) -> None:
    [oid] = store(local, b"small")
    local.write("sub/bad.pt", json.dumps({"w": entry(oid, "1000000")}).encode())
    bad = local.commit("bad")
    local.write("x", b"x")
    local.commit("more")
    said = local.git_fails("push", "origin", "main")
    [line] = [line for line in said.splitlines() if "git-theta: error" in line]
    assert f"bad.pt: commit {bad}: parameter 'w': object {oid} has 5 bytes and should have 1000000" in line


def test_objects_without_number_are_one_line(local: Repository) -> None:
    many = {f"w{number}": entry(f"{number:064x}") for number in range(10_000)}
    local.write("bad.pt", json.dumps(many).encode())
    bad = local.commit("bad")
    said = local.git_fails("push", "origin", "main")
    [line] = [line for line in said.splitlines() if "git-theta" in line]
    assert f"bad.pt: commit {bad}: parameter 'w0': object {0:064x} and 9999 others" in line
    assert len(line) < 1000


def test_a_newer_versions_metadata_stops_the_push(local: Repository) -> None:
    newer = json.loads(metadata({"w": b"1"}, layout=b"layout"))
    newer["theta_daemon"]["version"] = {"999": {}}
    local.write("new.pt", json.dumps(newer).encode())
    new = local.commit("newer")
    said = local.git_fails("push", "origin", "main")
    assert f"git-theta: error: new.pt: commit {new}: this metadata has version 999" in said
