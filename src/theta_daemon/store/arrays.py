"""Payloads of several arrays, as updates are stored: protocol/payload.md, "Payloads of several arrays".

What `payload` does for one array whose dtype and shape the metadata names, for arrays that only the payload itself
describes. Nothing in it is believed: before an array gets memory, its size is compared with what the caller allows, and
with what its compressed bytes can expand to.

A checkout may open tens of thousands of such objects, each of a few small arrays, so two things are done for speed.
What was read once of the bytes before an array's only chunk (its name, its `.zarray`, the chunk's key) holds wherever
the same bytes stand (`_Form`): 4 us instead of 100 for four arrays, before anything is decoded. And bytes that lie
uncompressed are used where they lie.

A payload is not verified here: a wrong array that is well formed is for the digest of the value to find.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from theta_daemon import dtypes
from theta_daemon.errors import CheckpointError, CorruptObject, UnsupportedError
from theta_daemon.frozen import Frozen
from theta_daemon.store import packing, zarr
from theta_daemon.store.codec import MAX_EXPANSION, Codec, decompress, uncompressed
from theta_daemon.store.payload import Chunk, Piece, chunk_shape, chunks_of, stored_chunk
from theta_daemon.updates.array import Array

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_NONE: Final = Codec(None)
_LEAST_COMPRESSED: Final = 128  # bytes; c-blosc compresses no buffer that is smaller

_MOST_ARRAYS: Final = 64
# Chunks of one payload: so many, and one more for each so many bytes of it. git-theta's have some 2^20 elements.
_MOST_CHUNKS: Final = 4096
_BYTES_A_CHUNK: Final = 64

# The sparse updates of a model differ in their numbers of elements. What is remembered of one form takes 0.7 KB.
_MOST_KNOWN: Final = 8192
_MOST_HEAD: Final = 320  # bytes; git-theta's have up to 240

_NAMES: Final = {row.zarr: row.name for row in dtypes.DTYPES.values() if row.zarr is not None}
_ITEMSIZES: Final = {row.zarr: row.bits // 8 for row in dtypes.DTYPES.values() if row.zarr is not None}


class _Form(Frozen):
    """What is said of an array before its only chunk, which covers one range of bytes; these come first in it."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    chunk_bytes: int
    compressor: str | None


class _Grid(Frozen):
    """An array that has no such form: of several chunks, of none, or of one whose elements lie in another order."""

    array: zarr.Array
    chunks: tuple[Chunk, ...]


# By the bytes from the array's name to the chunk's key. A msgpack object shows where it ends, so what these bytes meant
# once, whole and checked, they mean wherever an array begins with them.
_KNOWN: Final[dict[bytes, _Form]] = {}

_Opened = tuple[_Form, memoryview] | _Grid


def in_memory(size: int) -> memoryview:
    """Return `size` bytes to be written."""
    return memoryview(bytearray(size))


def open_arrays(view: memoryview, most: int, room: Callable[[int], memoryview] = in_memory) -> dict[str, Array]:
    """Return the arrays in the payload `view`, by name, in its order.

    At most `most` bytes are allocated for them, by `room`. What lies uncompressed in `view` is not copied: it stays a
    part of it, at any alignment. Raises CorruptObject, also where `most` is too little, UnsupportedError, and what
    `room` raises.
    """
    arrays = {}
    for name, opened in (_known(view) or _read(view)).items():
        if isinstance(opened, _Grid):
            array = opened.array
            for chunk in opened.chunks:
                _require_credible(array.chunk_bytes, len(chunk.piece))
            most = _left(most, array.nbytes)
            if opened.chunks:
                _left(most, array.chunk_bytes)  # decoding may need that much beside the array
            out = room(array.nbytes)
            for chunk in opened.chunks:
                chunk.decode_into(out)
            arrays[name] = Array(_NAMES[array.dtype], array.shape, out)
            continue
        form, piece = opened
        raw = uncompressed(form.compressor, piece, form.chunk_bytes)
        if raw is None:
            _require_credible(form.chunk_bytes, len(piece))
            most = _left(most, form.chunk_bytes)
            raw = room(form.chunk_bytes)
            decompress(form.compressor, piece, raw)
        arrays[name] = Array(form.dtype, form.shape, raw if form.nbytes == form.chunk_bytes else raw[: form.nbytes])
    return arrays


def encode_arrays(arrays: Mapping[str, Array], codec: Codec) -> list[Piece]:
    """Return the payload of `arrays` as pieces whose concatenation it is; some may be the arrays' own memory.

    Each array is compressed where that makes it smaller. Raises UnsupportedError for dtypes that zarr does not have.
    """
    pieces: list[Piece] = [packing.map_head(len(arrays))]
    for name, array in arrays.items():
        if dtypes.nbytes(array.dtype, array.shape) != len(array.raw):
            raise ValueError(f"{len(array.raw)} bytes are no {array.dtype} of shape {array.shape}")
        stored = _stored(name, array, _NONE)
        if codec.cname is not None and len(array.raw) >= _LEAST_COMPRESSED:
            stored = min(stored, _stored(name, array, codec), key=_length)
        pieces += stored
    return pieces


