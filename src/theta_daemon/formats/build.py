"""From parts to a layout: what clean does while a checkpoint passes.

The consumer of a reader hands every part to a `LayoutBuilder` and feeds it the bytes of the holes. Whatever the file
holds, emitting the layout gives the file back: a checksum becomes an operation only where it is the right one, and
stays literal bytes where not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from theta_daemon.dtypes import nbytes
from theta_daemon.errors import LayoutError
from theta_daemon.formats.checksums import Regions
from theta_daemon.formats.layout import (
    LITERAL_LIMIT,
    OPAQUE_CHUNK,
    ChecksumOp,
    CombinedChecksumOp,
    Group,
    GroupOp,
    Layout,
    LiteralOp,
    Op,
    OpaqueOp,
    RegionEndOp,
    RegionStartOp,
    check,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from theta_daemon.formats.layout import Name
    from theta_daemon.formats.parts import Checksum, CombinedChecksum, Tensor


_REGION_START, _REGION_END = RegionStartOp(), RegionEndOp()


class LayoutBuilder:
    """Collects one file's layout: what is read (`hole`, `checksum`, ...) or planned by a canonical form (`put_...`).

    `opaque` is called with each opaque chunk, in order: a run of literals over LITERAL_LIMIT goes there, in chunks of
    OPAQUE_CHUNK, so that no more than one chunk of it is ever held.
    """

    def __init__(self, opaque: Callable[[bytes], None]) -> None:
        self._opaque = opaque
        self._groups: tuple[Group, ...] = ()
        self._ops: list[Op] = []
        self._regions = Regions()
        self._run: list[bytes | memoryview] = []  # literal bytes not yet written
        self._held = 0  # their number
        self._long = False  # whether the run is over LITERAL_LIMIT, and so opaque
        self._fed = 0  # bytes of the present hole

    def tensors(self, names: Sequence[Name], tensors: Sequence[Tensor]) -> None:
        """Take every tensor of the file, with the name that each has in the metadata. Once, before any hole."""
        self._groups = tuple(
            Group(tuple(name), t.dtype, t.shape, t.axes, t.role, t.owner)
            for name, t in zip(names, tensors, strict=True)
        )

    def literal(self, data: bytes) -> None:
        """Take bytes of the file's own."""
        self._regions.feed(data)
        if self._held + len(data) <= LITERAL_LIMIT and not self._long:
            self._run.append(data)
            self._held += len(data)
            return
        self._long = True
        rest = memoryview(data)
        while rest:
            piece = rest[: OPAQUE_CHUNK - self._held]
            self._run.append(piece)
            self._held += len(piece)
            rest = rest[len(piece) :]
            if self._held == OPAQUE_CHUNK:
                self._flush()

    def region_start(self) -> None:
        """A checksummed region starts. Raises LayoutError inside another."""
        self._end_run()
        self._regions.start()
        self._ops.append(_REGION_START)

    def region_end(self) -> None:
        """It ends. Raises LayoutError where none has started."""
        self._end_run()
        self._regions.end()
        self._ops.append(_REGION_END)

    def checksum(self, part: Checksum) -> None:
        """Take a checksum: an operation where it is that of its (ended) region, literal bytes otherwise."""
        if part.seen == self._regions.checksum(part.region):
            self.put_checksum(part.region)
            self._regions.feed(part.seen)
        else:
            self.literal(part.seen)

    def combined(self, part: CombinedChecksum) -> None:
        """Take torch's combined checksum: an operation where it is right, literal bytes otherwise."""
        if part.seen == self._regions.combined():
            self.put_combined()
            self._regions.feed(part.seen)
        else:
            self.literal(part.seen)

    def hole_bytes(self, data: memoryview) -> None:
        """Take note of the next bytes of a hole, in any number of pieces."""
        self._regions.feed(data)
        self._fed += len(data)

    def hole(self, index: int) -> None:
        """End the hole of group `index`, after all its bytes. Raises LayoutError where it got more or fewer."""
        group = self._groups[index]
        size = nbytes(group.dtype, group.shape)
        if self._fed != size:
            raise LayoutError(f"the hole got {self._fed} bytes instead of {size}", parameter="/".join(group.name))
        self._fed = 0
        self.put_group(index)

    def put_group(self, index: int) -> None:
        """Put the bytes of group `index` here, unseen: for a layout that is planned, not read."""
        self._end_run()
        self._ops.append(GroupOp(index))

    def put_checksum(self, region: int) -> None:
        """Put the checksum of `region` here, unseen."""
        self._end_run()
        self._ops.append(ChecksumOp(region))

    def put_combined(self) -> None:
        """Put torch's combined checksum here, unseen."""
        self._end_run()
        self._ops.append(CombinedChecksumOp())

    def finish(self, format: str) -> Layout:
        """Return the layout. Raises LayoutError where the parts do not make a well-formed one."""
        self._end_run()
        layout = Layout(format, self._groups, tuple(self._ops))
        check(layout)
        return layout

    def _end_run(self) -> None:
        if self._held:
            self._flush()
        self._long = False

    def _flush(self) -> None:
        data = b"".join(self._run)
        self._run, self._held = [], 0
        if self._long:
            self._ops.append(OpaqueOp(len(data)))
            self._opaque(data)
        else:
            self._ops.append(LiteralOp(data))
