"""An object changes after a file was delayed, before or while it is read: an error that names it, or the exact file.

The process is the real one, and so is its store; git is ours, so that the moment is exact. A file that fills the
window of what is read ahead is delayed first: nothing of those behind it is read before it was taken.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
import torch

from tests.faults.test_pipeline_workers import oid_of
from tests.support import models
from tests.support.checkouts import SHORTLY, WINDOW, Delayed, noise, repository_below
from tests.support.pipelines import Bench
from tests.support.repository import Repository
from theta_daemon.errors import ProtocolError
from theta_daemon.metadata import text
from theta_daemon.wire.events import Content, ContentEnd, FinalStatus, Outcome, Request, Status

HARMED = "m.harmed"  # between two that are well


def random_bytes(size: int, seed: int = 0) -> torch.Tensor:
    """Return bytes that do not compress at all: they are used where they lie in their object."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, size, np.uint8))


# The ways in which a group comes out of its object, each with the group and another of the same stored size.
GROUPS: dict[str, tuple[torch.Tensor, torch.Tensor]] = {
    "small": (torch.full((9,), 1.0), torch.full((9,), 2.0)),
    "one-chunk": (torch.full((1 << 19,), 1.0), torch.full((1 << 19,), 2.0)),
    "chunks": (torch.full((3 << 19,), 1.0), torch.full((3 << 19,), 2.0)),
    "as-it-lies": (random_bytes(3 << 20, seed=1), random_bytes(3 << 20, seed=2)),
    "large": (torch.full((5 << 20,), 1.0), torch.full((5 << 20,), 2.0)),
    "large-as-it-lies": (random_bytes(WINDOW + 5, seed=3), random_bytes(WINDOW + 5, seed=4)),
}

WITHIN_THE_WINDOW = [name.encode() for name, (group, _) in GROUPS.items() if group.nbytes <= WINDOW]

BLOCKER = models.safetensors_bytes({"a": torch.zeros(5 << 19), "b": torch.ones(5 << 19)})  # of 10 MiB each


def written(group: torch.Tensor) -> bytes:
    """Return a checkpoint with the group between two others."""
    return models.safetensors_bytes({"a.first": noise(300, seed=8), HARMED: group, "z.last": noise(700, seed=9)})


@dataclass(frozen=True, slots=True)
class Stored:
    """A repository with files in its store, and what git would hold for them."""

    repository: Repository
    contents: dict[bytes, bytes]
    metadata: dict[bytes, bytes]
    others: dict[bytes, bytes]

    def oid(self, path: bytes) -> str:
        """Return the object that is harmed."""
        return oid_of(self.metadata[path], HARMED)


PLACES = ("lfs", "theta")


def change(repository: Repository, oid: str, harm: Callable[[bytes], bytes | None]) -> None:
    """Put another file, or none, in the place of an object."""
    for place in PLACES:
        file = repository.path / ".git" / place / "objects" / oid[:2] / oid[2:4] / oid
        changed = harm(file.read_bytes())
        file.unlink()
        if changed is not None:
            file.write_bytes(changed)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Stored:
    """Return a repository with one file for each kind of group."""
    repository = repository_below(tmp_path_factory.mktemp("objects"))
    repository.git("config", "theta.memoryLimit", "64m")
    bench = Bench.at(repository.path)
    contents = {b"0.blocker": BLOCKER} | {name.encode(): written(group) for name, (group, _) in GROUPS.items()}
    metadata = {path: bench.clean(content, path) for path, content in contents.items()}
    others = {}
    for name, (_, other) in GROUPS.items():
        oid = oid_of(bench.clean(written(other)), HARMED)
        path = repository.path / ".git" / "lfs" / "objects" / oid[:2] / oid[2:4] / oid
        others[name.encode()] = path.read_bytes()
    bench.close()
    return Stored(repository, contents, metadata, others)


@pytest.fixture
def stored(template: Stored, tmp_path: Path) -> Stored:
    """Return a copy of it, to be harmed."""
    shutil.copytree(template.repository.path / ".git", tmp_path / "repository" / ".git")
    return replace(template, repository=template.repository.at(tmp_path / "repository"))


class Harm(Protocol):
    """What becomes of an object's bytes, of which `other` could be in their place; None where nothing does."""

    def __call__(self, data: bytes, other: bytes) -> bytes | None: ...


def vanish(data: bytes, other: bytes) -> None:
    del data, other


