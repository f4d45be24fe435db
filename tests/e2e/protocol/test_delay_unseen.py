"""D: what no git does, or what it does not show, played by a fake one against the real filter."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.protocol.conftest import written
from tests.support.fake_git import FakeGit
from tests.support.repository import Repository
from tests.support.wrapped import FILTER
from theta_daemon.wire.events import Content, ListAvailable, Outcome, Request

NAMES = [f"{letter}.{kind}" for letter in "abcdef" for kind in ("pt", "safetensors")]
CONTENTS = {name.encode(): written(name) for name in NAMES}


@pytest.fixture
def stored(repository: Repository) -> tuple[Repository, dict[bytes, bytes]]:
    """Return a repository with checkpoints, and what git holds for each."""
    repository.git("theta", "track", "*.pt", "*.safetensors")
    for name in NAMES:
        repository.write(name, written(name))
    repository.git("add", "--all")
    return repository, {name.encode(): repository.blob(name) for name in NAMES}


Stored = tuple[Repository, dict[bytes, bytes]]


@pytest.fixture
def git(stored: Stored) -> Iterator[FakeGit]:
    """Return a git that knows delay."""
    with started(stored[0]) as running:
        running.shake_hands()
        yield running


def started(repository: Repository, *capabilities: str) -> FakeGit:
    environment = {**repository.environment, "GIT_DIR": str(repository.path / ".git")}
    return FakeGit(
        environment=environment,
        command=(str(FILTER),),
        capabilities=capabilities or ("clean", "smudge", "delay"),
    )


def delay(git: FakeGit, path: bytes, metadata: bytes) -> None:
    assert git.ask(Request("smudge", path, can_delay=True), metadata).status is Outcome.DELAYED


def retry(git: FakeGit, path: bytes) -> bytes:
    answer = git.ask(Request("smudge", path))
    assert answer.final is Outcome.SUCCESS
    return answer.content


def ended_quietly(git: FakeGit) -> bool:
    return git.end() == (0, "")


def test_D3_D4_every_path_is_listed_once_and_no_other(git: FakeGit, stored: Stored) -> None:
    """T21 'missing file in delayed checkout' and 'invalid file in delayed checkout': `check_out` would fail."""
    checkout = git.check_out(stored[1])
    assert checkout.contents == CONTENTS
    assert [path for paths in checkout.lists for path in paths] == sorted(CONTENTS)
    assert git.available() == []
    assert ended_quietly(git)


@pytest.mark.parametrize("delayed", [False, True], ids=["not offered", "not asked for"])
def test_D1_H2_nothing_waits_unless_git_can(stored: Stored, delayed: bool) -> None:
    repository, metadata = stored
    with started(repository, *(("clean", "smudge", "delay") if delayed else ("clean", "smudge"))) as git:
        git.shake_hands()
        assert ("delay" in git.client.agreed) is delayed
        for path, content in CONTENTS.items():
            answer = git.ask(Request("smudge", path, can_delay=not delayed), metadata[path])
            assert (answer.final, answer.content) == (Outcome.SUCCESS, content)
        assert git.available() == []
        assert ended_quietly(git)


def lose(file: Path) -> None:
    file.unlink()


def damage(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-20] ^= 1
    file.unlink()
    file.write_bytes(data)


def files_of(repository: Repository, metadata: bytes, number: int = 0) -> list[Path]:
    """Return the files of one of a checkpoint's objects."""
    groups = [entry for entry in json.loads(metadata).values() if "lfs_metadata" in entry]
    oid = groups[number]["lfs_metadata"]["oid"]
    return [file for file in (repository.path / ".git").rglob(oid) if file.is_file()]


@pytest.mark.parametrize("harm", [lose, damage])
def test_D6_what_fails_is_listed_last(stored: Stored, harm: Callable[[Path], None]) -> None:
    """T21 'failing file': first, in the middle, last, and two at once."""
    repository, metadata = stored
    paths = sorted(metadata)
    for bad in ([paths[0]], [paths[5]], [paths[-1]], [paths[0], paths[7]], paths[:-1], paths):
        kept = {file: file.read_bytes() for path in bad for file in files_of(repository, metadata[path], 1)}
        for file in kept:
            harm(file)
        with started(repository) as git:
            git.shake_hands()
            checkout = git.check_out(metadata)
            assert checkout.failed == bad
            assert checkout.contents == {path: CONTENTS[path] for path in paths if path not in bad}
            code, said = git.end()
            assert code == 0
            assert [line.split(": ")[2].encode() for line in said.splitlines()] == bad
        for file, data in kept.items():
            file.unlink(missing_ok=True)
            file.write_bytes(data)


def test_D6_metadata_that_is_damaged_fails_in_its_turn(git: FakeGit, stored: Stored) -> None:
    _, metadata = stored
    (bad, *others) = sorted(metadata)
    checkout = git.check_out({**metadata, bad: metadata[bad][:-50]})
    assert checkout.failed == [bad]
    assert checkout.contents == {path: CONTENTS[path] for path in others}


def test_P2_the_process_goes_on_after_a_checkout_that_failed(stored: Stored) -> None:
    repository, metadata = stored
    bad = b"c.pt"
    for file in files_of(repository, metadata[bad]):
        lose(file)
    with started(repository) as git:
        git.shake_hands()
        for _ in range(3):
            assert git.check_out(metadata).failed == [bad]
            answer = git.ask(Request("clean", b"d.pt"), CONTENTS[b"d.pt"])
            assert (answer.final, answer.content) == (Outcome.SUCCESS, metadata[b"d.pt"])
        assert git.end()[0] == 0


