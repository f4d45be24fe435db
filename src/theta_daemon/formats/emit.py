"""From a layout to the bytes of the file: all that a checkout needs, whatever the format."""

from __future__ import annotations

from typing import TYPE_CHECKING

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

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


def emit(
    layout: Layout,
    group: Callable[[int], Iterable[memoryview]],
    opaque: Callable[[int], memoryview],
) -> Iterator[memoryview | bytes]:
    """Yield the bytes of the file, in order and lazily: one piece is asked for when the one before it was taken.

    `group(index)` returns the bytes of an owning group in storage order (already transposed where it has axes), in
    pieces, `opaque(i)` those of the i-th opaque chunk; all as contiguous views of bytes, which are passed on as they
    are. `layout` is well formed (from `decode`, a builder, or checked). Raises LayoutError where a size is wrong.
    """
    regions = Regions()
    chunks = 0
    for op in layout.ops:
        data: memoryview | bytes | None
        match op:
            case LiteralOp(data):
                pass
            case GroupOp(index):
                owner = layout.groups[index]
                left = nbytes(owner.dtype, owner.shape)
                for piece in group(index):
                    left -= piece.nbytes
                    if left < 0:
                        break
                    regions.feed(piece)
                    if piece:
                        yield piece
                if left:
                    raise LayoutError(
                        f"the stored value has {abs(left)} bytes too {'many' if left < 0 else 'few'} for its place",
                        parameter="/".join(owner.name),
                    )
                continue
            case OpaqueOp(size):
                data = opaque(chunks)
                if data.nbytes != size:
                    raise LayoutError(f"opaque chunk {chunks} has {data.nbytes} bytes instead of {size}")
                chunks += 1
            case ChecksumOp(region):
                data = regions.checksum(region)
            case CombinedChecksumOp():
                data = regions.combined()
            case RegionStartOp():
                regions.start()
                continue
            case RegionEndOp():
                regions.end()
                continue
        if data is None:
            raise LayoutError("a checksum stands before the end of its region")
        regions.feed(data)
        if data:
            yield data
