"""Which update of git-theta's types makes one value of another, to the bit, if any does.

Each type has its own search, which need not find an update even where there is one, and need not be right: what it
proposes is applied to the previous value as it will be applied whenever the value is read, and taken only where that
gives the new one. exact-sparse needs neither a search nor a proof: `exact_sparse.changes` always finds it.

The searches are made of single operations in a fixed order, as the updates themselves are. So what is stored depends
on the two values alone, not on the machine that added them: there is no singular value decomposition here, whose bits
depend on the kind of processor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from theta_daemon.errors import UnsupportedError
from theta_daemon.updates import infer_added, infer_ia3, infer_low_rank
from theta_daemon.updates.kinds import IA3, LOW_RANK, SPARSE
from theta_daemon.updates.pair import array, bits, pair
from theta_daemon.updates.steps import prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from theta_daemon.updates.array import Array
    from theta_daemon.updates.pair import Pair
    from theta_daemon.updates.steps import Step

_WINDOW: Final = 1 << 20  # bytes that an update is tried on at a time; at least a row

_SEARCHES: Final = {SPARSE: infer_added.sparse, LOW_RANK: infer_low_rank.low_rank, IA3: infer_ia3.ia3}


def infer(
    update_type: str,
    previous: memoryview,
    new: memoryview,
    dtype: str,
    shape: tuple[int, ...],
    most: int,
    forget: Callable[[int, int], None] | None = None,
) -> Mapping[str, Array] | None:
    """Return the arrays of an update that makes exactly the bytes `new` of `previous`, values of `dtype` and `shape`.

    None where none was found whose arrays have at most `most` bytes. Allocates some times the memory of the update,
    two rows, and some MiB; so both values may be mapped files of any size, of which `forget` gives back the memory
    from one byte to another when they were looked at. Raises UnsupportedError for other types than sparse, low-rank
    and ia3.
    """
    search = _SEARCHES.get(update_type)
    if search is None:
        raise UnsupportedError(f"updates of type {update_type!r:.80} are not worked out")
    try:
        both = pair(previous, new, dtype, shape, most, forget or _keep)
        with np.errstate(all="ignore"):  # infinities and NaN are values like others
            return _first_proved(update_type, search(both), both)
    except UnsupportedError:
        return None  # elements that the type has no meaning for


def _first_proved(update_type: str, proposals: Iterator[Mapping[str, Array]], both: Pair) -> Mapping[str, Array] | None:
    for arrays in proposals:
        if sum(len(each.raw) for each in arrays.values()) > both.most:
            continue
        if update_type == SPARSE:  # its rows are of no account, and may be large
            size = len(both.new)
            flat = {**arrays, "shape": array("int64", np.array([size], "<i8"))}
            step, rows = prepare(update_type, flat, both.dtype, (size,)), size
        else:
            step, rows = prepare(update_type, arrays, both.dtype, both.shape), both.shape[0] if both.shape else 1
        if _makes(step, both, rows):
            return arrays
    return None


def _makes(step: Step, both: Pair, rows: int) -> bool:
    """Return whether `step` makes the new value of the previous one, whose rows are `rows`."""
    if not len(both.new):
        return True
    row = len(both.new) // rows
    at_once = min(max(_WINDOW // (row * both.own.itemsize), 1), rows)
    room = np.empty(at_once * row, both.own)
    for start in range(0, rows, at_once):
        stop = min(start + at_once, rows)
        window = room[: (stop - start) * row]
        window[:] = both.previous[start * row : stop * row]
        step.apply(window.view(np.uint8).data, range(start, stop))
        if (bits(window) != bits(both.new[start * row : stop * row])).any():
            return False
        both.through(start * row, stop * row)
    return True


def _keep(_start: int, _stop: int) -> None:
    """Memory that is no file's stays."""
