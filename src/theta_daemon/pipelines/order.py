"""The two orders of a parameter group's bytes: logical (C order of its shape) and as the file stores it.

Only permuted tensors (`.t()`, channels last) differ; everything else passes through without a copy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from theta_daemon.dtypes import DTYPES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from theta_daemon.formats.parts import Window

_CARRIERS = {8: "u1", 16: "u2", 32: "u4", 64: "u8", 128: "c16"}  # copied as they are, never computed with


def to_logical(stored: memoryview, dtype: str, shape: Sequence[int], axes: Sequence[int] | None) -> memoryview:
    """Return the logical bytes of a group stored as `value.transpose(axes)` in C order."""
    if axes is None:
        return stored
    array = np.frombuffer(stored, _CARRIERS[DTYPES[dtype].bits]).reshape([shape[axis] for axis in axes])
    return np.ascontiguousarray(array.transpose(np.argsort(axes))).data.cast("B")


def gathered(stored: memoryview, dtype: str, shape: Sequence[int], window: Window) -> memoryview:
    """Return the logical bytes of a view of the group whose bytes, as the file has them, are `stored`."""
    carrier = np.dtype(_CARRIERS[DTYPES[dtype].bits])
    view = np.ndarray(tuple(shape), carrier, stored, window.offset, window.strides)
    return memoryview(view.tobytes())


def to_stored(logical: memoryview, dtype: str, shape: Sequence[int], axes: Sequence[int] | None) -> memoryview:
    """Return the bytes of `value.transpose(axes)` in C order: the inverse of `to_logical`."""
    if axes is None:
        return logical
    array = np.frombuffer(logical, _CARRIERS[DTYPES[dtype].bits]).reshape(shape)
    return np.ascontiguousarray(array.transpose(axes)).data.cast("B")
