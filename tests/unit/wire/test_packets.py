from __future__ import annotations

import array

import pytest

from theta_daemon.errors import ProtocolError
from theta_daemon.wire import packets
from theta_daemon.wire.packets import MAX_DATA, MAX_PACKET, Mark, PacketReader, parse_length


def test_the_numbers_are_gits() -> None:
    assert (MAX_PACKET, MAX_DATA) == (65520, 65516)


@pytest.mark.parametrize(
    ("header", "length"),
    [(b"0000", 0), (b"0004", 4), (b"000a", 10), (b"000A", 10), (b"fff0", 65520), (b"FfF0", 65520)],
)
def test_F5_lengths(header: bytes, length: int) -> None:
    assert parse_length(header) == length
    assert parse_length(memoryview(header)) == length


@pytest.mark.parametrize(
    "header",
    [
        *(b"0001", b"0002", b"0003", b"fff1", b"ffff"),
        *(
            b"+00f",
            b"-00f",
            b"0x0f",
            b" 00f",
            b"00f ",
            b"\t00f",
            b"0_0f",
            b"000g",
            b"00\xb2f",
            b"\x00\x00\x00\x0a",
            b"000",
        ),
    ],
)
def test_F5_bad_lengths(header: bytes) -> None:
    with pytest.raises(ProtocolError, match="packet length"):
        parse_length(header)


def read_all(reader: PacketReader) -> list[bytes | Mark]:
    found: list[bytes | Mark] = []
    while True:
        piece = reader.next_piece()
        found.append(piece if isinstance(piece, Mark) else bytes(piece))
        if piece in (Mark.NEED_DATA, Mark.END):
            return found


def test_pieces_are_slices_of_what_was_fed() -> None:
    fed = bytearray(b"0009hello000")
    reader = PacketReader()
    reader.feed(fed)
    piece = reader.next_piece()
    assert isinstance(piece, memoryview)
    assert piece.obj is fed


def test_a_packet_that_was_cut_is_handed_out_in_parts() -> None:
    reader = PacketReader()
    reader.feed(b"0009he")
    inside = [reader.inside]
    assert read_all(reader) == [b"he", Mark.NEED_DATA]
    inside.append(reader.inside)
    reader.feed(b"llo00")
    assert read_all(reader) == [b"llo", Mark.NEED_DATA]
    inside.append(reader.inside)
    assert inside == [False, True, False]
    reader.feed(b"00")
    assert read_all(reader) == [Mark.FLUSH, Mark.NEED_DATA]
    reader.feed(b"")
    assert read_all(reader) == [Mark.END]


def test_F2_an_empty_packet_is_an_empty_piece() -> None:
    reader = PacketReader()
    reader.feed(b"000400000004")
    assert read_all(reader) == [b"", Mark.FLUSH, b"", Mark.NEED_DATA]


@pytest.mark.parametrize("fed", [b"0", b"000", b"0005", b"0006a"])
def test_F4_the_end_inside_a_packet(fed: bytes) -> None:
    reader = PacketReader()
    reader.feed(fed)
    read_all(reader)
    reader.feed(b"")
    with pytest.raises(ProtocolError, match="inside a packet"):
        reader.next_piece()


def test_feeding_too_early_is_our_bug() -> None:
    reader = PacketReader()
    reader.feed(b"0009hello")
    with pytest.raises(RuntimeError, match="before all earlier data was taken"):
        reader.feed(b"0000")


def test_feeding_after_the_end_is_our_bug() -> None:
    reader = PacketReader()
    reader.feed(b"")
    with pytest.raises(RuntimeError, match="after the end"):
        reader.feed(b"0000")


@pytest.mark.parametrize("size", [1, 65515, 65516, 65517, 131031, 131032, 131033])
def test_F1_content_is_split_at_exactly_65516(size: int) -> None:
    payload = bytes(range(256)) * (size // 256 + 1)
    payload = payload[:size]
    pieces = packets.content(payload)
    headers, data = pieces[::2], pieces[1::2]
    sizes = [65516] * (size // 65516) + [size % 65516] * (size % 65516 > 0)
    assert headers == [b"%04x" % (part + 4) for part in sizes]
    assert [len(part) for part in data] == sizes
    assert b"".join(data) == payload
    assert all(isinstance(part, memoryview) and part.obj is payload for part in data), "payload was copied"


def test_F2_empty_content_is_no_packet() -> None:
    assert packets.content(b"") == []
    assert packets.content(memoryview(array.array("d"))) == []


def test_content_of_other_items_counts_bytes() -> None:
    values = array.array("d", [1.0, 2.0])
    assert b"".join(packets.content(memoryview(values))) == b"0014" + values.tobytes()
    square = memoryview(bytes(range(4))).cast("B", (2, 2))
    assert b"".join(packets.content(square)) == b"0008\x00\x01\x02\x03"


def test_F2_lines_end_with_lf() -> None:
    assert packets.line(b"version=2") == b"000eversion=2\n"
    assert packets.line(b"") == b"0005\n"


def test_a_line_fits_or_is_refused() -> None:
    assert packets.line(b"x" * 65515)[:4] == b"fff0"
    with pytest.raises(ValueError, match="does not fit"):
        packets.line(b"x" * 65516)
