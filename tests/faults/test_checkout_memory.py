"""Files, groups and chunks that are much larger than theta.memoryLimit: exact bytes, and no more memory than that.

The peak is the filter's own, as the kernel counts it, pages of mapped files and all; what a filter needs for a file of
some bytes is taken off.
"""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.faults.test_pipeline_no_space import the_one_line
from tests.support import models, tensorstore_payload
from tests.support.checkouts import LEAST_MEMORY, Measured, Watched, repository_below
from tests.support.pipelines import Bench
from tests.support.wrapped import FILTER, before_the_filter
from theta_daemon.metadata import text
from theta_daemon.pipelines.checkout import Checkout
from theta_daemon.store.payload import CHUNK_BYTES

MIB = 1 << 20
SLACK = 16 * MIB  # what Python and the libraries allocate besides


def values(mebibytes: int, seed: int = 0) -> torch.Tensor:
    """Return float32 values of that size, which compress to a half."""
    return ((torch.arange(mebibytes << 18) * 40_503 + seed) % 65_536).to(torch.float32)


def random_bytes(mebibytes: int, seed: int = 0) -> torch.Tensor:
    """Return bytes that do not compress: they are used where they lie in their object."""
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, mebibytes << 20, np.uint8))


def permuted(mebibytes: int, seed: int = 0) -> torch.Tensor:
    """Return values whose bytes stand in another order in their file than in their object."""
    return values(mebibytes, seed).reshape(1024, -1).t()


def tied() -> dict[str, torch.Tensor]:
    value = values(30)
    return {"embed": value, "head": value, "row": value[1:900], "other": values(30, seed=1)}


@dataclass(frozen=True, slots=True)
class Case:
    """Checkpoints, each much larger than what may be held, and settings to store them with."""

    make: Callable[[], dict[str, bytes]]
    settings: tuple[str, ...] = ()


CASES = {
    "one large group": Case(lambda: {"a.safetensors": models.safetensors_bytes({"a": values(70)})}),
    "large groups": Case(
        lambda: {"a.safetensors": models.safetensors_bytes({f"{i}": values(17, seed=i) for i in range(6)})}
    ),
    "groups as large as may be held": Case(
        lambda: {"a.safetensors": models.safetensors_bytes({f"{i}": values(15, seed=i) for i in range(7)})}
    ),
    "one large group as it lies": Case(lambda: {"a.safetensors": models.safetensors_bytes({"a": random_bytes(100)})}),
    "groups as they lie": Case(
        lambda: {"a.pt": models.torch_bytes({f"{i}": random_bytes(3, seed=i) for i in range(30)})}
    ),
    "uncompressed": Case(
        lambda: {"a.safetensors": models.safetensors_bytes({"a": values(60)} | {f"b{i}": values(3) for i in range(9)})},
        ("-c", "theta.compression=none"),
    ),
    "one permuted group": Case(lambda: {"a.pt": models.torch_bytes({"t": permuted(70)})}),
    "permuted groups": Case(lambda: {"a.pt": models.torch_bytes({f"{i}": permuted(3, seed=i) for i in range(34)})}),
    "tied groups": Case(lambda: {"a.pt": models.torch_bytes(tied())}),
    "many files": Case(
        lambda: {
            f"{i}.safetensors": models.safetensors_bytes({"a": values(15, i), "b": values(2, i)}) for i in range(9)
        }
    ),
    "files that share their groups": Case(
        lambda: {f"{i}.safetensors": models.safetensors_bytes({"x": values(12), "y": values(8, i)}) for i in range(6)}
    ),
}


@dataclass(frozen=True, slots=True)
class Small:
    """A repository with little memory, and what its filter takes for a file of some bytes."""

    measured: Measured
    add: int
    checkout: int

    def add_and_check_out(self, files: dict[str, bytes], *settings: str) -> None:
        """Fail unless the files come back as they are, each way with the memory that is allowed."""
        repository = self.measured.repository
        for name, content in files.items():
            repository.write(name, content)
        added = self.measured.peak(*settings, "add", "--", *files)
        for name in files:
            (repository.path / name).unlink()
        taken = self.measured.peak(*settings, "checkout", "--", *files)
        assert [name for name, content in files.items() if repository.read(name) != content] == []
        assert list((repository.path / ".git" / "theta" / "tmp").iterdir()) == []
        assert added - self.add < LEAST_MEMORY + SLACK, f"git add: {added // MIB} MiB"
        assert taken - self.checkout < LEAST_MEMORY + SLACK, f"git checkout: {taken // MIB} MiB"


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    """Return such a repository."""
    directory = tmp_path_factory.mktemp("memory")
    repository = repository_below(directory)
    repository.git("config", "theta.memoryLimit", "64m")
    repository.git("theta", "track", "*.pt", "*.safetensors")
    measured = Measured(repository, directory / "measured")
    repository.write("0.pt", models.torch_bytes({"a": torch.ones(3).t(), "b": torch.ones(2, 3).t()}))
    add = measured.peak("add", "0.pt")
    (repository.path / "0.pt").unlink()
    return Small(measured, add, measured.peak("checkout", "--", "0.pt"))


@pytest.mark.parametrize("name", CASES)
def test_more_than_fits(small: Small, name: str) -> None:
    case = CASES[name]
    small.add_and_check_out({f"{name}/{file}": content for file, content in case.make().items()}, *case.settings)


