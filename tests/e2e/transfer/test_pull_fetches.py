"""`git theta pull` where objects must come first: real git, real git-lfs, a real server."""

from __future__ import annotations

import pytest

from tests.support.lfs_server import Kind
from tests.support.pulls import clean_without_reading, litter
from tests.support.transfers import Published, wrong_files
from theta_daemon.metadata import objects, text

pytestmark = [pytest.mark.needs_git_lfs, pytest.mark.needs_lfs_server]


def test_a_clone_of_metadata_is_filled_in_one_conversation(published: Published) -> None:
    clone = published.cloned(GIT_THETA_SKIP_SMUDGE="1")  # also while it is pulled
    assert clone.objects() == set()
    assert all(clone.read(path) == clone.blob(path) for path in published.tip)
    rows = [row.split("\t") for row in clone.git("theta", "status", "--porcelain").splitlines()]
    assert {row[0] for row in rows} == {"metadata"}
    needed = {named.oid: named.size for path in published.tip for named in objects.of(text.parse(clone.blob(path)))}
    assert {int(row[2]) > 0 for row in rows} == {True}
    clone.git("theta", "pull")
    assert wrong_files(clone, published.tip) == {}
    assert clean_without_reading(clone)
    assert clone.objects() == set(needed)
    assert published.hosted.sent() == sum(needed.values())
    assert len(published.hosted.requests(Kind.BATCH)) <= len(published.tip)
    assert litter(clone) == []
    assert {row.split("\t")[0] for row in clone.git("theta", "status", "--porcelain").splitlines()} == {"full"}


def test_one_file_fetches_no_more_than_its_own(published: Published) -> None:
    clone = published.cloned(GIT_THETA_SKIP_SMUDGE="1")
    clone.git("theta", "pull", "sub")
    assert clone.objects() == {named.oid for named in objects.of(text.parse(clone.blob("sub/other.pt")))}
    assert clone.read("sub/other.pt") == published.tip["sub/other.pt"]
    assert clone.read("model.pt") == clone.blob("model.pt")
    assert clone.status() == ""


def test_what_the_server_lacks_stops_only_its_file(published: Published) -> None:
    clone = published.cloned(GIT_THETA_SKIP_SMUDGE="1")
    of = {path: {named.oid for named in objects.of(text.parse(clone.blob(path)))} for path in published.tip}
    gone = min(of["model.safetensors"] - of["model.pt"] - of["sub/other.pt"])
    (published.hosted.folder / gone).unlink()
    done = clone.run("git", "theta", "pull", "-q")
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert done.stderr.decode().startswith("git-theta: error: model.safetensors: ")
    assert gone in done.stderr.decode()
    assert clone.read("model.safetensors") == clone.blob("model.safetensors")
    assert clone.read("model.pt") == published.tip["model.pt"]
    assert clone.status() == ""