def test_D5_git_asks_in_any_order(git: FakeGit, stored: Stored) -> None:
    _, metadata = stored
    orders = random.Random(1)
    paths = list(metadata)
    for _ in range(5):
        orders.shuffle(paths)
        for path in paths:
            delay(git, path, metadata[path])
        listed: list[bytes] = []
        while part := git.available():
            listed += part
            orders.shuffle(part)
            for path in part:
                assert retry(git, path) == CONTENTS[path]
        assert sorted(listed) == sorted(paths)
    assert ended_quietly(git)


def test_D5_git_asks_when_everything_is_listed(git: FakeGit, stored: Stored) -> None:
    _, metadata = stored
    for path in metadata:
        delay(git, path, metadata[path])
    listed: list[bytes] = []
    while part := git.available():
        listed += part
    for path in reversed(listed):
        assert retry(git, path) == CONTENTS[path]
    assert ended_quietly(git)


def test_D5_git_does_not_ask_for_all_it_was_told_of(git: FakeGit, stored: Stored) -> None:
    """It may have found that the file is there. The next checkout in the same process is as any other."""
    _, metadata = stored
    for path in metadata:
        delay(git, path, metadata[path])
    for number, path in enumerate(itertools.chain.from_iterable(iter(git.available, []))):
        if number % 3:
            assert retry(git, path) == CONTENTS[path]
    assert git.check_out(metadata).contents == CONTENTS
    assert ended_quietly(git)


def test_D5_an_empty_file_is_not_a_file_that_waits(git: FakeGit, stored: Stored) -> None:
    _, metadata = stored
    delay(git, b"a.pt", metadata[b"a.pt"])
    empty = git.ask(Request("smudge", b"b.pt", can_delay=True), b"")
    assert (empty.final, empty.content) == (Outcome.SUCCESS, b"")
    empty = git.ask(Request("smudge", b"c.pt"), b"")
    assert (empty.final, empty.content) == (Outcome.SUCCESS, b"")
    assert git.available() == [b"a.pt"]
    assert retry(git, b"a.pt") == CONTENTS[b"a.pt"]
    assert git.ask(Request("smudge", b"a.pt")).content == b""  # it was asked for; now it is an empty file
    assert ended_quietly(git)


@pytest.mark.parametrize("offered", [False, True])
def test_D5_a_path_is_asked_for_anew(git: FakeGit, stored: Stored, offered: bool) -> None:
    """With other content: that is what counts, whether it can wait or not."""
    _, metadata = stored
    for can_delay in (True, False):
        delay(git, b"a.pt", metadata[b"a.pt"])
        assert not offered or git.available() == [b"a.pt"]
        answer = git.ask(Request("smudge", b"a.pt", can_delay=can_delay), metadata[b"c.pt"])
        if can_delay:
            assert answer.status is Outcome.DELAYED
            assert git.available() == [b"a.pt"]
            assert retry(git, b"a.pt") == CONTENTS[b"c.pt"]
        else:
            assert answer.content == CONTENTS[b"c.pt"]
        assert git.available() == []
    assert ended_quietly(git)


def test_clean_is_answered_while_files_wait(git: FakeGit, stored: Stored) -> None:
    """It may need the memory that they hold."""
    _, metadata = stored
    for path in metadata:
        delay(git, path, metadata[path])
    assert git.ask(Request("clean", b"a.pt"), CONTENTS[b"a.pt"]).content == metadata[b"a.pt"]
    (first, *rest) = git.available()
    assert git.ask(Request("clean", b"new.pt"), written("new.pt")).final is Outcome.SUCCESS
    assert retry(git, first) == CONTENTS[first]
    assert git.ask(Request("clean", b"b.pt"), CONTENTS[b"b.pt"]).content == metadata[b"b.pt"]
    for path in rest:
        assert retry(git, path) == CONTENTS[path]
    for path in itertools.chain.from_iterable(iter(git.available, [])):
        assert retry(git, path) == CONTENTS[path]
    assert ended_quietly(git)


@pytest.mark.parametrize("when", ["delayed", "asks", "listed", "in an answer", "in a request"])
def test_D8_git_goes_while_files_wait(git: FakeGit, stored: Stored, when: str) -> None:
    _, metadata = stored
    for path in metadata:
        delay(git, path, metadata[path])
    match when:
        case "asks":
            git.say(ListAvailable())
            git.read()
        case "listed":
            assert git.available()
        case "in an answer":
            (first, *_) = git.available()
            retry(git, first)
        case "in a request":
            git.say(Request("smudge", b"more.pt", can_delay=True), Content(b"{"))
    code, said = git.end()
    if when == "in a request":
        assert (code, said) == (1, "theta-daemon: error: the stream ends inside a file's content\n")
    else:
        assert (code, said) == (0, "")


def test_D10_each_file_is_answered_once(git: FakeGit, stored: Stored) -> None:
    """A second answer would be one more updated path."""
    _, metadata = stored
    answers = []
    for path in metadata:
        answers.append(git.ask(Request("smudge", path, can_delay=True), metadata[path]).status)
    for path in itertools.chain.from_iterable(iter(git.available, [])):
        answers.append(git.ask(Request("smudge", path)).status)
    assert answers.count(Outcome.SUCCESS) == len(metadata)
    assert answers.count(Outcome.DELAYED) == len(metadata)
