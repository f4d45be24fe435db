"""A worker fails in the middle of a file: that file fails, with all it held given back, and the next one is right."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from pathlib import Path

import pytest
import torch

from tests.e2e.git.conftest import leftovers
from tests.faults.test_pipeline_budget import CONTENTS, assert_nothing_is_held, noise
from tests.support import models
from tests.support.fake_git import FakeGit
from tests.support.pipelines import Bench
from tests.support.repository import Repository
from tests.support.wrapped import FILTER
from theta_daemon.errors import CorruptObject, MissingObject, RepositoryError, ThetaError
from theta_daemon.pipelines import clean, groups
from theta_daemon.pipelines.baseline import Baseline
from theta_daemon.pipelines.groups import GroupStore
from theta_daemon.pipelines.services import Services
from theta_daemon.pipelines.smudge import smudge
from theta_daemon.store import payload
from theta_daemon.wire.events import Outcome, Request

GROUPS = 24
TENSORS = {f"group{number:02}": noise(30_000, seed=number) for number in range(GROUPS)}
CONTENT = models.safetensors_bytes(TENSORS)
OTHER = models.safetensors_bytes({"other": noise(5)})


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Return pipelines whose budget holds one group at a time."""
    bench = Bench.at(tmp_path, memory_limit=100_000)
    yield bench
    bench.close()


def oid_of(metadata: bytes, parameter: str) -> str:
    """Return the id of the object that holds the parameter group."""
    return str(json.loads(metadata)[parameter]["lfs_metadata"]["oid"])


