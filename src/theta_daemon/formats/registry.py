"""The formats that are known, by name, and how to tell them apart by their first bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from theta_daemon.errors import CheckpointError, UnsupportedError
from theta_daemon.formats import safetensors, torch_zip

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from theta_daemon.formats.layout import CanonicalTensor, Layout
    from theta_daemon.formats.parts import Part
    from theta_daemon.formats.source import Source

HEAD = 9  # bytes that tell the formats apart

SAFETENSORS = safetensors.NAME
TORCH_ZIP = "torch-zip"

_READERS: dict[str, Callable[[Source], Iterator[Part]]] = {
    SAFETENSORS: safetensors.read,
    TORCH_ZIP: torch_zip.read,
}
_CANONICAL: dict[str, Callable[[Sequence[CanonicalTensor], Callable[[bytes], None]], Layout]] = {
    SAFETENSORS: safetensors.canonical,
    TORCH_ZIP: torch_zip.canonical,
}
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
            f"this is not a checkpoint of a known format ({', '.join(_READERS)})",
            hint="take the path out of .gitattributes, or save it in one of these formats",
        )
    return _READERS[name](source)


def canonical(name: str, tensors: Sequence[CanonicalTensor], opaque: Callable[[bytes], None]) -> Layout:
    """Return the layout of the canonical file of format `name` with these tensors; see the formats.

    Raises UnsupportedError for an unknown format, or where the format cannot hold the tensors.
    """
    if name not in _CANONICAL:
        raise UnsupportedError(f"unknown checkpoint format {name!r}", hint=f"known are {', '.join(_CANONICAL)}")
    return _CANONICAL[name](tensors, opaque)
