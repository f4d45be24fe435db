"""Which values count as git-theta's though their bits are others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.support import models
from tests.support.pipelines import Bench
from tests.support.update_arrays import numpy_type, update_array
from theta_daemon.metadata import lsh, text
from theta_daemon.metadata.entries import Metadata, ObjectRef
from theta_daemon.store.arrays import encode_arrays

Tensors = dict[str, torch.Tensor]
PATH = b"model.safetensors"


def noise(*shape: int, seed: int) -> torch.Tensor:
    return torch.empty(shape).normal_(0, 0.02, generator=torch.Generator().manual_seed(seed))


class Story:
    """A base and, as git-theta writes it, a low-rank update of `w` on top, `factor` times as large; `b` is dense."""

    def __init__(self, directory: Path, dtype: str = "float32", factor: float = 50) -> None:
        self.bench = Bench.at(directory, compatible="true")
        self.base: Tensors = {"w": noise(40, 30, seed=1), "b": noise(9, seed=2)}
        document = json.loads(self.bench.clean(models.safetensors_bytes(self.base), PATH))
        document.pop("theta_daemon")
        for each in document.values():
            each.pop("theta_daemon")
        commit = self.bench.record.commit(json.dumps(document, indent=4).encode())
        left = (noise(40, 8, seed=3).numpy() * factor).astype(numpy_type(dtype))
        right = (noise(8, 30, seed=4).numpy() * (50 if dtype == "int64" else 1)).astype(numpy_type(dtype))
        object_ = self.write({"R": left, "C": right})
        new = (left @ right + self.base["w"].numpy()).astype(np.float32)
        entry = document["w"]
        entry["lfs_metadata"] |= {"oid": object_.oid, "size": str(object_.size)}
        entry["theta_metadata"] = {"update_type": "low-rank", "last_commit": commit}
        entry["tensor_metadata"]["hash"] = list(lsh.signature(new.tobytes(), "float32"))
        self.metadata = json.dumps(document, indent=4).encode()
        self.bench.record.commit(self.metadata)
        other = np.zeros_like(new)
        for k in reversed(range(8)):
            other += left[:, k : k + 1].astype(np.float32) * right[k : k + 1].astype(np.float32)
        self.here = self.base | {"w": torch.from_numpy(new)}
        self.elsewhere = self.base | {"w": torch.from_numpy(other + self.base["w"].numpy())}

    def write(self, arrays: dict[str, NDArray[Any]]) -> ObjectRef:
        services = self.bench.services
        held = {name: update_array(np.ascontiguousarray(values)) for name, values in arrays.items()}
        return services.store.write(encode_arrays(held, services.codec))

    def cleaned(self, tensors: Tensors) -> bytes:
        return self.bench.fresh().clean(models.safetensors_bytes(tensors), PATH)


# numpy multiplies bfloat16 as float32. A product of float16 it rounds; `elsewhere` is then ours, which is not rounded.
DTYPES = pytest.mark.parametrize(
    "story",
    [("float32", 50), ("bfloat16", 50), ("bfloat16", 5), ("float16", 0.1), ("float16", 1e-3)],
    indirect=True,
)


@pytest.fixture
def story(tmp_path: Path, request: pytest.FixtureRequest) -> Story:
    return Story(tmp_path, *getattr(request, "param", ()))


def groups(data: bytes) -> Metadata:
    found = text.parse(data)
    assert isinstance(found, Metadata)
    return found


@DTYPES
def test_another_order_of_summation_is_no_change(story: Story) -> None:
    assert (story.here["w"] != story.elsewhere["w"]).any()
    assert story.cleaned(story.here) == story.metadata
    assert story.cleaned(story.elsewhere) == story.metadata


def test_beside_a_change_the_entry_stays(story: Story) -> None:
    before = groups(story.metadata).entries
    after = groups(story.cleaned(story.elsewhere | {"b": noise(9, seed=7)})).entries
    assert after["w",] == before["w",]
    assert after["b",] != before["b",]


@DTYPES
@pytest.mark.parametrize("factor", [1 + 1e-4, 0.0, -1.0, float("inf"), float("nan")])
def test_one_element_that_changed_is_a_change(story: Story, factor: float) -> None:
    for value in (story.here, story.elsewhere):
        changed = value["w"].clone()
        largest = int(changed.abs().argmax())
        changed.view(-1)[largest] *= factor
        metadata = story.cleaned(value | {"w": changed})
        assert metadata != story.metadata
        story.bench.record.contents = [metadata]
        smudged = models.safetensors_loaded(story.bench.fresh().smudge(metadata, PATH))
        assert smudged["w"].numpy().tobytes() == changed.numpy().tobytes()
        story.bench.record.contents = [story.metadata]


@pytest.mark.parametrize("dtype", ["int64", "bool"])
def test_products_of_integers_tolerate_nothing(tmp_path: Path, dtype: str) -> None:
    story = Story(tmp_path, dtype)
    assert story.cleaned(story.here) == story.metadata
    changed = story.here["w"].clone()
    changed[3, 3] = torch.nextafter(changed[3, 3], torch.tensor(9.0))
    assert story.cleaned(story.here | {"w": changed}) != story.metadata


def test_a_dense_entry_of_git_theta_tolerates_nothing(story: Story) -> None:
    changed = story.here["b"].clone()
    changed[3] = torch.nextafter(changed[3], torch.tensor(1.0))
    assert story.cleaned(story.here | {"b": changed}) != story.metadata


def test_a_value_that_is_held_exactly_comes_before_one_that_is_near(story: Story) -> None:
    document = json.loads(story.metadata)
    exact = Bench.at(story.bench.services.settings.directory, compatible="true")
    document["w"] = json.loads(exact.clean(models.safetensors_bytes(story.elsewhere), PATH))["w"]
    mine = json.dumps(document, indent=4).encode()
    story.bench.record.contents = [story.metadata, mine]
    assert groups(story.cleaned(story.elsewhere)).entries["w",].update_type == "dense"
    assert story.cleaned(story.here) == story.metadata
