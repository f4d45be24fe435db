"""The layout of a checkpoint file: its own bytes, and holes that its parameter groups fill.

A layout is a list of groups (every named tensor of the file) and a list of operations that write the file front to
back. It does not depend on the values of the groups, so it is stored once and reused while only values change.
`check` is the one place that says which layouts are well formed; `layout_codec` turns them into bytes and back;
protocol/layout.md specifies both.
"""

from __future__ import annotations

import re
from collections import Counter
from itertools import accumulate, compress, pairwise
from typing import TYPE_CHECKING

from theta_daemon.dtypes import DTYPES, count, nbytes
from theta_daemon.errors import CheckpointError, LayoutError
from theta_daemon.formats.parts import Role
from theta_daemon.frozen import Frozen

if TYPE_CHECKING:
    from collections.abc import Sequence

LITERAL_LIMIT = 1 << 20  # bytes; a longer run of the file's own bytes is kept out of the layout, as opaque chunks
OPAQUE_CHUNK = 1 << 22  # bytes; the size of every opaque chunk of a run but its last

CHECKSUM_BYTES = 4
COMBINED_BYTES = 20

Name = tuple[str, ...]


class CanonicalTensor(Frozen):
    """What a canonical file needs to know about one tensor: enough to write everything but its values."""

    name: Name
    dtype: str
    shape: tuple[int, ...]


class Group(Frozen):
    """One parameter group: a `Tensor` of the file under the name that the metadata gives it.

    `axes` and `owner` are those of `parts.Tensor`.
    """

    name: Name
    dtype: str
    shape: tuple[int, ...]
    axes: tuple[int, ...] | None = None
    role: Role = Role.OWNER
    owner: int | None = None


class LiteralOp(Frozen):
    """Write these bytes (1 to LITERAL_LIMIT)."""

    data: bytes


class GroupOp(Frozen):
    """Write the bytes of the owning group `index`, in storage order."""

    index: int


class OpaqueOp(Frozen):
    """Write the next opaque chunk, of `size` bytes (1 to OPAQUE_CHUNK)."""

    size: int


class RegionStartOp(Frozen):
    """Begin the next checksummed region (they are numbered from 0)."""


class RegionEndOp(Frozen):
    """End it."""


class ChecksumOp(Frozen):
    """Write the CRC-32 of the ended region `region`, 4 bytes, little-endian."""

    region: int


class CombinedChecksumOp(Frozen):
    """Write the combination of all CRCs so far, 20 decimal digits (see checksums.Regions)."""


Op = LiteralOp | GroupOp | OpaqueOp | RegionStartOp | RegionEndOp | ChecksumOp | CombinedChecksumOp


class Layout(Frozen):
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


OPS: tuple[type[Op], ...] = (
    LiteralOp,
    GroupOp,
    OpaqueOp,
    RegionStartOp,
    RegionEndOp,
    ChecksumOp,
    CombinedChecksumOp,
)
"""The operations by their numbers in protocol/layout.md."""

_CODE_OF: dict[type, int] = {op: code for code, op in enumerate(OPS)}
_LITERAL, _START, _END, _CHECKSUM = map(_CODE_OF.__getitem__, (LiteralOp, RegionStartOp, RegionEndOp, ChecksumOp))


class OpColumns(Frozen):
    """Operations by column: the number of each, and for each kind its operands in order; of literals the lengths."""

    codes: bytes
    groups: Sequence[int]
    opaques: Sequence[int]
    checksums: Sequence[int]
    literals: Sequence[int]


def columns(ops: tuple[Op, ...]) -> OpColumns:
    """Return the columns of `ops`."""
    return OpColumns(
        bytes(map(_CODE_OF.__getitem__, map(type, ops))),
        [op.index for op in ops if type(op) is GroupOp],
        [op.size for op in ops if type(op) is OpaqueOp],
        [op.region for op in ops if type(op) is ChecksumOp],
        [len(op.data) for op in ops if type(op) is LiteralOp],
    )


def check(layout: Layout) -> None:
    """Raise LayoutError, naming the group where there is one, unless `layout` is well formed.

    The rules are those of protocol/layout.md, section "Well-formed layouts".
    """
    check_columns(layout, columns(layout.ops))


def check_columns(layout: Layout, ops: OpColumns) -> None:
    """Do what `check` does, for a layout whose operations are known by column as well."""
    if not _FORMAT.fullmatch(layout.format):
        raise LayoutError(f"{layout.format[:64]!r} is no name of a format")
    _check_names(layout.groups)
    _check_groups(layout.groups)
    _check_ops(ops)
    _check_holes(layout.groups, ops.groups)


_FORMAT = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")


def _check_names(groups: tuple[Group, ...]) -> None:
    names = [group.name for group in groups]
    if len(set(names)) == len(names) and all(len(name) == 1 for name in names):
        return  # most files are flat
    names.sort()
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


def _check_ops(ops: OpColumns) -> None:
    """Check everything but the holes; by column, because a zip has eight operations a group."""
    adjacent = ops.codes.find(bytes([_LITERAL, _LITERAL]))
    if adjacent >= 0:
        length = ops.literals[ops.codes.count(_LITERAL, 0, adjacent + 1)]
        raise LayoutError(f"a literal of {length} bytes is not one run within the limit")
    for length in (min(ops.literals, default=1), max(ops.literals, default=1)):
        if not 1 <= length <= LITERAL_LIMIT:
            raise LayoutError(f"a literal of {length} bytes is not one run within the limit")
    for size in (min(ops.opaques, default=1), max(ops.opaques, default=1)):
        if not 1 <= size <= OPAQUE_CHUNK:
            raise LayoutError(f"an opaque chunk has {size} bytes")
    marks = ops.codes.translate(None, _NO_MARKS)
    if marks != bytes([_START, _END]) * (len(marks) // 2):
        if marks == bytes([_START, _END]) * (len(marks) // 2) + bytes([_START]):
            raise LayoutError("a checksummed region never ends")
        raise LayoutError("a checksummed region starts inside another, or ends that never started")
    ended = accumulate(ops.codes.translate(_ENDS))
    for region, known in zip(ops.checksums, compress(ended, ops.codes.translate(_CHECKSUMS)), strict=True):
        if not 0 <= region < known:
            raise LayoutError(f"the checksum of region {region} stands before that region's end")


_NO_MARKS = bytes(code for code in range(256) if code not in (_START, _END))
_ENDS, _CHECKSUMS = (bytes(code == one for code in range(256)) for one in (_END, _CHECKSUM))


def _check_holes(groups: tuple[Group, ...], holes: Sequence[int]) -> None:
    """Check that each owner has one hole, and nothing else has."""
    filled = Counter(holes)
    for index, group in enumerate(groups):
        wanted = 1 if group.role is Role.OWNER else 0
        if filled.pop(index, 0) != wanted:
            raise LayoutError(f"the file must have {wanted} holes for this group", parameter="/".join(group.name))
    if filled:
        raise LayoutError(f"a hole is for group {min(filled)}, of only {len(groups)}")
