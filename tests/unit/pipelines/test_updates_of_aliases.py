"""Updates of tensors that have several names: every name finds what its value is made of, also when the tie ends.

Changes lie in an object under the names that the tensor had when they were written (protocol/replay.md).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.support import models
from tests.support.pipelines import Bench
from theta_daemon.metadata import text
from theta_daemon.metadata.entries import Metadata
from theta_daemon.pipelines.compact import compacted

Values = tuple[torch.Tensor, torch.Tensor]


def tied(tensor: torch.Tensor) -> bytes:
    return models.torch_bytes({"head": tensor, "wte": tensor})


def apart(head: torch.Tensor, wte: torch.Tensor) -> bytes:
    return models.torch_bytes({"head": head.clone(), "wte": wte.clone()})


def types(metadata: bytes) -> set[str]:
    found = text.parse(metadata)
    assert isinstance(found, Metadata)
    return {entry.update_type for entry in found.entries.values()}


def versions() -> list[torch.Tensor]:
    """Return values of which each changes some elements of the one before: few, or more than lie in a shared object."""
    generator = torch.Generator().manual_seed(3)
    found = [torch.empty(400, 500).normal_(generator=generator)]
    for count in (1, 12_000, 5):
        changed = found[-1].clone()
        changed.view(-1)[torch.randperm(changed.numel(), generator=generator)[:count]] = float(count)
        found.append(changed)
    return found


OLD, NEW, LARGE, NEWER = versions()

# What is committed one after the other. Every name is of use by itself in the last one.
STORIES: dict[str, Callable[[], list[bytes]]] = {
    "tied": lambda: [tied(OLD), tied(NEW), apart(NEW, NEW)],
    "tied, a large change": lambda: [tied(NEW), tied(LARGE), apart(LARGE, LARGE)],
    "tied later, with a new value": lambda: [apart(OLD, OLD), apart(NEW, OLD), tied(LARGE), apart(LARGE, LARGE)],
    "tied later, with a known value": lambda: [apart(OLD, OLD), apart(NEW, OLD), tied(NEW), apart(NEWER, NEW)],
    "tied later, both by updates": lambda: [
        apart(OLD, OLD),
        apart(NEW, NEW),
        tied(NEW),
        tied(LARGE),
        apart(NEW, LARGE),
    ],
}


@pytest.mark.parametrize("story", STORIES)
def test_every_name_is_found(tmp_path: Path, story: str) -> None:
    bench = Bench.at(tmp_path, update_type="auto")
    seen = set()
    for content in STORIES[story]():
        metadata = bench.clean(content)
        seen |= types(metadata)
        bench.record.commit(metadata)
        assert bench.fresh().smudge(metadata) == content
        assert bench.fresh().clean(content) == metadata
        dense, _ = compacted(bench.fresh().services, b"model", metadata)  # of each name by itself
        assert types(dense) == {"dense"}
        assert bench.fresh().smudge(dense) == content
    assert "exact-sparse" in seen
