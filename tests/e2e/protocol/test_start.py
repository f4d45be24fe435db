"""How git starts the filter: when, from where, by which command, and what it makes of a program that is none."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from pathlib import Path

import pytest

from tests.e2e.protocol.conftest import NAMES, Traced, assert_files, written
from tests.support.repository import Repository
from tests.support.wrapped import FILTER, before_the_filter

# What may stand in the place of the program; each must make git fail, and none may make it wait.
NO_FILTERS = {
    "missing": "no-such-theta-daemon",
    "missing, with a space": "'/no such directory/theta-daemon'",
    "no program": "/dev/null",
    "ends at once": "exit 0",
    "crashes at start": "exit 3",
    "killed at start": "kill -KILL $$",
    "echoes": "cat",
    "prints garbage": "echo garbage; cat >/dev/null",
    "prints a packet of garbage": "printf 000bgarbage0000; cat >/dev/null",
}


@pytest.mark.parametrize("how", NO_FILTERS)
@pytest.mark.parametrize("command", ["add", "checkout"])
def test_H3_what_is_no_filter_fails_and_does_not_hang(tracked: Repository, how: str, command: str) -> None:
    staged = tracked.git("ls-files", "--stage")
    arguments = {"add": ("add", "a.pt"), "checkout": ("checkout", "--", "b.safetensors")}[command]
    tracked.write("a.pt", written("a.pt", 1))
    (tracked.path / "b.safetensors").unlink()
    tracked.git_fails("-c", f"filter.theta.process={NO_FILTERS[how]}", *arguments)
    assert tracked.git("ls-files", "--stage") == staged
    assert not (tracked.path / "b.safetensors").exists()
    assert tracked.read("a.pt") == written("a.pt", 1)
    tracked.git(*arguments)  # the same, with the real one


def test_H3_an_installation_that_is_broken_fails_and_does_not_hang(tracked: Repository, tmp_path: Path) -> None:
    broken = before_the_filter(tracked, tmp_path / "broken", "import no_such_module_of_ours\n")
    broken.write("a.pt", written("a.pt", 1))
    assert "no_such_module_of_ours" in broken.git_fails("add", "a.pt")
    assert tracked.git("diff", "--cached", "--name-only") == ""


def test_H4_it_is_started_only_when_a_file_matches(traced: Traced) -> None:
    repository = traced.repository
    repository.write("notes.txt", b"more notes\n")
    for command in (
        ("add", "notes.txt"),
        ("commit", "--quiet", "--message", "notes"),
        ("checkout", "--quiet", "HEAD~1"),
        ("diff", "HEAD", "main"),
        ("log", "-p"),
        ("branch", "other"),
        ("checkout", "--quiet", "main"),
        ("stash", "list"),
        ("archive", "--output=/dev/null", "HEAD", "notes.txt"),
    ):
        traced.git(*command)
        assert traced.starts() == 0, command


def test_H4_one_process_serves_all_files_of_a_command(traced: Traced) -> None:
    repository = traced.repository
    for name in NAMES:
        repository.write(name, written(name, 1))
    traced.git("add", "--all")
    assert traced.starts() == 1
    assert [(asked.command, asked.pathname) for asked in traced.requests()] == [("clean", name) for name in NAMES]
    for name in NAMES:
        (repository.path / name).unlink()
    traced.git("checkout", "--", ".")
    assert traced.starts() == 1
    assert [(asked.command, asked.pathname) for asked in traced.requests()] == 2 * [("smudge", name) for name in NAMES]
    assert_files(repository, 1)


def test_H4_nothing_is_asked_about_an_unchanged_work_tree(traced: Traced) -> None:
    traced.git("status")
    traced.git("status")
    assert traced.requests() == []


def test_H5_process_wins_over_clean_and_smudge(traced: Traced) -> None:
    repository = traced.repository
    others = ("-c", "filter.theta.clean=false", "-c", "filter.theta.smudge=false")
    repository.write("a.pt", written("a.pt", 1))
    traced.git(*others, "add", "a.pt")
    assert (traced.starts(), traced.starts("false")) == (1, 0)
    (repository.path / "a.pt").unlink()
    traced.git(*others, "checkout", "--", "a.pt")
    assert (traced.starts(), traced.starts("false")) == (1, 0)
    assert repository.read("a.pt") == written("a.pt", 1)


# Tells where git started it before it becomes the real one.
TELLS = f"""
import json, os, sys
told = {{name: value for name, value in os.environ.items() if name in ("GIT_DIR", "GIT_WORK_TREE", "GIT_PREFIX")}}
with open(os.environ["TOLD"], "w") as file:
    json.dump({{"directory": os.getcwd()}} | told, file)
