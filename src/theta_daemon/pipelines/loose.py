"""The tensors of a checkpoint file that is not tracked, in memory: side-loaded updates come so."""

from __future__ import annotations

from typing import TYPE_CHECKING

from theta_daemon.dtypes import DTYPES, nbytes
from theta_daemon.errors import UnsupportedError
from theta_daemon.formats import parts
from theta_daemon.formats.registry import read_checkpoint
from theta_daemon.metadata import names as naming
from theta_daemon.pipelines.order import gathered_pieces, window_of
from theta_daemon.updates.array import Array

if TYPE_CHECKING:
    from collections.abc import Sequence

    from theta_daemon.formats.source import Source
    from theta_daemon.metadata.entries import Name


def arrays(source: Source) -> dict[Name, Array]:
    """Return every tensor of the checkpoint, by the name that its metadata would give it, in C order of its shape.

    Takes as much memory as the file's tensors have bytes, and no more than the file really holds.

    Raises CheckpointError for what is no checkpoint or a damaged one, UnsupportedError for a tensor whose elements are
    strewn over memory that it does not own.
    """
    tensors: Sequence[parts.Tensor] = ()
    stored: dict[int, memoryview] = {}
    for part in read_checkpoint(source):
        if isinstance(part, parts.Tensors):
            tensors = part.tensors
        elif isinstance(part, parts.Hole):
            tensor = tensors[part.index]
            # Grows with what arrives: a file may promise more than it holds.
            stored[part.index] = memoryview(source.read(nbytes(tensor.dtype, tensor.shape)))
    found = naming.assign([tensor.keys for tensor in tensors])
    return {name: _array(index, tensors, stored, name) for index, name in enumerate(found)}


def _array(index: int, tensors: Sequence[parts.Tensor], stored: dict[int, memoryview], name: Name) -> Array:
    tensor = tensors[index]
    owner = index if tensor.role is parts.Role.OWNER else tensor.owner
    window = tensor.window
    if owner is None or (window is None and tensor.role is parts.Role.VIEW):
        raise UnsupportedError(
            "its elements overlap with no other tensor's in a way that can be followed",
            parameter="/".join(name),
            hint="save a contiguous copy of it",
        )
    raw = stored[owner]
    if window is None and tensor.axes is not None:
        window = window_of(tensor.dtype, tensor.shape, tensor.axes)
    if window is not None:
        if DTYPES[tensor.dtype].bits % 8:
            raise UnsupportedError("packed elements cannot be views", parameter="/".join(name))
        size = nbytes(tensor.dtype, tensor.shape)
        if size > len(raw):
            raise UnsupportedError("it is larger than the file's bytes of it", parameter="/".join(name))
        raw = memoryview(
            b"".join(
                bytes(each) for each in gathered_pieces(raw, tensor.dtype, tensor.shape, window, max(size, 1), _nothing)
            )
        )
    return Array(tensor.dtype, tensor.shape, raw)


def _nothing() -> None:
    """The bytes stay in memory."""