def _stored(name: str, array: Array, codec: Codec) -> list[Piece]:
    row = dtypes.DTYPES[array.dtype]
    if row.zarr is None:
        raise UnsupportedError(f"an array of {array.dtype} cannot be stored in an update")
    itemsize = row.bits // 8
    grid = zarr.Array(array.shape, chunk_shape(array.shape, itemsize, codec), row.zarr, itemsize, None)
    cells = list(grid.cells())
    pieces: list[Piece] = [_head(name, zarr.serialize(grid, codec.zarr, shortest=True), len(cells))]
    for cell in cells:
        chunk = stored_chunk(array.raw[cell.start : cell.stop], grid, codec)
        pieces += [packing.text(cell.key) + packing.binary_head(len(chunk)), chunk]
    return pieces


def _head(name: str, description: bytes, chunks: int) -> bytes:
    start = packing.text(name) + packing.map_head(1 + chunks) + packing.text(zarr.KEY)
    return start + packing.binary_head(len(description)) + description


def _length(pieces: list[Piece]) -> int:
    return sum(map(len, pieces))


def _known(view: memoryview) -> dict[str, _Opened] | None:
    """Return the arrays of `view`, not decoded, where each begins with a head that is known; else None."""
    if not view or view[0] >> 4 != 0x8:
        return None
    opened: dict[str, _Opened] = {}
    at = 1
    for _ in range(view[0] & 0x0F):
        head = bytes(view[at : at + _MOST_HEAD])
        try:
            # Only guesses where things stand: whatever is found at wrong places, these bytes as a whole are not known.
            description = head[0] - 0xA0 + len("?.zarray??") + 1
            key = description + head[description] + 1
            head = head[: key + head[key] - 0xA0 + 1]
        except IndexError:
            return None
        form = _KNOWN.get(head)
        place = packing.binary_at(view, at + len(head)) if form is not None else None
        if form is None or place is None:
            return None
        start, at = place
        opened[form.name] = form, view[start:at]
    return opened if at == len(view) and len(opened) == view[0] & 0x0F else None


def _read(view: memoryview) -> dict[str, _Opened]:
    """Return the arrays of `view`, not decoded; whatever can be checked without that is."""
    entries = packing.split(view, _MOST_CHUNKS + len(view) // _BYTES_A_CHUNK)
    if len(entries) > _MOST_ARRAYS:
        raise CorruptObject(f"the payload holds {len(entries)} arrays")
    opened: dict[str, _Opened] = {}
    for name, places in entries.items():
        if zarr.KEY not in places:
            raise CorruptObject(f"the payload has no {zarr.KEY} for {name[:40]!r}")
        description = view[places.pop(zarr.KEY)]
        array = zarr.parse_any(description, _ITEMSIZES)
        try:
            elements = dtypes.count(array.shape)
        except CheckpointError as error:
            raise CorruptObject(f"the array {name[:40]!r}: {error}") from error
        if len(places) > 1024 + elements // 1024:
            raise CorruptObject(f"the array {name[:40]!r} of {elements} elements has {len(places)} chunks")
        chunks = chunks_of(view, array, places)
        if len(chunks) == 1 and chunks[0].is_contiguous:
            dtype, chunk = _NAMES[array.dtype], chunks[0]
            form = _Form(name, dtype, array.shape, array.nbytes, array.chunk_bytes, array.compressor)
            opened[name] = form, chunk.piece
            _remember(view, form, _head(name, bytes(description), 1) + packing.text(chunk.cell.key), chunk)
        else:
            opened[name] = _Grid(array, chunks)
    return opened


def _remember(view: memoryview, form: _Form, head: bytes, chunk: Chunk) -> None:
    """Remember `form` by `head`, should these be the bytes before the length of its chunk."""
    stop = chunk.place.start - len(packing.binary_head(len(chunk.piece)))
    if len(head) > _MOST_HEAD or view[stop - len(head) : stop] != head:
        return  # too long, or another writer's: in another order, or with lengths in a longer form than they need
    if len(_KNOWN) >= _MOST_KNOWN:
        _KNOWN.clear()
    _KNOWN[head] = form


def _require_credible(size: int, stored: int) -> None:
    if size > MAX_EXPANSION * stored:
        raise CorruptObject(f"a chunk of {stored} bytes cannot hold {size}")


def _left(most: int, size: int) -> int:
    if size > most:
        raise CorruptObject(f"the payload holds arrays of {size} bytes where {most} are allowed")
    return most - size
