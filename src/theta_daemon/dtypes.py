"""The table of element types, by the name that metadata gives them (numpy's or ml_dtypes').

At the bottom of the import order because formats, metadata and the store all need it.
A dtype is a name and a number of bits: no framework and no numpy is needed to carry values.
"""

from __future__ import annotations

from functools import lru_cache

from theta_daemon.errors import CheckpointError
from theta_daemon.frozen import Frozen

MAX_BYTES = 1 << 62  # far above any file; keeps hostile shapes from growing Python integers
MAX_RANK = 64


class DType(Frozen):
    """One element type.

    `bits` per element (sub-byte types pack); `zarr` is the zarr v2 data type it is stored as, or None
    where zarr v2 has none and the raw bytes are stored as "|u1"; `numpy` is numpy's own type string,
    or None for types numpy lacks.
    """

    name: str
    bits: int
    zarr: str | None
    numpy: str | None


_ROWS = [
    DType("bool", 8, "|b1", "|b1"),
    DType("int8", 8, "|i1", "|i1"),
    DType("uint8", 8, "|u1", "|u1"),
    DType("int16", 16, "<i2", "<i2"),
    DType("uint16", 16, "<u2", "<u2"),
    DType("int32", 32, "<i4", "<i4"),
    DType("uint32", 32, "<u4", "<u4"),
    DType("int64", 64, "<i8", "<i8"),
    DType("uint64", 64, "<u8", "<u8"),
    DType("float16", 16, "<f2", "<f2"),
    DType("float32", 32, "<f4", "<f4"),
    DType("float64", 64, "<f8", "<f8"),
    DType("complex64", 64, "<c8", "<c8"),
    DType("complex128", 128, "<c16", "<c16"),
    DType("bfloat16", 16, "bfloat16", None),
    DType("float8_e4m3fn", 8, "float8_e4m3fn", None),
    DType("float8_e4m3fnuz", 8, "float8_e4m3fnuz", None),
    DType("float8_e5m2", 8, "float8_e5m2", None),
    DType("float8_e5m2fnuz", 8, "float8_e5m2fnuz", None),
    DType("float8_e8m0fnu", 8, "float8_e8m0fnu", None),
    DType("complex32", 32, None, None),
    DType("float6_e2m3fn", 6, None, None),
    DType("float6_e3m2fn", 6, None, None),
    DType("float4_e2m1fn", 4, None, None),
]

DTYPES: dict[str, DType] = {row.name: row for row in _ROWS}


def count(shape: tuple[int, ...]) -> int:
    """Return the number of elements of `shape`.

    Raises CheckpointError for negative or absurd sizes.
    """
    if len(shape) > MAX_RANK:
        raise CheckpointError(f"a tensor of rank {len(shape)} is not credible")
    total = 1
    for size in shape:
        if size < 0:
            raise CheckpointError(f"a tensor has the negative size {size}")
        total *= size
        if total > MAX_BYTES:
            raise CheckpointError("a tensor's shape is larger than any file")
    return total


@lru_cache(maxsize=1024)  # asked five times for each of thousands of groups, which have a dozen forms
def nbytes(dtype: str, shape: tuple[int, ...]) -> int:
    """Return the bytes that a tensor of `dtype` and `shape` fills.

    Raises CheckpointError for an unknown dtype, an absurd shape, or sub-byte elements that do not end on a byte.
    """
    row = DTYPES.get(dtype)
    if row is None:
        raise CheckpointError(f"unknown dtype {dtype!r}")
    bits = count(shape) * row.bits
    if bits % 8:
        raise CheckpointError(f"{dtype} elements of shape {shape} do not end on a byte")
    return bits // 8
