"""The stored form of one parameter group: protocol/payload.md, git-theta's own format.

Writing goes in chunks of about 4 MiB that are contiguous in the raw value, so that each can be compressed by
another worker and read back straight into its place:

    plan = chunk_plan(dtype, shape, codec)
    pieces = assemble(plan, [encode_chunk(raw[part], plan) for part in plan.slices])

Reading takes any chunking. `open_payload` checks everything that can be checked without decompressing; then the
chunks may be decoded in any order and in parallel:

    for chunk in open_payload(view, dtype, shape).chunks:
        chunk.decode_into(out)

A model has many small values of few shapes, whose payloads begin alike, up to the compressed bytes of their one chunk.
What was read once of such a beginning holds for every payload that begins so: 2 us instead of 20 for each (`_Known`).

There is no second reader behind this one (tensorstore would be one, and the tests compare with it): a library that
expands chunks before it looks at their size lets a payload name an amount of memory.

A payload is not verified here: a wrong value that is well formed is for the digest to find.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from theta_daemon import dtypes
from theta_daemon.errors import CorruptObject
from theta_daemon.frozen import Frozen
from theta_daemon.store import packing, zarr
from theta_daemon.store.codec import DEFAULT, Codec, decompress, uncompressed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

NAME: Final = "parameter"  # of the one array in a dense payload

CHUNK_BYTES: Final = 4 << 20
WHOLE_BYTES: Final = 1 << 30  # uncompressed values are one chunk up to here, so that they can be used where they lie

_LEAST_PADDED: Final = 16  # padding is worth its time up to one part in so many

# A chunk may be larger than its array (zarr allows it): bounds the scratch memory that it can ask for.
_MOST_SCRATCH: Final = 64 << 20

# Models have some dozens of shapes. What is remembered of one takes about 2 KB.
_MOST_KNOWN: Final = 1024

Piece = bytes | memoryview


class ChunkPlan(Frozen):
    """How a value is cut: chunk `i` holds the bytes `slices[i]` of it; only the last of a row may be shorter.

    `head` are the bytes of the payload before the first chunk's key.
    """

    array: zarr.Array
    codec: Codec
    cells: tuple[zarr.Cell, ...]
    head: bytes

    @property
    def slices(self) -> list[slice]:
        """The bytes of the raw value that go into each chunk."""
        return [slice(cell.start, cell.stop) for cell in self.cells]


class Chunk(Frozen):
    """One chunk of an opened payload: `piece` is its stored form, `cell` the part of the value that it covers.

    Where `is_contiguous` is true that is the bytes from `cell.start` to `cell.stop`. `place` is where `piece` lies in
    the payload.
    """

    array: zarr.Array
    cell: zarr.Cell
    piece: memoryview
    is_contiguous: bool
    place: slice

    def decode_into(self, out: memoryview) -> None:
        """Write this chunk's part of the value into `out`, which is the buffer of the whole value.

        Different chunks never write the same bytes; all together write every byte. Allocates at most one chunk, and
        that only where the chunk does not fill one byte range. Raises CorruptObject and UnsupportedError.
        """
        array, cell = self.array, self.cell
        if not self.is_contiguous:
            _scatter(self._expanded(), array, cell, out)
        elif cell.stop - cell.start == array.chunk_bytes:
            decompress(array.compressor, self.piece, out[cell.start : cell.stop])
        else:
            out[cell.start : cell.stop] = self._expanded()[: cell.stop - cell.start]

    def _expanded(self) -> memoryview:
        lying = uncompressed(self.array.compressor, self.piece, self.array.chunk_bytes)
        if lying is not None:
            return lying
        scratch = memoryview(bytearray(self.array.chunk_bytes))
        decompress(self.array.compressor, self.piece, scratch)
        return scratch


def _scatter(chunk: memoryview, array: zarr.Array, cell: zarr.Cell, out: memoryview) -> None:
    import numpy as np  # our own payloads never need it, and a checkout that does not starts sooner

    item = np.dtype(f"V{array.itemsize}")
    whole = np.frombuffer(out, item).reshape(array.shape)
    elements = np.frombuffer(chunk, item).reshape(array.chunks, order=array.order)
    whole[cell.region] = elements[tuple(slice(part.stop - part.start) for part in cell.region)]


class DensePayload(Frozen):
    """An opened payload; `raw` is the value itself where it lies in the payload, at `raw_start`, in one piece."""

    chunks: tuple[Chunk, ...]
    raw: memoryview | None
    raw_start: int


@lru_cache(64)  # each is as large as the number of its chunks, one for 4 MiB
def chunk_plan(dtype: str, shape: tuple[int, ...], codec: Codec = DEFAULT) -> ChunkPlan:
    """Return how a value of `dtype` and logical `shape` is cut.

    Raises CheckpointError for dtypes and shapes that `dtypes.nbytes` does not accept.
    """
    zarr_dtype, itemsize, shape = _stored_as(dtype, shape)
    array = zarr.Array(shape, chunk_shape(shape, itemsize, codec), zarr_dtype, itemsize, None)
    cells = tuple(array.cells())
    description = zarr.serialize(array, codec.zarr)
    head = [
        packing.map_head(1),
        packing.text(NAME),
        packing.map_head(1 + len(cells)),
        packing.text(zarr.KEY),
        packing.binary_head(len(description)),
        description,
    ]
    return ChunkPlan(array, codec, cells, b"".join(head))


def encode_chunk(raw: memoryview, plan: ChunkPlan) -> Piece:
    """Return the stored form of the bytes `raw` of one of the plan's slices; takes as long as compressing takes.

    Without a codec that is `raw` itself, which must then stay as it is until the payload is written.
    """
    return stored_chunk(raw, plan.array, plan.codec)


def stored_chunk(raw: memoryview, array: zarr.Array, codec: Codec) -> Piece:
    """Return the stored form of a chunk of `array` whose first bytes are `raw`; see `encode_chunk`."""
    missing = array.chunk_bytes - len(raw)
    if missing:
        raw = memoryview(bytes(raw) + bytes(missing))
    return codec.compress(raw, array.itemsize)


def heads(plan: ChunkPlan, sizes: Sequence[int]) -> list[bytes]:
    """Return what comes before each chunk of a payload whose chunks have these stored sizes, in the plan's order.

    For whoever does not hold all chunks at once. The payload is each head with its chunk behind it; that of a value
    without elements is `plan.head`.
    """
    before = [packing.text(cell.key) + packing.binary_head(size) for cell, size in zip(plan.cells, sizes, strict=True)]
    if before:
        before[0] = plan.head + before[0]
    return before


def assemble(plan: ChunkPlan, chunks: Sequence[Piece]) -> list[Piece]:
    """Return the payload as pieces whose concatenation it is; `chunks` are in the order of the plan's slices."""
    if not chunks:
        return [plan.head]
    before = heads(plan, [len(chunk) for chunk in chunks])
    return [piece for pair in zip(before, chunks, strict=True) for piece in pair]


