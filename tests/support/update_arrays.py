"""What updates are made of, from numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from theta_daemon.dtypes import DTYPES
from theta_daemon.updates.array import Array
from theta_daemon.updates.exact_sparse import Changes
from theta_daemon.updates.steps import Step

NARROW = ("float16", "bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu")
FLOATS = (*NARROW, "float32", "float64")
COMPLEX = ("complex64", "complex128")
INTEGERS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")


def numpy_type(dtype: str) -> np.dtype[Any]:
    """Return numpy's or ml_dtypes' type of that name."""
    return np.dtype(DTYPES[dtype].numpy or getattr(ml_dtypes, dtype))


def raw(values: NDArray[Any]) -> memoryview:
    """Return the bytes of `values` in C order."""
    return memoryview(values.tobytes())


def update_array(values: NDArray[Any]) -> Array:
    """Return `values` as a payload has them."""
    return Array(values.dtype.name, values.shape, raw(values))


def sparse_arrays(
    positions: Sequence[int], data: NDArray[Any], shape: tuple[int, ...], index: type[np.integer[Any]] = np.int32
) -> dict[str, Array]:
    """Return a sparse update with git-theta's names."""
    return {
        "data": update_array(data),
        "indices": update_array(np.array(positions, index)),
        "indptr": update_array(np.array([0, len(positions)], index)),
        "shape": update_array(np.array(shape, np.int64)),
    }


def applied(step: Step, previous: NDArray[Any], windows: Sequence[range] | None = None) -> NDArray[Any]:
    """Return what `step` makes of `previous`, all rows at once unless cut into `windows`."""
    rows = previous.shape[0] if previous.shape else 1
    value = bytearray(previous.tobytes())
    row = len(value) // rows if rows else 0
    for window in [range(rows)] if windows is None else windows:
        step.apply(memoryview(value)[window.start * row : window.stop * row], window)
    return np.frombuffer(value, previous.dtype).reshape(previous.shape)


def cuts(rows: int) -> list[list[range]]:
    """Return some ways to cut `rows` rows: one by one, in the middle, unevenly, from the end."""
    ends = [list(range(rows + 1)), [0, rows // 2, rows], [0, 1, rows // 3 + 1, rows - 1, rows]]
    windows = [[range(*pair) for pair in pairwise(each)] for each in ends]
    return [*windows, windows[0][::-1]]


def bits(values: NDArray[Any]) -> list[int]:
    """Return the elements as unsigned integers, so that -0.0 and NaN are compared too."""
    found: list[int] = np.frombuffer(values.tobytes(), f"u{min(values.itemsize, 8)}").tolist()
    return found


def narrowed(values: NDArray[Any], dtype: str) -> NDArray[Any]:
    """Return float32 or float64 `values` rounded once to `dtype`: to the nearest of all its values, if it has few.

    Meant for numbers that are no tie and not too large.
    """
    kind = numpy_type(dtype)
    if values.dtype != np.float64 or dtype not in NARROW:
        return values.astype(kind)
    every = np.arange(1 << (8 * kind.itemsize), dtype=f"u{kind.itemsize}").view(kind)
    with np.errstate(invalid="ignore"):  # one of the NaN is signaling
        wide = every.astype(np.float64)
    every = np.unique(wide[np.isfinite(wide)])
    at = np.clip(np.searchsorted(every, values), 1, len(every) - 1)
    low, high = every[at - 1], every[at]
    nearest: NDArray[Any] = np.copysign(np.where(values - low < high - values, low, high), values).astype(kind)
    return nearest


def some(count: int, seed: int, unit: int = 4, size: int = 1000) -> Changes:
    """Return random changes of a group of `size` elements."""
    generator = np.random.default_rng(seed)
    indices = np.sort(generator.choice(size, count, replace=False)).astype("u4")
    shape = (count, 2) if unit == 16 else (count,)
    bits = np.dtype(f"u{min(unit, 8)}")
    return Changes(unit, indices, generator.integers(0, np.iinfo(bits).max, shape, bits))
