"""Elements as numbers: numpy's types for the dtypes of metadata, the type that is computed in, and rounding.

A value that is replayed has the same bits on every machine. So updates are made of single additions, multiplications
and conversions, each of which IEEE 754 defines to the bit: no BLAS, nothing fused, no order that numpy might choose.
What IEEE 754 leaves open is which NaN comes out, and processors do differ. Here a NaN stays as it is, bit for bit,
whatever is added to it or multiplied with it, and one that comes new has the bits of the positive quiet NaN.

float16, bfloat16 and the types of 8 bits are computed in float32. Those that numpy lacks are converted by ml_dtypes,
here and nowhere else: to the same bits as torch, which takes 2 s to be imported, and ml_dtypes 0.05 s.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from theta_daemon.dtypes import DTYPES, nbytes
from theta_daemon.errors import CheckpointError, CorruptObject, UnsupportedError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from theta_daemon.updates.array import Array

    Values = NDArray[Any]
    Type = np.dtype[Any]

BLOCK: Final = 1 << 16  # elements that are computed at a time: with what is made of them they stay in the L2 cache

_NARROW: Final = {
    "bfloat16",
    "float8_e4m3fn",
    "float8_e4m3fnuz",
    "float8_e5m2",
    "float8_e5m2fnuz",
    "float8_e8m0fnu",
}
_ONE_ZERO: Final = {"float8_e4m3fnuz", "float8_e5m2fnuz", "float8_e8m0fnu"}  # floats without -0.0
_FLOAT32: Final = np.dtype(np.float32)


@lru_cache(64)
def stored(dtype: str) -> Type:
    """Return numpy's type for elements of `dtype`, little-endian. Raises UnsupportedError where there is none."""
    row = DTYPES.get(dtype)
    if row is not None and row.numpy is not None:
        return np.dtype(row.numpy)
    if dtype in _NARROW:
        import ml_dtypes  # 50 ms, and few updates need it

        kind: Type = np.dtype(getattr(ml_dtypes, dtype))
        return kind
    raise UnsupportedError(f"values of dtype {dtype!r:.80} cannot be computed with")


@lru_cache(64)
def distance(kind: Type) -> float:
    """Return the distance from 1 to the next number of a type, 0 for integers: their sums are exact in any order."""
    if kind.kind in "biu":
        return 0.0
    if np.issubdtype(kind, np.inexact):
        return float(np.finfo(kind).eps)
    import ml_dtypes  # as in `stored`

    return float(ml_dtypes.finfo(kind).eps)  # type: ignore[no-untyped-call]


@lru_cache(64)
def widened(dtype: str) -> Type:
    """Return the type that elements of `dtype` alone are computed in. Raises UnsupportedError as `stored` does."""
    if dtype in _NARROW or dtype == "float16":
        return _FLOAT32
    kind: Type = stored(dtype).newbyteorder("=")
    return kind


@lru_cache(256)
def computed_in(update: str, value: str) -> Type:
    """Return the type that a value of dtype `value` and an update of dtype `update` are computed in.

    It is numpy's promoted type, but integers wrap around in their own. Raises UnsupportedError where the result would
    be of another kind than the value: a float update of integers, any update of bools.
    """
    left, right = widened(update), widened(value)
    if right.kind in "iu" and left.kind in "biu":
        return right
    promoted = np.promote_types(left, right)
    if right.kind not in "fc" or promoted.kind != right.kind:
        raise UnsupportedError(f"values of dtype {value} cannot be updated by values of dtype {update}")
    return promoted


@lru_cache(64)
def has_negative_zero(dtype: str) -> bool:
    """Return whether `dtype` has a zero with a sign."""
    return widened(dtype).kind in "fc" and dtype not in _ONE_ZERO


def elements(array: Array) -> Values:
    """Return `array`, not copied, as numpy sees it; it may be read only, and lie anywhere in memory.

    Raises CorruptObject where it is not as long as it says, and UnsupportedError as `stored` does.
    """
    kind = stored(array.dtype)
    try:
        size = nbytes(array.dtype, array.shape)
        if array.raw.nbytes != size:
            raise CorruptObject(f"the update holds an array of {array.raw.nbytes} bytes that says it has {size}")
        values: Values = np.frombuffer(array.raw, kind)
        return values if len(array.shape) == 1 else values.reshape(array.shape)
    except (CheckpointError, ValueError) as error:  # numpy has no array without elements that is 2 ** 61 long
        raise CorruptObject(f"the update holds an array that cannot be: {error}") from error


def parts(values: Values) -> Values:
    """Return complex numbers as the real ones that they are made of, along the last axis, and others as they are."""
    return values.view(values.real.dtype) if values.dtype.kind == "c" else values


def holds_negative_zero(values: Values) -> bool:
    """Return whether there is a -0.0 among (n,) `values`, n > 0, of a dtype that `has_negative_zero`."""
    signed = _signed(values)
    return bool(np.minimum.reduce(signed) == _least(signed))


def drop_negative_zeros(values: Values) -> None:
    """Make 0.0 of each -0.0 in (n,) `values`, of a dtype that `has_negative_zero`.

    Takes less time than to add 0.0, touches no NaN, and writes nothing where there is nothing to change.
    """
    signed = _signed(values)
    for start in range(0, len(signed), BLOCK):
        block = signed[start : start + BLOCK]
        if np.minimum.reduce(block) == _least(block):
            block[block == _least(block)] = 0


def _signed(values: Values) -> Values:
    """Return the bits as signed integers, of which -0.0 is the least."""
    real = parts(values)
    return real.view(f"i{real.itemsize}")


def _least(signed: Values) -> int:
    return -1 << (8 * signed.itemsize - 1)


def holds_nan(values: Values) -> bool:
    """Return whether there is a NaN among `values`, or in a part of one."""
    if not values.size or values.dtype.kind not in "fc":
        return False
    greatest = np.maximum.reduce(values, axis=None)
    return bool(greatest != greatest)


def store(result: Values, into: Values) -> None:
    """Round `result`, what was computed of the values `into`, once to their dtype, and put it in their place.

    Both have the same shape; `result`, which is contiguous, is used up. numpy may warn.
    """
    result, into = parts(result), parts(into)
    if not holds_nan(result):
        _round(result, into)
        return
    kept = np.isnan(into)
    bits = into[kept]
    np.copyto(result, np.nan, where=np.isnan(result))
    _round(result, into)
    into[kept] = bits


def _round(result: Values, into: Values) -> None:
    if result.dtype == np.float64 and into.dtype.name in _NARROW:
        result = _to_odd(result)
    np.copyto(into, result, casting="unsafe")


def _to_odd(values: Values) -> Values:
    """Return float64 `values` as float32, those between two of them as the one whose last bit is 1.

    So the next rounding, to a type with two bits less at least, still sees what lies beside the middle of two values:
    it is as if there were no float32 between (ml_dtypes takes that way, and torch does).
    """
    near = values.astype(np.float32)
    bits = near.view(np.uint32)
    bits -= np.abs(near) > np.abs(values)  # towards zero; infinity becomes the greatest number
    bits |= near != values
    return near
