"""git-theta's locality-sensitive hash (its `hash` of a tensor), to the last bit, in plain numpy.

A signature is 16 dot products of the flattened tensor with pseudo-random hyperplanes, cut into buckets of 1e-8:

    signature[s] = floor(sum over i of x[i] * pool[(i ^ offset[s]) mod 10000] / 1e-8)

Only compatible mode needs it, so that git-theta sees our parameters as unchanged. For large values the buckets show
in which order the products were added, so the sum must be git-theta's: doubles, i = 0, 1, 2, ..., each product
rounded before it is added. What makes that fast here (protocol/metadata.md defines the numbers):

* 10000 = 16 * 625: with the low four bits of the offset applied to the pool beforehand, each 16 consecutive
  features meet one contiguous row of it, so hyperplanes are gathered 128 bytes at a time.
* numpy adds in pairs and BLAS as it likes, but BLAS takes no vector that lies backwards in memory: with more than two
  dimensions `np.dot` then runs a plain loop, without Python's lock, and no product is ever stored. Nobody promises
  that loop, and for some processors compilers fuse its multiplication and addition. So each process tries it once;
  where a bit differs, products are stored, and `np.subtract.reduce` sums them: it cannot be reordered.
* The sum so far is the first product: it times 1.
* Hyperplanes depend on the position only: those of the first block are kept, so small tensors gather nothing.

The tables take 1.7 MB a process and the scratch 0.6 MB a thread, whatever the tensor's size. Any thread may call in.
"""

from __future__ import annotations

import functools
import math
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from theta_daemon.metadata import compiled

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from theta_daemon.metadata.compiled import Add

SIZE = 16
"""Integers in a signature."""

TOGETHER = compiled.TOGETHER
"""Hyperplanes that belong together: slices of other sizes are summed more slowly."""

ALL = slice(0, SIZE)
"""The hyperplanes of a whole signature."""

_WIDTH = 1e-8  # of a bucket: git-theta's PARAMETER_ATOL
_POOL = 10_000
_SEED = 42
_ROW = 16
_ROWS = _POOL // _ROW
_BLOCK_ROWS = 256
_BLOCK = _ROW * _BLOCK_ROWS  # features at once: their hyperplanes (0.5 MiB) and the tables fit the processor's cache
_LINE = 64  # bytes of a cache line: rows that straddle lines cost half as much again
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


def can_hash(dtype: str) -> bool:
    """Whether git-theta has a hash of tensors of this dtype."""
    return dtype in _NUMPY


