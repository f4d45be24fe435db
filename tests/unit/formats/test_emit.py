from __future__ import annotations

import zlib
from collections.abc import Callable

import pytest

from tests.unit.formats.test_layout import GOOD, W
from theta_daemon.errors import LayoutError
from theta_daemon.formats.emit import emit
from theta_daemon.formats.layout import GroupOp, Layout, LiteralOp, OpaqueOp, size

VALUES = {0: b"abcdefghijklmnopqrstuvwx", 1: b"0123456789ABCDEF"}
CHUNKS = [b"chunk"]


def values(index: int) -> memoryview:
    return memoryview(VALUES[index])


def chunks(index: int) -> memoryview:
    return memoryview(CHUNKS[index])


def refuse(index: int) -> memoryview:
    pytest.fail(f"nobody should ask for {index}")


def test_a_file_is_its_operations_in_order() -> None:
    first = zlib.crc32(VALUES[1])
    combined = b"%020d" % (first + 0x9E3779B9)
    crcs = [first.to_bytes(4, "little"), zlib.crc32(b"x" + combined).to_bytes(4, "little")]
    expected = [b"head", VALUES[1], crcs[0], b"chunk", b"x", combined, VALUES[0], crcs[1], crcs[0]]
    assert [bytes(piece) for piece in emit(GOOD, values, chunks)] == expected
    assert sum(map(len, expected)) == size(GOOD)


def test_views_are_passed_on_as_they_are() -> None:
    view = memoryview(VALUES[0])
    (piece,) = emit(Layout("x", (W,), (GroupOp(0),)), lambda index: view, refuse)
    assert piece is view


def test_nothing_is_asked_for_before_it_is_needed() -> None:
    asked: list[str] = []

    def asking(kind: str, answer: Callable[[int], memoryview]) -> Callable[[int], memoryview]:
        def ask(index: int) -> memoryview:
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


@pytest.mark.parametrize("value", [b"", VALUES[0][1:], VALUES[0] + b"y"])
def test_a_value_of_the_wrong_size_is_refused(value: bytes) -> None:
    pieces = emit(Layout("x", (W,), (GroupOp(0),)), lambda index: memoryview(value), refuse)
    with pytest.raises(LayoutError, match=f"parameter 'w': the stored value has {len(value)} bytes .* 24"):
        list(pieces)


def test_a_chunk_of_the_wrong_size_is_refused() -> None:
    pieces = emit(Layout("x", (), (OpaqueOp(3),)), refuse, lambda index: memoryview(b"12"))
    with pytest.raises(LayoutError, match="opaque chunk 0 has 2 bytes instead of 3"):
        list(pieces)
