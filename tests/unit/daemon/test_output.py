from __future__ import annotations

import array

import pytest

from theta_daemon.daemon.output import SMALL, Output
from theta_daemon.wire.packets import MAX_DATA


class Writes:
    """Keeps what was written, as sizes and as bytes: the pieces themselves may be used again."""

    def __init__(self) -> None:
        self.sizes: list[list[int]] = []
        self.data = b""

    def __call__(self, pieces: list[bytearray | memoryview]) -> None:
        self.sizes.append([len(piece) for piece in pieces])
        self.data += b"".join(pieces)


def put(*pieces: bytes | bytearray | memoryview) -> Writes:
    writes = Writes()
    output = Output(writes)
    for piece in pieces:
        output.add(piece)
    output.end()
    return writes


def test_nothing_is_not_written() -> None:
    assert put().sizes == []
    assert put(b"", b"", memoryview(array.array("d"))).sizes == []


def test_small_pieces_are_gathered() -> None:
    assert put(b"a", b"bc", b"", b"d").sizes == [[4]]
    writes = put(*[b"x" * 1000] * 200)
    assert writes.sizes == [[65000], [65000], [65000], [5000]]
    assert all(size <= MAX_DATA for sizes in writes.sizes for size in sizes)


def test_a_large_piece_goes_at_once_and_takes_along_what_was_gathered() -> None:
    writes = put(b"abc", b"x" * SMALL, b"y" * 1_000_000, b"z")
    assert writes.sizes == [[3, SMALL], [1_000_000], [1]]
    assert writes.data == b"abc" + b"x" * SMALL + b"y" * 1_000_000 + b"z"


def test_a_large_piece_is_not_copied() -> None:
    large = bytearray(100_000)
    seen: list[object] = []

    def write(pieces: list[bytearray | memoryview]) -> None:
        seen.extend(piece.obj for piece in pieces if isinstance(piece, memoryview))

    Output(write).add(large)
    assert seen == [large]
    assert seen[0] is large


@pytest.mark.parametrize("size", [10, SMALL - 1, SMALL, 70_000])
def test_a_piece_may_be_used_again(size: int) -> None:
    writes = Writes()
    output = Output(writes)
    buffer = bytearray(size)
    for letter in b"abc":
        buffer[:] = bytes([letter]) * size
        output.add(memoryview(buffer))
    buffer.clear()  # would raise BufferError if anything still referred to it
    output.end()
    assert writes.data == b"a" * size + b"b" * size + b"c" * size


def test_other_items_are_bytes() -> None:
    values = array.array("d", [1.0]) * SMALL
    assert put(memoryview(values)).data == values.tobytes()
    assert put(memoryview(values)[:2], b"x").data == values[:2].tobytes() + b"x"
