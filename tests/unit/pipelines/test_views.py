"""Views: in flat files each has an entry of its own, so that git-theta sees every tensor; elsewhere none has."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.support import models
from tests.support.pipelines import Bench


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    """Return pipelines over an empty store."""
    made = Bench.at(tmp_path)
    yield made
    made.close()


WEIGHT = torch.arange(12.0).reshape(3, 4)
VIEWS = {"row": WEIGHT[1], "column": WEIGHT[:, 2], "turned": WEIGHT.t(), "every": WEIGHT.flatten()[1::5]}


def groups(metadata: bytes) -> set[str]:
    """Return the names at the top of the metadata that are entries."""
    return {name for name, entry in json.loads(metadata).items() if "lfs_metadata" in entry}


def test_views_of_a_flat_file_have_entries(bench: Bench) -> None:
    content = models.torch_bytes({"all": WEIGHT, **VIEWS})
    metadata = bench.clean(content)
    assert groups(metadata) == {"all", *VIEWS}
    assert bench.smudge(metadata) == content
    bench.record.contents = [metadata]
    again = bench.fresh()
    assert again.clean(content) == metadata
    again.close()


def test_a_views_entry_holds_the_views_value(bench: Bench) -> None:
    separate = bench.clean(models.torch_bytes({name: value.clone() for name, value in VIEWS.items()}))
    viewed = bench.clean(models.torch_bytes({"all": WEIGHT, **VIEWS}))
    for name in VIEWS:
        one, other = json.loads(separate)[name], json.loads(viewed)[name]
        assert one["tensor_metadata"] == other["tensor_metadata"]
        assert one["theta_daemon"]["digest"] == other["theta_daemon"]["digest"]


def test_views_of_nested_files_and_expanded_giants_have_none(bench: Bench) -> None:
    nested = models.torch_bytes({"model": {"all": WEIGHT, **VIEWS}})
    assert list(json.loads(bench.clean(nested))["model"]) == ["all"]
    giant = models.torch_bytes({"one": torch.ones(1), "wide": torch.ones(1).expand(1 << 40)})
    assert groups(bench.clean(giant)) == {"one"}
    assert bench.smudge(bench.clean(giant)) == giant


def test_large_views_stop_at_twice_the_file(bench: Bench) -> None:
    base = torch.zeros(3 << 20)  # 12 MiB; 16 MiB more are allowed for
    content = models.torch_bytes({"base": base, **{f"view{n}": base.view(3, -1)[n % 3 :] for n in range(9)}})
    metadata = bench.clean(content)
    assert {"base", "view0"} < groups(metadata) < {"base", *(f"view{n}" for n in range(9))}
    assert bench.smudge(metadata) == content
