"""git-theta's locality-sensitive hash (its `hash` of a tensor), to the last bit, in plain numpy.

A signature is 16 dot products of the flattened tensor with pseudo-random hyperplanes, cut into buckets of 1e-8:

    signature[s] = floor(sum over i of x[i] * pool[(i ^ offset[s]) mod 10000] / 1e-8)

Only compatible mode needs it, so that git-theta sees our parameters as unchanged. For large values the buckets show
in which order the products were added, so the sum must be git-theta's: doubles, i = 0, 1, 2, ..., each product
rounded before it is added. What makes that fast here (protocol/metadata.md defines the numbers):

* 10000 = 16 * 625: with the low four bits of the offset applied to the pool beforehand, each 16 consecutive
  features meet one contiguous row of it, so hyperplanes are gathered 128 bytes at a time.
* numpy's `add.reduce` sums in pairs; `subtract.reduce` cannot be reordered and is a plain loop. The table holds the
  negated pool: acc - x * -h is acc + x * h exactly.
* Hyperplanes depend on the position only: those of the first block are kept, so small tensors gather nothing.

The tables take 3.4 MB a process and the scratch 1.1 MB a thread, whatever the tensor's size. Any thread may call in.
"""

from __future__ import annotations

import functools
import math
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

SIZE = 16
"""Integers in a signature."""

_WIDTH = 1e-8  # of a bucket: git-theta's PARAMETER_ATOL
_POOL = 10_000
_SEED = 42
_ROW = 16
_ROWS = _POOL // _ROW
_BLOCK_ROWS = 512
_BLOCK = _ROW * _BLOCK_ROWS  # features at once: their products (1 MiB) stay in the cache, and threads seldom meet
_INDEFINITE = -(1 << 63)  # what x86 makes of a double that no int64 can hold: NaN, infinities, too large

# What git-theta can hash: its compiled loop takes neither halves nor complex numbers, and numpy has no smaller floats.
_NUMPY = {
    "bool": "?",
    "int8": "<i1",
    "uint8": "<u1",
    "int16": "<i2",
    "uint16": "<u2",
    "int32": "<i4",
    "uint32": "<u4",
    "int64": "<i8",
    "uint64": "<u8",
    "float32": "<f4",
    "float64": "<f8",
}


class Stream:
    """The signature of one tensor whose raw little-endian bytes come in pieces, cut anywhere.

    One thread at a time. Tensors of a dtype that git-theta cannot hash have 16 zeros and cost nothing.
    """

    __slots__ = ("_dtype", "_features", "_partial", "_sums")

    def __init__(self, dtype: str) -> None:
        name = _NUMPY.get(dtype)
        self._dtype = None if name is None else np.dtype(name)
        self._features = 0
        self._partial = b""
        self._sums: NDArray[np.float64] = np.zeros(SIZE)

    def update(self, piece: bytes | memoryview) -> None:
        """Take the next bytes, from a contiguous buffer."""
        if self._dtype is None:
            return
        view = memoryview(piece).cast("B")
        size = self._dtype.itemsize
        if self._partial:
            missing = size - len(self._partial)
            self._partial += view[:missing]
            view = view[missing:]
            if len(self._partial) < size:
                return
            self._add(np.frombuffer(self._partial, self._dtype))
            self._partial = b""
        whole = len(view) - len(view) % size
        self._partial = bytes(view[whole:])
        self._add(np.frombuffer(view[:whole], self._dtype))

    def signature(self) -> tuple[int, ...]:
        """Return the 16 integers for all values so far; more may follow.

        Raises ValueError inside a value.
        """
        if self._partial:
            raise ValueError(f"{len(self._partial)} bytes are left of a value of {self._dtype}")
        return tuple(_bucket(total) for total in self._sums.tolist())

    def _add(self, values: NDArray[np.generic]) -> None:
        at = 0
        with np.errstate(all="ignore"):  # infinities and NaN are values like others here
            while at < len(values):
                block, start = divmod(self._features, _BLOCK)
                n = min(_BLOCK - start, len(values) - at)
                features = _scratch.features[:n]
                features[...] = values[at : at + n]
                products = _products(block, start, features)
                products[:, 0] = self._sums - products[:, 0]
                self._sums = np.subtract.reduce(products, axis=1)
                self._features += n
                at += n


