"""The layout as bytes: protocol/layout.md, "Encoding".

One msgpack array of scalars, short strings and *columns*: byte strings of fixed-width little-endian numbers. So a
hostile layout cannot promise more than it brings (layout_items.py), and every column's length is compared with what
the others say before anything is taken from it. A layout has exactly one encoding: `decode` refuses every other.
"""

from __future__ import annotations

import re
import struct
from itertools import accumulate, chain, repeat
from typing import TYPE_CHECKING, TypeVar

from theta_daemon.errors import LayoutError
from theta_daemon.formats.layout import (
    OPS,
    ChecksumOp,
    CombinedChecksumOp,
    Group,
    GroupOp,
    Layout,
    LiteralOp,
    OpaqueOp,
    OpColumns,
    RegionEndOp,
    RegionStartOp,
    check_columns,
    columns,
)
from theta_daemon.formats.layout_items import pack, unpack
from theta_daemon.formats.parts import Role

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from theta_daemon.formats.layout import Op
    from theta_daemon.formats.layout_items import Item

T = TypeVar("T", bytes, str, tuple[int, ...], tuple[str, ...])

MAGIC = "theta-layout"
VERSION = 1

_GROUP_COLUMNS = 9
_OP_COLUMNS = 6

_PAIR = re.compile("[\ud800-\udbff][\udc00-\udfff]")

# What kind of group: its role, whether it names an owner, whether it has axes.
_KINDS = [
    (role, has_owner, has_axes)
    for has_axes in (False, True)
    for role, has_owner in ((Role.OWNER, False), (Role.ALIAS, True), (Role.VIEW, True), (Role.VIEW, False))
]
_KIND_OF = {kind: code for code, kind in enumerate(_KINDS)}


def encode(layout: Layout) -> bytes:
    """Return the one encoding of the well-formed `layout`.

    Raises LayoutError where a number or a name has no place in it (over 32 or 64 bits, a pair of surrogates).
    """
    groups = layout.groups
    dtypes = {dtype: code for code, dtype in enumerate(dict.fromkeys(group.dtype for group in groups))}
    try:
        texts = [_encode_text(part) for group in groups for part in group.name]
        items: list[Item] = [
            MAGIC,
            VERSION,
            layout.format,
            list(dtypes),
            bytes([dtypes[group.dtype] for group in groups]),
            bytes([_KIND_OF[group.role, group.owner is not None, group.axes is not None] for group in groups]),
            _pack("I", [group.owner for group in groups if group.owner is not None]),
            bytes([len(group.shape) for group in groups]),
            _pack("Q", list(chain.from_iterable(group.shape for group in groups))),
            bytes(chain.from_iterable(group.axes for group in groups if group.axes is not None)),
            _pack("I", [len(group.name) for group in groups]),
            _pack("I", list(map(len, texts))),
            b"".join(texts),
            *_encode_ops(layout.ops),
        ]
        return pack(items)
    except (ValueError, struct.error) as error:
        raise LayoutError(f"the layout has no encoding: {error}") from error


def decode(data: bytes | memoryview) -> Layout:
    """Return the well-formed layout whose encoding is `data`.

    Memory and time are bounded by a multiple of `data`. Raises LayoutError.
    """
    try:
        format_name, dtypes, columns = _unpack(data)
        groups = _decode_groups(dtypes, columns[:_GROUP_COLUMNS])
        ops, by_column = _decode_ops(columns[_GROUP_COLUMNS:])
        layout = Layout(format_name, groups, ops)
        check_columns(layout, by_column)
    except LayoutError as error:
        error.at(hint="check the file out from another commit or clone, and add it again")
        raise
    return layout


def _encode_ops(ops: tuple[Op, ...]) -> list[bytes]:
    by_column = columns(ops)
    return [
        by_column.codes,
        _pack("I", by_column.groups),
        _pack("I", by_column.opaques),
        _pack("I", by_column.checksums),
        _pack("I", by_column.literals),
        b"".join([op.data for op in ops if type(op) is LiteralOp]),
    ]


def _unpack(data: bytes | memoryview) -> tuple[str, list[str], list[bytes]]:
    """Return format, dtypes and columns of `data`, with nothing but their types checked."""
    match unpack(data):
        case [str(magic), int(version), *_] if magic == MAGIC and version != VERSION:
            newer = "use a newer theta-daemon" if version > VERSION else None
            raise LayoutError(f"the layout has version {version}, known is {VERSION}", hint=newer)
        case [str(magic), int(), str(format_name), list(dtypes), *items] if magic == MAGIC:
            columns = [item for item in items if isinstance(item, bytes)]
            if len(columns) == len(items) == _GROUP_COLUMNS + _OP_COLUMNS:
                return format_name, dtypes, columns
            raise LayoutError("the layout is damaged: its columns are not as specified")
    raise LayoutError("this is no layout")


