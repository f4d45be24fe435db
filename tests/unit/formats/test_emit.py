from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import NoReturn, TypeVar

import pytest

from tests.unit.formats.test_layout import GOOD, W
from theta_daemon.errors import LayoutError
from theta_daemon.formats.emit import emit
from theta_daemon.formats.layout import (
    ChecksumOp,
    GroupOp,
    Layout,
    LiteralOp,
    OpaqueOp,
    RegionEndOp,
    RegionStartOp,
    size,
)

T = TypeVar("T")

VALUES = {0: b"abcdefghijklmnopqrstuvwx", 1: b"0123456789ABCDEF"}
CHUNKS = [b"chunk"]


def values(index: int) -> list[memoryview]:
    return [memoryview(VALUES[index])]


def chunks(index: int) -> memoryview:
    return memoryview(CHUNKS[index])


def refuse(index: int) -> NoReturn:
    pytest.fail(f"nobody should ask for {index}")


def test_a_file_is_its_operations_in_order() -> None:
    first = zlib.crc32(VALUES[1])
    combined = b"%020d" % (first + 0x9E3779B9)
    crcs = [first.to_bytes(4, "little"), zlib.crc32(b"x" + combined).to_bytes(4, "little")]
    expected = [b"head", VALUES[1], crcs[0], b"chunk", b"x" + combined, VALUES[0], b"".join(crcs[::-1])]
    assert [bytes(piece) for piece in emit(GOOD, values, chunks)] == expected
    assert sum(map(len, expected)) == size(GOOD)


def test_views_are_passed_on_as_they_are() -> None:
    view = memoryview(VALUES[0])
    (piece,) = emit(Layout("x", (W,), (GroupOp(0),)), lambda index: [view], refuse)
    assert piece is view


def test_a_long_literal_is_passed_on_as_it_is() -> None:
    long = LiteralOp(bytes(1 << 20))
    (piece,) = emit(Layout("x", (), (long,)), refuse, refuse)
    assert piece is long.data


def test_what_stands_between_values_is_gathered_but_not_without_end() -> None:
    directory = (LiteralOp(bytes(1 << 14)), ChecksumOp(0)) * 64  # as at the end of a zip
    pieces = list(emit(Layout("x", (), (RegionStartOp(), RegionEndOp(), *directory)), refuse, refuse))
    assert sum(map(len, pieces)) == 64 * ((1 << 14) + 4)
    assert max(map(len, pieces)) < 1 << 17


@pytest.mark.parametrize("ends", [(5, 24), (0, 1, 24), (24, 24), (1, 2, 3, 24)])
def test_a_value_comes_in_pieces(ends: tuple[int, ...]) -> None:
    def pieces(index: int) -> Iterator[memoryview]:
        return (memoryview(VALUES[index])[start:end] for start, end in pairwise((0, *ends)))

    whole = {0: pieces, 1: values}
    emitted = list(emit(GOOD, lambda index: whole[index](index), chunks))
    assert b"".join(emitted) == b"".join(emit(GOOD, values, chunks))  # and so are the checksums
    assert all(emitted)


def test_a_piece_is_asked_for_when_the_one_before_was_taken() -> None:
    made = []

    def pieces(index: int) -> Iterator[memoryview]:
        for start in range(0, 24, 8):
            made.append(start)
            yield memoryview(VALUES[index])[start : start + 8]

    seen = [list(made) for _ in emit(Layout("x", (W,), (GroupOp(0),)), pieces, refuse)]
    assert seen == [[0], [0, 8], [0, 8, 16]]


def test_no_byte_goes_out_that_has_no_place() -> None:
    def pieces(index: int) -> Iterator[memoryview]:
        yield memoryview(VALUES[index])
        yield memoryview(b"y")
        pytest.fail("nobody should ask for more")

    taken = emit(Layout("x", (W, W), (GroupOp(0), GroupOp(1))), pieces, refuse)
    assert next(taken) == VALUES[0]
    with pytest.raises(LayoutError, match="the stored value has 1 bytes too many for its place"):
        next(taken)


def test_nothing_is_asked_for_before_it_is_needed() -> None:
    asked: list[str] = []

    def asking(kind: str, answer: Callable[[int], T]) -> Callable[[int], T]:
        def ask(index: int) -> T:
            asked.append(f"{kind} {index}")
            return answer(index)

        return ask

    pieces = emit(GOOD, asking("group", values), asking("opaque", chunks))
    seen = [(len(piece), list(asked)) for piece in pieces]
    assert seen[0] == (4, [])
    assert seen[1] == (16, ["group 1"])
    assert seen[3] == (5, ["group 1", "opaque 0"])
    assert asked == ["group 1", "opaque 0", "group 0"]


def test_opaque_chunks_are_numbered_by_occurrence() -> None:
    layout = Layout("x", (), (OpaqueOp(1), LiteralOp(b"-"), OpaqueOp(2), OpaqueOp(1)))
    pieces = emit(layout, refuse, lambda index: memoryview([b"a", b"bb", b"c"][index]))
    assert b"".join(pieces) == b"a-bbc"


@pytest.mark.parametrize(
    ("value", "wrong"), [(b"", "24 bytes too few"), (VALUES[0][1:], "1 bytes too few"), (VALUES[0] + b"y", "1 .* many")]
)
def test_a_value_of_the_wrong_size_is_refused(value: bytes, wrong: str) -> None:
    pieces = emit(Layout("x", (W,), (GroupOp(0),)), lambda index: [memoryview(value)], refuse)
    with pytest.raises(LayoutError, match=f"parameter 'w': the stored value has {wrong} for its place"):
        list(pieces)


def test_a_chunk_of_the_wrong_size_is_refused() -> None:
    pieces = emit(Layout("x", (), (OpaqueOp(3),)), refuse, lambda index: memoryview(b"12"))
    with pytest.raises(LayoutError, match="opaque chunk 0 has 2 bytes instead of 3"):
        list(pieces)
