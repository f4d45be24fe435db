from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.repository import Repository
from theta_daemon import __version__
from theta_daemon.cli.main import VERBS

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def plain(new_repository: Callable[[str], Repository]) -> Repository:
    return new_repository("plain")


@pytest.mark.parametrize("arguments", [("-h",), ("help",)])
def test_help_lists_every_verb(plain: Repository, arguments: tuple[str, ...]) -> None:
    said = plain.git("theta", *arguments)
    for verb in VERBS:
        assert re.search(rf"^  {verb.name} +{re.escape(verb.summary)}$", said, re.MULTILINE)


def test_the_program_answers_help_itself(plain: Repository) -> None:
    assert plain.run("git-theta", "--help").stdout.startswith(b"usage: git theta VERB")


@pytest.mark.parametrize("verb", [verb.name for verb in VERBS])
def test_every_verb_has_help(plain: Repository, verb: str) -> None:
    for arguments in (("help", verb), (verb, "-h")):
        assert plain.git("theta", *arguments).startswith(f"usage: git theta {verb} ")


def test_git_shows_the_manual_page(plain: Repository, tmp_path: Path) -> None:
    # As installed: bin/ on PATH and share/man beside it.
    (tmp_path / "prefix" / "bin").mkdir(parents=True)
    pages = tmp_path / "prefix" / "share" / "man" / "man1"
    pages.mkdir(parents=True)
    page = (ROOT / "docs" / "man" / "git-theta.1").read_text("utf-8")
    (pages / "git-theta.1").write_text(page, "utf-8")
    for verb in VERBS:
        assert re.search(
            rf"^\.(SS|B|TP|BI|BR) .*{re.escape(verb.name.replace('-', chr(92) + '-'))}", page, re.MULTILINE
        )
    script = tmp_path / "prefix" / "bin" / "man"
    # Stands for man(1), which not every machine has: git calls it with the page's name.
    script.write_text('#!/bin/sh\necho "man $*"\n')
    script.chmod(0o755)
    found = plain.in_environment(PATH=f"{script.parent}:{plain.environment['PATH']}").git("theta", "--help")
    assert found == "man git-theta"


@pytest.mark.parametrize("arguments", [("version",), ("--version",)])
def test_version(plain: Repository, arguments: tuple[str, ...]) -> None:
    assert plain.git("theta", *arguments) == f"git-theta (theta-daemon) {__version__}"


def test_no_verb_is_a_wrong_command_line(plain: Repository) -> None:
    done = plain.run("git", "theta")
    assert done.returncode == 2
    assert done.stdout.startswith(b"usage: ")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("clean", "a.pt"), "there is no verb 'clean'; use theta-daemon clean PATH"),
        (("commit",), "there is no verb 'commit'; use git commit"),
        (("bogus",), "there is no verb 'bogus'; `git theta help` lists the verbs"),
        (("help", "smudge"), "there is no verb 'smudge'; use theta-daemon smudge PATH"),
    ],
)
def test_unknown_verbs_say_what_to_use(plain: Repository, arguments: tuple[str, ...], said: str) -> None:
    done = plain.run("git", "theta", *arguments)
    assert done.returncode == 2
    assert done.stderr.decode() == f"git-theta: error: {said}\n"


@pytest.mark.parametrize("arguments", [("install", "--bogus"), ("env", "x"), ("pre-push", "origin"), ("--bogus",)])
def test_wrong_arguments_are_a_wrong_command_line(plain: Repository, arguments: tuple[str, ...]) -> None:
    done = plain.run("git", "theta", *arguments)
    assert done.returncode == 2
    assert re.search(rb"^git-theta: error: ", done.stderr, re.MULTILINE)


def test_an_operating_system_error_is_one_line(plain: Repository) -> None:
    (plain.path / ".gitattributes").write_bytes(b"")
    done = plain.run("git", "theta", "merge-driver", "a", "b", "c", "d")
    assert done.stderr == b"git-theta: error: No such file or directory: b\n"
    assert done.returncode == 1


def test_add_is_git_add(plain: Repository) -> None:
    plain.write("-a b.txt", b"1")
    plain.write("c.txt", b"2")
    plain.git("theta", "add", "--", "-a b.txt")
    assert plain.git("diff", "--cached", "--name-only") == "-a b.txt"
    plain.git("theta", "add", "--intent-to-add", "c.txt")
    assert plain.status().splitlines() == ['A  "-a b.txt"', " A c.txt"]
    done = plain.run("git", "theta", "add", "missing")
    assert done.returncode == 128
    assert b"did not match any files" in done.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ("--update-type=fancy", "a.pt"),
            "there is no update type 'fancy'; use one of dense, sparse, low-rank, ia3, auto",
        ),
        (("a.pt", "--update-type"), "--update-type takes a value"),
        (("--update-data",), "--update-data takes a value"),
        (("--checkpoint-type=pytorch", "a.pt"), "--checkpoint-type is not needed: the format of a checkpoint is found"),
        (("--update-type=sparse",), "takes the files to add; git theta add FILE... does what git add FILE... does"),
    ],
)
def test_add_with_wrong_options_is_refused(plain: Repository, options: tuple[str, ...], said: str) -> None:
    plain.write("a.pt", b"1")
    error = plain.git_fails("theta", "add", *options)
    assert error.startswith(f"git-theta: error: {said}")
    assert error.count("\n") == 1
    assert plain.git("ls-files") == ""


def test_add_without_a_file_is_a_wrong_command_line(plain: Repository) -> None:
    assert plain.run("git", "theta", "add").returncode == 2
