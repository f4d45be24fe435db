"""Fine-tunes that touch few elements: versions of the same files, one after the other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from bench.data import DataSet, write

SHARE = 1000  # one of so many elements of every group is touched
# Within a factor of two the difference of two floats is a float, and added to the one it gives the other exactly: so
# an update of git-theta's type `sparse` can hold the change, and of two programs neither has an advantage.
_FACTOR = np.float32(1 + 2**-7)


@dataclass(slots=True)
class Weights:
    """The tensors of a data set's float32 files, as they are now; `changed` counts elements of the last version."""

    data: DataSet
    files: list[dict[str, torch.Tensor]] = field(default_factory=list)
    changed: int = 0

    def __post_init__(self) -> None:
        self.files = [self.data.tensors(index) for index in range(self.data.files)]

    def names(self) -> Iterator[str]:
        """Yield the files' names, as DataSet.build has them."""
        for index in range(self.data.files):
            yield f"model-{index:03}{self.data.suffix}"

    def touch(self, seed: int) -> None:
        """Change one of a thousand elements of every group of every file, in place."""
        generator = np.random.default_rng(seed)
        self.changed = 0
        for tensors in self.files:
            for tensor in tensors.values():
                flat = tensor.view(-1).numpy()
                at = np.unique(generator.integers(0, len(flat), max(len(flat) // SHARE, 1)))
                flat[at] *= _FACTOR
                self.changed += len(at)

    def write(self, folder: Path) -> None:
        """Write the files into `folder`; those that are there are replaced, not written into."""
        for name, tensors in zip(self.names(), self.files, strict=True):
            temporary = folder / f".new{self.data.suffix}"
            write(tensors, temporary)
            os.replace(temporary, folder / name)
