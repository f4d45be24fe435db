"""Little memory: what does not fit goes through temporary files, and nothing of it shows in the result."""

from __future__ import annotations

import io
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.support import models
from tests.support.pipelines import Bench
from theta_daemon.errors import RepositoryError, TruncatedError
from theta_daemon.pipelines.clean import clean

BUDGETS = [0, 1 << 16, 1 << 20, 64 << 20]


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return values that do not compress."""
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32))


LARGE = {"first": noise(3), "large": noise(3, 1 << 18), "zeros": torch.zeros(1 << 20), "last": noise(100)}

CONTENTS = {
    "safetensors": models.safetensors_bytes(LARGE, {"format": "pt"}),
    "torch": models.torch_bytes(LARGE),
    "permuted": models.torch_bytes(
        {"t": noise(1000, 700).t(), "last": noise(3, 8, 160, 160).to(memory_format=torch.channels_last)}
    ),
    "tied": models.torch_bytes({"embed": LARGE["large"], "head": LARGE["large"], "row": LARGE["large"][1]}),
}


@pytest.fixture(params=list(CONTENTS))
def content(request: pytest.FixtureRequest) -> bytes:
    """Return each kind of checkpoint in turn."""
    return CONTENTS[request.param]


def assert_nothing_is_held(bench: Bench) -> None:
    """Fail unless the whole budget is free, and no temporary file is left."""
    limit = bench.services.settings.memory_limit + 1
    assert bench.services.pool.budget.try_acquire(limit), "bytes were not given back"
    bench.services.pool.budget.release(limit)
    temporary = bench.services.settings.temporary
    assert not temporary.exists() or list(temporary.iterdir()) == []


@pytest.mark.parametrize("workers", [1, 3])
def test_the_budget_does_not_show_in_the_result(tmp_path: Path, content: bytes, workers: int) -> None:
    results = []
    for budget in BUDGETS:
        bench = Bench.at(tmp_path / str(budget), workers=workers, memory_limit=budget)
        metadata = bench.clean(content)
        assert bench.smudge(metadata) == content
        assert_nothing_is_held(bench)
        bench.record.contents = [metadata]
        assert bench.clean(content, sizes=(1, 100_000)) == metadata
        assert_nothing_is_held(bench)
        objects = {path.name for path in bench.services.settings.lfs_objects.rglob("*") if path.is_file()}
        results.append((metadata, objects))
        bench.close()
    assert results == results[:1] * len(BUDGETS)


def test_the_directory_for_temporary_files_is_made(tmp_path: Path) -> None:
    bench = Bench.at(tmp_path, memory_limit=1 << 16)
    content = CONTENTS["safetensors"]
    bench.record.contents = [Bench.at(tmp_path / "other").clean(content)]
    assert not bench.services.settings.temporary.exists()
    assert bench.clean(content) == bench.record.contents[0]
    assert bench.services.settings.temporary.is_dir()
    bench.close()


def test_a_file_stands_where_the_directory_should(tmp_path: Path) -> None:
    bench = Bench.at(tmp_path, memory_limit=1 << 16)
    temporary = bench.services.settings.temporary
    temporary.parent.mkdir(parents=True)
    temporary.write_text("in the way")
    with pytest.raises(RepositoryError, match="cannot spool a parameter group of 3145728 bytes") as caught:
        bench.clean(CONTENTS["safetensors"])
    assert str(temporary) in str(caught.value)
    temporary.unlink()
    assert_nothing_is_held(bench)
    assert bench.smudge(bench.clean(CONTENTS["safetensors"])) == CONTENTS["safetensors"]
    bench.close()


@pytest.mark.parametrize("budget", BUDGETS)
def test_a_file_that_ends_in_a_large_group(tmp_path: Path, content: bytes, budget: int) -> None:
    bench = Bench.at(tmp_path, memory_limit=budget)
    for end in (len(content) // 2, len(content) - 1000):
        with pytest.raises(TruncatedError, match="ends"):
            bench.clean(content[:end])
        assert_nothing_is_held(bench)
    assert bench.smudge(bench.clean(content)) == content
    bench.close()


@pytest.mark.parametrize("known", [False, True], ids=["new", "unchanged"])
def test_a_large_group_takes_little_memory(tmp_path: Path, known: bool) -> None:
    """Neither the value nor its encoded form may be held; chunks of 4 MiB are, one or two for each worker."""
    content = models.safetensors_bytes({"large": noise(12, 1 << 20)})
    bench = Bench.at(tmp_path, memory_limit=1 << 20)
    if known:
        bench.record.contents = [bench.clean(content)]
    tracemalloc.start()
    bench.clean(content)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < len(content) // 2
    bench.close()


class Watched(io.BytesIO):
    """A checkpoint of equal groups; notes how many objects there are when a group is asked for."""

    def __init__(self, content: bytes, group: int, objects: Path) -> None:
        super().__init__(content)
        self._group, self._objects = group, objects
        self.stored: dict[int, int] = {}

    def readinto(self, view: memoryview) -> int:  # type: ignore[override]
        number = self.tell() // self._group
        if number not in self.stored:
            self.stored[number] = sum(path.is_file() for path in self._objects.rglob("*"))
        return super().readinto(view)


def test_the_disk_never_holds_more_than_two_spooled_groups(tmp_path: Path) -> None:
    groups, elements = 8, 1 << 19
    content = models.safetensors_bytes({f"group{number}": noise(elements, seed=number) for number in range(groups)})
    bench = Bench.at(tmp_path, memory_limit=1 << 20)
    watched = Watched(content, 4 * elements, bench.services.settings.theta_dir / "objects")
    metadata = b"".join(clean(bench.services, b"model", watched))
    # While one group is read, one more is on its way, and those before it are stored. The header shifts all by one.
    late = {number: stored for number, stored in watched.stored.items() if stored < number - 2}
    assert late == {}
    assert len(watched.stored) > groups
    assert bench.smudge(metadata) == content
    bench.close()
