"""The stored form of one parameter group: protocol/payload.md, git-theta's own format.

Writing goes in chunks of about 4 MiB that are contiguous in the raw value, so that each can be compressed by
another worker and read back straight into its place:

    plan = chunk_plan(dtype, shape, codec)
    pieces = assemble(plan, [encode_chunk(raw[part], plan) for part in plan.slices])

Reading takes any chunking. `open_payload` checks everything that can be checked without decompressing; then the
chunks may be decoded in any order and in parallel:

    for chunk in open_payload(view, dtype, shape).chunks:
        chunk.decode_into(out)

There is no second reader behind this one (tensorstore would be one, and the tests compare with it): a library that
expands chunks before it looks at their size lets a payload name an amount of memory.

A payload is not verified here: a wrong value that is well formed is for the digest to find.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from theta_daemon import dtypes
from theta_daemon.errors import CorruptObject
from theta_daemon.store import packing, zarr
from theta_daemon.store.codec import DEFAULT, Codec, decompress, uncompressed

NAME: Final = "parameter"  # of the one array in a dense payload

CHUNK_BYTES: Final = 4 << 20
WHOLE_BYTES: Final = 1 << 30  # uncompressed values are one chunk up to here, so that they can be used where they lie

_LEAST_PADDED: Final = 16  # padding is worth its time up to one part in so many

# A chunk may be larger than its array (zarr allows it): bounds the scratch memory that it can ask for.
_MOST_SCRATCH: Final = 64 << 20

Piece = bytes | memoryview


@dataclass(frozen=True, slots=True)
class ChunkPlan:
    """How a value is cut: chunk `i` holds the bytes `slices[i]` of it; only the last of a row may be shorter."""

    array: zarr.Array
    codec: Codec
    cells: tuple[zarr.Cell, ...]

    @property
    def slices(self) -> list[slice]:
        """The bytes of the raw value that go into each chunk."""
        return [slice(cell.start, cell.stop) for cell in self.cells]


@dataclass(frozen=True, slots=True)
class Chunk:
    """One chunk of an opened payload: `piece` is its stored form, `cell` the part of the value that it covers.

    Where `is_contiguous` is true that is the bytes from `cell.start` to `cell.stop`.
    """

    array: zarr.Array
    cell: zarr.Cell
    piece: memoryview
    is_contiguous: bool

    def decode_into(self, out: memoryview) -> None:
        """Write this chunk's part of the value into `out`, which is the buffer of the whole value.

        Different chunks never write the same bytes; all together write every byte. Allocates at most one chunk, and
        that only where the chunk does not fill one byte range. Raises CorruptObject and UnsupportedError.
        """
        array, cell = self.array, self.cell
        if not self.is_contiguous:
            item = np.dtype(f"V{array.itemsize}")
            whole = np.frombuffer(out, item).reshape(array.shape)
            chunk = np.frombuffer(self._expanded(), item).reshape(array.chunks, order=array.order)
            whole[cell.region] = chunk[tuple(slice(part.stop - part.start) for part in cell.region)]
        elif cell.stop - cell.start == array.chunk_bytes:
            decompress(array.compressor, self.piece, out[cell.start : cell.stop])
        else:
            out[cell.start : cell.stop] = self._expanded()[: cell.stop - cell.start]

    def _expanded(self) -> memoryview:
        lying = uncompressed(self.array.compressor, self.piece, self.array.chunk_bytes)
        if lying is not None:
            return lying
        scratch = np.empty(self.array.chunk_bytes, np.uint8).data
        decompress(self.array.compressor, self.piece, scratch)
        return scratch


@dataclass(frozen=True, slots=True)
class DensePayload:
    """An opened payload; `raw` is the value itself where it lies in the payload as it is, in one piece."""

    chunks: tuple[Chunk, ...]
    raw: memoryview | None


def chunk_plan(dtype: str, shape: tuple[int, ...], codec: Codec = DEFAULT) -> ChunkPlan:
    """Return how a value of `dtype` and logical `shape` is cut.

    Raises CheckpointError for dtypes and shapes that `dtypes.nbytes` does not accept.
    """
    zarr_dtype, itemsize, shape = _stored_as(dtype, shape)
    array = zarr.Array(shape, _chunk_shape(shape, itemsize, codec), zarr_dtype, itemsize, None)
    return ChunkPlan(array, codec, tuple(array.cells()))


def encode_chunk(raw: memoryview, plan: ChunkPlan) -> Piece:
    """Return the stored form of the bytes `raw` of one of the plan's slices; takes as long as compressing takes.

    Without a codec that is `raw` itself, which must then stay as it is until the payload is written.
    """
    missing = plan.array.chunk_bytes - len(raw)
    if missing:
        raw = memoryview(bytes(raw) + bytes(missing))
    return plan.codec.compress(raw, plan.array.itemsize)


def assemble(plan: ChunkPlan, chunks: list[Piece]) -> list[Piece]:
    """Return the payload as pieces whose concatenation it is; `chunks` are in the order of the plan's slices."""
    description = zarr.serialize(plan.array, plan.codec.zarr)
    head = [
        packing.map_head(1),
        packing.text(NAME),
        packing.map_head(1 + len(chunks)),
        packing.text(zarr.KEY),
        packing.binary_head(len(description)),
        description,
    ]
    pieces: list[Piece] = [b"".join(head)]
    for cell, chunk in zip(plan.cells, chunks, strict=True):
        pieces += [packing.text(cell.key) + packing.binary_head(len(chunk)), chunk]
    return pieces