def encode(raw: memoryview, dtype: str, shape: tuple[int, ...], codec: Codec = DEFAULT) -> list[Piece]:
    """Return the payload of the value `raw`: little-endian bytes in logical C order."""
    plan = chunk_plan(dtype, shape, codec)
    return assemble(plan, [encode_chunk(raw[part], plan) for part in plan.slices])


def open_payload(view: memoryview, dtype: str, shape: tuple[int, ...]) -> DensePayload:
    """Check the payload `view` of a value of `dtype` and `shape`, as far as that goes without decompressing.

    Allocates in proportion to what is present alone; the size of the value is for the caller to allow.
    Raises CorruptObject, UnsupportedError, and CheckpointError as `chunk_plan` does.
    """
    known = _KNOWN.get((dtype, shape))
    if known is not None:
        start = packing.last_binary(view, known.head)
        if start is not None:
            chunk = Chunk(known.array, known.cell, view[start:], known.is_contiguous, slice(start, len(view)))
            return _opened(known.array, (chunk,))
    return _read(view, dtype, shape)


def _read(view: memoryview, dtype: str, shape: tuple[int, ...]) -> DensePayload:
    zarr_dtype, itemsize, stored_shape = _stored_as(dtype, shape)
    # tensorstore's have 1 Mi elements, except where axes do not divide
    most_chunks = 1024 + math.prod(stored_shape) // 1024
    entries = packing.split(view, most_chunks + 2)
    if list(entries) != [NAME]:
        raise CorruptObject(f"the payload holds {sorted(entries)!s:.80} instead of {NAME!r}")
    places = entries[NAME]
    if zarr.KEY not in places:
        raise CorruptObject(f"the payload has no {zarr.KEY}")
    array = zarr.parse(view[places.pop(zarr.KEY)], zarr_dtype, itemsize, stored_shape)
    chunks = chunks_of(view, array, places)
    if len(chunks) == 1:
        _remember(dtype, shape, view, chunks[0])
    return _opened(array, chunks)


