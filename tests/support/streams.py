"""Checkpoints as streams, and the way through `formats/` and back that many tests take."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, repeat

from theta_daemon.dtypes import nbytes
from theta_daemon.formats.build import LayoutBuilder
from theta_daemon.formats.emit import emit
from theta_daemon.formats.layout import Layout, Name
from theta_daemon.formats.parts import (
    Checksum,
    CombinedChecksum,
    Hole,
    Literal,
    Part,
    RegionEnd,
    RegionStart,
    Tensor,
    Tensors,
)
from theta_daemon.formats.source import Source


class Pieces:
    """A Readable over bytes that gives as many at a time as `sizes` says (each at least 1), then all it can."""

    def __init__(self, data: bytes, sizes: Iterable[int] = ()) -> None:
        self._rest = memoryview(data)
        self._sizes = chain(sizes, repeat(1 << 62))
        self.calls = 0
        self.largest = 0  # the largest view that anybody offered to have filled

    def readinto(self, view: memoryview, /) -> int:
        """Fill the front of `view`."""
        assert view, "nobody may ask for nothing: an answer of 0 would mean the end"
        self.calls += 1
        self.largest = max(self.largest, len(view))
        size = min(len(view), len(self._rest), next(self._sizes))
        view[:size] = self._rest[:size]
        self._rest = self._rest[size:]
        return size


@dataclass(frozen=True)
class Taken:
    """What remains of a file that was read: its layout and what fills the holes."""

    layout: Layout
    groups: dict[int, bytes]
    opaque: list[bytes]

    def file(self) -> bytes:
        """Return the bytes that the layout makes of it."""
        pieces = emit(
            self.layout, lambda index: [memoryview(self.groups[index])], lambda chunk: memoryview(self.opaque[chunk])
        )
        return b"".join(pieces)


def dotted(tensors: Sequence[Tensor]) -> list[Name]:
    """Name every tensor by the text of its keys; enough where keys are distinct strings."""
    return [tuple(str(key) for key in tensor.keys) or ("value",) for tensor in tensors]


def take(
    name: str,
    source: Source,
    read: Callable[[Source], Iterator[Part]],
    names: Callable[[Sequence[Tensor]], Sequence[Name]] = dotted,
    step: int = 1 << 16,
) -> Taken:
    """Read the checkpoint of format `name` in `source` as clean does, its holes in pieces of `step` bytes."""
    groups: dict[int, bytes] = {}
    opaque: list[bytes] = []
    tensors: tuple[Tensor, ...] = ()
    builder = LayoutBuilder(opaque.append)
    for part in read(source):
        match part:
            case Literal(data):
                builder.literal(data)
            case Hole(index):
                value = bytearray()  # grown, as a hostile header may promise any size
                size = nbytes(tensors[index].dtype, tensors[index].shape)
                while len(value) < size:
                    piece = memoryview(bytearray(min(step, size - len(value))))
                    source.readinto(piece)
                    builder.hole_bytes(piece)
                    value += piece
                builder.hole(index)
                groups[index] = bytes(value)
            case RegionStart():
                builder.region_start()
            case RegionEnd():
                builder.region_end()
            case Checksum():
                builder.checksum(part)
            case CombinedChecksum():
                builder.combined(part)
            case Tensors(tensors):
                builder.tensors(names(tensors), tensors)
    return Taken(builder.finish(name), groups, opaque)
