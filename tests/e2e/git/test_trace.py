"""THETA_TRACE through real git: it shows what it can, changes nothing, and never fails a command."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.e2e.git.conftest import KINDS
from tests.support.repository import Repository

MODEL = KINDS["safetensors"]


@pytest.fixture
def committed(tracked: Repository) -> Repository:
    tracked.write(MODEL.path, MODEL.version(1))
    tracked.commit("first")
    (tracked.path / MODEL.path).unlink()
    return tracked


def checkout(repository: Repository, trace: str) -> str:
    """Check the model out with THETA_TRACE set, whole and clean, and return what was said on stderr."""
    done = repository.in_environment(THETA_TRACE=trace).run("git", "checkout", "--", MODEL.path)
    assert (done.returncode, done.stdout) == (0, b"")
    assert repository.read(MODEL.path) == MODEL.version(1)
    assert repository.status() == ""
    return done.stderr.decode()


def test_without_it_nothing_is_said(committed: Repository) -> None:
    assert checkout(committed, "") == checkout(committed, "0") == ""


def test_lines_on_standard_error(committed: Repository) -> None:
    said = checkout(committed, "1").splitlines()
    assert all(" theta-daemon: " in line for line in said)
    assert any(" theta-daemon: summary: " in line for line in said)


def test_json_appended_to_a_file(committed: Repository, tmp_path: Path) -> None:
    file = tmp_path / "trace"
    for _ in range(2):
        assert checkout(committed, str(file)) == ""
        (committed.path / MODEL.path).unlink()
    found = [json.loads(line) for line in file.read_text().splitlines()]
    summaries = [it for it in found if it["event"] == "summary"]
    assert len({it["pid"] for it in summaries}) == len(summaries) >= 2
    assert found[-1] == summaries[-1]


@pytest.mark.parametrize("trace", ["relative", "/absent/trace", "/dev/stdout", "/dev/full", "9"])
def test_a_bad_value_is_one_warning(committed: Repository, trace: str) -> None:
    said = checkout(committed, trace)
    assert said.startswith("theta-daemon: warning: ")
    assert said.count("\n") == 1


def test_one_file_by_hand_keeps_its_standard_output(committed: Repository) -> None:
    metadata = committed.blob(MODEL.path)
    done = committed.in_environment(THETA_TRACE="1").run("theta-daemon", "smudge", MODEL.path, stdin=metadata)
    assert (done.returncode, done.stdout) == (0, MODEL.version(1))
    assert b" theta-daemon: summary: " in done.stderr


def test_whoever_starts_git_may_give_a_descriptor(committed: Repository, tmp_path: Path) -> None:
    done = subprocess.run(
        ["/bin/sh", "-c", f"exec git checkout -- {MODEL.path} 5>{tmp_path}/trace"],
        cwd=committed.path,
        env={**committed.environment, "THETA_TRACE": "5"},
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert (done.stdout, done.stderr) == (b"", b"")
    assert committed.read(MODEL.path) == MODEL.version(1)
    assert " theta-daemon: summary: " in (tmp_path / "trace").read_text()


@pytest.mark.parametrize(("trace", "shown"), [("1", True), ("{file}", True), ("0", False), ("false", False)])
def test_where_an_error_comes_from(tracked: Repository, tmp_path: Path, trace: str, shown: bool) -> None:
    tracked.write(MODEL.path, b"no checkpoint")
    traced = tracked.in_environment(THETA_TRACE=trace.format(file=tmp_path / "trace"))
    said = traced.git_fails("add", MODEL.path)
    assert said.count(f"theta-daemon: error: {MODEL.path}: ") == 1
    assert ("Traceback (most recent call last)" in said) is shown