def signature(raw: bytes | memoryview, dtype: str) -> tuple[int, ...]:
    """Return git-theta's 16 integers for a tensor of `dtype` with the raw little-endian bytes `raw` in C order.

    16 zeros where git-theta cannot hash the dtype. Raises ValueError where `raw` ends inside a value.
    """
    stream = Stream(dtype)
    stream.update(raw)
    return stream.signature()


def _products(block: int, start: int, features: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (16, n) negated products of `n` features from `start` of `block`, in the thread's scratch."""
    n = len(features)
    if block == 0:
        out = _scratch.products[: SIZE * n].reshape(SIZE, n)
        return np.multiply(_first_block()[:, start : start + n], features, out=out)
    hyperplanes = _tables().hyperplanes(block, start, n, _scratch.products)
    return np.multiply(hyperplanes, features, out=hyperplanes)


def _bucket(total: float) -> int:
    bucket = total / _WIDTH
    return math.floor(bucket) if -(2.0**63) <= bucket < 2.0**63 else _INDEFINITE


@dataclass(frozen=True, slots=True)
class _Tables:
    """What the hyperplanes are made of.

    `rows`: (16 * (625 + 512), 16) float64, for each signature the rows of its negated pool, then again the first ones,
    so that a block's rows never wrap. `within`: (16, 512) rows relative to the block's first, plus the signature's
    place in `rows`. `high`: (16,) the bits of the offset above a block.
    """

    rows: NDArray[np.float64]
    within: NDArray[np.intp]
    high: NDArray[np.int64]

    def hyperplanes(self, block: int, start: int, n: int, out: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return (16, n) negated hyperplanes for `n` features from `start` of `block`, a view of `out`."""
        base = ((block ^ self.high) % _ROWS * _BLOCK_ROWS) % _ROWS
        first, last = start // _ROW, -(-(start + n) // _ROW)
        gathered = out[: SIZE * (last - first) * _ROW]
        # Any other mode makes numpy gather into a copy of `out`, to leave it alone should an index be wrong.
        indices = self.within[:, first:last] + base[:, None]
        np.take(self.rows, indices, axis=0, out=gathered.reshape(SIZE, last - first, _ROW), mode="clip")
        return gathered.reshape(SIZE, -1)[:, start - first * _ROW :][:, :n]


@functools.cache
def _tables() -> _Tables:
    from numpy.random import MT19937, Generator  # here, because only compatible mode needs it

    generator = Generator(MT19937(seed=_SEED))
    pool = generator.normal(size=_POOL)
    limits = np.iinfo(np.int64)
    offsets = generator.integers(limits.min, limits.max, size=SIZE, dtype=np.int64)
    low = (offsets % _ROW)[:, None, None]
    rows = -pool[np.arange(_POOL).reshape(1, _ROWS, _ROW) ^ low]
    middle = (offsets // _ROW % _BLOCK_ROWS)[:, None]
    starts = np.arange(SIZE)[:, None] * (_ROWS + _BLOCK_ROWS)
    return _Tables(
        rows=np.concatenate([rows, rows[:, :_BLOCK_ROWS]], axis=1).reshape(-1, _ROW),
        within=(starts + (np.arange(_BLOCK_ROWS) ^ middle)).astype(np.intp),
        high=offsets // _BLOCK,
    )


@functools.cache
def _first_block() -> NDArray[np.float64]:
    return _tables().hyperplanes(0, 0, _BLOCK, np.empty(SIZE * _BLOCK))


class _Scratch(threading.local):
    """Buffers of one thread, reused: fresh memory costs more than the sums in it."""

    def __init__(self) -> None:
        self.features = np.empty(_BLOCK)
        self.products = np.empty(SIZE * _BLOCK)


_scratch = _Scratch()