def damage(git_directory: Path, oid: str) -> None:
    """Put a file of the same size, with one bit changed, in the place of an object, in both stores."""
    for store in ("lfs", "theta"):
        path = git_directory / store / "objects" / oid[:2] / oid[2:4] / oid
        data = bytearray(path.read_bytes())
        data[len(data) * 2 // 3] ^= 1
        path.unlink()
        path.write_bytes(data)


def lose(git_directory: Path, oid: str) -> None:
    """Remove an object from both stores."""
    for store in ("lfs", "theta"):
        (git_directory / store / "objects" / oid[:2] / oid[2:4] / oid).unlink()


def take(pieces: Iterable[bytes | memoryview], got: bytearray) -> None:
    """Add all pieces to `got`, as far as they come."""
    for piece in pieces:
        got += piece


@pytest.mark.parametrize(("harm", "error"), [(damage, CorruptObject), (lose, MissingObject)], ids=["damaged", "lost"])
def test_an_object_goes_bad_while_the_file_is_on_its_way(
    bench: Bench, harm: Callable[[Path, str], None], error: type[ThetaError]
) -> None:
    metadata = bench.clean(CONTENT)
    pieces = smudge(bench.services, b"model", io.BytesIO(metadata))
    got = bytearray(next(pieces))
    got += next(pieces)
    harm(bench.services.settings.git_dir, oid_of(metadata, "group20"))
    with pytest.raises(error) as caught:
        take(pieces, got)
    assert (caught.value.path, caught.value.parameter) == (b"model", "group20")
    assert CONTENT.startswith(got)
    assert len(got) > len(CONTENT) // 2
    assert_nothing_is_held(bench)
    assert bench.smudge(bench.clean(OTHER)) == OTHER


@pytest.mark.parametrize("taken", [0, 1, 2, 10])
def test_nobody_takes_the_rest_of_a_file(bench: Bench, taken: int) -> None:
    metadata = bench.clean(CONTENT)
    pieces = smudge(bench.services, b"model", io.BytesIO(metadata))
    for _ in range(taken):
        next(pieces)
    assert isinstance(pieces, Iterator)
    pieces.close()  # type: ignore[attr-defined]
    assert_nothing_is_held(bench)
    assert bench.smudge(metadata) == CONTENT


@pytest.mark.parametrize("parameter", ["group00", "group11", "group23"])
@pytest.mark.parametrize("budget", [1 << 16, 100_000, 64 << 20])
def test_one_of_many_objects_cannot_be_written(tmp_path: Path, parameter: str, budget: int) -> None:
    expected = Bench.at(tmp_path / "other").clean(CONTENT)
    bench = Bench.at(tmp_path / "bench", memory_limit=budget)
    oid = oid_of(expected, parameter)
    obstacle = bench.services.settings.theta_dir / "objects" / oid[:2] / oid[2:4] / oid / "not empty"
    obstacle.mkdir(parents=True)
    with pytest.raises(RepositoryError, match=f"cannot write object {oid}"):
        bench.clean(CONTENT)
    assert_nothing_is_held(bench)
    assert bench.smudge(bench.clean(OTHER)) == OTHER
    obstacle.rmdir()
    obstacle.parent.rmdir()
    assert bench.clean(CONTENT) == expected
    assert bench.smudge(expected) == CONTENT
    bench.close()


def test_an_interrupt_while_work_is_handed_out_waits_for_nobody(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C comes between any two steps; `close` must not wait for work that was never handed out."""
    submit, calls = bench.services.pool.submit, iter(range(GROUPS))

    def interrupted(work: Callable[[], None]) -> None:
        if next(calls) == GROUPS // 2:
            raise KeyboardInterrupt
        submit(work)

    with monkeypatch.context() as patch:
        patch.setattr(bench.services.pool, "submit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            bench.clean(CONTENT)


def test_what_is_given_up_is_not_finished_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that failed, or SIGTERM, waits for the chunks that are being encoded, and not for all the others."""
    bench = Bench.at(tmp_path, workers=1, memory_limit=1 << 20)
    made: list[GroupStore] = []
    encode, encoded = payload.encode_chunk, 0

    class Remembered(GroupStore):
        def __init__(self, services: Services, baseline: Baseline) -> None:
            super().__init__(services, baseline)
            made.append(self)

    def close_at_the_first(raw: memoryview, plan: payload.ChunkPlan) -> payload.Piece:
        nonlocal encoded
        encoded += 1
        made[0].close()
        return encode(raw, plan)

    monkeypatch.setattr(clean, "GroupStore", Remembered)
    monkeypatch.setattr(groups, "wait_all", lambda _: None)  # it would wait for the worker that calls it
    monkeypatch.setattr(payload, "encode_chunk", close_at_the_first)
    with pytest.raises(CancelledError):
        bench.clean(models.safetensors_bytes({"large": torch.zeros(10 << 20)}))
    assert encoded == 1
    assert_nothing_is_held(bench)
    bench.close()


@pytest.fixture
def damaged(repository: Repository) -> tuple[Repository, bytes]:
    """Return a repository with three models and the metadata of a.safetensors, whose last object is damaged."""
    repository.git("theta", "track", "*.safetensors")
    for name in "abc":
        repository.write(f"{name}.safetensors", CONTENT if name == "a" else models.safetensors_bytes({name: noise(9)}))
    repository.commit("three")
    metadata = repository.blob("a.safetensors", "HEAD")
    damage(repository.path / ".git", oid_of(metadata, f"group{GROUPS - 1}"))
    for name in "abc":
        (repository.path / f"{name}.safetensors").unlink()
    return repository, metadata


def test_P3_the_process_takes_back_what_it_sent_and_serves_the_next_file(damaged: tuple[Repository, bytes]) -> None:
    repository, metadata = damaged
    environment = {**repository.environment, "GIT_DIR": str(repository.path / ".git")}
    with FakeGit(environment=environment, command=(str(FILTER),)) as git:
        git.shake_hands()
        for _ in range(3):
            answer = git.ask(Request("smudge", b"a.safetensors"), metadata)
            assert (answer.status, answer.final) == (Outcome.SUCCESS, Outcome.ERROR)
            assert CONTENT.startswith(answer.content)
            assert len(answer.content) > len(CONTENT) // 2
            answer = git.ask(Request("smudge", b"b.safetensors"), repository.blob("b.safetensors", "HEAD"))
            assert (answer.final, answer.content) == (Outcome.SUCCESS, models.safetensors_bytes({"b": noise(9)}))
            answer = git.ask(Request("clean", b"c.safetensors"), CONTENTS["safetensors"])
            assert answer.final is Outcome.SUCCESS
        code, said = git.end()
    assert code == 0
    assert said.count("\n") == said.count("theta-daemon: error: a.safetensors: parameter 'group23': object ") == 3


def test_P3_git_discards_the_file_and_fails(damaged: tuple[Repository, bytes]) -> None:
    repository, _ = damaged
    said = repository.git_fails("checkout", "--", "a.safetensors", "b.safetensors")
    assert said.count("theta-daemon: error: a.safetensors: parameter 'group23': object ") == 1
    assert not (repository.path / "a.safetensors").exists()
    repository.git("checkout", "--", "b.safetensors", "c.safetensors")
    assert repository.read("b.safetensors") == models.safetensors_bytes({"b": noise(9)})
    assert leftovers(repository) == []


def test_P3_where_the_filter_is_not_required_git_goes_on_in_the_same_process(
    damaged: tuple[Repository, bytes], tmp_path: Path
) -> None:
    repository, metadata = damaged
    trace = tmp_path / "trace"
    traced = repository.in_environment(GIT_TRACE=str(trace))
    optional = ("-c", "filter.theta.required=false", "-c", "filter.theta.smudge=")
    traced.git(*optional, "checkout-index", "--all", "--force")  # it never waits
    assert trace.read_text().count("run_command: theta-daemon") == 1
    assert repository.read("a.safetensors") == metadata  # what git holds, and nothing of what was sent
    for name in "bc":
        assert repository.read(f"{name}.safetensors") == models.safetensors_bytes({name: noise(9)})
