"""How the chunks of a payload are compressed.

`Codec` is the writing side: c-blosc through numcodecs, or nothing. The reading side takes what any zarr v2 writer of
tensorstore's may have used, and never lets a chunk decide how much memory it gets: the caller gives the buffer,
and what does not fill it exactly is corrupt. What blosc's header claims is compared with what is really there
before blosc sees it: c-blosc trusts its own header for the sizes of both buffers.

blosc runs on the thread that calls (it releases the GIL, and takes no global lock), so that a pool may call it from all
of its workers, and so that the bytes do not depend on BLOSC_* variables in the environment.
"""

from __future__ import annotations

import bz2
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numcodecs import blosc, zstd

from theta_daemon.errors import CorruptObject, UnsupportedError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

blosc.use_threads = False

_SHUFFLES: Final = {"auto": -1, "noshuffle": 0, "shuffle": 1, "bitshuffle": 2}
_SHUFFLE_NAMES: Final = {number: name for name, number in _SHUFFLES.items()}

# README_CHUNK_FORMAT.rst of c-blosc 1: version, compressor version, flags, type size; bytes raw, of a block, compressed
_BLOSC_HEADER: Final = struct.Struct("<BBBBIII")
_BLOSC_FORMAT: Final = 2
_BLOSC_STORED: Final = 0x02
_BLOSC_RESERVED: Final = 0x08
_BLOSC_SNAPPY: Final = 2  # format number in the flags' upper three bits; numcodecs is built without it

_UNSIGNED: Final = {1: "u1", 2: "<u2", 4: "<u4", 8: "<u8", 16: "<c16"}  # blosc takes the type size from the buffer


@dataclass(frozen=True, slots=True)
class Codec:
    """What compresses chunks: a compressor of blosc's, its level 0-9 and its shuffle; no `cname` means nothing does."""

    cname: str | None
    level: int = 0
    shuffle: int = 0

    @classmethod
    def parse(cls, name: str) -> Codec:
        """Return the codec that is called `name`: "none", or such as "blosc:lz4:5:bitshuffle".

        Raises UsageError.
        """
        if name == "none":
            return cls(None)
        match name.split(":"):
            case ["blosc", cname, level, shuffle] if (
                cname in blosc.list_compressors() and level in set("0123456789") and shuffle in _SHUFFLES
            ):
                return cls(cname, int(level), _SHUFFLES[shuffle])
        raise UsageError(f"there is no codec {name!r}", hint="say none, or such as blosc:lz4:5:bitshuffle")

    @property
    def name(self) -> str:
        """What `parse` reads."""
        if self.cname is None:
            return "none"
        return f"blosc:{self.cname}:{self.level}:{_SHUFFLE_NAMES[self.shuffle]}"

    @property
    def zarr(self) -> dict[str, object] | None:
        """The `compressor` of `.zarray`."""
        if self.cname is None:
            return None
        return {"blocksize": 0, "clevel": self.level, "cname": self.cname, "id": "blosc", "shuffle": self.shuffle}

    def compress(self, chunk: memoryview, itemsize: int) -> bytes | memoryview:
        """Return the stored form of `chunk`, whose elements have `itemsize` bytes; the same bytes on every machine."""
        if self.cname is None:
            return chunk
        array = np.frombuffer(chunk, _UNSIGNED[itemsize])
        compressed: bytes = blosc.compress(array, self.cname.encode(), self.level, self.shuffle)
        return compressed


DEFAULT: Final = Codec.parse("blosc:lz4:5:bitshuffle")  # bench/codecs.py compares


def uncompressed(compressor: str | None, piece: memoryview, size: int) -> memoryview | None:
    """Return the chunk of `size` bytes where it lies as it is in `piece`, else None.

    `compressor` is an id of `.zarray`, None where there is none. Raises CorruptObject.
    """
    if compressor is None:
        if len(piece) != size:
            raise CorruptObject(f"an uncompressed chunk has {len(piece)} bytes instead of {size}")
        return piece
    if compressor == "blosc" and _blosc_flags(piece, size) & _BLOSC_STORED:
        return piece[_BLOSC_HEADER.size :]
    return None


