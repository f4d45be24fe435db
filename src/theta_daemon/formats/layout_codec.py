"""The layout as bytes: protocol/layout.md, "Encoding".

One msgpack array of scalars, short strings and *columns*: byte strings of fixed-width little-endian numbers. So a
hostile layout cannot promise more than it brings, whatever its msgpack claims (no container may be longer than
MAX_ITEMS), and every column's length is compared with what the others say before anything is taken from it.
A layout has exactly one encoding: `decode` refuses every other.
"""

from __future__ import annotations

import re
import struct
from itertools import accumulate, chain, islice, repeat
from typing import TYPE_CHECKING, TypeVar

import msgpack

from theta_daemon.errors import LayoutError
from theta_daemon.formats.layout import (
    ChecksumOp,
    CombinedChecksumOp,
    Group,
    GroupOp,
    Layout,
    LiteralOp,
    OpaqueOp,
    RegionEndOp,
    RegionStartOp,
    check,
)
from theta_daemon.formats.parts import Role

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from theta_daemon.formats.layout import Op

T = TypeVar("T")

MAGIC = "theta-layout"
VERSION = 1
MAX_ITEMS = 64  # elements of any msgpack array in a layout

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

_OPS: list[Callable[..., Op]] = [
    LiteralOp,
    GroupOp,
    OpaqueOp,
    RegionStartOp,
    RegionEndOp,
    ChecksumOp,
    CombinedChecksumOp,
]
_CODE_OF = {op: code for code, op in enumerate(_OPS)}


