"""`git theta prune --pushed` and `git theta fsck --repair` with a real Git LFS server."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.e2e.transfer import kept
from tests.support.fault_proxy import Answer, FaultProxy
from tests.support.lfs_server import Hosted, Kind
from tests.support.repository import Repository
from tests.support.transfers import Published, wrong_files
from theta_daemon.metadata import objects, text

pytestmark = [pytest.mark.needs_git_lfs, pytest.mark.needs_lfs_server]


@pytest.fixture
def local(published: Published) -> Repository:
    """Return a repository whose commits and objects, all of them old, the remote has."""
    source = published.source
    source.git("remote", "add", "origin", str(published.remote))
    source.git("config", "lfs.url", published.hosted.url)
    source.git("config", "lfs.transfer.maxretries", "1")
    source.git("config", "lfs.transfer.maxretrydelay", "1")
    source.git("fetch", "--quiet", "origin")
    for path in (source.git_directory / "theta" / "objects").glob("??/??/*"):
        os.utime(path, (kept.OLD, kept.OLD))
    return source


def named(repository: Repository, revision: str) -> set[str]:
    paths = [path for path in repository.git("ls-tree", "-r", "--name-only", revision).splitlines() if path[0] != "."]
    return {found.oid for path in paths for found in objects.of(text.parse(repository.blob(path, revision)))}


def test_freed_and_fetched_again(local: Repository, published: Published, hosted: Hosted) -> None:
    only_old = named(local, "v0") - named(local, "v1")
    lost = min(only_old)
    (hosted.folder / lost).unlink()
    said = local.git("theta", "prune", "--pushed=origin")
    assert said.startswith(f"{len(only_old)} objects deleted, ")
    assert local.objects() == named(local, "v1")
    # All were asked for, and the one that the server had lost was sent: so it is safe there.
    assert [request.oid for request in hosted.requests(Kind.UPLOAD)] == [lost]
    assert set(hosted.objects()) >= only_old
    local.git("checkout", "--quiet", "v0")
    assert wrong_files(local, published.versions[0]) == {}
    assert local.status() == ""


def test_a_server_that_fails(local: Repository, published: Published, proxy: FaultProxy) -> None:
    proxy.inject(Answer(500), Kind.BATCH)
    local.git("config", "lfs.url", proxy.url + published.hosted.path)
    before = local.objects()
    assert "git lfs push" in local.git_fails("theta", "prune", "--pushed=origin")
    assert local.objects() == before
    assert {path.name for path in (local.git_directory / "theta" / "objects").glob("??/??/*")} == before


@pytest.mark.parametrize("status", [422, 500])  # of 422 git-lfs 3.3 makes a success
def test_an_upload_that_fails(
    local: Repository, published: Published, hosted: Hosted, proxy: FaultProxy, status: int
) -> None:
    (hosted.folder / min(named(local, "v0") - named(local, "v1"))).unlink()
    proxy.inject(Answer(status), Kind.UPLOAD)
    local.git("config", "lfs.url", proxy.url + published.hosted.path)
    before = local.objects()
    assert "git lfs push" in local.git_fails("theta", "prune", "--pushed=origin")
    assert local.objects() == before


def test_repair(local: Repository, published: Published) -> None:
    clone = published.cloned("--no-checkout")
    missing = named(local, "v0") | named(local, "v1")
    done = clone.run("git", "theta", "fsck", "--repair")
    assert done.returncode == 0, done.stdout + done.stderr
    assert clone.objects() == missing
    assert clone.git("theta", "fsck", "--values") == ""


@pytest.mark.parametrize("storage", ["in/side", "../../out", "/absolute"])
def test_repair_of_what_the_lender_has_damaged(
    local: Repository, published: Published, tmp_path: Path, storage: str
) -> None:
    """git-lfs would link the lender's copy, and not fetch a good one."""
    borrower = published.cloned("--shared", "--no-checkout", url=str(local.path))
    borrower.git("config", "lfs.url", published.hosted.url)
    borrower.git("config", "lfs.storage", storage.replace("/absolute", str(tmp_path / "absolute")))
    oid = min(named(local, "v1"))
    for store in ("theta", "lfs"):
        path = kept.place(local, store, oid)
        path.write_bytes(bytes(path.stat().st_size))
    before = path.stat().st_ctime_ns
    done = borrower.run("git", "theta", "fsck", "--repair")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(b": fetched; nothing is left to do") >= 1
    assert path.stat().st_ctime_ns == before
    assert borrower.git("theta", "fsck", "--values") == ""
    assert not list((borrower.git_directory / "theta" / "tmp").iterdir())
