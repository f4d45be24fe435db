"""S1, S5, S6: it ends at once, cleaning twice is cleaning once, and the same content is always the same metadata."""

from __future__ import annotations

import os
import select
from pathlib import Path

import pytest

from tests.e2e.protocol.conftest import NAMES, Traced, assert_files, written
from tests.support.fake_git import FakeGit
from tests.support.repository import Repository
from tests.support.wrapped import FILTER
from theta_daemon.wire.events import Outcome, Request

# git waits for the filter's end, so a user does too. An end takes milliseconds; a machine may be busy.
AT_ONCE = 5.0


@pytest.mark.parametrize("asked", ["nothing", "clean", "smudge", "both"])
def test_S1_it_ends_at_once(tracked: Repository, asked: str) -> None:
    environment = {**tracked.environment, "GIT_DIR": str(tracked.path / ".git")}
    with FakeGit(environment=environment, command=(str(FILTER),)) as git:
        git.shake_hands()
        for name in NAMES:
            path = name.encode()
            if asked in {"clean", "both"}:
                assert git.ask(Request("clean", path), written(name, 1)).final is Outcome.SUCCESS
            if asked in {"smudge", "both"}:
                assert git.ask(Request("smudge", path), tracked.blob(name)).content == written(name)
        ended = os.pidfd_open(git.process.pid)
        assert git.process.stdin is not None
        git.process.stdin.close()
        assert select.select([ended], [], [], AT_ONCE)[0], "it is still there"
        os.close(ended)
        assert git.process.wait() == 0
        assert git.process.stderr is not None
        assert git.process.stderr.read() == b""


def test_S5_cleaning_twice_is_cleaning_once(tracked: Repository) -> None:
    for name in NAMES:
        blob = tracked.git("rev-parse", f"HEAD:{name}")
        metadata = tracked.blob(name, "HEAD")
        assert tracked.git("hash-object", "--stdin", "--path", name, stdin=metadata) == blob
        smudged = tracked.git_bytes("cat-file", "--filters", f"HEAD:{name}")
        assert tracked.git("hash-object", "--stdin", "--path", name, stdin=smudged) == blob


def test_S5_a_work_tree_that_was_not_smudged_is_clean(traced: Traced) -> None:
    repository = traced.repository
    for name in NAMES:
        (repository.path / name).unlink()
    repository.git("-c", "filter.theta.process=", "-c", "filter.theta.required=false", "checkout", "--", ".")
    assert [repository.read(name) for name in NAMES] == [repository.blob(name) for name in NAMES]
    for name in NAMES:
        (repository.path / name).touch()
    assert traced.git("status", "--porcelain") == ""
    assert [asked.command for asked in traced.requests()] == ["clean"] * 3
    repository.git("add", "--renormalize", ".")
    assert repository.status() == ""
    for name in NAMES:
        (repository.path / name).unlink()
    repository.git("checkout", "--", ".")
    assert_files(repository)


def test_S6_status_says_the_same_every_time(traced: Traced) -> None:
    repository = traced.repository
    repository.write("a.pt", written("a.pt", 1))
    for _ in range(3):
        for name in NAMES:
            (repository.path / name).touch()
        assert traced.git("status", "--porcelain") == " M a.pt"
        assert {asked.pathname for asked in traced.requests()} <= {*NAMES}


def test_S6_the_same_in_every_process_and_repository(tracked: Repository, tmp_path: Path) -> None:
    apart = tracked.at(tmp_path / "apart")
    tracked.git("clone", "--quiet", "--no-checkout", str(tracked.path), str(apart.path))
    apart.git("theta", "install", "--local")
    apart.git("config", "--local", "theta.workers", "7")
    apart.git("config", "--local", "theta.memoryLimit", "64m")
    apart.git("read-tree", "HEAD")  # the record is the same; the stores, the memo and the work tree are empty
    (apart.path / ".gitattributes").write_bytes(tracked.read(".gitattributes"))
    for name in NAMES:
        content = written(name, 1)
        found = [
            repository.git("hash-object", "--stdin", "--path", name, stdin=content)
            for repository in (tracked, apart, tracked, apart)
        ]
        tracked.write(name, content)
        tracked.git("add", name)
        assert {*found} == {tracked.git("rev-parse", f":{name}")}


def test_S6_one_file_added_or_many_makes_no_difference(tracked: Repository) -> None:
    for name in NAMES:
        tracked.write(name, written(name, 1))
    tracked.git("add", "--all")
    together = tracked.git("ls-files", "--stage")
    tracked.git("reset", "--quiet")
    for name in reversed(NAMES):
        tracked.git("add", name)
    assert tracked.git("ls-files", "--stage") == together
    for name in NAMES:
        assert tracked.run("theta-daemon", "clean", name, stdin=written(name, 1)).stdout == tracked.blob(name)
