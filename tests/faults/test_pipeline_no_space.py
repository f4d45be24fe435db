"""A disk that takes no more, with real git: one line that says so, nothing staged, nothing partial, and no harm done.

A limit on the size of the files that the filter may write (setrlimit(2)) stands for a full disk: the kernel itself
cuts the write short, at the same byte every time.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.e2e.git.conftest import leftovers, objects
from tests.support import models, torch_files
from tests.support.repository import Repository
from tests.support.wrapped import FILTER, before_the_filter

LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
os.execv({program!r}, [{program!r}, *sys.argv[1:]])
"""

SMALL = 100_000
LARGE = 17 << 18  # elements of a group of 17 MiB, which is over a quarter of theta.memoryLimit
NAMES = ["model.pt", "model.safetensors"]


def limited(repository: Repository, limit: int) -> Repository:
    """Return the repository with a filter that can write no file of more than `limit` bytes."""
    directory = repository.path.parent / f"limited-{limit}"
    return before_the_filter(repository, directory, LIMITED.format(limit=limit, program=str(FILTER)))


def written(name: str, elements: int, seed: int = 0) -> bytes:
    """Return a checkpoint with some small groups, one of `elements` float32 values, and more small groups."""
    noise = np.random.default_rng(seed).normal(0, 1, elements).astype(np.float32)
    tensors = {"a": torch.full((9,), float(seed)), "large": torch.from_numpy(noise), "z": torch.ones(5)}
    return models.torch_bytes(tensors) if name.endswith(".pt") else models.safetensors_bytes(tensors)


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    """Return the name of a checkpoint of each format in turn."""
    return str(request.param)


@pytest.fixture
def tracked(repository: Repository) -> Repository:
    """Return a repository with a checkpoint of each format committed."""
    repository.git("config", "--local", "theta.memoryLimit", "64m")
    repository.git("theta", "track", *NAMES)
    for name in NAMES:
        repository.write(name, written(name, 1000))
    repository.commit("small")
    return repository


def the_one_line(said: str) -> str:
    """Return the error that the filter reported, which must be one line."""
    ours = [line for line in said.splitlines() if line.startswith("theta-daemon: error: ")]
    assert len(ours) == 1, said
    assert "internal error" not in said
    assert "Traceback" not in said
    return ours[0]


def assert_unharmed(repository: Repository, staged: str, large: str = "") -> None:
    """Fail unless the index is what it was, every object is whole, and no temporary file is left.

    HEAD must hold what was committed: `large` has 17 MiB there.
    """
    assert repository.git("ls-files", "--stage") == staged
    for store in ("lfs", "theta"):
        for path in (repository.path / ".git" / store / "objects").glob("??/??/*"):
            assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name
    assert leftovers(repository) == []
    for each in NAMES:
        assert repository.git_bytes("cat-file", "--filters", f"HEAD:{each}") == written(
            each, LARGE if each == large else 1000
        )


def assert_works_now(repository: Repository, name: str, content: bytes) -> None:
    """Fail unless the same file is added and comes back once there is room."""
    repository.commit("there is room", name)
    (repository.path / name).unlink()
    repository.git("checkout", "--", name)
    assert repository.read(name) == content
    assert repository.status() == ""


def test_an_object_does_not_fit(tracked: Repository, name: str) -> None:
    staged = tracked.git("ls-files", "--stage")
    content = written(name, 200_000, seed=1)
    tracked.write(name, content)
    line = the_one_line(limited(tracked, SMALL).git_fails("add", name))
    assert f"{name}: cannot write object " in line
    assert "File too large; make room" in line
    assert_unharmed(tracked, staged)
    assert_works_now(tracked, name, content)


def test_a_large_group_cannot_be_spooled(tracked: Repository, name: str) -> None:
    tracked.write(name, written(name, LARGE))
    tracked.commit("another value, that it has to be compared with")
    staged = tracked.git("ls-files", "--stage")
    content = written(name, LARGE, seed=1)
    tracked.write(name, content)
    # The last one is cut in the middle of the last piece: a short write is no error by itself.
    for limit in (SMALL, 10 << 20, (17 << 20) - 5):
        line = the_one_line(limited(tracked, limit).git_fails("add", name))
        assert f"{name}: cannot spool a parameter group of {17 << 20} bytes: File too large; make room" in line
        assert_unharmed(tracked, staged, name)
    assert_works_now(tracked, name, content)