def shrink(data: bytes, other: bytes) -> bytes:
    del other
    return data[:-1]


def empty(data: bytes, other: bytes) -> bytes:
    del data, other
    return b""


def grow(data: bytes, other: bytes) -> bytes:
    del other
    return data + b"\0"


def flip_a_bit(data: bytes, other: bytes) -> bytes:
    del other
    at = -1 if len(data) < 1000 else len(data) * 3 // 4  # of large ones the end may be padding, and so mean nothing
    changed = bytearray(data)
    changed[at] ^= 1
    return bytes(changed)


def other_bytes(data: bytes, other: bytes) -> bytes:
    del other
    return bytes(len(data))


def another_value(data: bytes, other: bytes) -> bytes:
    assert len(data) == len(other)
    assert data != other
    return other


HARMS: list[Harm] = [
    vanish,
    shrink,
    empty,
    grow,
    flip_a_bit,
    other_bytes,
    another_value,
]


def do_harm(stored: Stored, paths: Iterable[bytes], harm: Harm) -> None:
    """Put other files in the place of the objects."""
    for path in paths:
        change(stored.repository, stored.oid(path), partial(harm, other=stored.others[path]))


@pytest.mark.parametrize("harm", HARMS)
def test_before_it_is_read(stored: Stored, harm: Harm) -> None:
    with Delayed(stored.repository) as git:
        for path, metadata in stored.metadata.items():
            git.delay(path, metadata)
        do_harm(stored, stored.others, harm)
        answers = dict(git.all_in_order())
        # What is not harmed can be had from the same process, at once and later.
        last = git.ask(Request("smudge", b"again"), stored.metadata[b"0.blocker"])
        code, said = git.end()
    assert code == 0
    assert last.content == BLOCKER
    assert (answers[b"0.blocker"].final, answers[b"0.blocker"].content) == (Outcome.SUCCESS, BLOCKER)
    assert answers.keys() == stored.contents.keys()
    lines = said.splitlines()
    assert len(lines) == len(stored.others), said
    for path in stored.others:
        assert answers[path].final is Outcome.ERROR, path
        assert stored.contents[path].startswith(answers[path].content), path
        start = f"theta-daemon: error: {path.decode()}: parameter 'm.harmed': "
        (line,) = (line for line in lines if line.startswith(start))
        assert stored.oid(path) in line


@pytest.mark.parametrize("harm", HARMS)
def test_after_it_was_read(stored: Stored, harm: Harm) -> None:
    """What was read ahead stays what it was when other files take the places of the objects."""
    with Delayed(stored.repository) as git:
        for path in WITHIN_THE_WINDOW:
            git.delay(path, stored.metadata[path])
            assert git.available() == [path]
            do_harm(stored, [path], harm)
            answer = git.retry(path)
            assert (answer.final, answer.content) == (Outcome.SUCCESS, stored.contents[path]), path
        assert git.end() == (0, "")


@pytest.mark.parametrize("harm", [harm for harm in HARMS if harm is not another_value])
def test_bytes_that_are_in_no_group(stored: Stored, harm: Harm) -> None:
    """They are no parameter's, so the error names the file and the object."""
    content = models.torch_bytes({"a": noise(300), "text": random.Random(0).randbytes(3 << 20), "z": noise(700)})
    bench = Bench.at(stored.repository.path)
    metadata = bench.clean(content)
    bench.close()
    file = text.parse(metadata).file
    assert file is not None
    oid = file.opaque[0].oid
    with Delayed(stored.repository) as git:
        git.delay(b"model", metadata)
        assert git.available() == [b"model"]
        change(stored.repository, oid, partial(harm, other=b""))
        answer = git.retry(b"model")
        assert answer.final is Outcome.ERROR
        assert content.startswith(answer.content)
        code, said = git.end()
    assert code == 0
    assert said.count("\n") == 1
    assert said.startswith("theta-daemon: error: model: object ")
    assert oid in said


@dataclass(frozen=True, slots=True)
class Large:
    """A file with a group that is many times as large as the window, and whose object is mapped."""

    content: bytes
    metadata: bytes
    files: list[Path]
    oid: str


