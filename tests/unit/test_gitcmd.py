"""Child git processes: what they are given, and how their failures read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from theta_daemon import gitcmd
from theta_daemon.errors import RepositoryError


@pytest.fixture
def scripted(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which git is `tmp_path/git`, a shell script that a test writes with `script`."""
    return {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}


def script(directory: Path, text: str) -> None:
    program = directory / "git"
    program.write_text(f"#!/bin/sh\n{text}\n")
    program.chmod(0o755)


def test_output_is_what_git_prints_on_standard_output_alone(tmp_path: Path, scripted: dict[str, str]) -> None:
    script(tmp_path, 'printf "%s|" "$@"; echo noise >&2; cat')
    assert gitcmd.output(["a b", "$HOME", "*"], scripted, tmp_path, b"given\0\n") == b"a b|$HOME|*|given\0\n"


def test_a_child_has_the_given_environment_and_nothing_else(
    tmp_path: Path, scripted: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", "/elsewhere")
    script(tmp_path, 'echo "[$GIT_DIR][$GIVEN]"; pwd')
    expected = f"[][yes]\n{tmp_path}\n".encode()
    assert gitcmd.output(["x"], {**scripted, "GIVEN": "yes"}, tmp_path) == expected


def test_a_failure_is_told_in_gits_own_words(tmp_path: Path, scripted: dict[str, str]) -> None:
    script(tmp_path, 'echo "warning: w" >&2; echo "fatal: bad things" >&2; echo "hint: more" >&2; exit 128')
    with pytest.raises(RepositoryError) as caught:
        gitcmd.output(["frob", "--x"], scripted, tmp_path)
    assert str(caught.value) == "git frob failed (exit 128): fatal: bad things"


def test_a_killed_child_is_told_by_its_signal(tmp_path: Path, scripted: dict[str, str]) -> None:
    script(tmp_path, "kill -9 $$")
    with pytest.raises(RepositoryError, match=r"git frob failed \(signal 9\)$"):
        gitcmd.output(["frob"], scripted, tmp_path)


def test_input_that_git_does_not_read_is_no_error(tmp_path: Path, scripted: dict[str, str]) -> None:
    script(tmp_path, "echo done")
    assert gitcmd.output(["x"], scripted, tmp_path, b"x" * (1 << 20)) == b"done\n"


def test_a_missing_git_is_named_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(RepositoryError) as caught:
        gitcmd.start(["status"], {"PATH": str(tmp_path)}, tmp_path)
    assert str(caught.value) == "git cannot be run: No such file or directory; install it, or put it on PATH"


def test_a_missing_directory_is_not_taken_for_a_missing_git(tmp_path: Path, scripted: dict[str, str]) -> None:
    script(tmp_path, "true")
    with pytest.raises(RepositoryError, match=r"git cannot be run in .*/gone: No such file"):
        gitcmd.start(["status"], scripted, tmp_path / "gone")


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        (b"", ""),
        (b"\n \n", ""),
        (b"error: one\nfatal: two\nhint: three\n", "fatal: two"),
        (b"error: one\nhint: three", "hint: three"),
        (b"fatal: \x1b[31mred \xff\n", "fatal: \\x1b[31mred \\xff"),
    ],
)
def test_complaint(said: bytes, complaint: str) -> None:
    assert gitcmd.complaint(said) == complaint
