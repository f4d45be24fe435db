"""Drop-in both ways with git-theta 0.2.0: what either commits, the other checks out, value for value."""

from __future__ import annotations

import io

import numpy as np
import pytest
import safetensors.torch
import torch

from tests.interop.conftest import Pair
from tests.support import models
from tests.support.repository import Repository

pytestmark = [pytest.mark.needs_git_lfs, pytest.mark.needs_git_theta, pytest.mark.timeout(300)]

KINDS = {"model.pt": "pytorch", "model.safetensors": "safetensors"}


def load(content: bytes) -> models.StateDict:
    """Return the tensors of a checkpoint of either format."""
    if content.startswith(b"PK"):
        return torch.load(io.BytesIO(content), weights_only=True)  # type: ignore[no-any-return]
    return safetensors.torch.load(content)


def save(path: str, tensors: models.StateDict) -> bytes:
    """Write a checkpoint in the format that its extension names."""
    return models.torch_bytes(tensors) if path.endswith(".pt") else models.safetensors_bytes(tensors)


def assert_equal(one: models.StateDict, other: models.StateDict) -> None:
    """Fail unless both hold the same names, dtypes, shapes and bits."""
    assert sorted(one) == sorted(other)
    for name, value in one.items():
        same = other[name]
        assert (value.dtype, value.shape) == (same.dtype, same.shape), name
        assert value.contiguous().numpy().tobytes() == same.contiguous().numpy().tobytes(), name


def mixed(seed: int) -> models.StateDict:
    """Return a flat state dict with several dtypes and shapes, one array cut into several zarr chunks."""
    rng = np.random.default_rng(seed)
    return {
        "layers.0.weight": torch.from_numpy(rng.normal(0, 0.02, (40, 30)).astype(np.float32)),
        "layers.0.bias": torch.zeros(30),
        "double": torch.from_numpy(rng.normal(size=7)),
        "steps": torch.tensor(17),
        "mask": torch.from_numpy(rng.integers(0, 2, (3, 5)).astype(bool)),
        "ids": torch.from_numpy(rng.integers(-9, 9, (4,), np.int32)),
        "embed": torch.from_numpy(rng.normal(0, 0.02, (1100, 1000)).astype(np.float32)),
    }


def checked_out(repository: Repository, path: str) -> bytes:
    """Return the file after it was removed and checked out again."""
    (repository.path / path).unlink()
    repository.git("checkout", "--", path)
    return repository.read(path)


@pytest.mark.parametrize("path", KINDS)
def test_a_what_git_theta_wrote_checks_out_here(pair: Pair, path: str) -> None:
    theirs = pair.theirs_as(KINDS[path])
    versions = [mixed(1), mixed(1), mixed(1) | {"new": torch.ones(3)}]
    versions[1]["layers.0.weight"] = versions[1]["layers.0.weight"] + 1
    commits = []
    for tensors in versions:
        theirs.write(path, save(path, tensors))
        commits.append(theirs.commit("by git-theta", path))
    for commit, tensors in zip(commits, versions, strict=True):
        theirs.git("checkout", "--quiet", "--force", commit)
        by_theirs = load(theirs.read(path))
        pair.ours.git("checkout", "--quiet", "--force", commit)
        by_ours = load(checked_out(pair.ours, path))
        assert_equal(by_ours, by_theirs)
        assert_equal(by_ours, tensors)
        assert pair.ours.git("status", "--porcelain") == ""
        (pair.ours.path / path).touch()
        assert pair.ours.git("status", "--porcelain") == ""


@pytest.mark.parametrize("path", KINDS)
def test_b_what_we_wrote_checks_out_with_git_theta(pair: Pair, path: str) -> None:
    tensors = mixed(2)
    pair.ours.write(path, save(path, tensors))
    pair.ours.commit("by us", path)
    assert "theta_daemon" in pair.metadata(path)
    assert_equal(load(checked_out(pair.theirs_as(KINDS[path]), path)), tensors)
    pair.ours.write(path, save(path, tensors | {"steps": torch.tensor(18)}))
    pair.ours.commit("by us again", path)
    assert_equal(load(checked_out(pair.theirs_as(KINDS[path]), path)), tensors | {"steps": torch.tensor(18)})


def test_b_tied_tensors_and_views_check_out_with_git_theta(pair: Pair) -> None:
    weight = torch.arange(12.0).reshape(3, 4)
    tied = {"embed.weight": weight, "head.weight": weight, "t": torch.arange(6.0).reshape(2, 3).t()}
    tied |= {"row": weight[1], "column": weight[:, 2], "transposed": weight.t(), "every": weight.flatten()[::5]}
    pair.ours.write("model.pt", models.torch_bytes(tied))
    pair.ours.commit("by us", "model.pt")
    assert_equal(load(checked_out(pair.theirs_as("pytorch"), "model.pt")), tied)


@pytest.mark.parametrize("path", KINDS)
def test_c_in_compatible_mode_unchanged_parameters_keep_their_objects(pair: Pair, path: str) -> None:
    theirs = pair.theirs_as(KINDS[path])
    pair.ours.git("config", "theta.compatible", "true")
    tensors = mixed(3)
    pair.ours.write(path, save(path, tensors))
    pair.ours.commit("by us", path)
    first = pair.metadata(path)
    assert any(any(entry["tensor_metadata"]["hash"]) for entry in _groups(first).values())  # type: ignore[arg-type]

    tensors["layers.0.weight"] = tensors["layers.0.weight"] * 2
    theirs.write(path, save(path, tensors))
    theirs.commit("by git-theta, on ours", path)
    second = pair.metadata(path)
    assert "theta_daemon" not in second
    assert _changed(first, second) == {"layers.0.weight"}
    assert pair.ours.git("ls-files", "--", path) == path
    assert_equal(load(checked_out(pair.ours, path)), tensors)
    assert pair.ours.git("status", "--porcelain") == ""

    pair.ours.git("config", "--unset", "theta.compatible")  # auto: the record says that git-theta works here
    tensors["steps"] = torch.tensor(19)
    content = save(path, tensors)
    pair.ours.write(path, content)
    pair.ours.commit("by us, on git-theta's", path)
    third = pair.metadata(path)
    assert _changed(second, third) == {"steps"}
    assert any(third["steps"]["tensor_metadata"]["hash"])  # type: ignore[arg-type]
    assert checked_out(pair.ours, path) == content  # it has a layout again
    assert_equal(load(checked_out(theirs, path)), tensors)

    theirs.write(path, save(path, tensors))
    theirs.git("add", path)
    assert _changed(third, pair.metadata(path, "")) == set()


def _groups(metadata: dict[str, dict[str, dict[str, object]]]) -> dict[str, dict[str, dict[str, object]]]:
    return {name: entry for name, entry in metadata.items() if "lfs_metadata" in entry}


def _changed(one: dict[str, dict[str, dict[str, object]]], other: dict[str, dict[str, dict[str, object]]]) -> set[str]:
    before, after = _groups(one), _groups(other)
    assert before.keys() == after.keys()
    return {name for name in before if before[name]["lfs_metadata"] != after[name]["lfs_metadata"]}
