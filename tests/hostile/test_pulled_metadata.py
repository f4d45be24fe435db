"""Metadata that somebody else committed: `git theta pull` and `status` say one line of it and go on with the rest."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest

from tests.support import models
from tests.support.checkouts import repository_below
from tests.support.pulls import NO_FILTER, litter, to_metadata
from tests.support.repository import Repository

OID = "0" * 64
GOOD = models.torch_bytes(models.state_dict(1))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    repository = repository_below(tmp_path_factory.mktemp("hostile"))
    repository.write(".gitattributes", b"*.pt filter=theta -text\n")
    repository.write("good.pt", GOOD)
    repository.commit("good")
    return repository


def entry(oid: str = OID, size: str = "4", shape: str = "(1,)") -> dict[str, object]:
    return {
        "tensor_metadata": {"shape": shape, "dtype": "float32", "hash": [0] * 16},
        "lfs_metadata": {"version": "https://git-lfs.github.com/spec/v1", "oid": oid, "size": size},
        "theta_metadata": {"update_type": "dense", "last_commit": None},
    }


def one(**changes: str) -> Callable[[bytes], bytes]:
    return lambda _: json.dumps({"w": entry(**changes)}).encode()


def edited(pattern: bytes, to: bytes) -> Callable[[bytes], bytes]:
    """Change the metadata of the good file."""

    def edit(good: bytes) -> bytes:
        changed, count = re.subn(pattern, to, good)
        assert count
        return changed

    return edit


def a_parameter_for_a_layout(good: bytes) -> bytes:
    found = re.search(rb'"oid": "([0-9a-f]{64})",\s*"size": "(\d+)"', good)
    assert found is not None
    edit = edited(rb'("layout": \{\s*")[0-9a-f]{64}": \{\s*"\d+"', rb'\g<1>%b": {"%b"' % found.groups())
    return edit(good)


HOSTILE: dict[str, Callable[[bytes], bytes]] = {
    "a path as id": one(oid="../" * 20 + "etc/passwd"),
    "an absolute path as id": one(oid="/etc/passwd"),
    "an option as id": one(oid="--all"),
    "a line break in the id": one(oid="0" * 63 + "\n"),
    "a negative size": one(size="-1"),
    "a size without end": one(size="9" * 10_000),
    "a shape of an exabyte": one(shape="(1073741824, 1073741824)"),
    "no such object": one(),
    "sizes that lie": edited(rb'"size": "(\d+)"', rb'"size": "1\1"'),
    "a small size that lies": edited(rb'"size": "\d+"', b'"size": "1"'),
    "another shape": edited(rb'"shape": "\(32, 32\)"', b'"shape": "(32, 33)"'),
    "another dtype": edited(rb'"float32"', b'"float64"'),
    "another layout": edited(rb'("layout": \{\s*")[0-9a-f]{64}"', rb"\g<1>" + OID.encode() + b'"'),
    "a layout that is a parameter": a_parameter_for_a_layout,
    "another digest": edited(rb'"blake3:[0-9a-f]{64}"', b'"blake3:' + OID.encode() + b'"'),
    "no fields": lambda _: b'{"lfs_metadata": [], "theta_daemon": 3}',
    "many groups": lambda _: json.dumps({f"w{number}": entry() for number in range(10_000)}).encode(),
}
PASSED_OVER: dict[str, Callable[[bytes], bytes]] = {
    "nested without end": lambda _: b'{"a":' * 100_000 + json.dumps(entry()).encode() + b"}" * 100_000,
}


def hold(repository: Repository, content: bytes) -> None:
    """Let the index and the work tree hold `content` in sub/bad.pt, and the metadata of the good file."""
    repository.write("sub/bad.pt", content)
    repository.git(*NO_FILTER, "add", "sub/bad.pt")
    to_metadata(repository)


@pytest.mark.parametrize("what", HOSTILE)
def test_one_line_and_the_others_come(made: Repository, what: str) -> None:
    content = HOSTILE[what](made.blob("good.pt"))
    hold(made, content)
    rows = made.run("git", "theta", "status", "--porcelain")
    assert (rows.returncode, rows.stderr) == (0, b"")
    assert [row.split("\t")[0] for row in rows.stdout.decode().splitlines()] == ["metadata", "metadata"]
    done = made.run("git", "theta", "pull", "-q")
    assert done.returncode == 1
    [error] = [
        line
        for line in done.stderr.decode().splitlines()
        if "warning: sub/bad.pt: its layout no longer fits" not in line
    ]
    assert error.startswith("git-theta: error: sub/bad.pt: ")
    assert len(error) < 500
    assert made.read("good.pt") == GOOD
    assert made.read("sub/bad.pt") == content
    assert litter(made) == []


@pytest.mark.parametrize("what", PASSED_OVER)
def test_what_is_no_metadata_is_none_of_ours(made: Repository, what: str) -> None:
    content = PASSED_OVER[what](b"")
    hold(made, content)
    done = made.run("git", "theta", "pull", "-q")
    assert (done.returncode, done.stderr) == (0, b"")
    assert made.read("good.pt") == GOOD
    assert made.read("sub/bad.pt") == content
