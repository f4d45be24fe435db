"""Values that are written where they belong give the bytes that a checkout gives."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import torch

from tests.support import models
from tests.support.pipelines import Bench
from theta_daemon.errors import CorruptObject
from theta_daemon.pipelines import smudge
from theta_daemon.pipelines.scatter import Scattered, Writers

LARGE = torch.arange(5 << 20).to(torch.float32)
CONTENTS = {
    "torch": models.torch_bytes(models.state_dict(1)),
    "safetensors": models.safetensors_bytes(models.state_dict(2), {"format": "pt"}),
    "training": models.torch_bytes(models.training_checkpoint(3)),
    "nothing": models.torch_bytes({}),
    "one of many chunks": models.torch_bytes({"t": LARGE[: 3 << 20], "u": LARGE[: 3 << 20].reshape(1024, -1).t()}),
    "larger than memory": models.torch_bytes({"t": LARGE, "u": LARGE.reshape(1024, -1).t(), "z": torch.ones(9)}),
    "nobody's bytes": models.torch_bytes({"z": torch.ones(9), "blob": bytes(range(256)) * (24 << 10)}),
    "many small": models.safetensors_bytes({f"{number}": torch.full((9,), number) for number in range(300)}),
}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with closing(Bench.at(tmp_path)) as made:
        yield made


def planned(bench: Bench, metadata: bytes) -> smudge.Plan:
    services = bench.services
    held = smudge.read(services, b"model", smudge.source(services, io.BytesIO(metadata)))
    assert isinstance(held, smudge.Held)
    plan = smudge.plan(services, b"model", held)
    assert isinstance(plan, smudge.Plan)
    return plan


class Target:
    """A file in memory; every byte may be written once."""

    def __init__(self, size: int) -> None:
        self.content = bytearray(size)
        self.written = 0

    def write(self, piece: bytes | memoryview, at: int) -> None:
        assert at + len(piece) <= len(self.content)
        self.content[at : at + len(piece)] = piece
        self.written += len(piece)


@pytest.mark.parametrize("name", CONTENTS)
def test_the_bytes_are_those_of_a_checkout(bench: Bench, name: str) -> None:
    content = CONTENTS[name]
    plan = planned(bench, bench.clean(content))
    told: list[int] = []
    with closing(Writers(bench.services, told.append)) as writers:
        targets = [Target(len(content)) for _ in range(3)]
        files = [Scattered(bench.services, plan, target.write) for target in targets]
        for file in files:
            writers.add(file)
        own = [file.finish(bench.services) for file in files]
    assert [bytes(target.content) for target in targets] == [content] * 3
    assert [target.written for target in targets] == [len(content)] * 3
    assert sum(told) + sum(own) == 3 * len(content)


def test_what_is_wrong_with_a_value_is_raised_for_its_file(bench: Bench) -> None:
    good, bad = bench.clean(CONTENTS["torch"]), bench.clean(CONTENTS["safetensors"])
    plans = [planned(bench, bad), planned(bench, good)]
    ref = next(iter(plans[0].metadata.entries.values())).oid
    path = bench.services.store.lfs_objects / ref[:2] / ref[2:4] / ref
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with closing(Writers(bench.services, lambda size: None)) as writers:
        target = Target(len(CONTENTS["torch"]))
        files = [
            Scattered(bench.services, plans[0], Target(1 << 20).write),
            Scattered(bench.services, plans[1], target.write),
        ]
        for file in files:
            writers.add(file)
        with pytest.raises(CorruptObject, match=ref):
            files[0].finish(bench.services)
        files[1].finish(bench.services)
    assert bytes(target.content) == CONTENTS["torch"]


def test_a_disk_that_is_full_is_raised_and_nothing_hangs(bench: Bench) -> None:
    def full(piece: bytes | memoryview, at: int) -> None:
        raise OSError(28, "No space left on device")

    plan = planned(bench, bench.clean(CONTENTS["torch"]))
    with closing(Writers(bench.services, lambda size: None)) as writers:
        file = Scattered(bench.services, plan, full)
        writers.add(file)
        with pytest.raises(OSError, match="No space"):
            file.finish(bench.services)


def test_closed_writers_write_nothing_more(bench: Bench) -> None:
    plan = planned(bench, bench.clean(CONTENTS["many small"]))
    target = Target(len(CONTENTS["many small"]))
    writers = Writers(bench.services, lambda size: None)
    files = [Scattered(bench.services, plan, target.write) for _ in range(20)]
    for file in files:
        writers.add(file)
    writers.close()
    written = target.written
    assert written < 20 * len(target.content) or written == target.written
    assert all(not thread.is_alive() for thread in writers._threads)
