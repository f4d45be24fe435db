"""The cases about updates, as data: what `make bench` runs after the others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from bench.cases import TORCH_57
from bench.data import DataSet
from bench.updates import chains, inferred, lora, once, peer
from bench.updates.outcome import Outcome, Progress
from bench.updates.repository import Place

DEPTHS = (1, 8, 64)
# git-theta takes half a minute for the checkout of one such file.
TWO_FILES = replace(TORCH_57, name="2 torch files of 57 MB, 74 float32 groups each", files=2)
SHARED = DataSet("8 torch files of 14 MB, 74 float32 groups each, the same in all", files=8, groups=74, size=192_000)


@dataclass(frozen=True, slots=True)
class OwnCase:
    """A case that brings its own steps: what it is called, and what measures it."""

    name: str
    run: Callable[[Place, Progress], Outcome]
    runs: int = 5


UPDATE_CASES = (
    OwnCase("updates", lambda place, progress: chains.run(place, TORCH_57, DEPTHS, progress)),
    OwnCase("updates-sparse-2-files", lambda place, progress: peer.run(place, TWO_FILES, DEPTHS, progress)),
    OwnCase("updates-inferred", lambda place, progress: inferred.run(place, TORCH_57, progress)),
    OwnCase("updates-lora", lora.run),
    OwnCase("updates-once", lambda place, progress: once.run(place, SHARED, progress), runs=1),
)