def decompress(compressor: str | None, piece: memoryview, out: memoryview) -> None:
    """Decompress `piece` into `out`, which it must fill; without a compressor copy it.

    Raises CorruptObject and UnsupportedError; `out` may then hold anything.
    """
    match compressor:
        case None:
            _copy(piece, out)
        case "blosc":
            if _blosc_flags(piece, len(out)) >> 5 == _BLOSC_SNAPPY:
                raise UnsupportedError("a chunk is compressed with snappy")
            _call(blosc.decompress, piece, out)
        case "zstd":
            if _zstd_size(piece) not in (None, len(out)):
                raise CorruptObject(f"a zstd chunk does not hold {len(out)} bytes")
            _call(zstd.decompress, piece, out)
        case "zlib":
            _inflate(zlib.decompressobj(), piece, out)
        case "gzip":
            _inflate(zlib.decompressobj(wbits=31), piece, out)
        case "bz2":
            _inflate(bz2.BZ2Decompressor(), piece, out)
        case _:
            raise UnsupportedError(f"a chunk is compressed with {compressor[:40]!r}")


def _copy(piece: memoryview, out: memoryview) -> None:
    if len(piece) != len(out):
        raise CorruptObject(f"an uncompressed chunk has {len(piece)} bytes instead of {len(out)}")
    # Unlike an assignment to the memoryview, numpy lets other threads run meanwhile.
    np.frombuffer(out, np.uint8)[:] = np.frombuffer(piece, np.uint8)


def _call(decoder: Callable[[memoryview, memoryview], object], piece: memoryview, out: memoryview) -> None:
    try:
        decoder(piece, out)
    except (RuntimeError, ValueError) as error:
        raise CorruptObject(f"a chunk cannot be decompressed ({error})") from error


def _inflate(decoder: zlib._Decompress | bz2.BZ2Decompressor, piece: memoryview, out: memoryview) -> None:
    # One byte more than fits shows a stream that goes on; nothing beyond it is ever expanded.
    try:
        data = decoder.decompress(piece, len(out) + 1)
    except (zlib.error, OSError) as error:
        raise CorruptObject(f"a chunk cannot be decompressed ({error})") from error
    if len(data) != len(out) or not decoder.eof or decoder.unused_data:
        raise CorruptObject(f"a compressed chunk does not hold {len(out)} bytes")
    out[:] = data


def _blosc_flags(piece: memoryview, size: int) -> int:
    """Return the flags of a blosc chunk whose header fits `piece` and `size`.

    c-blosc 1.21 checks the offsets inside against the compressed size that the header claims, and blocks against the
    raw size; both are compared here with the real ones. A block that is no multiple of its type size would be split
    into parts that leave a rest unwritten.
    """
    if len(piece) < _BLOSC_HEADER.size:
        raise CorruptObject(f"a blosc chunk has {len(piece)} bytes")
    version, _, flags, typesize, raw, block, compressed = _BLOSC_HEADER.unpack_from(piece)
    if version != _BLOSC_FORMAT or flags & _BLOSC_RESERVED:
        raise CorruptObject(f"a blosc chunk has the format {version}, flags {flags:#04x}")
    if raw != size:
        raise CorruptObject(f"a blosc chunk holds {raw} bytes instead of {size}")
    if compressed != len(piece) or (flags & _BLOSC_STORED and compressed != raw + _BLOSC_HEADER.size):
        raise CorruptObject(f"a blosc chunk says that it has {compressed} bytes; it has {len(piece)}")
    if not 0 < block <= raw or typesize == 0 or (block > typesize and block % typesize):
        raise CorruptObject(f"a blosc chunk has blocks of {block} bytes, elements of {typesize}")
    return int(flags)


def _zstd_size(piece: memoryview) -> int | None:
    """Return the content size in a zstd frame's header (RFC 8878, 3.1.1.1), None where it has none."""
    if bytes(piece[:4]) != b"\x28\xb5\x2f\xfd" or len(piece) < 5:
        raise CorruptObject("a zstd chunk does not begin with a frame")
    descriptor = piece[4]
    single = descriptor >> 5 & 1
    start = 5 + (1 - single) + (0, 1, 2, 4)[descriptor & 3]
    width = (single, 2, 4, 8)[descriptor >> 6]
    if len(piece) < start + width:
        raise CorruptObject("a zstd chunk ends inside its header")
    if width == 0:
        return None
    return int.from_bytes(piece[start : start + width], "little") + (256 if width == 2 else 0)
