"""What git makes of files that fail, and of a filter that dies."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.git.conftest import leftovers
from tests.e2e.protocol.conftest import NAMES, Traced, assert_files, written
from tests.support.repository import Repository
from tests.support.wrapped import before_the_filter

MIDDLE = "b.safetensors"

# Dies at the file in the middle: when it has read the file, or after the first piece of its answer.
DIES = """
import os, signal
from theta_daemon.daemon import entry, handlers

def dying(real):
    def wrapped(self, path, content, **known):
        pieces = real(self, path, content, **known)
        return deadly(pieces) if path == b"b.safetensors" and pieces is not None else pieces
    return wrapped

def deadly(pieces):
    for piece in pieces:
        if os.environ["DIES_LATE"]:
            yield piece
        os.kill(os.getpid(), signal.SIGKILL)

handlers.PipelineHandlers.clean = dying(handlers.PipelineHandlers.clean)
handlers.PipelineHandlers.smudge = dying(handlers.PipelineHandlers.smudge)
entry.run()
"""

OPTIONAL = ("-c", "filter.theta.required=false", "-c", "filter.theta.clean=", "-c", "filter.theta.smudge=")


@pytest.fixture(params=["", "1"], ids=["early", "late"])
def dying(traced: Traced, tmp_path: Path, request: pytest.FixtureRequest) -> Traced:
    """Return a repository whose filter dies at one file of three."""
    program = before_the_filter(traced.repository, tmp_path / "dying", DIES)
    traced.repository = program.in_environment(DIES_LATE=str(request.param))
    return traced


def test_P5_after_a_death_in_clean_the_next_file_has_a_new_filter(dying: Traced) -> None:
    repository = dying.repository
    for name in NAMES:
        repository.write(name, written(name, 1))
    dying.git(*OPTIONAL, "add", "--all")
    assert dying.starts() == 2
    raw = [name for name in NAMES if not repository.blob(name).startswith(b"{")]
    assert raw == [MIDDLE]  # not required: git takes the content as it is
    assert leftovers(repository) == []


def test_P5_after_a_death_in_smudge_the_next_file_has_a_new_filter(dying: Traced) -> None:
    repository = dying.repository
    for name in NAMES:
        (repository.path / name).unlink()
    dying.git(*OPTIONAL, "checkout-index", "--all")  # it never waits
    assert dying.starts() == 2
    assert_files(repository, names=["a.pt", "c.pt"])
    assert repository.read(MIDDLE) == repository.blob(MIDDLE)  # nothing of the half that was sent


def test_D5_what_git_makes_of_a_death_where_files_wait(dying: Traced, tracked: Repository) -> None:
    """Where the filter is not required, git leaves a file empty that failed when it asked the second time."""
    repository = dying.repository
    for name in NAMES:
        (repository.path / name).unlink()
    repository.run("git", *OPTIONAL, "checkout", "--", ".")
    assert_files(repository, names=["a.pt"])
    assert repository.read(MIDDLE) == b""
    last = repository.path / "c.pt"
    assert not last.exists() or last.read_bytes() == b""
    tracked.checkout_again()
    assert_files(tracked)


def test_P5_where_it_is_required_a_death_fails_the_command(dying: Traced, tracked: Repository) -> None:
    repository = dying.repository
    staged = repository.git("ls-files", "--stage")
    (repository.path / MIDDLE).unlink()
    (repository.path / "c.pt").unlink()
    said = repository.git_fails("checkout", "--", ".")
    assert f"{MIDDLE}: smudge filter theta failed" in said
    assert not (repository.path / MIDDLE).exists()
    assert not (repository.path / "c.pt").exists()
    tracked.git("checkout", "--", ".")
    assert_files(tracked)
    repository.write(MIDDLE, written(MIDDLE, 1))
    said = repository.git_fails("add", MIDDLE)
    assert f"{MIDDLE}: clean filter 'theta' failed" in said
    assert repository.git("ls-files", "--stage") == staged


@pytest.mark.parametrize(
    "command",
    [
        ("add", "."),
        ("commit", "--all", "--message", "bad"),
        ("stash", "push"),
        ("hash-object", "-w", "a.pt"),
        ("update-index", "a.pt"),
    ],
    ids=lambda command: command[0],
)
def test_P8_that_clean_failed_fails_the_command(tracked: Repository, command: tuple[str, ...]) -> None:
    head = tracked.git("rev-parse", "HEAD")
    staged = tracked.git("ls-files", "--stage")
    good = written("c.pt", 1)
    tracked.write("c.pt", good)
    tracked.write("a.pt", b"not a checkpoint")
    said = tracked.git_fails(*command)
    assert "theta-daemon: error: a.pt: not a checkpoint" in said
    assert tracked.git("rev-parse", "HEAD") == head
    assert tracked.git("ls-files", "--stage") == staged
    assert tracked.git("stash", "list") == ""
    assert (tracked.read("a.pt"), tracked.read("c.pt")) == (b"not a checkpoint", good)


def test_P2_where_it_is_not_required_an_error_costs_one_file_and_no_new_start(traced: Traced) -> None:
    repository = traced.repository
    for name in NAMES:
        repository.write(name, b"not a checkpoint" if name == MIDDLE else written(name, 1))
    traced.git(*OPTIONAL, "add", "--all")
    assert traced.starts() == 1
    raw = [name for name in NAMES if not repository.blob(name).startswith(b"{")]
    assert raw == [MIDDLE]