os.execv({str(FILTER)!r}, ["theta-daemon", *sys.argv[1:]])
"""


def telling(repository: Repository, directory: Path) -> tuple[Repository, Path]:
    """Return the repository with a filter that tells where it was started, and the file in which it does."""
    told = directory / "told"
    return before_the_filter(repository, directory / "telling", TELLS).in_environment(TOLD=str(told)), told


def test_S2_it_runs_at_the_top_of_the_work_tree(tracked: Repository, tmp_path: Path) -> None:
    tracked.write("deep/er/a.pt", written("a.pt", 1))
    repository, told = telling(tracked, tmp_path)
    repository.git("add", "er/a.pt", cwd=tracked.path / "deep")
    assert json.loads(told.read_text())["directory"] == str(tracked.path)
    (tracked.path / "deep/er/a.pt").unlink()
    repository.git("checkout", "--", "a.pt", cwd=tracked.path / "deep" / "er")
    assert json.loads(told.read_text())["directory"] == str(tracked.path)
    assert repository.read("deep/er/a.pt") == written("a.pt", 1)


def test_S2_in_a_bare_repository(tracked: Repository, tmp_path: Path) -> None:
    bare = tracked.at(tmp_path / "bare.git")
    tracked.git("clone", "--quiet", "--bare", ".", str(bare.path))
    shutil.copytree(tracked.path / ".git" / "lfs", bare.path / "lfs")
    bare.git("theta", "install", "--local")
    # In git 2.39 a bare repository reads attributes from info/attributes alone.
    (bare.path / "info").mkdir(exist_ok=True)
    shutil.copy(tracked.path / ".gitattributes", bare.path / "info" / "attributes")
    repository, told = telling(bare, tmp_path)
    for directory in (bare.path, bare.path / "refs"):
        found = repository.git_bytes("cat-file", "--filters", "HEAD:b.safetensors", cwd=directory)
        assert found == written("b.safetensors")
        assert Path(json.loads(told.read_text())["directory"]) in {bare.path, directory}
    blob = repository.git("hash-object", "--path", "a.pt", "--stdin", stdin=written("a.pt"))
    assert blob == tracked.git("rev-parse", "HEAD:a.pt")


def test_S2_with_the_repository_named_by_option(tracked: Repository, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tracked.path / "a.pt").unlink()
    tracked.git("-C", str(tracked.path), "checkout", "--", "a.pt", cwd=elsewhere)
    (tracked.path / "b.safetensors").unlink()
    options = (f"--git-dir={tracked.path / '.git'}", f"--work-tree={tracked.path}")
    tracked.git(*options, "checkout", "--", "b.safetensors", cwd=elsewhere)
    assert_files(tracked)
    tracked.write("c.pt", written("c.pt", 1))
    tracked.git(*options, "add", "c.pt", cwd=elsewhere)
    assert tracked.git("diff", "--name-only") == ""


@pytest.mark.parametrize("directory", ["with space", "quote's", "$HOME", "back\\slash", "a;b|c&d"])
def test_S2_the_command_is_a_line_for_the_shell(traced: Traced, tmp_path: Path, directory: str) -> None:
    repository = traced.repository
    program = tmp_path / directory / "theta-daemon"
    program.parent.mkdir()
    program.symlink_to(FILTER)
    repository.git("config", "--local", "filter.theta.process", shlex.quote(str(program)))
    repository.write("a.pt", written("a.pt", 1))
    traced.git("add", "a.pt")
    (repository.path / "b.safetensors").unlink()
    traced.git("checkout", "--", "b.safetensors")
    assert traced.starts() == 1
    assert_files(repository, names=["b.safetensors"])


def test_S4_required_without_a_command_fails(tracked: Repository) -> None:
    staged = tracked.git("ls-files", "--stage")
    tracked.git("config", "--local", "--unset", "filter.theta.process")
    tracked.git("config", "--local", "--unset", "filter.theta.clean")
    tracked.write("a.pt", written("a.pt", 1))
    assert "a.pt: clean filter 'theta' failed" in tracked.git_fails("add", "a.pt")
    assert tracked.git("ls-files", "--stage") == staged
    tracked.git("config", "--local", "--unset", "filter.theta.smudge")
    tracked.git("config", "--local", "filter.theta.clean", "theta-daemon clean %f")
    (tracked.path / "b.safetensors").unlink()
    assert "b.safetensors: smudge filter theta failed" in tracked.git_fails("checkout", "--", "b.safetensors")
    assert not (tracked.path / "b.safetensors").exists()


def test_H5_commands_for_one_file_serve_where_there_is_no_process(traced: Traced) -> None:
    repository = traced.repository
    repository.git("config", "--local", "--unset", "filter.theta.process")
    repository.write("a.pt", written("a.pt", 1))
    (repository.path / "b.safetensors").unlink()
    traced.git("add", "a.pt")
    assert traced.starts("theta-daemon clean") == 1
    traced.git("checkout", "--", "b.safetensors")
    assert traced.starts("theta-daemon smudge") == 1
    assert_files(repository, names=["b.safetensors"])
    repository.git("config", "--local", "filter.theta.process", "theta-daemon")
    (repository.path / "a.pt").touch()
    assert repository.git("diff", "--name-only") == ""  # the process agrees


def test_the_filter_that_git_finds_is_the_one_under_test() -> None:
    assert FILTER.exists()
    assert Path(sys.executable).parent == FILTER.parent
