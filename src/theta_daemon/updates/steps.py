"""Updates as steps: what an update's object holds, checked, becomes something that changes a parameter group in place.

    step = prepare(update_type, arrays, dtype, shape)
    for each window of rows:
        apply_all([step, ...], window, rows)

A step keeps views of its arrays, and may be applied by many threads at once to different rows. However the rows of a
group are cut into windows, the bits that come out are the same. What is allocated beyond the arrays is a few bytes for
each position that a sparse update has within a window, and 2 MiB for each thread.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Protocol

import numpy as np

from theta_daemon.errors import CorruptObject, UnsupportedError
from theta_daemon.updates import elementwise, low_rank, sparse
from theta_daemon.updates.kinds import EXACT_SPARSE, IA3, LOW_RANK, SPARSE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from theta_daemon.updates.array import Array

    Name = tuple[str, ...]


class Step(Protocol):
    """One update of one parameter group.

    `is_scattered` says that it touches few elements only, so that nothing is gained by applying it to windows that
    stay in the processor's cache.
    """

    is_scattered: ClassVar[bool]

    def apply(self, value: memoryview, rows: range) -> None:
        """Update in place the rows `rows` of the parameter group; `value` is exactly their bytes.

        Rows lie along the first axis; a scalar is one row.
        """


def prepare(
    update_type: str,
    arrays: Mapping[str, Array],
    dtype: str,
    shape: tuple[int, ...],
    name: Name = (),
    *,
    quick: bool = False,
) -> Step:
    """Return the step that applies the update `arrays` to the parameter group `name` of `dtype` and `shape`.

    `name` is needed for exact-sparse alone, whose objects hold many groups. `quick` is for who compares the result with
    a digest, and else does without: the bits are mostly those that are defined, and are made in less time. Nothing of
    `arrays` is believed. Raises CorruptObject, and UnsupportedError for an unknown type and for dtypes that the type
    has no meaning for.
    """
    if update_type == SPARSE:
        return sparse.prepare(arrays, dtype, shape)
    if update_type == LOW_RANK:
        return low_rank.prepare(arrays, dtype, shape, quick=quick)
    if update_type == IA3:
        return elementwise.prepare_ia3(arrays, dtype, shape)
    if update_type == EXACT_SPARSE:
        from theta_daemon.updates import bundle, exact_sparse

        changes = bundle.unpack(arrays).changes(name)
        if changes is None:
            raise CorruptObject("an exact-sparse update holds no changes of this parameter group")
        return exact_sparse.compose([changes], dtype, shape)
    raise UnsupportedError(f"the update type {update_type!r:.80} is not known")


def apply_all(steps: Iterable[Step], value: memoryview, rows: range) -> None:
    """Apply `steps` in order; `value` and `rows` as in `Step.apply`.

    The bits are those of one `apply` after the other. It is faster for sparse updates, which need a pass over the
    whole window only where -0.0 may have come up since the last one.
    """
    is_settled = False
    with np.errstate(all="ignore"):  # once for all: it takes longer than a small addition
        for step in steps:
            if isinstance(step, sparse.Sparse):
                if not is_settled:
                    step.settle(value)
                is_settled = step.add(value, rows)
            else:
                step.apply(value, rows)
                is_settled = False
