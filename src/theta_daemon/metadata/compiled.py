"""The sums of git-theta's hash (lsh.py) as machine code, where numba is installed: a third of numpy's time, same bits.

Four sums at a time keep the processor busy while each waits for its own last addition, and no hyperplane is stored:
numpy can do neither. numba compiles what it is told, so products are rounded before they are added; each process still
compares one block with numpy's sums before it believes that.

Importing and compiling take half a second and 100 MiB of memory, and nothing is kept on disk (numba's cache holds
pickles). That pays only for many values, so the first of a process are always summed by numpy.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    Add = Callable[
        [NDArray[np.generic], int, NDArray[np.float64], NDArray[np.intp], NDArray[np.int64], NDArray[np.float64]], None
    ]
    """`add(values, row, rows, within, high, sums)`: add the products of some values to `sums`, (p,) float64.

    values: (16 n,) float32, C-contiguous, aligned, whose first is feature `16 * row`. rows, within, high: lsh.py's
    tables, the last two for p hyperplanes, p a multiple of `TOGETHER`.
    """

TOGETHER: Final = 4
"""Hyperplanes whose sums are computed side by side."""

WORTHWHILE: Final = 8_000_000
"""Values that numpy sums before anything is compiled: about what compiling takes."""

_ROW: Final = 16
_ROWS: Final = 625
_BLOCK_ROWS: Final = 256


class Compiled:
    """The compiled loop of this process: `get` makes it once it is worthwhile.

    `is_right` is asked once whether its sums are numpy's. Any thread may call.
    """

    def __init__(self, is_right: Callable[[Add], bool], worthwhile: int = WORTHWHILE) -> None:
        self._is_right = is_right
        self._worthwhile = worthwhile
        self._values = 0
        self._making = threading.Lock()
        self._add: Add | None = None

    def get(self, values: int) -> Add | None:
        """Return it for a tensor of so many values, or None: not yet worthwhile, being made, wrong, or no numba."""
        if self._add is None:
            self._values += values  # threads may lose some of each other's: it is no exact number
            if self._values >= self._worthwhile and self._making.acquire(blocking=False):  # never released: one try
                self._add = self._made()
        return self._add

    def _made(self) -> Add | None:
        add = _compile()
        try:
            return add if add is not None and self._is_right(add) else None
        except Exception:  # noqa: BLE001 - a loop that cannot be called here fails no file: numpy goes on
            return None


def _compile() -> Add | None:
    try:
        import numba
    except Exception:  # noqa: BLE001 - optional, and a numba that does not fit numpy or the system raises anything
        return None
    try:
        types: Any = numba.types
        readonly = types.Array(types.float32, 1, "C", readonly=True)
        table = types.Array(types.float64, 2, "C")
        signature = types.void(
            readonly, types.int64, table, types.intp[:, :], types.int64[:], types.Array(types.float64, 1, "C")
        )
        add: Add = numba.njit(signature, nogil=True, error_model="numpy")(_add)
    except Exception:  # noqa: BLE001 - the same
        return None
    return add


def _add(
    values: NDArray[np.generic],
    row: int,
    rows: NDArray[np.float64],
    within: NDArray[np.intp],
    high: NDArray[np.int64],
    sums: NDArray[np.float64],
) -> None:
    last = row + len(values) // _ROW
    for block in range(row // _BLOCK_ROWS, -(-last // _BLOCK_ROWS)):
        start = block * _BLOCK_ROWS
        first, stop = max(row - start, 0), min(last - start, _BLOCK_ROWS)
        for p in range(0, len(sums), 4):
            base0 = (start ^ high[p]) % _ROWS
            base1 = (start ^ high[p + 1]) % _ROWS
            base2 = (start ^ high[p + 2]) % _ROWS
            base3 = (start ^ high[p + 3]) % _ROWS
            sum0, sum1, sum2, sum3 = sums[p], sums[p + 1], sums[p + 2], sums[p + 3]
            for r in range(first, stop):
                row0 = base0 + within[p, 1 + r]
                row1 = base1 + within[p + 1, 1 + r]
                row2 = base2 + within[p + 2, 1 + r]
                row3 = base3 + within[p + 3, 1 + r]
                at = (start + r - row) * _ROW
                for k in range(_ROW):
                    value = np.float64(values[at + k])
                    sum0 += value * rows[row0, k]
                    sum1 += value * rows[row1, k]
                    sum2 += value * rows[row2, k]
                    sum3 += value * rows[row3, k]
            sums[p], sums[p + 1], sums[p + 2], sums[p + 3] = sum0, sum1, sum2, sum3