@pytest.fixture
def large(stored: Stored) -> Large:
    """Return such a file, stored beside the others."""
    values = torch.arange(10 << 20) * 40_503 % 65_536
    content = models.safetensors_bytes({"a.first": noise(300, seed=8), HARMED: values.to(torch.float32)})
    bench = Bench.at(stored.repository.path)
    metadata = bench.clean(content)
    bench.close()
    oid = oid_of(metadata, HARMED)
    files = sorted((stored.repository.path / ".git").glob(f"*/objects/??/??/{oid}"))
    assert len(files) == len(PLACES)
    assert files[0].stat().st_size > 4 << 20
    return Large(content, metadata, files, oid)


def in_the_middle(git: Delayed, metadata: bytes, act: Callable[[], None]) -> tuple[bytes, FinalStatus]:
    """Ask for a file, and run `act` when the first bytes of its large group have come; return all that came."""
    git.say(Request("smudge", b"model"), Content(metadata), ContentEnd())
    assert git.next_event() == Status(Outcome.SUCCESS)
    got = bytearray()
    acted = False
    while isinstance(event := git.next_event(), Content):
        got += event.data
        if len(got) > 10_000 and not acted:
            act()
            acted = True
    assert isinstance(event, ContentEnd)
    final = git.next_event()
    assert isinstance(final, FinalStatus)
    return bytes(got), final


def test_what_was_dropped_is_read_again_and_verified_again(stored: Stored, large: Large) -> None:
    """Git asks for something else first: what was read ahead is dropped, since that needs all of the window."""
    with Delayed(stored.repository) as git:
        for path in WITHIN_THE_WINDOW:
            git.delay(path, stored.metadata[path])
            assert git.available() == [path]
            got, _ = in_the_middle(git, large.metadata, partial(do_harm, stored, [path], another_value))
            assert got == large.content
            answer = git.retry(path)
            assert answer.final is Outcome.ERROR, path
            assert stored.contents[path].startswith(answer.content)
        code, said = git.end()
    assert code == 0
    assert said.count("does not hold the value that the metadata names") == len(WITHIN_THE_WINDOW)


def change_the_end_in_place(file: Path) -> None:
    """Write to an object, which nobody ever should."""
    with file.open("r+b") as opened:
        opened.seek(-1000, os.SEEK_END)
        piece = opened.read(100)
        opened.seek(-1000, os.SEEK_END)
        opened.write(bytes(byte ^ 0x55 for byte in piece))


def test_a_large_group_vanishes_while_it_is_written(stored: Stored, large: Large) -> None:
    def remove() -> None:
        for file in large.files:
            file.unlink()

    with Delayed(stored.repository) as git:
        got, final = in_the_middle(git, large.metadata, remove)
        assert final.outcome is None
        assert got == large.content
        assert git.end() == (0, "")


def test_a_large_group_changes_while_it_is_written(stored: Stored, large: Large) -> None:
    """It was verified as a whole before the first byte went out, and still each part is looked at again."""
    with Delayed(stored.repository) as git:
        got, final = in_the_middle(git, large.metadata, lambda: change_the_end_in_place(large.files[0]))
        assert final.outcome is Outcome.ERROR
        assert large.content.startswith(got)
        code, said = git.end()
    assert code == 0
    assert said.count("\n") == 1
    assert said.startswith("theta-daemon: error: model: parameter 'm.harmed': ")
    assert large.oid in said


@pytest.mark.parametrize("name", ["as-it-lies", "large-as-it-lies"])
def test_a_group_that_is_used_where_it_lies_changes_while_it_is_written(stored: Stored, name: str) -> None:
    """The pipe takes the end of it after somebody wrote to the object; git must not take that for the file."""
    path = name.encode()
    oid = stored.oid(path)
    file = stored.repository.path / ".git" / "lfs" / "objects" / oid[:2] / oid[2:4] / oid
    with Delayed(stored.repository) as git:
        _, final = in_the_middle(git, stored.metadata[path], partial(change_the_end_in_place, file))
        assert final.outcome is Outcome.ERROR
        code, said = git.end()
    assert code == 0
    assert said.count("\n") == 1
    assert said.startswith("theta-daemon: error: model: ")
    assert oid in said


def test_a_large_group_is_cut_off_while_it_is_written(stored: Stored, large: Large) -> None:
    """Memory that is mapped to a file which somebody truncates is gone: the process ends, and git with it."""
    with Delayed(stored.repository) as git:
        with pytest.raises(ProtocolError):
            in_the_middle(git, large.metadata, lambda: os.truncate(large.files[0], 0))
        assert git.process.wait(SHORTLY) != 0
