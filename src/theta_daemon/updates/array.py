"""An array as updates are made of: what a payload holds under one name."""

from __future__ import annotations

from theta_daemon.frozen import Frozen


class Array(Frozen):
    """`raw` holds the elements of `dtype` (a name of `dtypes.DTYPES`), little-endian, in C order of `shape`."""

    dtype: str
    shape: tuple[int, ...]
    raw: memoryview