class Stream:
    """The signature of one tensor whose raw little-endian bytes come in pieces, cut anywhere.

    One thread at a time. Tensors of a dtype that git-theta cannot hash have zeros and cost nothing. With `planes`, only
    these integers are computed: several threads can share a large tensor. Unless it `may_compile`, numpy alone is used.
    """

    __slots__ = ("_dtype", "_features", "_may_compile", "_partial", "_planes", "_sums")

    def __init__(self, dtype: str, planes: slice = ALL, *, may_compile: bool = True) -> None:
        name = _NUMPY.get(dtype)
        self._dtype = None if name is None else np.dtype(name)
        self._planes = planes
        self._may_compile = may_compile
        self._features = 0
        self._partial = b""
        self._sums: NDArray[np.float64] = np.zeros(SIZE)[planes]

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
        """Return the integers for all values so far; more may follow.

        Raises ValueError inside a value.
        """
        if self._partial:
            raise ValueError(f"{len(self._partial)} bytes are left of a value of {self._dtype}")
        return tuple(_bucket(total) for total in self._sums.tolist())

    def _add(self, values: NDArray[np.generic]) -> None:
        at = self._add_compiled(values)
        window = None
        with np.errstate(all="ignore"):  # infinities and NaN are values like others here
            # Until the end of the `with`. Where two rows fit into its buffer, numpy copies what all rows share.
            np.setbufsize(_BLOCK_ROWS)
            while at < len(values):
                block, start = divmod(self._features, _BLOCK)
                n = min(_BLOCK - start, len(values) - at)
                features = _scratch.features[: 1 + n][:: _direction()]
                features[0] = 1.0
                features[1:] = values[at : at + n]
                if self._features == 0:
                    hyperplanes = _first_block()[self._planes, : 1 + n]
                else:
                    if window is None or window.extent != (start, n):
                        window = _Window(self._planes, start, n)
                    hyperplanes = window.gather(block)
                    hyperplanes[:, 0] = self._sums
                self._sums = _dot(hyperplanes, features)
                self._features += n
                at += n

    def _add_compiled(self, values: NDArray[np.generic]) -> int:
        """Take whole rows from the beginning of `values` where that is faster than numpy; tell how many values."""
        if not self._may_compile or self._dtype != np.float32 or not values.flags.aligned:
            return 0
        if self._features % _ROW or len(self._sums) % TOGETHER:
            return 0
        add = _compiled.get(len(values))
        if add is None:
            return 0
        whole = len(values) - len(values) % _ROW
        tables = _tables()
        within, high = tables.within[self._planes], tables.high[self._planes]
        add(values[:whole], self._features // _ROW, tables.rows, within, high, self._sums)
        self._features += whole
        return whole


def signature(raw: bytes | memoryview, dtype: str, planes: slice = ALL) -> tuple[int, ...]:
    """Return git-theta's 16 integers for a tensor of `dtype` with the raw little-endian bytes `raw` in C order.

    Zeros where git-theta cannot hash the dtype; only some of the integers where `planes` says so. Raises ValueError
    where `raw` ends inside a value.
    """
    stream = Stream(dtype, planes)
    stream.update(raw)
    return stream.signature()


def _bucket(total: float) -> int:
    bucket = total / _WIDTH
    return math.floor(bucket) if -(2.0**63) <= bucket < 2.0**63 else _INDEFINITE


def _dot(hyperplanes: NDArray[np.float64], features: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return (p,) dot products of (p, 1 + n) `hyperplanes`, which may be overwritten, and (1 + n,) `features`.

    Each product is rounded before it is added, in order, if the features lie in memory as `_direction` says. The
    first feature is 1 and its column the sums so far.
    """
    dots: NDArray[np.float64]
    if features.strides[0] < 0:
        dots = np.dot(hyperplanes[np.newaxis], features)[0]
        return dots
    products = hyperplanes if hyperplanes.flags.writeable else hyperplanes.copy()
    np.multiply(products[:, 1:], features[1:], out=products[:, 1:])
    products[:, 0] *= -1  # -(a + b) is -a - b exactly
    dots = -np.subtract.reduce(products, axis=1)
    return dots


@functools.cache
def _direction() -> int:
    """Return -1, for backwards, where `np.dot` then adds in order and rounds each product, and 1 elsewhere."""
    hyperplanes = _first_block()
    features = hyperplanes[0].copy()
    backwards = features[::-1].copy()[::-1]
    return -1 if np.array_equal(_dot(hyperplanes, backwards), _dot(hyperplanes, features)) else 1


@dataclass(frozen=True, slots=True)
class _Tables:
    """What the hyperplanes are made of.

    `rows`: (t, 16) float64, for each value of an offset's low four bits the 625 rows of the pool so permuted, then
    again the first 256, so that a block's rows never wrap. `within`: (16, 1 + 256) what to add to a block's first
    row to find a signature's rows; the first one only makes room. `high`: (16,) the offset in rows, less what is
    within a block.
    """

    rows: NDArray[np.float64]
    within: NDArray[np.intp]
    high: NDArray[np.int64]


class _Window:
    """Room in the thread's scratch for the hyperplanes of `n` features from `start` of any block."""

    __slots__ = ("_high", "_hyperplanes", "_indices", "_rows", "_tables", "_within", "extent")

    def __init__(self, planes: slice, start: int, n: int) -> None:
        self.extent = (start, n)
        self._tables = _tables()
        first, last = start // _ROW, -(-(start + n) // _ROW)
        self._within = self._tables.within[planes, first : last + 1]
        self._high = self._tables.high[planes, np.newaxis]
        size, (p, rows) = self._within.size, self._within.shape
        self._indices = _scratch.indices[:size].reshape(p, rows)
        self._rows = _scratch.rows[:size].reshape(p, rows, _ROW)
        before = _ROW - 1 + start % _ROW
        self._hyperplanes = self._rows.reshape(p, rows * _ROW)[:, before : before + 1 + n]

    def gather(self, block: int) -> NDArray[np.float64]:
        """Return (p, 1 + n) hyperplanes of this part of `block`, after a column for the sums so far."""
        np.add(self._within, (block * _BLOCK_ROWS ^ self._high) % _ROWS, out=self._indices)
        # Any other mode makes numpy gather into a copy of `out`, to leave it alone should an index be wrong.
        self._tables.rows.take(self._indices, axis=0, out=self._rows, mode="clip")
        return self._hyperplanes


@functools.cache
def _tables() -> _Tables:
    from numpy.random import MT19937, Generator  # here, because only compatible mode needs it

    generator = Generator(MT19937(seed=_SEED))
    pool = generator.normal(size=_POOL)
    limits = np.iinfo(np.int64)
    offsets = generator.integers(limits.min, limits.max, size=SIZE, dtype=np.int64)
    low, which = np.unique(offsets % _ROW, return_inverse=True)
    rows = pool[np.arange(_POOL).reshape(1, _ROWS, _ROW) ^ low[:, np.newaxis, np.newaxis]]
    rows = np.concatenate([rows, rows[:, :_BLOCK_ROWS]], axis=1)
    aligned = _aligned(rows.size // _ROW)
    aligned[...] = rows.reshape(-1, _ROW)
    middle = offsets // _ROW % _BLOCK_ROWS
    within = (which * (_ROWS + _BLOCK_ROWS))[:, np.newaxis] + (np.arange(_BLOCK_ROWS) ^ middle[:, np.newaxis])
    return _Tables(
        rows=aligned,
        within=np.concatenate([within[:, :1], within], axis=1).astype(np.intp),
        high=offsets // _BLOCK * _BLOCK_ROWS,
    )


@functools.cache
def _first_block() -> NDArray[np.float64]:
    """Return (16, 1 + 4096) hyperplanes of the first block, after a column of zeros: nothing has been added yet."""
    hyperplanes = _Window(ALL, 0, _BLOCK).gather(0).copy()
    hyperplanes[:, 0] = 0.0
    hyperplanes.flags.writeable = False
    return hyperplanes


def _aligned(rows: int) -> NDArray[np.float64]:
    """Return room for (rows, 16) doubles that starts a cache line."""
    room = np.empty((rows + 1) * _ROW)
    skip = -room.__array_interface__["data"][0] % _LINE // room.itemsize
    return room[skip : skip + rows * _ROW].reshape(rows, _ROW)


class _Scratch(threading.local):
    """Buffers of one thread, reused: fresh memory costs more than the sums in it."""

    def __init__(self) -> None:
        self.features = _aligned(1 + _BLOCK_ROWS).reshape(-1)[_ROW - 1 :]  # those after the first start a line
        self.indices = np.empty(SIZE * (1 + _BLOCK_ROWS), np.intp)
        self.rows = _aligned(SIZE * (1 + _BLOCK_ROWS))


_scratch = _Scratch()


def _is_right(add: Add) -> bool:
    """Whether `add` computes what numpy does, to the last bit."""
    hyperplanes, tables = _first_block(), _tables()
    values = hyperplanes[0, 1:].astype(np.float32)
    sums, features = np.zeros(SIZE), np.concatenate([[1.0], values])
    add(values, 0, tables.rows, tables.within, tables.high, sums)
    return np.array_equal(sums, _dot(hyperplanes, features))


_compiled = compiled.Compiled(_is_right)
