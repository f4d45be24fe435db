"""Git, or the filter, ends in the middle of a delayed checkout: nothing of it stays, and the next checkout is right."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.e2e.git.conftest import leftovers
from tests.support import models
from tests.support.checkouts import SHORTLY, WINDOW, Delayed, of_size, repository_below, run_in_session
from tests.support.pipelines import Bench
from tests.support.repository import Repository
from tests.support.wrapped import Harm
from theta_daemon.wire.events import Content, ContentEnd, ListAvailable, Outcome, Request, Status

CONTENTS = {
    "a.safetensors": models.safetensors_bytes(of_size(3 << 20, seed=1)),
    "b.pt": models.torch_bytes({"large": torch.arange(17 << 18).to(torch.float32), "z": torch.ones(9)}),
    "c.safetensors": models.safetensors_bytes(of_size(3 << 20, seed=3)),
    "d.pt": models.torch_bytes({"t": torch.arange(9 << 18).to(torch.float32).reshape(1024, -1).t()}),
    "e.safetensors": models.safetensors_bytes(of_size(3 << 20, seed=5)),
}

ENDS = {
    "git is killed": "os.kill(os.getppid(), signal.SIGKILL)",
    "git is told to end": "os.kill(os.getppid(), signal.SIGTERM)",
    "Ctrl-C": "os.killpg(0, signal.SIGINT)",  # the terminal sends it to everybody
    "the terminal goes": "os.killpg(0, signal.SIGHUP)",
    "the filter is killed": "os.kill(os.getpid(), signal.SIGKILL)",
    "the filter is told to end": "os.kill(os.getpid(), signal.SIGTERM)",
}


CUT_OFF = ("theta-daemon: error: the stream ends inside ", "theta-daemon: error: the input ends before the handshake ")


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """Return a repository with the files committed, most of which are larger than the window."""
    assert len(CONTENTS["b.pt"]) > WINDOW
    repository = repository_below(tmp_path_factory.mktemp("killed"))
    repository.git("config", "theta.memoryLimit", "64m")
    repository.git("theta", "track", "*.pt", "*.safetensors")
    for name, content in CONTENTS.items():
        repository.write(name, content)
    repository.commit("all")
    return repository


def empty(repository: Repository) -> None:
    """Remove the files, and what a killed git leaves, as git says one should."""
    for name in CONTENTS:
        (repository.path / name).unlink(missing_ok=True)
    (repository.path / ".git" / "index.lock").unlink(missing_ok=True)


def end_it_on_and_on(repository: Repository, directory: Path, end: str, times: int, seed: int) -> None:
    """Let a checkout end at `times` moments, and after each check out again."""
    harm = Harm(repository, directory)
    empty(repository)
    harm.run("git", "checkout", "--", ".")
    ended_early = 0
    for moment in harm.moments(random.Random(seed), times):
        empty(repository)
        ended = run_in_session(harm.harmed(ENDS[end], moment), "git", "checkout", "--", ".")
        ended_early += ended.code != 0
        assert ended.left == []
        assert ended.seconds < SHORTLY
        ours = [line for line in ended.said.splitlines() if line.startswith("theta-daemon: ")]
        assert all(line.startswith(CUT_OFF) for line in ours), ended.said  # git died while it spoke
        assert "Traceback" not in ended.said
        assert leftovers(repository) == []
        for name, content in CONTENTS.items():
            path = repository.path / name
            assert not path.exists() or content.startswith(path.read_bytes())
        (repository.path / ".git" / "index.lock").unlink(missing_ok=True)
        repository.git("checkout", "--", ".")
        assert [name for name, content in CONTENTS.items() if repository.read(name) != content] == []
    assert repository.status() == ""
    assert ended_early > times // 2  # else the moments are not those of this command


@pytest.mark.parametrize("end", ENDS)
def test_a_checkout_ends_early(stored: Repository, tmp_path: Path, end: str) -> None:
    end_it_on_and_on(stored, tmp_path / "harm", end, 3, seed=7)


@pytest.mark.heavy
@pytest.mark.timeout(900)
@pytest.mark.parametrize("end", ENDS)
def test_a_checkout_ends_at_many_moments(stored: Repository, tmp_path: Path, end: str) -> None:
    end_it_on_and_on(stored, tmp_path / "harm", end, 60, seed=0)


ONES = models.safetensors_bytes({"large": torch.ones(50 << 20), "more": torch.zeros(10 << 20)})  # 240 MiB


@pytest.fixture(params=["64m", "1g"])
def busy(request: pytest.FixtureRequest, new_repository: Callable[[str], Repository]) -> Iterator[Delayed]:
    """Return a git whose filter has much to do: with little memory, and with enough to load everything at once."""
    repository = new_repository("repository")
    repository.git("config", "theta.memoryLimit", request.param)
    bench = Bench.at(repository.path)
    metadata = bench.clean(ONES)
    bench.close()
    with Delayed(repository) as git:
        git.delay(b"one", metadata)
        git.delay(b"two", metadata)
        yield git
        assert list((repository.path / ".git" / "theta").glob("tmp/*")) == []


def assert_it_ends(git: Delayed, *codes: int) -> None:
    """Fail unless the filter ends soon, with one of the exit codes and without a word."""
    began = time.monotonic()
    assert git.process.wait(SHORTLY) in codes
    assert time.monotonic() - began < SHORTLY / 2
    assert git.process.stderr is not None
    assert git.process.stderr.read() == b""


def close(git: Delayed) -> None:
    """Do what the system does for a git that is gone."""
    for stream in (git.process.stdin, git.process.stdout):
        assert stream is not None
        stream.close()


def test_git_goes_while_everything_is_loaded(busy: Delayed) -> None:
    close(busy)
    assert_it_ends(busy, 0)


def test_git_goes_while_it_waits_for_a_list(busy: Delayed) -> None:
    busy.say(ListAvailable())
    close(busy)
    assert_it_ends(busy, 0, 141)  # it may have answered before git went


def test_git_goes_while_it_waits_for_a_file(busy: Delayed) -> None:
    busy.say(Request("smudge", b"two"), ContentEnd())
    close(busy)
    assert_it_ends(busy, 141)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("moment", ["loading", "listing", "writing"])
def test_a_signal_while_git_does_nothing(busy: Delayed, moment: str, number: signal.Signals) -> None:
    """Git may be stopped, or wait for a slow disk: nobody reads what we write, and nobody ends us but the signal."""
    if moment == "listing":
        busy.say(ListAvailable())
    if moment == "writing":
        busy.say(Request("smudge", b"one"), ContentEnd())
        assert busy.next_event() == Status(Outcome.SUCCESS)
        assert isinstance(busy.next_event(), Content)
    busy.process.send_signal(number)
    assert_it_ends(busy, 128 + number)