def chunks_of(view: memoryview, array: zarr.Array, places: Mapping[str, slice]) -> tuple[Chunk, ...]:
    """Return the chunks of `array`, in C order; `places` says where in the payload `view` each key's bytes lie.

    Raises CorruptObject unless these are all of the grid's chunks, and none of a size that only hostile ones have.
    """
    # zarr lets a writer leave out chunks that equal the fill value. There is none here ("fill_value" is null), so
    # nobody does, and what is absent was lost.
    if math.prod(array.counts) != len(places):
        raise CorruptObject(f"the payload has {len(places)} chunks instead of {math.prod(array.counts)}")
    if array.nbytes and array.chunk_bytes > max(2 * array.nbytes, _MOST_SCRATCH):
        raise CorruptObject(f"the payload has chunks of {array.chunk_bytes} bytes for a value of {array.nbytes}")
    contiguous = array.is_contiguous
    try:
        return tuple(Chunk(array, cell, view[places[cell.key]], contiguous, places[cell.key]) for cell in array.cells())
    except KeyError as error:
        raise CorruptObject(f"the payload lacks the chunk {error}") from error


class _Known(Frozen):
    """What `_read` found in a payload of one chunk: all that it checked but the chunk follows from `head`.

    `head` are the bytes before the length of the chunk, which is the last thing in the payload.
    """

    head: bytes
    array: zarr.Array
    cell: zarr.Cell
    is_contiguous: bool


_KNOWN: Final[dict[tuple[str, tuple[int, ...]], _Known]] = {}


def _remember(dtype: str, shape: tuple[int, ...], view: memoryview, chunk: Chunk) -> None:
    head = bytes(view[: chunk.place.start - len(packing.binary_head(len(chunk.piece)))])
    if packing.last_binary(view, head) != chunk.place.start:
        return  # another writer's, with something behind the chunk, or a length in a longer form than it needs
    if len(_KNOWN) >= _MOST_KNOWN:
        _KNOWN.clear()
    _KNOWN[dtype, shape] = _Known(head, chunk.array, chunk.cell, chunk.is_contiguous)


def _opened(array: zarr.Array, chunks: tuple[Chunk, ...]) -> DensePayload:
    if len(chunks) == 1 and chunks[0].is_contiguous and array.chunk_bytes == array.nbytes:
        raw = uncompressed(array.compressor, chunks[0].piece, array.nbytes)
        if raw is not None:
            return DensePayload(chunks, raw, chunks[0].place.stop - len(raw))
    return DensePayload(chunks, None, 0)


def decode_into(payload: memoryview, dtype: str, shape: tuple[int, ...], out: memoryview) -> None:
    """Write the value of `payload` into `out`, which has exactly its size. Raises as `open_payload` does."""
    for chunk in open_payload(payload, dtype, shape).chunks:
        chunk.decode_into(out)


def _stored_as(dtype: str, shape: tuple[int, ...]) -> tuple[str, int, tuple[int, ...]]:
    size = dtypes.nbytes(dtype, shape)
    row = dtypes.DTYPES[dtype]
    if row.zarr is None:
        return "|u1", 1, (size,)
    return row.zarr, row.bits // 8, shape


def chunk_shape(shape: tuple[int, ...], itemsize: int, codec: Codec) -> tuple[int, ...]:
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
