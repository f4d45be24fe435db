"""Which tensor owns which bytes of a storage.

A tensor whose elements fill one contiguous range may own it. In each storage the ranges are taken by their start, the
longest first; of equal ranges one in C order before a permuted one, then the one listed first. A range that begins
before the last owner's end is not an owner's. So owners never overlap, and a tensor that spans others owns them all.
Of the tensors that own nothing, those with their owner's range, dtype, shape and axes are its aliases; all
others are views, of the first owner that they overlap.

An empty tensor owns nothing at all, but its place in the file must be known too: the beginning of its storage, before
all other owners. Further empty tensors with the same storage, dtype and shape are its aliases.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from theta_daemon.formats.parts import Role, Tensor, Window
from theta_daemon.frozen import Frozen

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from theta_daemon.formats.torch_tensors import Claim
    from theta_daemon.formats.torch_walk import Found


class Range(Frozen):
    """The bytes `start` to `end` of a storage belong to tensor `index`."""

    start: int
    end: int
    index: int


class Ownership(Frozen):
    """Every tensor with its role, and the owners in each storage by its key, in file order."""

    tensors: tuple[Tensor, ...]
    owned: dict[str, list[Range]]


def assign_owners(found: Sequence[Found]) -> Ownership:
    """Return the role of every tensor; see the module's text for the rule."""
    by_storage: dict[str, list[int]] = {}
    for i, one in enumerate(found):
        by_storage.setdefault(one.claim.key, []).append(i)
    claims = [one.claim for one in found]
    roles: dict[int, tuple[Role, int | None]] = {}
    owned: dict[str, list[Range]] = {}
    for key, indices in by_storage.items():
        if len(indices) == 1 and claims[indices[0]].fills:  # most storages have one tensor, all of it
            owned[key] = [Range(claims[indices[0]].start, claims[indices[0]].end, indices[0])]
            roles[indices[0]] = _OWNER
            continue
        empty = [i for i in indices if claims[i].fills and claims[i].start == claims[i].end]
        filling = [i for i in indices if claims[i].fills and claims[i].start < claims[i].end]
        filling.sort(key=lambda i: (claims[i].start, -claims[i].end, claims[i].axes is not None, i))
        owned[key] = [*_own_empty(empty, claims, roles), *_own(filling, claims, roles)]
        _relate_views((i for i in indices if i not in roles), claims, owned[key], roles)
    tensors = []
    for i, one in enumerate(found):
        claim = one.claim
        if roles[i] is _OWNER:
            tensors.append(Tensor(one.keys, claim.dtype, claim.shape, claim.axes))
        else:
            window = _window(claim, claims, *roles[i])
            tensors.append(Tensor(one.keys, claim.dtype, claim.shape, claim.axes, *roles[i], window))
    return Ownership(tuple(tensors), owned)


_OWNER = (Role.OWNER, None)


def _window(claim: Claim, claims: Sequence[Claim], role: Role, owner: int | None) -> Window | None:
    """Return where a view lies in its owner's bytes, None where it is no view or lies elsewhere too."""
    if role is not Role.VIEW or owner is None or claim.strides is None:
        return None
    whole = claims[owner]
    if not (whole.start <= claim.start < claim.end <= whole.end):
        return None
    return Window(claim.start - whole.start, claim.strides)


def _own_empty(
    indices: Iterable[int], claims: Sequence[Claim], roles: dict[int, tuple[Role, int | None]]
) -> Iterable[Range]:
    first: dict[tuple[str, tuple[int, ...]], int] = {}
    for i in indices:
        owner = first.setdefault((claims[i].dtype, claims[i].shape), i)
        roles[i] = _OWNER if owner == i else (Role.ALIAS, owner)
    return (Range(0, 0, i) for i in first.values())


def _own(indices: Iterable[int], claims: Sequence[Claim], roles: dict[int, tuple[Role, int | None]]) -> Iterable[Range]:
    ranges: list[Range] = []
    for i in indices:
        claim = claims[i]
        if not ranges or claim.start >= ranges[-1].end:
            ranges.append(Range(claim.start, claim.end, i))
            roles[i] = _OWNER
            continue
        owner = ranges[-1].index
        same = claim == claims[owner]
        roles[i] = (Role.ALIAS if same else Role.VIEW), owner
    return ranges


def _relate_views(
    indices: Iterable[int],
    claims: Sequence[Claim],
    ranges: list[Range],
    roles: dict[int, tuple[Role, int | None]],
) -> None:
    """Give the tensors that fill no range the first owner that they overlap."""
    starts = [one.start for one in ranges]
    for i in indices:
        start, end = claims[i].start, claims[i].end
        # the owner that begins last at or before `start`, if it reaches beyond it, otherwise the next one
        at = max(0, bisect_right(starts, start) - 1)
        owner = next((one.index for one in ranges[at : at + 2] if one.start < end and start < one.end), None)
        roles[i] = Role.VIEW, owner