def encode(layout: Layout) -> bytes:
    """Return the one encoding of the well-formed `layout`.

    Raises LayoutError where a number or a name has no place in it (over 32 or 64 bits, a pair of surrogates).
    """
    groups = layout.groups
    dtypes = {dtype: code for code, dtype in enumerate(dict.fromkeys(group.dtype for group in groups))}
    try:
        texts = [_encode_text(part) for group in groups for part in group.name]
        columns = [
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
    except (ValueError, struct.error) as error:
        raise LayoutError(f"the layout has no encoding: {error}") from error
    return bytes(msgpack.packb(columns))


def decode(data: bytes | memoryview) -> Layout:
    """Return the well-formed layout whose encoding is `data`.

    Memory and time are bounded by a multiple of `data`. Raises LayoutError.
    """
    try:
        format_name, dtypes, columns = _unpack(data)
        groups = _decode_groups(dtypes, columns[:_GROUP_COLUMNS])
        ops = _decode_ops(columns[_GROUP_COLUMNS:])
        layout = Layout(format_name, groups, ops)
        check(layout)
        if encode(layout) != data:
            raise LayoutError("the layout is not in its one encoding")
    except LayoutError as error:
        error.at(hint="check the file out from another commit or clone, and add it again")
        raise
    return layout


def _encode_ops(ops: tuple[Op, ...]) -> list[bytes]:
    literals = [op.data for op in ops if type(op) is LiteralOp]
    return [
        bytes([_CODE_OF[type(op)] for op in ops]),
        _pack("I", [op.index for op in ops if type(op) is GroupOp]),
        _pack("I", [op.size for op in ops if type(op) is OpaqueOp]),
        _pack("I", [op.region for op in ops if type(op) is ChecksumOp]),
        _pack("I", list(map(len, literals))),
        b"".join(literals),
    ]


def _unpack(data: bytes | memoryview) -> tuple[str, list[str], list[bytes]]:
    """Return format, dtypes and columns of the msgpack `data`, with nothing but their types checked."""
    try:
        items = msgpack.unpackb(data, max_array_len=MAX_ITEMS, max_map_len=0, max_ext_len=0)
    except (ValueError, msgpack.UnpackException) as error:
        raise LayoutError(f"the layout is damaged: {error}") from error
    if not isinstance(items, list) or len(items) < 2 or items[0] != MAGIC or type(items[1]) is not int:
        raise LayoutError("this is no layout")
    if items[1] != VERSION:
        newer = "use a newer theta-daemon" if items[1] > VERSION else None
        raise LayoutError(f"the layout has version {items[1]}, known is {VERSION}", hint=newer)
    match items[2:]:
        case [str(format_name), [*dtypes], *columns] if (
            len(columns) == _GROUP_COLUMNS + _OP_COLUMNS
            and all(type(column) is bytes for column in columns)
            and all(type(dtype) is str for dtype in dtypes)
        ):
            return format_name, dtypes, columns
    raise LayoutError("the layout is damaged: its columns are not as specified")


def _decode_groups(dtypes: list[str], columns: list[bytes]) -> tuple[Group, ...]:
    dtype_codes, kind_codes, owners, ranks, sizes, axes, depths, text_lengths, text = columns
    _require(len(dtype_codes) == len(kind_codes) == len(ranks))
    _require(max(dtype_codes, default=-1) < len(dtypes))
    _require(max(kind_codes, default=-1) < len(_KINDS))
    kinds = [_KINDS[code] for code in kind_codes]
    try:
        texts = [piece.decode("utf-8", "surrogatepass") for piece in _pieces(text, _numbers("I", text_lengths))]
    except UnicodeDecodeError as error:
        raise LayoutError(f"the layout is damaged: {error}") from error
    return tuple(
        Group(name, dtypes[code], shape, order if has_axes else None, role, owner[0] if owner else None)
        for name, code, shape, order, owner, (role, _, has_axes) in zip(
            _runs(texts, _numbers("I", depths)),
            dtype_codes,
            _runs(_numbers("Q", sizes), ranks),
            _runs(axes, [rank if has_axes else 0 for rank, (_, _, has_axes) in zip(ranks, kinds, strict=True)]),
            _runs(_numbers("I", owners), [int(has_owner) for _, has_owner, _ in kinds]),
            kinds,
            strict=True,
        )
    )


def _decode_ops(columns: list[bytes]) -> tuple[Op, ...]:
    codes, groups, opaques, checksums, literal_lengths, literals = columns
    _require(max(codes, default=-1) < len(_OPS))
    operands: dict[Callable[..., Op], Sequence[Op]] = {
        LiteralOp: list(map(LiteralOp, _pieces(literals, _numbers("I", literal_lengths)))),
        GroupOp: list(map(GroupOp, _numbers("I", groups))),
        OpaqueOp: list(map(OpaqueOp, _numbers("I", opaques))),
        ChecksumOp: list(map(ChecksumOp, _numbers("I", checksums))),
    }
    following: list[Callable[[], Op]] = []
    for code, op in enumerate(_OPS):
        if op in operands:
            _require(codes.count(code) == len(operands[op]))
            following.append(iter(operands[op]).__next__)
        else:
            following.append(repeat(op()).__next__)
    return tuple([following[code]() for code in codes])


def _encode_text(text: str) -> bytes:
    """Return `text` as WTF-8: pickles and JSON can hold lone surrogates, and so can names."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        if _PAIR.search(text):
            raise
        return text.encode("utf-8", "surrogatepass")


def _pack(kind: str, numbers: list[int]) -> bytes:
    return struct.pack(f"<{len(numbers)}{kind}", *numbers)


def _numbers(kind: str, column: bytes) -> tuple[int, ...]:
    width = struct.calcsize(f"<{kind}")
    _require(len(column) % width == 0)
    return struct.unpack(f"<{len(column) // width}{kind}", column)


def _pieces(data: bytes, lengths: Sequence[int]) -> list[bytes]:
    """Cut `data` into pieces of the given lengths, which must use it up."""
    _require(sum(lengths) == len(data))
    return [data[end - length : end] for length, end in zip(lengths, accumulate(lengths), strict=True)]


def _runs(items: Sequence[T], lengths: Sequence[int]) -> list[tuple[T, ...]]:
    """Cut `items` into runs of the given lengths, which must use them up."""
    _require(sum(lengths) == len(items))
    rest = iter(items)
    return [tuple(islice(rest, length)) for length in lengths]


def _require(fits: bool) -> None:
    if not fits:
        raise LayoutError("the layout is damaged: its columns do not fit each other")
