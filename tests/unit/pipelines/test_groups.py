"""How groups reach the workers: small ones together, large ones alone, and nothing stays behind when a file fails."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support import models
from tests.support.pipelines import Bench
from theta_daemon.errors import RepositoryError, TruncatedError
from theta_daemon.formats.parts import Tensor, Window
from theta_daemon.formats.source import Source
from theta_daemon.metadata.digest import digest
from theta_daemon.pipelines.baseline import Baseline
from theta_daemon.pipelines.groups import GroupStore
from theta_daemon.pipelines.storing import Member
from theta_daemon.store.objects import ObjectStore

MIB = 1 << 20


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Return pipelines over an empty store."""
    bench = Bench.at(tmp_path, memory_limit=64 * MIB)
    yield bench
    bench.close()


def tensor(size: int) -> Tensor:
    return Tensor(("t",), "uint8", (size,))


def content(number: int, size: int) -> bytes:
    return (b"%d." % number) * (size // 2 + 1)


class Reading:
    """A file of groups that is read into a store."""

    def __init__(self, bench: Bench) -> None:
        self.groups = GroupStore(bench.services, Baseline(bench.services, b"model"))
        self.expected: dict[int, bytes] = {}
        self._bench = bench

    def read(self, size: int, views: tuple[Member, ...] = (), *, less: int = 0) -> None:
        """Read the next group; the file ends so many bytes too early."""
        index = len(self.expected)
        data = content(index, size)[:size]
        self.expected[index] = data
        source = Source(io.BytesIO(data[: size - less]))
        seen = bytearray()
        self.groups.read(index, (str(index),), tensor(size), source, seen.extend, views)
        assert seen == data

    def assert_stored(self) -> None:
        stored = self.groups.results()
        self.groups.close()
        assert {index: each.digest for index, each in stored.items()} == {
            index: digest(data) for index, data in self.expected.items()
        }
        assert {index: each.entry.digest for index, each in stored.items()} == {
            index: each.digest for index, each in stored.items()
        }
        self.assert_nothing_is_held()

    def assert_nothing_is_held(self) -> None:
        limit = self._bench.services.settings.memory_limit + 1
        assert self._bench.services.pool.budget.try_acquire(limit)
        self._bench.services.pool.budget.release(limit)


@pytest.fixture
def submitted(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    return submissions(bench, monkeypatch)


def submissions(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Return what the workers are given, from now on."""
    given: list[object] = []
    submit = bench.services.pool.submit

    def noting(work: Callable[[], Any]) -> Future[Any]:
        given.append(work)
        return submit(work)

    monkeypatch.setattr(bench.services.pool, "submit", noting)
    return given


def test_small_groups_are_handed_over_together(bench: Bench, submitted: list[object]) -> None:
    reading = Reading(bench)
    for number in range(40):
        reading.read(300_000 + number)
    reading.assert_stored()
    assert len(submitted) == 7  # 12 MB in batches of six


@pytest.mark.parametrize("compatible", ["false", "true"])
def test_very_small_groups_are_not_handed_over(
    tmp_path: Path, compatible: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench.at(tmp_path, memory_limit=64 * MIB, compatible=compatible)
    submitted = submissions(bench, monkeypatch)
    reading = Reading(bench)
    for number in range(1000):
        reading.read(10_000 + number)
    reading.assert_stored()
    # 10.5 MB in batches of 2 MiB, where git-theta's hash makes each worth a thread.
    assert len(submitted) == (6 if compatible == "true" else 0)
    bench.close()


def test_sizes_of_all_kinds(bench: Bench) -> None:
    reading = Reading(bench)
    for size in (0, 1, MIB, 0, 2 * MIB, 2 * MIB + 1, 5, 9 * MIB, 16 * MIB, 16 * MIB + 1, 7, 3 * MIB):
        reading.read(size)
    reading.assert_stored()


def test_views_are_stored_with_their_owner(bench: Bench) -> None:
    for size in (10, 9 * MIB, 17 * MIB):
        reading = Reading(bench)
        window = Window(2, (0, 3))
        view = Member(1, ("view",), Tensor(("v",), "uint8", (2, 2), window=window), window)
        reading.read(size, (view,))
        reading.expected[1] = bytes(content(0, size)[at] for at in (2, 5, 2, 5))
        reading.assert_stored()


@pytest.mark.parametrize("size", [10, 3 * MIB, 17 * MIB], ids=["batched", "alone", "spooled"])
def test_a_file_that_ends_too_early(bench: Bench, size: int) -> None:
    reading = Reading(bench)
    reading.read(10)
    with pytest.raises(TruncatedError) as caught:
        reading.read(size, less=3)
    assert caught.value.parameter == "1"
    reading.groups.close()
    reading.assert_nothing_is_held()


@pytest.mark.parametrize("size", [10, 9 * MIB, 17 * MIB], ids=["batched", "alone", "spooled"])
def test_what_failed_stops_the_reader(bench: Bench, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_store: ObjectStore, _pieces: object) -> None:
        raise RepositoryError("the disk is full")

    monkeypatch.setattr(ObjectStore, "write", full)
    reading = Reading(bench)
    reading.read(size)
    read = 0
    with pytest.raises(RepositoryError, match="the disk is full"):  # noqa: PT012 - when it is noticed does not matter
        for _ in range(1000):
            reading.read(MIB)
            read += 1
        reading.groups.results()
    assert read < 1000
    reading.groups.close()
    reading.assert_nothing_is_held()


def test_what_is_not_wanted_is_not_started(bench: Bench) -> None:
    reading = Reading(bench)
    reading.read(10)
    reading.groups.close()
    reading.assert_nothing_is_held()
    assert not bench.services.settings.lfs_objects.exists()


def several(changed: int = -1) -> bytes:
    """Return a checkpoint of groups that are worth handing over, one of them perhaps changed."""
    return models.safetensors_bytes(
        {f"group{at}": torch.full((100_000,), at + 0.5 * (at == changed)) for at in range(12)}
    )


def cleaned(directory: Path) -> bytes:
    bench = Bench.at(directory)
    metadata = bench.clean(several())
    bench.close()
    return metadata


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_with_few_workers_the_reader_compares(tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    before = cleaned(tmp_path)
    bench = Bench.at(tmp_path, workers=workers)
    bench.record.contents.append(before)
    submitted = submissions(bench, monkeypatch)
    assert bench.clean(several()) == before
    batches = len(submitted) - 1  # what reads the record
    assert batches == (3 if workers == 3 else 0)  # 4.8 MB in batches of five
    after = bench.clean(several(changed=7))
    assert after != before
    assert bench.smudge(after) == several(changed=7)
    assert bench.smudge(before) == several()
    bench.close()


def test_an_unchanged_group_whose_object_is_gone_is_stored_again(tmp_path: Path) -> None:
    before = cleaned(tmp_path)
    bench = Bench.at(tmp_path, workers=2)
    bench.record.contents.append(before)
    settings = bench.services.settings
    for place in (settings.lfs_objects, settings.theta_dir / "objects"):
        shutil.rmtree(place)
    assert bench.clean(several()) == before
    assert bench.smudge(before) == several()
    bench.close()