def _decode_groups(dtypes: list[str], columns: list[bytes]) -> tuple[Group, ...]:
    dtype_codes, kind_codes, owners, ranks, sizes, axes, depths, text_lengths, text = columns
    _require(len(dtype_codes) == len(kind_codes) == len(ranks))
    _require(max(dtype_codes, default=-1) < len(dtypes))
    _require(max(kind_codes, default=-1) < len(_KINDS))
    names = _cut(_decode_texts(text, _numbers("I", text_lengths)), _numbers("I", depths))
    shapes = _cut(_numbers("Q", sizes), ranks)
    _require(len(names) == len(ranks))
    _require_one_encoding([dtypes[code] for code in dict.fromkeys(dtype_codes)] == dtypes)
    _require_one_encoding(len(set(dtypes)) == len(dtypes))
    if not any(kind_codes):  # owners in C order: most files hold nothing else
        _require(not owners and not axes)
        return tuple(map(Group, names, map(dtypes.__getitem__, dtype_codes), shapes))
    kinds = [_KINDS[code] for code in kind_codes]
    orders = _cut(axes, [rank if has_axes else 0 for rank, (_, _, has_axes) in zip(ranks, kinds, strict=True)])
    named = _cut(_numbers("I", owners), [int(has_owner) for _, has_owner, _ in kinds])
    return tuple(
        Group(name, dtypes[code], shape, tuple(order) if has_axes else None, role, owner[0] if owner else None)
        for name, code, shape, order, owner, (role, _, has_axes) in zip(
            names, dtype_codes, shapes, orders, named, kinds, strict=True
        )
    )


def _decode_ops(items: list[bytes]) -> tuple[tuple[Op, ...], OpColumns]:
    codes, *numbers, literals = items
    ops = OpColumns(codes, *(_numbers("I", column) for column in numbers))
    _require(max(codes, default=-1) < len(OPS))
    operands = {LiteralOp: ops.literals, GroupOp: ops.groups, OpaqueOp: ops.opaques, ChecksumOp: ops.checksums}
    for op, column in operands.items():
        _require(codes.count(OPS.index(op)) == len(column))
    following: list[Iterator[Op]] = [
        map(LiteralOp, _cut(literals, ops.literals)),
        map(GroupOp, ops.groups),
        map(OpaqueOp, ops.opaques),
        repeat(RegionStartOp()),
        repeat(RegionEndOp()),
        map(ChecksumOp, ops.checksums),
        repeat(CombinedChecksumOp()),
    ]
    return tuple(map(next, map(following.__getitem__, codes))), ops


def _decode_texts(data: bytes, lengths: Sequence[int]) -> tuple[str, ...]:
    try:
        if data.isascii():
            return tuple(_cut(data.decode("ascii"), lengths))
        texts = tuple(piece.decode("utf-8", "surrogatepass") for piece in _cut(data, lengths))
    except UnicodeDecodeError as error:
        raise LayoutError(f"the layout is damaged: {error}") from error
    _require_one_encoding(not any(map(_PAIR.search, texts)))
    return texts


def _encode_text(text: str) -> bytes:
    """Return `text` as WTF-8: pickles and JSON can hold lone surrogates, and so can names."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        if _PAIR.search(text):
            raise
        return text.encode("utf-8", "surrogatepass")


def _pack(kind: str, numbers: Sequence[int]) -> bytes:
    return struct.pack(f"<{len(numbers)}{kind}", *numbers)


def _numbers(kind: str, column: bytes) -> tuple[int, ...]:
    width = struct.calcsize(f"<{kind}")
    _require(len(column) % width == 0)
    return struct.unpack(f"<{len(column) // width}{kind}", column)


def _cut(items: T, lengths: Sequence[int]) -> list[T]:
    """Cut `items` into pieces of the given lengths, which must use them up."""
    _require(sum(lengths) == len(items))
    return [items[end - length : end] for length, end in zip(lengths, accumulate(lengths), strict=True)]


def _require(fits: bool) -> None:
    if not fits:
        raise LayoutError("the layout is damaged: its columns do not fit each other")


def _require_one_encoding(holds: bool) -> None:
    if not holds:
        raise LayoutError("the layout is not in its one encoding")