# The address space is what the system can be told to limit; it is used up long before memory is.
LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}))
os.execv({program!r}, [{program!r}, *sys.argv[1:]])
"""


def test_theta_memory_limit_promises_more_than_there_is(tmp_path: Path) -> None:
    repository = repository_below(tmp_path)
    repository.git("config", "theta.memoryLimit", "4g")
    repository.git("theta", "track", "*.safetensors")
    contents = {
        "a.safetensors": models.safetensors_bytes({"a": values(1)}),
        "b.safetensors": models.safetensors_bytes({"a": torch.ones(160 << 18)}),
        "c.safetensors": models.safetensors_bytes({"a": values(1, seed=1)}),
    }
    for name, content in contents.items():
        repository.write(name, content)
    repository.commit("all")
    for name in contents:
        (repository.path / name).unlink()
    program = LIMITED.format(limit=160 * MIB, program=str(FILTER))
    said = before_the_filter(repository, tmp_path / "limited", program).git_fails("checkout", "--", ".")
    assert the_one_line(said) == "theta-daemon: error: b.safetensors: not enough memory"
    assert not (repository.path / "b.safetensors").exists()
    repository.git("checkout", "--", "b.safetensors")
    assert {name: repository.read(name) for name in contents} == contents


LIMITS = [0, 1, CHUNK_BYTES - 1, 4 * CHUNK_BYTES - 1]  # a quarter of it is what may be held of one group

SMALL = {
    b"chunks.safetensors": models.safetensors_bytes({"a": torch.ones(9), "large": values(10), "z": torch.ones(5)}),
    b"permuted.pt": models.torch_bytes({"a": torch.ones(9), "t": permuted(6), "z": torch.ones(5)}),
    b"lies.pt": models.torch_bytes({"a": torch.ones(9), "b": random_bytes(5), "none": torch.zeros(0), "z": values(1)}),
}

# How other writers cut a value of (300, 5000) float32, 6 MB: chunk shape, and what else they choose.
CHUNKINGS: dict[str, dict[str, object]] = {
    "whole": {"chunks": (300, 5000)},
    "rows": {"chunks": (7, 5000)},
    "columns": {"chunks": (300, 999)},
    "tiles": {"chunks": (64, 64)},
    "larger than the value": {"chunks": (320, 5100)},
    "columns first": {"chunks": (100, 5000), "order": "F"},
    "as they are": {"chunks": (128, 5000), "compressor": None},
    "tiles as they are": {"chunks": (100, 1000), "compressor": None},
}


def in_other_chunks(bench: Bench, metadata: bytes, parameter: str, payload: bytes) -> bytes:
    """Return `metadata` with another object for one of its groups, of the same value."""
    ref = bench.services.store.write([payload])
    parsed = text.parse(metadata)
    entries = dict(parsed.entries)
    entry = entries[(parameter,)]
    assert entry.oid != ref.oid
    entries[(parameter,)] = entry.replace(oid=ref.oid, size=ref.size)
    return text.serialize(parsed.replace(entries=entries))


def checked_out(bench: Bench, metadata: dict[bytes, bytes]) -> dict[bytes, bytes]:
    """Return what a delayed checkout writes, in git's order; fail unless all memory is given back."""
    buffers = Watched(bench.services.settings.memory_limit // 4)
    bench.services = bench.services.replace(buffers=buffers)
    checkout = Checkout(bench.services)
    for path, data in metadata.items():
        assert checkout.delay(path, io.BytesIO(data)) is None
    found: dict[bytes, bytes] = {}
    while paths := checkout.available():
        for path in sorted(paths):
            found[path] = b"".join(map(bytes, checkout.smudge(path, io.BytesIO())))
    bench.services.values.clear()
    assert buffers.out == {}
    temporary = bench.services.settings.temporary
    assert not temporary.exists() or list(temporary.iterdir()) == []
    return found


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("limit", LIMITS)
def test_less_than_a_chunk(tmp_path: Path, limit: int, workers: int) -> None:
    bench = Bench.at(tmp_path, memory_limit=limit, cache_size=limit // 2, workers=workers)
    metadata = {path: bench.clean(content, path) for path, content in SMALL.items()}
    assert checked_out(bench, metadata) == SMALL
    bench.close()


@pytest.mark.parametrize("limit", [0, CHUNK_BYTES, 64 * MIB])
def test_the_chunks_of_other_writers(tmp_path: Path, limit: int) -> None:
    value = values(6)[: 300 * 5000].reshape(300, 5000)
    stored = {
        "plain": models.safetensors_bytes({"a": torch.ones(9), "large": value, "z": torch.ones(5)}),
        "permuted": models.torch_bytes({"a": torch.ones(9), "large": value.t().contiguous().t(), "z": torch.ones(5)}),
    }
    bench = Bench.at(tmp_path, memory_limit=limit, cache_size=0)  # else all were the one that came first
    metadata, contents = {}, {}
    for kind, content in stored.items():
        ours = bench.clean(content)
        for name, chunking in CHUNKINGS.items():
            path = f"{kind}, {name}".encode()
            payload = tensorstore_payload.write(value.numpy(), **chunking)
            metadata[path] = in_other_chunks(bench, ours, "large", payload)
            contents[path] = content
    found = checked_out(bench, metadata)
    assert [path for path in contents if found.get(path) != contents[path]] == []
    bench.close()
