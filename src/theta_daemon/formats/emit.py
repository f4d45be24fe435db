"""From a layout to the bytes of the file: all that a checkout needs, whatever the format."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from theta_daemon.dtypes import nbytes
from theta_daemon.errors import LayoutError
from theta_daemon.formats.checksums import Regions
from theta_daemon.formats.layout import (
    ChecksumOp,
    CombinedChecksumOp,
    GroupOp,
    Layout,
    LiteralOp,
    OpaqueOp,
    RegionEndOp,
    RegionStartOp,
)
from theta_daemon.frozen import Frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


_RUN = 1 << 16  # bytes of the file's own that are gathered: in a zip five pieces of some dozen bytes for each group


class Elsewhere(Frozen):
    """A piece of a value that somebody else writes: its CRC-32, which only regions need, and its length in bytes."""

    crc: int
    nbytes: int


P = TypeVar("P", bound=memoryview | Elsewhere)


def emit(
    layout: Layout,
    group: Callable[[int], Iterable[P]],
    opaque: Callable[[int], memoryview],
) -> Iterator[P | memoryview | bytes]:
    """Yield the bytes of the file, in order and lazily: one piece is asked for when the one before it was taken.

    `group(index)` returns the bytes of an owning group in storage order (already transposed where it has axes), in
    pieces, `opaque(i)` those of the i-th opaque chunk; all as contiguous views of bytes, which are passed on as they
    are; `Elsewhere` is passed on in the place of bytes. What stands between two of them comes in one piece, unless it
    is long. `layout` is well formed (from `decode`, a builder, or checked). Raises LayoutError where a size is wrong.
    """
    regions = Regions()
    inside = False
    chunks = 0
    run: list[bytes] = []
    held = 0
    for op in layout.ops:
        data: bytes | None
        if type(op) is LiteralOp:
            data = op.data
        elif type(op) is ChecksumOp:
            data = regions.checksum(op.region)
            if data is None:
                raise LayoutError("a checksum stands before the end of its region")
        elif type(op) is RegionStartOp:
            regions.start()
            inside = True
            continue
        elif type(op) is RegionEndOp:
            regions.end()
            inside = False
            continue
        elif type(op) is CombinedChecksumOp:
            data = regions.combined()
        else:
            if run:
                yield b"".join(run)
                run, held = [], 0
            if type(op) is OpaqueOp:
                chunk = opaque(chunks)
                if chunk.nbytes != op.size:
                    raise LayoutError(f"opaque chunk {chunks} has {chunk.nbytes} bytes instead of {op.size}")
                chunks += 1
                regions.feed(chunk)
                yield chunk
            elif type(op) is GroupOp:
                owner = layout.groups[op.index]
                left = nbytes(owner.dtype, owner.shape)
                for piece in group(op.index):
                    left -= piece.nbytes
                    if left < 0:
                        break
                    if isinstance(piece, Elsewhere):
                        regions.feed_unseen(piece.crc, piece.nbytes)
                    else:
                        regions.feed(piece)
                    if piece.nbytes:
                        yield piece
                if left:
                    raise LayoutError(
                        f"the stored value has {abs(left)} bytes too {'many' if left < 0 else 'few'} for its place",
                        parameter="/".join(owner.name),
                    )
            continue
        if inside:
            regions.feed(data)
        run.append(data)
        held += len(data)
        if held >= _RUN:
            yield b"".join(run)
            run, held = [], 0
    if run:
        yield b"".join(run)
