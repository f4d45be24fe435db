"""The files that are added and checked out: written by the real libraries, seeded, the same on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch

MB = 1_000_000
Write = Callable[[dict[str, torch.Tensor], Path], None]


@dataclass(frozen=True, slots=True)
class DataSet:
    """`files` checkpoints of `groups` parameter groups each, every group `size` bytes."""

    name: str
    files: int
    groups: int
    size: int
    dtype: torch.dtype = torch.float32
    format: str = "torch"

    @property
    def suffix(self) -> str:
        """The files' extension."""
        return {"torch": ".pt", "safetensors": ".safetensors"}[self.format]

    @property
    def bytes(self) -> int:
        """The bytes of all parameters together."""
        return self.files * self.groups * self.size

    def build(self, folder: Path) -> Built:
        """Write the files below `folder`, and beside them a second version with one group changed in each."""
        original, changed = folder / "original", folder / "changed"
        for directory in (original, changed):
            directory.mkdir(parents=True)
        write = _WRITERS[self.format]
        for index in range(self.files):
            tensors = dict(self._tensors(index))
            name = f"model-{index:03}{self.suffix}"
            write(tensors, original / name)
            touched = f"layers.{self.groups // 2}.weight"
            tensors[touched] = tensors[touched] + 0.001
            write(tensors, changed / name)
        digests = {path.name: digest(path) for path in sorted(original.iterdir())}
        return Built(self, original, changed, digests)

    def _tensors(self, index: int) -> Iterator[tuple[str, torch.Tensor]]:
        generator = torch.Generator().manual_seed(index)
        elements = self.size // self.dtype.itemsize
        rows = _near_square(elements)
        for group in range(self.groups):
            values = torch.empty(rows, elements // rows).normal_(0, 0.02, generator=generator)
            yield f"layers.{group}.weight", values.to(self.dtype)


@dataclass(frozen=True, slots=True)
class Built:
    """A data set on disk. The work trees hold hard links to its files; git replaces files, it never writes into one."""

    data: DataSet
    original: Path
    changed: Path
    digests: dict[str, str]

    def same_bytes(self, folder: Path) -> None:
        """Stop the bench when a file in `folder` is not the very file that was added."""
        for name, expected in self.digests.items():
            assert digest(folder / name) == expected, f"{folder / name}: not the bytes that were added"

    def same_values(self, folder: Path) -> None:
        """Stop the bench when a tensor in `folder` has not the very values that were added."""
        read = _READERS[self.data.format]
        for name in self.digests:
            ours, theirs = read(self.original / name), read(folder / name)
            assert ours.keys() == theirs.keys(), f"{folder / name}: other parameters than were added"
            for parameter, tensor in ours.items():
                assert torch.equal(tensor, theirs[parameter]), f"{folder / name}: {parameter} has other values"


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _near_square(elements: int) -> int:
    """Return the largest divisor of `elements` that is not above its square root."""
    return next(rows for rows in range(int(elements**0.5), 0, -1) if elements % rows == 0)


def _write_torch(tensors: dict[str, torch.Tensor], path: Path) -> None:
    torch.save(tensors, path)


def _write_safetensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    safetensors.torch.save_file(tensors, path, {"format": "pt"})


def _read_torch(path: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(path, weights_only=True, mmap=True))


_WRITERS: dict[str, Write] = {"torch": _write_torch, "safetensors": _write_safetensors}
_READERS: dict[str, Callable[[Path], dict[str, torch.Tensor]]] = {
    "torch": _read_torch,
    "safetensors": safetensors.torch.load_file,
}