def test_the_encoded_form_of_a_large_new_group_cannot_be_spooled(tracked: Repository, name: str) -> None:
    staged = tracked.git("ls-files", "--stage")
    content = written(name, LARGE, seed=1)
    tracked.write(name, content)
    for limit in (SMALL, 10 << 20):
        line = the_one_line(limited(tracked, limit).git_fails("add", name))
        assert f"{name}: cannot spool a parameter group of {17 << 20} bytes: File too large; make room" in line
        assert_unharmed(tracked, staged)
    assert_works_now(tracked, name, content)


def test_a_file_whose_index_comes_last_cannot_be_spooled(tracked: Repository) -> None:
    value = torch_files.tensor(torch_files.storage(numel=50_000), (50_000,))
    pickle = torch_files.program(torch_files.mapping({"w": value}))
    records = torch_files.torch_records(pickle, {"0": bytes(range(200)) * 1000})
    content = torch_files.zip_file(list(reversed(records)))
    tracked.write("model.pt", content)
    staged = tracked.git("ls-files", "--stage")
    line = the_one_line(limited(tracked, SMALL).git_fails("add", "model.pt"))
    assert "model.pt: cannot keep the rest of the checkpoint in a temporary file: File too large; make room in " in line
    assert_unharmed(tracked, staged)
    assert_works_now(tracked, "model.pt", content)


def test_smudge_cannot_spool_a_file_from_before_tracking(tracked: Repository, name: str) -> None:
    content = written(name, 200_000, seed=1)
    tracked.write("raw", content)
    blob = tracked.git("hash-object", "-w", "--no-filters", "raw")
    tracked.git("update-index", "--cacheinfo", f"100644,{blob},{name}")
    tracked.git("commit", "--quiet", "--message", "raw")
    (tracked.path / name).unlink()
    line = the_one_line(limited(tracked, SMALL).git_fails("checkout", "--", name))
    assert f"{name}: cannot keep the rest of the checkpoint in a temporary file: File too large; make room in " in line
    assert not (tracked.path / name).exists()
    assert leftovers(tracked) == []
    tracked.git("checkout", "--", name)
    assert tracked.read(name) == content


def test_where_nothing_can_be_written_everything_can_be_read(tracked: Repository, name: str) -> None:
    tracked.write(name, written(name, 1000, seed=1))
    tracked.commit("another")
    full = limited(tracked, 0)
    before = objects(tracked)
    (tracked.path / name).touch()
    assert full.status() == ""
    full.git("checkout", "--quiet", "HEAD~1")
    assert tracked.read(name) == written(name, 1000)
    assert full.git_bytes("cat-file", "--filters", f"main:{name}") == written(name, 1000, seed=1)
    full.write(name, written(name, 1000, seed=2))
    staged = tracked.git("ls-files", "--stage")
    line = the_one_line(full.git_fails("add", name))
    assert "File too large; make room" in line
    assert objects(tracked) == before
    assert_unharmed(tracked, staged)


@pytest.mark.parametrize("place", ["theta", "theta/tmp", "theta/objects", "lfs", "lfs/objects", "theta/memo"])
def test_a_file_stands_where_a_directory_of_ours_should(tracked: Repository, place: str, tmp_path: Path) -> None:
    name = "model.pt"
    path = tracked.path / ".git" / place
    aside = tmp_path / "aside"
    if path.exists():
        path.rename(aside)
    path.write_text("in the way")
    small, large = written(name, 1000, seed=1), written(name, 17 << 18, seed=1)
    for content in (small, large):
        tracked.write(name, content)
        if place == "theta/memo":  # only a cache: it does without
            tracked.git("add", name)
            continue
        staged = tracked.git("ls-files", "--stage")
        line = the_one_line(tracked.git_fails("add", name))
        assert f"{name}: cannot " in line
        assert f"/.git/{place}" in line  # which file is in the way
        assert tracked.git("ls-files", "--stage") == staged
    tracked.git("checkout", "--quiet", "HEAD", "--", ".")
    assert tracked.read(name) == written(name, 1000)
    path.unlink()
    if aside.exists():
        aside.rename(path)
    tracked.write(name, small)
    assert_works_now(tracked, name, small)
