"""zarr v2 arrays: the `.zarray` that describes one, and where its chunks lie in the raw value.

The part of the specification (zarr-specs, "Storage specification v2") that tensorstore's "zarr" driver reads and
writes, without filters and structured types. An array is described by its own bytes. Where the caller knows its dtype
and shape already, whatever they claim is compared with these (`parse`); where nobody does, they are read as they are
(`parse_any`), and what they claim is for the caller to doubt before anything is allocated.
"""

from __future__ import annotations

import itertools
import json
import math
from typing import TYPE_CHECKING, Final, Literal

from theta_daemon.errors import CorruptObject, UnsupportedError
from theta_daemon.frozen import Frozen

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

KEY: Final = ".zarray"
MAX_BYTES: Final = 1 << 16  # 64 axes need less than 4 KiB
MAX_SIZE: Final = 1 << 62


class Cell(Frozen):
    """One place of the chunk grid: the key of its chunk and the part of the value that it covers.

    The chunk itself always has the full chunk shape. Where the chunks are contiguous in the value, the part is the
    bytes `start` to `stop`, and they come first in the chunk. Elsewhere it is `region` of the value, a slice for each
    axis, and lies at the origin of the chunk.
    """

    key: str
    start: int
    stop: int
    region: tuple[slice, ...]


class Array(Frozen):
    """What `.zarray` says.

    `dtype` is zarr's spelling, `itemsize` its bytes; `compressor` the id of the chunks' compressor, None for
    none; `order` that of the elements within a chunk; `separator` stands between the numbers in a chunk's key.
    """

    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: str
    itemsize: int
    compressor: str | None
    order: Literal["C", "F"] = "C"
    separator: str = "."

    @property
    def nbytes(self) -> int:
        """Bytes of the value."""
        return math.prod(self.shape) * self.itemsize

    @property
    def chunk_bytes(self) -> int:
        """Bytes of each chunk, also of those that reach over the edge."""
        return math.prod(self.chunks) * self.itemsize

    @property
    def counts(self) -> tuple[int, ...]:
        """The number of chunks along each axis."""
        return tuple(-(-size // chunk) for size, chunk in zip(self.shape, self.chunks, strict=True))

    @property
    def is_contiguous(self) -> bool:
        """Whether every chunk covers one byte range of the value."""
        axis = next((axis for axis, chunk in enumerate(self.chunks) if chunk != 1), len(self.chunks))
        return self.chunks[axis + 1 :] == self.shape[axis + 1 :] and (self.order == "C" or len(self.shape) < 2)

    def cells(self) -> Iterator[Cell]:
        """Yield the grid in C order; there are as many cells as the product of `counts`."""
        if not self.nbytes:
            return  # before `product` unrolls the axes that are not empty
        strides = [math.prod(self.shape[axis + 1 :]) * self.itemsize for axis in range(len(self.shape))]
        for index in itertools.product(*map(range, self.counts)):
            region = tuple(
                slice(i * chunk, min((i + 1) * chunk, size))
                for i, chunk, size in zip(index, self.chunks, self.shape, strict=True)
            )
            start = sum(part.start * stride for part, stride in zip(region, strides, strict=True))
            covered = math.prod(part.stop - part.start for part in region) * self.itemsize
            # zarr's spec has no axes to number in the key of a scalar; its writers agree on "0".
            key = self.separator.join(map(str, index)) or "0"
            yield Cell(key, start, start + covered, region)


def serialize(array: Array, compressor: Mapping[str, object] | None, *, shortest: bool = False) -> bytes:
    """Return `.zarray`, byte for byte as tensorstore writes it; `compressor` is its whole description.

    With `shortest` only what tensorstore must find: of the compressor its id, and no separator, which then is ".".
    """
    if shortest and compressor is not None:
        compressor = {"id": compressor["id"]}
    fields = {
        "chunks": array.chunks,
        "compressor": compressor,
        "dimension_separator": array.separator,
        "dtype": array.dtype,
        "fill_value": None,
        "filters": None,
        "order": array.order,
        "shape": array.shape,
        "zarr_format": 2,
    }
    if shortest:
        del fields["dimension_separator"]
    return json.dumps(fields, separators=(",", ":")).encode()


def parse(data: memoryview, dtype: str, itemsize: int, shape: tuple[int, ...]) -> Array:
    """Read a `.zarray` that must describe a value of `dtype` (zarr's spelling) and `shape`.

    Raises CorruptObject where it does not, UnsupportedError for what only other zarr libraries know.
    """
    fields = _fields(data)
    found = _sizes(fields, "shape", 0)
    if found != shape:
        raise CorruptObject(f"the array has the shape {found} instead of {shape}")
    if fields.get("dtype") != dtype:
        raise CorruptObject(f"the array has the zarr dtype {fields.get('dtype')!r:.40} instead of {dtype!r}")
    return _array(fields, dtype, itemsize, shape)


def parse_any(data: memoryview, itemsizes: Mapping[str, int]) -> Array:
    """Read a `.zarray` of any shape, and of a dtype that is a key of `itemsizes`, which gives its bytes.

    The sizes are what it claims, each at most MAX_SIZE. Raises CorruptObject and UnsupportedError.
    """
    fields = _fields(data)
    dtype = fields.get("dtype")
    if not isinstance(dtype, str) or dtype not in itemsizes:
        raise UnsupportedError(f"the array has the zarr dtype {dtype!r:.40}")
    return _array(fields, dtype, itemsizes[dtype], _sizes(fields, "shape", 0))


def _fields(data: memoryview) -> dict[str, object]:
    if len(data) > MAX_BYTES:
        raise CorruptObject(f"its {KEY} has {len(data)} bytes")
    try:
        fields = json.loads(str(data, "utf-8"))
    except (ValueError, RecursionError) as error:
        raise CorruptObject(f"its {KEY} is not JSON") from error
    if not isinstance(fields, dict) or fields.get("zarr_format") != 2:
        raise CorruptObject(f"its {KEY} is not of zarr version 2")
    if fields.get("filters") is not None:
        raise UnsupportedError("the array has zarr filters")
    return fields


def _array(fields: dict[str, object], dtype: str, itemsize: int, shape: tuple[int, ...]) -> Array:
    chunks = _sizes(fields, "chunks", 1)
    if len(chunks) != len(shape):
        raise CorruptObject(f"its {KEY} has chunks of {len(chunks)} axes for a shape of {len(shape)}")
    return Array(
        shape,
        chunks,
        dtype,
        itemsize,
        _compressor(fields),
        "F" if _is_other(fields, "order", "C", "F") else "C",
        "/" if _is_other(fields, "dimension_separator", ".", "/") else ".",
    )


def _sizes(fields: dict[str, object], key: str, least: int) -> tuple[int, ...]:
    sizes = fields.get(key)
    if not isinstance(sizes, list) or not all(type(size) is int and least <= size <= MAX_SIZE for size in sizes):
        raise CorruptObject(f"its {KEY} has no usable {key}")
    return tuple(sizes)


def _compressor(fields: dict[str, object]) -> str | None:
    match fields.get("compressor"):
        case None:
            return None
        case {"id": str(name)}:
            return name
    raise CorruptObject(f"its {KEY} has no usable compressor")


def _is_other(fields: dict[str, object], key: str, default: str, other: str) -> bool:
    value = fields.get(key, default)
    if value not in (default, other):
        raise CorruptObject(f"its {KEY} has no usable {key}")
    return value == other
