"""Delayed files in an order that nobody expects: correct bytes whatever git asks for next, and never a wait for ever.

The memory is always too small for what is delayed, so that every unexpected question needs memory which others hold.
"""

from __future__ import annotations

import io
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.faults.test_pipeline_workers import damage, oid_of
from tests.support import models
from tests.support.checkouts import SHORTLY, WINDOW, Delayed, Watched, noise, of_size, repository_below
from tests.support.pipelines import Bench
from tests.support.repository import Repository
from theta_daemon.errors import CorruptObject
from theta_daemon.pipelines.checkout import Checkout
from theta_daemon.wire.events import Content, ContentEnd, Outcome, Request, Status

NAMES = [b"a.safetensors", b"b.pt", b"c/d.safetensors", b"c/e.pt", b"f.safetensors"]


def written(name: bytes, seed: int, size: int = 7 << 20) -> bytes:
    """Return a checkpoint, two of which fill the window."""
    tensors = of_size(size, seed=seed)
    return models.torch_bytes(tensors) if name.endswith(b".pt") else models.safetensors_bytes(tensors)


CONTENTS = {name: written(name, seed) for seed, name in enumerate(NAMES)}


class Files:
    """A repository with checkpoints in its store, and what git would hold for them."""

    def __init__(self, repository: Repository) -> None:
        self.repository = repository
        self.metadata = {name: self.store(content) for name, content in CONTENTS.items()}

    def store(self, content: bytes) -> bytes:
        """Store a file and return its metadata."""
        bench = Bench.at(self.repository.path)
        metadata = bench.clean(content)
        bench.close()
        return metadata

    def temporary(self) -> list[Path]:
        """Return the temporary files that are left."""
        return [path for path in (self.repository.path / ".git").glob("*/tmp/*") if path.is_file()]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Return a repository with five files in its store, and as little memory as may be."""
    assert sum(map(len, CONTENTS.values())) > 2 * WINDOW
    repository = repository_below(tmp_path_factory.mktemp("order"))
    repository.git("config", "theta.memoryLimit", "64m")
    return Files(repository)


@pytest.fixture
def git(files: Files) -> Iterator[Delayed]:
    """Return a git that has had all files delayed."""
    with Delayed(files.repository) as git:
        for name, metadata in files.metadata.items():
            git.delay(name, metadata)
        yield git


def assert_retried(git: Delayed, name: bytes, content: bytes | None = None) -> None:
    """Fail unless a file that was delayed comes, and is right."""
    answer = git.retry(name)
    assert answer.final is Outcome.SUCCESS
    assert answer.content == (CONTENTS[name] if content is None else content)


def assert_the_end(git: Delayed, files: Files) -> None:
    """Fail unless nothing is left to be had, and the process ends without a word."""
    assert git.available() == []
    assert git.end() == (0, "")
    assert files.temporary() == []


def all_listed(git: Delayed) -> list[bytes]:
    """Ask for lists until every file is on one, without taking any, and return them in their order."""
    listed: list[bytes] = []
    while paths := git.available():
        listed += paths
    assert sorted(listed) == sorted(NAMES)
    return listed


@pytest.mark.parametrize("seed", range(4))
def test_files_are_taken_in_any_order(git: Delayed, files: Files, seed: int) -> None:
    listed = all_listed(git)
    listed.reverse()
    if seed:
        random.Random(seed).shuffle(listed)
    for name in listed:
        assert_retried(git, name)
    assert_the_end(git, files)


def test_each_list_is_taken_in_reverse_order(git: Delayed, files: Files) -> None:
    taken = []
    while paths := git.available():
        for name in sorted(paths, reverse=True):
            assert_retried(git, name)
            taken.append(name)
    assert sorted(taken) == sorted(NAMES)
    assert_the_end(git, files)


def test_files_are_taken_before_they_are_listed(git: Delayed, files: Files) -> None:
    for name in reversed(NAMES):
        assert_retried(git, name)
    assert_the_end(git, files)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_git_takes_some_of_the_files_and_goes(git: Delayed, files: Files, count: int) -> None:
    for name in sorted(all_listed(git))[:count]:
        assert_retried(git, name)
    assert git.process.stdin is not None
    assert git.end() == (0, "")
    assert files.temporary() == []


def test_git_goes_without_a_list(git: Delayed, files: Files) -> None:
    assert git.end() == (0, "")
    assert files.temporary() == []


@pytest.mark.parametrize("closed", ["stdin", "stdout", "both"])
def test_git_goes_in_the_middle_of_a_file(git: Delayed, files: Files, closed: str) -> None:
    assert git.available() != []
    git.say(Request("smudge", b"a.safetensors"))
    git.say(ContentEnd())
    assert git.next_event() == Status(Outcome.SUCCESS)
    assert isinstance(git.next_event(), Content)
    process = git.process
    assert process.stdin is not None
    assert process.stdout is not None
    if closed != "stdout":
        process.stdin.close()
    if closed == "stdin":
        while git.read():  # it may say what it has to say
            pass
    else:
        process.stdout.close()
    assert process.wait(SHORTLY) == (0 if closed == "stdin" else 141)
    assert process.stderr is not None
    assert process.stderr.read() == b""
    assert files.temporary() == []


def test_a_list_before_anything_was_delayed(files: Files) -> None:
    with Delayed(files.repository) as git:
        assert git.available() == []
        answer = git.ask(Request("smudge", b"a.safetensors"), files.metadata[b"a.safetensors"])
        assert answer.content == CONTENTS[b"a.safetensors"]
        assert git.available() == []
        git.delay(b"b.pt", files.metadata[b"b.pt"])
        assert git.available() == [b"b.pt"]
        assert_retried(git, b"b.pt")
        assert_the_end(git, files)


def test_other_requests_come_in_between(git: Delayed, files: Files) -> None:
    """An add, a status, a merge: clean and smudge of other contents while delayed files hold all memory."""
    other = models.safetensors_bytes(of_size(20 << 20, seed=70))
    metadata = files.store(other)

    def come_in_between(name: bytes) -> None:
        answer = git.ask(Request("clean", b"other"), other)
        assert (answer.final, answer.content) == (Outcome.SUCCESS, metadata)
        answer = git.ask(Request("clean", name), CONTENTS[name])
        assert (answer.final, answer.content) == (Outcome.SUCCESS, files.metadata[name])
        answer = git.ask(Request("smudge", b"other"), metadata)
        assert (answer.final, answer.content) == (Outcome.SUCCESS, other)

    come_in_between(NAMES[0])
    listed = all_listed(git)
    for name in listed:
        come_in_between(name)
        assert_retried(git, name)
    come_in_between(NAMES[-1])
    assert_the_end(git, files)


def test_a_path_is_delayed_twice(git: Delayed, files: Files) -> None:
    """The second content is what git wants; before a list, after it, and when the first cannot be had at all."""
    other = written(b"a.safetensors", seed=50)
    metadata = files.store(other)
    git.delay(NAMES[0], metadata)
    git.delay(NAMES[4], metadata)
    git.delay(NAMES[4], files.metadata[NAMES[4]])
    listed = all_listed(git)
    git.delay(NAMES[2], metadata)
    git.delay(NAMES[3], b'{"lfs_metadata": of which')
    git.delay(NAMES[3], metadata)
    assert sorted(git.available() + git.available()) == [NAMES[2], NAMES[3]]
    expected = CONTENTS | {NAMES[0]: other, NAMES[2]: other, NAMES[3]: other}
    for name in sorted(listed):
        assert_retried(git, name, expected[name])
    assert_the_end(git, files)


def test_a_path_is_delayed_and_then_asked_for_with_another_content(git: Delayed, files: Files) -> None:
    """A request that brings content is not the retry of one that came before, and takes its place; listed or not."""
    other = written(b"a.safetensors", seed=50)
    metadata = files.store(other)

    def assert_other(name: bytes) -> None:
        answer = git.ask(Request("smudge", name), metadata)
        assert (answer.final, answer.content) == (Outcome.SUCCESS, other)

    assert_other(NAMES[0])
    listed: list[bytes] = []
    while paths := git.available():
        listed += paths
    assert sorted(listed) == NAMES[1:]
    assert_other(NAMES[1])
    for name in NAMES[2:]:
        assert_retried(git, name)
    assert_the_end(git, files)


def test_a_path_is_delayed_and_then_holds_what_needs_no_waiting(git: Delayed, files: Files) -> None:
    """It is answered, so it may not be listed: git takes that for a bug of the filter."""
    answer = git.ask(Request("smudge", NAMES[1], can_delay=True), b"no metadata at all")
    assert (answer.final, answer.content) == (Outcome.SUCCESS, b"no metadata at all")
    listed: list[bytes] = []
    while paths := git.available():
        listed += paths
    assert sorted(listed) == [NAMES[0], *NAMES[2:]]
    for name in listed:
        assert_retried(git, name)
    code, said = git.end()
    assert code == 0
    assert said.count("\n") == said.count("warning: b.pt: git holds this file itself") == 1


SHARED = noise(3000, seed=1)
SMALL = {
    "plain": models.safetensors_bytes({"a": noise(700, 100), "b": SHARED, "c": noise(5), "none": torch.zeros(0)}),
    "shared": models.torch_bytes({"x": SHARED, "y": noise(40_000, seed=2), "z": SHARED + 1}),
    "permuted": models.torch_bytes({"t": noise(130, 170, seed=3).t(), "u": SHARED}),
    "many": models.safetensors_bytes({f"{number}": noise(number, seed=number) for number in range(70)}),
    "one": models.safetensors_bytes({"one": noise(300_000, seed=4)}),
    "empty": models.safetensors_bytes({}),
}
LIMITS = [0, 100_000, 1 << 20, 64 << 20]


class Session:
    """What git may ask of a checkout, in any order, and what must come of it."""

    def __init__(self, directory: Path, limit: int, workers: int, points: random.Random) -> None:
        self.points = points
        self.bench = Bench.at(directory, memory_limit=limit, cache_size=limit // 4, workers=workers)
        self.metadata = {name: self.bench.clean(content) for name, content in SMALL.items()}
        self.metadata["damaged"] = self.bench.clean(models.safetensors_bytes({"ok": SHARED, "bad": noise(60_000)}))
        damage(self.bench.services.settings.git_dir, oid_of(self.metadata["damaged"], "bad"))
        self.buffers = Watched(self.bench.services.settings.memory_limit // 4)
        self.bench.services = self.bench.services.replace(buffers=self.buffers)
        self.checkout = Checkout(self.bench.services)
        self.waiting: dict[bytes, str] = {}
        self.offered: dict[bytes, str] = {}

    def any_content(self) -> str:
        return self.points.choice(list(self.metadata))

    def any_path(self) -> bytes:
        return self.points.choice([b"a", b"b", b"b/c", b"d", b"e"])

    def delay(self) -> None:
        path, what = self.any_path(), self.any_content()
        assert self.checkout.delay(path, io.BytesIO(self.metadata[what])) is None
        self.offered.pop(path, None)
        self.waiting[path] = what

    def list(self) -> None:
        paths = self.checkout.available()
        assert len(set(paths)) == len(paths)
        assert set(paths) <= set(self.waiting)
        assert bool(paths) == bool(self.waiting)
        for path in paths:
            self.offered[path] = self.waiting.pop(path)

    def retry(self) -> None:
        if self.offered:
            path = self.points.choice(sorted(self.offered))
            what = self.offered.pop(path)
            self.take(what, lambda: self.checkout.smudge(path, io.BytesIO()))

    def direct(self) -> None:
        path, what = self.any_path(), self.any_content()
        self.waiting.pop(path, None)
        self.offered.pop(path, None)
        self.take(what, lambda: self.checkout.smudge(path, io.BytesIO(self.metadata[what])))

    def clean(self) -> None:
        what = self.points.choice(list(SMALL))
        self.checkout.pause()
        assert self.bench.clean(SMALL[what]) == self.metadata[what]

    def take(self, what: str, ask: Callable[[], Iterator[bytes | memoryview]]) -> None:
        """Take a file, or, where git goes on without it, some pieces."""
        got = bytearray()
        pieces: Iterator[bytes | memoryview] = iter(())
        try:
            pieces = iter(ask())
            for piece in pieces:
                got += piece
                if self.points.random() < 0.02:
                    pieces.close()  # type: ignore[attr-defined]
                    assert SMALL.get(what, got).startswith(got)
                    return
        except CorruptObject:
            assert what == "damaged"
        else:
            assert got == SMALL[what]

    def end(self) -> None:
        """Take what is left, and fail unless all memory was given back."""
        while self.waiting or self.offered:
            self.retry()
            self.list()
        self.bench.services.values.clear()
        self.bench.services.pool._executor.shutdown(wait=True)
        assert self.buffers.out == {}


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("limit", LIMITS)
def test_any_order_at_all(tmp_path: Path, limit: int, workers: int) -> None:
    for seed in range(4):
        session = Session(tmp_path / str(seed), limit, workers, random.Random(seed))
        acts = [session.delay, session.delay, session.list, session.retry, session.direct, session.clean]
        for _ in range(50):
            session.points.choice(acts)()
        session.end()
