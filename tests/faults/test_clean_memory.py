"""Groups larger than theta.memoryLimit, on the ways of clean that need more than their bytes in the file's order.

The plain ways, there and back, are in test_checkout_memory.py.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.support import models
from tests.support.checkouts import Measured, repository_below

MIB = 1 << 20
HELD = 44 * MIB  # at most, with theta.memoryLimit at its least: some windows and buffers, and no large group as a whole


def values(mebibytes: int) -> torch.Tensor:
    """Return float32 values of that size, which compress to a half."""
    return ((torch.arange(mebibytes << 18) * 40_503) % 65_536).to(torch.float32)


def viewed() -> dict[str, torch.Tensor]:
    """Return a tensor and views that are nearly as large."""
    whole = values(52).reshape(4096, -1)
    return {"whole": whole, "most": whole[1:], "turned": whole.t(), "columns": whole[:, 1:3300]}


def spread() -> dict[str, torch.Tensor]:
    """Return a view that is larger than its owner, in a file where that is allowed."""
    return {"one": values(1)[: 1 << 16], "wide": values(1)[: 1 << 16].expand(200, -1), "other": values(40)}


HASHED = ("-c", "theta.compatible=true")

CASES: dict[str, tuple[tuple[str, ...], Callable[[], dict[str, torch.Tensor]]]] = {
    "hashed": (HASHED, lambda: {"a": values(56)}),
    "permuted and hashed": (HASHED, lambda: {"a": values(56).reshape(1024, -1).t()}),
    "views": ((), viewed),
    "views and hashed": (HASHED, viewed),
    "a view that is larger than its owner": ((), spread),
    "channels last": ((), lambda: {"a": values(64).reshape(64, 64, 64, 64).to(memory_format=torch.channels_last)}),
}


@pytest.mark.parametrize("case", CASES)
def test_more_than_fits(tmp_path: Path, case: str) -> None:
    settings, make = CASES[case]
    repository = repository_below(tmp_path)
    repository.git("config", "theta.memoryLimit", "64m")
    repository.git("theta", "track", "*.pt")
    measured = Measured(repository, tmp_path / "measured")
    repository.write("small.pt", models.torch_bytes({"a": torch.ones(2, 3).t()}))
    least = measured.peak(*settings, "add", "small.pt")
    content = models.torch_bytes(make())
    repository.write("large.pt", content)
    peaks = {"add": measured.peak(*settings, "add", "large.pt")}
    repository.git("commit", "--quiet", "--message", "large")
    (repository.path / "large.pt").touch()
    peaks["status"] = measured.peak(*settings, "status", "--porcelain")
    assert repository.status() == ""
    (repository.path / "large.pt").unlink()
    repository.git("checkout", "--", "large.pt")
    assert repository.read("large.pt") == content
    assert {step: peak // MIB for step, peak in peaks.items() if peak - least > HELD} == {}
