"""The layout of a checkpoint file: its own bytes, and holes that its parameter groups fill.

A layout is a list of groups (every named tensor of the file) and a list of operations that write the file front to
back. It does not depend on the values of the groups, so it is stored once and reused while only values change.
`check` is the one place that says which layouts are well formed; `layout_codec` turns them into bytes and back;
protocol/layout.md specifies both.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

from theta_daemon.dtypes import DTYPES, count, nbytes
from theta_daemon.errors import CheckpointError, LayoutError
from theta_daemon.formats.parts import Role

LITERAL_LIMIT = 1 << 20  # bytes; a longer run of the file's own bytes is kept out of the layout, as opaque chunks
OPAQUE_CHUNK = 1 << 22  # bytes; the size of every opaque chunk of a run but its last

CHECKSUM_BYTES = 4
COMBINED_BYTES = 20

Name = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CanonicalTensor:
    """What a canonical file needs to know about one tensor: enough to write everything but its values."""

    name: Name
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Group:
    """One parameter group: a `Tensor` of the file under the name that the metadata gives it.

    `axes` and `owner` are those of `parts.Tensor`.
    """

    name: Name
    dtype: str
    shape: tuple[int, ...]
    axes: tuple[int, ...] | None = None
    role: Role = Role.OWNER
    owner: int | None = None


@dataclass(frozen=True, slots=True)
class LiteralOp:
    """Write these bytes (1 to LITERAL_LIMIT)."""

    data: bytes


@dataclass(frozen=True, slots=True)
class GroupOp:
    """Write the bytes of the owning group `index`, in storage order."""

    index: int


@dataclass(frozen=True, slots=True)
class OpaqueOp:
    """Write the next opaque chunk, of `size` bytes (1 to OPAQUE_CHUNK)."""

    size: int


@dataclass(frozen=True, slots=True)
class RegionStartOp:
    """Begin the next checksummed region (they are numbered from 0)."""


@dataclass(frozen=True, slots=True)
class RegionEndOp:
    """End it."""


@dataclass(frozen=True, slots=True)
class ChecksumOp:
    """Write the CRC-32 of the ended region `region`, 4 bytes, little-endian."""

    region: int


@dataclass(frozen=True, slots=True)
class CombinedChecksumOp:
    """Write the combination of all CRCs so far, 20 decimal digits (see checksums.Regions)."""


Op = LiteralOp | GroupOp | OpaqueOp | RegionStartOp | RegionEndOp | ChecksumOp | CombinedChecksumOp


@dataclass(frozen=True, slots=True)
class Layout:
    """A file's skeleton. `format` is the registry's name of the format that read it."""

    format: str
    groups: tuple[Group, ...]
    ops: tuple[Op, ...]


def size(layout: Layout) -> int:
    """Return the number of bytes of the file that `layout` writes."""
    total = 0
    for op in layout.ops:
        match op:
            case LiteralOp(data):
                total += len(data)
            case GroupOp(index):
                group = layout.groups[index]
                total += nbytes(group.dtype, group.shape)
            case OpaqueOp(chunk):
                total += chunk
            case ChecksumOp():
                total += CHECKSUM_BYTES
            case CombinedChecksumOp():
                total += COMBINED_BYTES
    return total


def check(layout: Layout) -> None:
    """Raise LayoutError, naming the group where there is one, unless `layout` is well formed.

    The rules are those of protocol/layout.md, section "Well-formed layouts".
    """
    if not _FORMAT.fullmatch(layout.format):
        raise LayoutError(f"{layout.format[:64]!r} is no name of a format")
    _check_names(layout.groups)
    _check_groups(layout.groups)
    _check_ops(layout)


_FORMAT = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


def _check_names(groups: tuple[Group, ...]) -> None:
    names = sorted(group.name for group in groups)
    if names and not names[0]:
        raise LayoutError("a group has no name")
    # In sorted order, what begins with a name follows it directly.
    for name, following in pairwise(names):
        if following[: len(name)] == name:
            raise LayoutError("another group has the same name, or one that begins with it", parameter="/".join(name))


def _check_groups(groups: tuple[Group, ...]) -> None:
    known = set()  # a model has thousands of groups and a dozen forms
    for group in groups:
        form = (group.dtype, group.shape, group.axes, group.role is Role.VIEW)
        try:
            if form not in known:
                _check_form(group)
                known.add(form)
            if group.role is not Role.OWNER or group.owner is not None:
                _check_owner(group, groups)
        except (CheckpointError, LayoutError) as error:
            raise LayoutError(error.message, parameter="/".join(group.name)) from error


def _check_form(group: Group) -> None:
    """Check dtype, shape and axes."""
    if group.dtype not in DTYPES:
        raise LayoutError(f"unknown dtype {group.dtype[:40]!r}")
    if group.role is Role.VIEW:
        count(group.shape)  # a view may claim any size: its bytes are not needed
    else:
        nbytes(group.dtype, group.shape)
    if group.axes is None:
        return
    if sorted(group.axes) != list(range(len(group.shape))):
        raise LayoutError(f"{group.axes} is no order of {len(group.shape)} axes")
    if DTYPES[group.dtype].bits % 8:
        raise LayoutError(f"packed {group.dtype} elements cannot be transposed")


def _check_owner(group: Group, groups: tuple[Group, ...]) -> None:
    """Check how a group refers to its owner; a view may have none."""
    if group.role is Role.OWNER:
        raise LayoutError("an owner names another owner")
    if group.owner is None:
        if group.role is Role.ALIAS:
            raise LayoutError("an alias names no owner")
        return
    if not 0 <= group.owner < len(groups) or groups[group.owner].role is not Role.OWNER:
        raise LayoutError(f"group {group.owner}, which it names as its owner, is none")
    owner = groups[group.owner]
    if group.role is Role.ALIAS and (group.dtype, group.shape, group.axes) != (owner.dtype, owner.shape, owner.axes):
        raise LayoutError("an alias differs from its owner in dtype, shape or axes")


def _check_ops(layout: Layout) -> None:
    ended = 0
    in_region = False
    before: type[Op] | None = None
    for op in layout.ops:
        kind = type(op)
        if isinstance(op, LiteralOp):
            if before is LiteralOp or not 1 <= len(op.data) <= LITERAL_LIMIT:
                raise LayoutError(f"a literal of {len(op.data)} bytes is not one run within the limit")
        elif isinstance(op, OpaqueOp):
            if not 1 <= op.size <= OPAQUE_CHUNK:
                raise LayoutError(f"an opaque chunk has {op.size} bytes")
        elif isinstance(op, ChecksumOp):
            if not 0 <= op.region < ended:
                raise LayoutError(f"the checksum of region {op.region} stands before that region's end")
        elif kind is RegionStartOp or kind is RegionEndOp:
            if in_region is (kind is RegionStartOp):
                raise LayoutError("a checksummed region starts inside another, or ends that never started")
            ended += in_region
            in_region = not in_region
        before = kind
    if in_region:
        raise LayoutError("a checksummed region never ends")
    _check_holes(layout)


def _check_holes(layout: Layout) -> None:
    """Check that each owner has one hole, and nothing else has."""
    holes = Counter(op.index for op in layout.ops if isinstance(op, GroupOp))
    for index, group in enumerate(layout.groups):
        wanted = 1 if group.role is Role.OWNER else 0
        if holes.pop(index, 0) != wanted:
            raise LayoutError(f"the file must have {wanted} holes for this group", parameter="/".join(group.name))
    if holes:
        raise LayoutError(f"a hole is for group {min(holes)}, of only {len(layout.groups)}")
