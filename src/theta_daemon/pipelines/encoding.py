"""Payloads of groups that are too large for one piece of work: encoded while they arrive, or from a spool."""

from __future__ import annotations

from typing import TYPE_CHECKING

from theta_daemon import dtypes
from theta_daemon.metadata.digest import Digest
from theta_daemon.pipelines.spool import Spool, SpooledPieces, windows
from theta_daemon.store import payload as payloads

if TYPE_CHECKING:
    from collections.abc import Sequence

    from theta_daemon.pipelines.storing import Member, Stored, Storing


class Encoding:
    """A new group that is encoded while it arrives, in the pieces that its payload is made of.

    `take` and `encode` are for `Streaming`. What is encoded stays in memory, or in a spool where it is `spooled`.
    """

    def __init__(self, storing: Storing, member: Member, *, spooled: bool) -> None:
        self.member = member
        self._storing = storing
        tensor, services = member.tensor, storing.services
        self._plan = payloads.chunk_plan(tensor.dtype, tensor.shape, services.codec)
        self.sizes = [part.stop - part.start for part in self._plan.slices]
        self._digest = Digest()
        self._chunks: list[payloads.Piece] = [b""] * len(self.sizes)
        self._places = [slice(0)] * len(self.sizes)
        size = dtypes.nbytes(tensor.dtype, tensor.shape)
        self._spool = Spool(services.settings.temporary, size) if spooled else None

    def take(self, piece: memoryview) -> None:
        """Hash a piece; they come in order."""
        with self._storing.services.trace.stage("digest", len(piece)):
            self._digest.update(piece)

    def encode(self, number: int, piece: memoryview) -> None:
        """Encode a piece."""
        self._storing.go_on()
        with self._storing.services.trace.stage("compress", len(piece)):
            chunk = payloads.encode_chunk(piece, self._plan)
        if self._spool is None:
            self._chunks[number] = chunk
        else:
            self._places[number] = self._spool.append(chunk)

    def write(self) -> Stored:
        """Store the group, after all pieces."""
        if self._spool is None:
            pieces: Sequence[payloads.Piece] = payloads.assemble(self._plan, self._chunks)
        else:
            pieces = compressed(self._spool, self._places, self._plan)
        return self._storing.write(pieces, self.member.tensor, self._digest.hexdigest())


def compressed(spool: Spool, places: Sequence[slice], plan: payloads.ChunkPlan) -> SpooledPieces:
    """Return the pieces of a payload whose compressed chunks lie in `spool`."""
    heads = payloads.heads(plan, [place.stop - place.start for place in places])
    pieces = [piece for head, place in zip(heads, places, strict=True) for piece in (head, place)]
    return SpooledPieces(spool, spool.view(), pieces)


def uncompressed(raw: memoryview, spool: Spool, plan: payloads.ChunkPlan) -> SpooledPieces:
    """Return the pieces of a payload whose chunks are parts of the value itself, `raw`, which lies in `spool`."""
    size = plan.array.chunk_bytes
    pieces: list[bytes | slice] = []
    for head, part in zip(payloads.heads(plan, [size] * len(plan.cells)), plan.slices, strict=True):
        zeros = windows(slice(part.stop, part.start + size))  # as in encode_chunk
        pieces += [head, *windows(part), *(bytes(zero.stop - zero.start) for zero in zeros)]
    return SpooledPieces(spool, raw, pieces)
