"""The formats that are known, by name, and how to tell them apart by their first bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from theta_daemon.errors import CheckpointError, UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from theta_daemon.formats.layout import CanonicalTensor, Layout
    from theta_daemon.formats.parts import Part
    from theta_daemon.formats.source import Source

HEAD = 9  # bytes that tell the formats apart

SAFETENSORS = "safetensors"
TORCH_ZIP = "torch-zip"
FORMATS = (SAFETENSORS, TORCH_ZIP)


class Format(Protocol):
    """What the module of a format offers."""

    def read(self, source: Source) -> Iterator[Part]:
        """Yield the parts of a file."""

    def canonical(self, tensors: Sequence[CanonicalTensor], opaque: Callable[[bytes], None]) -> Layout:
        """Return the layout of the one file of this format that holds `tensors` and nothing else."""


_ZIP = b"PK\x03\x04"


def format_of(head: bytes) -> str | None:
    """Return the name of the format of a file that begins with `head` (HEAD bytes, fewer only of a shorter file)."""
    if head.startswith(_ZIP):
        return TORCH_ZIP
    # A header length far over the format's limit still says what the file means to be: its reader explains.
    if head[4:HEAD] == b"\0\0\0\0{":
        return SAFETENSORS
    return None


def read_checkpoint(source: Source) -> Iterator[Part]:
    """Return the parts of the checkpoint in `source`, whose format its first bytes tell.

    Raises CheckpointError for what is no checkpoint of a known format; see the formats for what they raise.
    """
    name = format_of(source.peek(HEAD))
    if name is None:
        raise CheckpointError(
            f"this is not a checkpoint of a known format ({', '.join(FORMATS)})",
            hint="take the path out of .gitattributes, or save it in one of these formats",
        )
    return _module(name).read(source)


def canonical(name: str, tensors: Sequence[CanonicalTensor], opaque: Callable[[bytes], None]) -> Layout:
    """Return the layout of the canonical file of format `name` with these tensors; see the formats.

    Raises UnsupportedError for an unknown format, or where the format cannot hold the tensors.
    """
    if name not in FORMATS:
        raise UnsupportedError(f"unknown checkpoint format {name!r}", hint=f"known are {', '.join(FORMATS)}")
    return _module(name).canonical(tensors, opaque)


def _module(name: str) -> Format:
    # Imported when it is needed: a checkout of our own files needs none of them.
    if name == SAFETENSORS:
        from theta_daemon.formats import safetensors

        return safetensors
    from theta_daemon.formats import torch_zip

    return torch_zip
