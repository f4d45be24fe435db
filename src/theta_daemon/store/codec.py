"""How the chunks of a payload are compressed.

`Codec` is the writing side: c-blosc through python-blosc, or nothing. The reading side takes what any zarr v2 writer of
tensorstore's may have used, and never lets a chunk decide how much memory it gets: the caller gives the buffer,
and what does not fill it exactly is corrupt. What blosc's header claims is compared with what is really there
before blosc sees it: c-blosc trusts its own header for the sizes of both buffers.

blosc runs on the thread that calls (it releases the GIL, and takes no global lock), so that a pool may call it from all
of its workers, and so that the bytes do not depend on BLOSC_* variables in the environment.

git starts this program anew for every command, so what only rare chunks need is imported when one comes, and of
python-blosc only its extension module is loaded: the package around it imports unittest and numpy (90 ms).
"""

from __future__ import annotations

import struct
from ctypes import addressof, c_char
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from typing import TYPE_CHECKING, Any, Final

from theta_daemon.errors import CorruptObject, UnsupportedError, UsageError
from theta_daemon.frozen import Frozen

if TYPE_CHECKING:
    import zlib
    from bz2 import BZ2Decompressor


def _load_blosc() -> Any:  # noqa: ANN401 - a module without types
    """Return `blosc.blosc_extension`, set to release the GIL; it has one thread unless it is told otherwise."""
    package = find_spec("blosc")
    places = package.submodule_search_locations if package is not None else []
    found = PathFinder.find_spec("blosc.blosc_extension", places)
    if found is None or found.loader is None:
        raise ModuleNotFoundError("theta-daemon needs the package blosc 1.11", name="blosc")
    module = module_from_spec(found)
    found.loader.exec_module(module)
    module.set_releasegil(1)
    return module


_blosc: Final = _load_blosc()

_AUTO: Final = -1
_SHUFFLES: Final = {"auto": _AUTO, "noshuffle": 0, "shuffle": 1, "bitshuffle": 2}
_SHUFFLE_NAMES: Final = {number: name for name, number in _SHUFFLES.items()}

# Zeros expand most: 247 times as we write them, 15 910 times in the strongest codec that any writer may have used. What
# claims to become more than this many times its bytes is a lie that would only cost memory.
MAX_EXPANSION: Final = 1 << 15

# README_CHUNK_FORMAT.rst of c-blosc 1: version, compressor version, flags, type size; bytes raw, of a block, compressed
_BLOSC_HEADER: Final = struct.Struct("<BBBBIII")
_BLOSC_FORMAT: Final = 2
_BLOSC_STORED: Final = 0x02
_BLOSC_RESERVED: Final = 0x08
_BLOSC_SNAPPY: Final = 2  # format number in the flags' upper three bits; python-blosc is built without it


class Codec(Frozen):
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
                cname in _blosc.compressor_list().split(",") and level in set("0123456789") and shuffle in _SHUFFLES
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
        shuffle = (2 if itemsize == 1 else 1) if self.shuffle == _AUTO else self.shuffle
        compressed: bytes = _blosc.compress(chunk, itemsize, self.level, shuffle, self.cname)
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
            _unblosc(piece, out)
        case "zstd":
            _unzstd(piece, out)
        case "zlib" | "gzip":
            import zlib

            _inflate(zlib.decompressobj(wbits=31 if compressor == "gzip" else 15), zlib.error, piece, out)
        case "bz2":
            from bz2 import BZ2Decompressor

            _inflate(BZ2Decompressor(), OSError, piece, out)
        case _:
            raise UnsupportedError(f"a chunk is compressed with {compressor[:40]!r}")


def _copy(piece: memoryview, out: memoryview) -> None:
    if len(piece) != len(out):
        raise CorruptObject(f"an uncompressed chunk has {len(piece)} bytes instead of {len(out)}")
    import numpy as np

    # Unlike an assignment to the memoryview, numpy lets other threads run meanwhile.
    np.frombuffer(out, np.uint8)[:] = np.frombuffer(piece, np.uint8)


def _unblosc(piece: memoryview, out: memoryview) -> None:
    """Decompress `piece`, of which `_blosc_flags` says that it holds just `len(out)` bytes."""
    kept = c_char.from_buffer(out)  # the memory stays where it is while this lives
    try:
        _blosc.decompress_ptr(piece, addressof(kept))
    except _blosc.error as error:
        raise CorruptObject(f"a chunk cannot be decompressed ({error})") from error


def _unzstd(piece: memoryview, out: memoryview) -> None:
    if _zstd_size(piece) not in (None, len(out)):
        raise CorruptObject(f"a zstd chunk does not hold {len(out)} bytes")
    import zstandard

    try:
        data = zstandard.ZstdDecompressor().decompress(piece, len(out), allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise CorruptObject(f"a chunk cannot be decompressed ({error})") from error
    if len(data) != len(out):
        raise CorruptObject(f"a zstd chunk does not hold {len(out)} bytes")
    out[:] = data


def _inflate(
    decoder: zlib._Decompress | BZ2Decompressor, failure: type[Exception], piece: memoryview, out: memoryview
) -> None:
    # One byte more than fits shows a stream that goes on; nothing beyond it is ever expanded.
    try:
        data = decoder.decompress(piece, len(out) + 1)
    except failure as error:
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
