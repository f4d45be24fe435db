"""The files that are added and checked out: seeded, the same on every machine.

The real libraries write them, but for a file that is too large for that: they want all of it in memory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch

MB = 1_000_000
_PIECE = 16 * MB


@dataclass(frozen=True, slots=True)
class DataSet:
    """`files` checkpoints, each of `groups` parameter groups of `size` bytes, and one of `first` bytes before them.

    `repeats`: how often a round runs it, where one run is too short to tell; the fastest counts.
    """

    name: str
    files: int
    groups: int
    size: int
    first: int = 0
    dtype: torch.dtype = torch.float32
    format: str = "torch"
    repeats: int = 1

    @property
    def suffix(self) -> str:
        """The files' extension."""
        return ".pt" if self.format == "torch" else ".safetensors"

    @property
    def file_bytes(self) -> int:
        """The bytes of the parameters in one file."""
        return self.first + self.groups * self.size

    @property
    def bytes(self) -> int:
        """The bytes of all parameters together."""
        return self.files * self.file_bytes

    def build(self, folder: Path, *, changed: bool) -> Built:
        """Write the files below `folder`; with `changed` a second version beside them, one group changed in each."""
        built = Built(self, folder / "original", folder / "changed", {})
        for directory in (built.original, built.changed):
            directory.mkdir(parents=True)
        for index in range(self.files):
            name = f"model-{index:03}{self.suffix}"
            if self.format == "streamed":
                assert not changed, "a streamed file has one version"
                self.stream(index, built.original / name)
            else:
                tensors = self.tensors(index)
                write(tensors, built.original / name)
                if changed:
                    touched = f"layers.{self.groups // 2}.weight"
                    tensors[touched] = tensors[touched] + 0.001
                    write(tensors, built.changed / name)
            built.digests[name] = digest(built.original / name)
        return built

    def _groups(self) -> Iterator[tuple[str, int]]:
        if self.first:
            yield "embedding.weight", self.first
        for group in range(self.groups):
            yield f"layers.{group}.weight", self.size

    def tensors(self, index: int) -> dict[str, torch.Tensor]:
        """Return what the file with this number holds."""
        generator = torch.Generator().manual_seed(index)
        tensors = {}
        for name, size in self._groups():
            elements = size // self.dtype.itemsize
            rows = _near_square(elements)
            values = torch.empty(rows, elements // rows).normal_(0, 0.02, generator=generator)
            tensors[name] = values.to(self.dtype)
        return tensors

    def stream(self, index: int, path: Path) -> None:
        """Write a float32 safetensors file piece by piece; it may be larger than memory."""
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        end = 0
        for name, size in self._groups():
            rows = _near_square(size // 4)
            header[name] = {"dtype": "F32", "shape": [rows, size // 4 // rows], "data_offsets": [end, end + size]}
            end += size
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        generator = torch.Generator().manual_seed(index)
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            for start in range(0, end, _PIECE):
                elements = min(_PIECE, end - start) // 4
                file.write(torch.empty(elements).normal_(0, 0.02, generator=generator).numpy().data)


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
        read = _READERS[self.data.suffix]
        for name in self.digests:
            ours, theirs = read(self.original / name), read(folder / name)
            assert ours.keys() == theirs.keys(), f"{folder / name}: other parameters than were added"
            for parameter, tensor in ours.items():
                assert torch.equal(tensor, theirs[parameter]), f"{folder / name}: {parameter} has other values"


def write(tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Write a checkpoint with the library that its extension names."""
    _WRITERS[path.suffix](tensors, path)


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _near_square(elements: int) -> int:
    """Return the largest divisor of `elements` that is not above its square root."""
    return next(rows for rows in range(int(elements**0.5), 0, -1) if elements % rows == 0)


def _write_safetensors(tensors: dict[str, torch.Tensor], path: Path) -> None:
    safetensors.torch.save_file(tensors, path, {"format": "pt"})


def _read_torch(path: Path) -> dict[str, torch.Tensor]:
    return dict(torch.load(path, weights_only=True, mmap=True))


_WRITERS: dict[str, Callable[[dict[str, torch.Tensor], Path], None]] = {
    ".pt": torch.save,
    ".safetensors": _write_safetensors,
}
_READERS: dict[str, Callable[[Path], dict[str, torch.Tensor]]] = {
    ".pt": _read_torch,
    ".safetensors": safetensors.torch.load_file,
}
