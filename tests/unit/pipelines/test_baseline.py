"""The record as clean sees it: read once, as far as it is needed, and never half."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.support import models
from tests.support.pipelines import Bench, Earlier
from theta_daemon.errors import RepositoryError
from theta_daemon.metadata import text
from theta_daemon.pipelines.baseline import Baseline

CONTENTS = [models.safetensors_bytes({"w": torch.full((3,), float(number))}) for number in range(3)]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Return pipelines over an empty store."""
    bench = Bench.at(tmp_path)
    yield bench
    bench.close()


class CountedRecord:
    """A record that notes how much of it was read, and fails behind its last content if it is told to."""

    def __init__(self, contents: list[bytes], *, fails: bool = False) -> None:
        self._contents = contents
        self._fails = fails
        self.read = 0

    def candidates(self, path: bytes) -> Iterator[Earlier]:
        del path
        for data in self._contents:
            self.read += 1
            yield Earlier("somewhere", data)
        if self._fails:
            raise RepositoryError("git cat-file died")

    def close(self) -> None:
        """Nothing is open."""


def test_to_prepare_reads_the_first_and_nothing_else(bench: Bench) -> None:
    record = CountedRecord([bench.clean(content) for content in CONTENTS])
    baseline = Baseline(bench.services.replace(record=record), b"model")
    assert record.read == 0
    baseline.prepare()
    baseline.prepare()
    assert record.read == 1
    assert not baseline.compatible
    assert record.read == 1


def test_a_value_is_found_in_the_first_that_holds_it(bench: Bench) -> None:
    metadata = [bench.clean(content) for content in CONTENTS]
    record = CountedRecord([metadata[0], b"raw", metadata[1], metadata[1], metadata[2]])
    baseline = Baseline(bench.services.replace(record=record), b"model")
    entry = text.parse(metadata[1]).entries["w",]
    assert entry.digest is not None
    assert baseline.find(("w",), "float32", (3,), entry.digest) == entry
    assert record.read == 3
    assert baseline.find(("w",), "float32", (3,), "0" * 64) is None
    assert baseline.find(("v",), "float32", (3,), entry.digest) is None


def test_a_record_that_cannot_be_read_never_looks_like_one_that_ends(bench: Bench) -> None:
    baseline = Baseline(bench.services.replace(record=CountedRecord([], fails=True)), b"model")
    baseline.prepare()
    for _ in range(3):
        with pytest.raises(RepositoryError, match="git cat-file died"):
            baseline.find(("w",), "float32", (3,), "0" * 64)
    with pytest.raises(RepositoryError, match="git cat-file died"):
        _ = baseline.compatible


def test_the_file_fails_with_the_record(bench: Bench) -> None:
    bench.services = bench.services.replace(record=CountedRecord([], fails=True))
    with pytest.raises(RepositoryError, match="git cat-file died"):
        bench.clean(CONTENTS[0])
