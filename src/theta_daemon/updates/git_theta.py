"""Updates as git-theta 0.2.0 applies them: its numpy expressions on whole arrays, BLAS and all.

For entries without a digest. Which bits come out is up to the machine for low-rank, as it is for git-theta; on one
machine they are git-theta's own. It computes in whatever type numpy promotes to and leaves it at that; here the result
becomes the dtype that the metadata names, in one conversion.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from theta_daemon.errors import CorruptObject, UnsupportedError
from theta_daemon.updates.elementwise import IA3 as FACTORS
from theta_daemon.updates.elementwise import broadcast
from theta_daemon.updates.kinds import IA3, LOW_RANK, SPARSE
from theta_daemon.updates.low_rank import NAMES, WHOLE
from theta_daemon.updates.numbers import distance, elements
from theta_daemon.updates.sparse import additions

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from theta_daemon.updates.array import Array
    from theta_daemon.updates.numbers import Values

Shape = tuple[int, ...]

# Times the expected error of a sum. Measured: at most 1.7, for the kernels that OpenBLAS has for 7 kinds of processors,
# with one and with two threads, for sums of 2 to 1200 products.
_MARGIN = 3.0


def apply(update_type: str, arrays: Mapping[str, Array], previous: Array) -> memoryview:
    """Return the raw bytes of the value that git-theta makes of `previous`, in its dtype and shape.

    Raises CorruptObject, and UnsupportedError for an unknown type and for dtypes that numpy does not compute with.
    Allocates some values of the group's size, and nothing before it is known that the update fits.
    """
    value = elements(previous)
    with np.errstate(all="ignore"):  # infinities and NaN are values like others
        try:
            new = _applied(update_type, arrays, value)
        except TypeError as error:  # numpy's, for types without a common one
            dtypes = sorted({previous.dtype, *(array.dtype for array in arrays.values())})
            raise UnsupportedError(f"values of dtypes {', '.join(dtypes)} are not computed with together") from error
        if new.dtype.kind == "c" and value.dtype.kind != "c":
            raise UnsupportedError(f"values of dtype {previous.dtype} do not become complex by an update")
        new = np.ascontiguousarray(new.astype(value.dtype, copy=False))
    return new.reshape(-1).view(np.uint8).data


def slack(
    update_type: str, arrays: Mapping[str, Array], new: Array, before: NDArray[np.float32] | None
) -> NDArray[np.float32] | None:
    """Return by how much each element of `new` may be off where another machine applies the update; None for nothing.

    `new` is what `apply` made of the same arrays, of float32 or float64, and `before` what this returned for the
    previous value. Every bound is a finite number: where there is none, nothing but the same bits is as good.
    """
    value = elements(new)
    with np.errstate(all="ignore"):
        off = before
        if update_type == LOW_RANK and arrays.keys() == NAMES:
            products = _order(elements(arrays["R"]), elements(arrays["C"]))
            if products is not None:
                products = np.broadcast_to(products, value.shape)  # numpy repeats one that is smaller than the value
                off = products if off is None else off + products
        elif update_type == IA3 and off is not None:
            off = off * np.abs(elements(arrays[FACTORS]).astype(np.float32))
        if off is None:
            return None
        rounding = np.finfo(value.dtype)
        off = off + np.abs(value).astype(np.float32) * np.float32(rounding.eps) + np.float32(rounding.tiny)
        return np.where(np.isfinite(off), off, np.float32(0))


def _order(left: Values, right: Values) -> NDArray[np.float32] | None:
    """Return by how much each element of left @ right may be off; None for integers, whose sums are exact in any order.

    Machines differ in the order in which a product of matrices is summed, and so do numbers of threads. The error of a
    sum of k products grows like a random walk, with the square root of k and of the sum of their squares.

    numpy takes the types that it lacks, bfloat16 and those of 8 bits, as float32, or float64 beside integers of 32 bits
    and more. So the bound holds for them as it is; and single products of such floats are exact there, only sums err.

    A float16 sum is made in float32 and rounded once. Sums that hardly differ can so become neighbours, and those are
    apart by what float16 rounds by at the sum itself, or, of tiny ones, by its least number. The same bound holds for
    one that is not rounded at all: that is what we add to a value, until git-theta drops the digest.
    """
    one = (1, 1)  # of some pairs numpy.result_type knows no common type, though they can be multiplied
    kind = (np.zeros(one, left.dtype) @ np.zeros(one, right.dtype)).dtype
    is_half = kind == np.float16
    eps = distance(np.dtype(np.float32) if is_half else kind)
    if not eps:
        return None
    left, right = left.astype(np.float32), right.astype(np.float32)
    unit = np.float32(_MARGIN * eps * np.sqrt(left.shape[-1]))
    off: NDArray[np.float32] = unit * np.sqrt(np.square(left) @ np.square(right))
    if is_half:
        half = np.finfo(np.float16)
        off = off + np.abs(left @ right) * np.float32(half.eps) + np.float32(half.smallest_subnormal)
    return off


def _applied(update_type: str, arrays: Mapping[str, Array], previous: Values) -> Values:
    if update_type == SPARSE:
        found = additions(arrays, previous.shape)
        whole = np.zeros(previous.size, found.numbers.dtype)
        np.add.at(whole, found.positions, found.numbers)
        return np.asarray(whole.reshape(previous.shape) + previous)
    if update_type == LOW_RANK and arrays.keys() == {WHOLE}:
        whole = elements(arrays[WHOLE])
        _check(whole.shape, previous.shape)
        return np.asarray(whole + previous)
    if update_type == LOW_RANK and arrays.keys() == NAMES:
        left, right = elements(arrays["R"]), elements(arrays["C"])
        _check(_multiplied(left.shape, right.shape), previous.shape)
        return np.asarray(left @ right + previous)
    if update_type == IA3 and arrays.keys() == {FACTORS}:
        factors = elements(arrays[FACTORS])
        _check(factors.shape, previous.shape)
        return np.asarray(previous * factors)
    if update_type in {LOW_RANK, IA3}:
        raise CorruptObject(f"the object of a {update_type} update holds {sorted(arrays)!s:.80}")
    raise UnsupportedError(f"the update type {update_type!r:.80} is not known")


def _multiplied(left: Shape, right: Shape) -> Shape:
    """Return the shape of left @ right. Raises CorruptObject where there is none."""
    if left and right and left[-1] == right[max(len(right) - 2, 0)]:
        outer = broadcast(left[:-2], right[:-2])
        if outer is not None:
            return (*outer, *left[-2:-1], *right[1:][-1:])
    raise CorruptObject(f"R of shape {left} and C of shape {right} cannot be multiplied")


def _check(update: Shape, shape: Shape) -> None:
    """Raise CorruptObject unless an update of shape `update` and a value of `shape` make one of `shape`."""
    if broadcast(update, shape) != shape:
        raise CorruptObject(f"an update of shape {update} does not fit the shape {shape}")