def encode(raw: memoryview, dtype: str, shape: tuple[int, ...], codec: Codec = DEFAULT) -> list[Piece]:
    """Return the payload of the value `raw`: little-endian bytes in logical C order."""
    plan = chunk_plan(dtype, shape, codec)
    return assemble(plan, [encode_chunk(raw[part], plan) for part in plan.slices])


def open_payload(view: memoryview, dtype: str, shape: tuple[int, ...]) -> DensePayload:
    """Check the payload `view` of a value of `dtype` and `shape`, as far as that goes without decompressing.

    Allocates in proportion to what is present alone; the size of the value is for the caller to allow.
    Raises CorruptObject, UnsupportedError, and CheckpointError as `chunk_plan` does.
    """
    zarr_dtype, itemsize, shape = _stored_as(dtype, shape)
    most_chunks = 1024 + math.prod(shape) // 1024  # tensorstore's have 1 Mi elements, except where axes do not divide
    entries = packing.split(view, most_chunks + 2)
    if list(entries) != [NAME]:
        raise CorruptObject(f"the payload holds {sorted(entries)!s:.80} instead of {NAME!r}")
    pieces = entries[NAME]
    if zarr.KEY not in pieces:
        raise CorruptObject(f"the payload has no {zarr.KEY}")
    array = zarr.parse(pieces.pop(zarr.KEY), zarr_dtype, itemsize, shape)
    # zarr lets a writer leave out chunks that equal the fill value. There is none here ("fill_value" is null), so
    # nobody does, and what is absent was lost.
    if math.prod(array.counts) != len(pieces):
        raise CorruptObject(f"the payload has {len(pieces)} chunks instead of {math.prod(array.counts)}")
    if array.nbytes and array.chunk_bytes > max(2 * array.nbytes, _MOST_SCRATCH):
        raise CorruptObject(f"the payload has chunks of {array.chunk_bytes} bytes for a value of {array.nbytes}")
    contiguous = array.is_contiguous
    try:
        chunks = tuple(Chunk(array, cell, pieces[cell.key], contiguous) for cell in array.cells())
    except KeyError as error:
        raise CorruptObject(f"the payload lacks the chunk {error}") from error
    return DensePayload(chunks, _raw(array, chunks))


def decode_into(payload: memoryview, dtype: str, shape: tuple[int, ...], out: memoryview) -> None:
    """Write the value of `payload` into `out`, which has exactly its size. Raises as `open_payload` does."""
    for chunk in open_payload(payload, dtype, shape).chunks:
        chunk.decode_into(out)


def _raw(array: zarr.Array, chunks: tuple[Chunk, ...]) -> memoryview | None:
    if len(chunks) != 1 or not chunks[0].is_contiguous or array.chunk_bytes != array.nbytes:
        return None
    return uncompressed(array.compressor, chunks[0].piece, array.nbytes)


def _stored_as(dtype: str, shape: tuple[int, ...]) -> tuple[str, int, tuple[int, ...]]:
    size = dtypes.nbytes(dtype, shape)
    row = dtypes.DTYPES[dtype]
    if row.zarr is None:
        return "|u1", 1, (size,)
    return row.zarr, row.bits // 8, shape


def _chunk_shape(shape: tuple[int, ...], itemsize: int, codec: Codec) -> tuple[int, ...]:
    """Return a chunk shape (1, .., 1, n, whole axes) of at most CHUNK_BYTES, uncompressed WHOLE_BYTES.

    All chunks along the cut axis are about equally large, so that none is mostly padding. Where it costs little, `n`
    is rounded up to a multiple of 8 elements, if need be past the end of the axis: c-blosc leaves the bits of a last
    block as they are when its elements do not come in eights, and its compressors find nothing in them.
    """
    most, multiple = (WHOLE_BYTES, 1) if codec.cname is None else (CHUNK_BYTES, 8)
    chunks = [max(size, 1) for size in shape]
    for axis, size in enumerate(chunks):
        row = math.prod(chunks[axis + 1 :])
        rows = most // (row * itemsize)
        if rows:
            step = multiple // math.gcd(row, multiple)
            parts = _divided_up(size, rows - rows % step or rows)
            even = _divided_up(size, parts)
            padded = _divided_up(even, step) * step
            chunks[axis] = padded if (padded - even) * _LEAST_PADDED <= even else even
            break
        chunks[axis] = 1
    return tuple(chunks)


def _divided_up(number: int, by: int) -> int:
    return -(-number // by)
