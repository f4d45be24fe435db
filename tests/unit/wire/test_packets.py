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


def scattered(reader: PacketReader, wire: bytes, target: memoryview) -> int:
    """Read `wire` into the places for `target` as one scatter read does; return what `placed` says."""
    count = 0
    for place in reader.places(target):
        part = wire[count : count + len(place)]
        place[: len(part)] = part
        count += len(part)
    assert count == len(wire), "there is no room for that much"
    return reader.placed(count)


FULL = b"fff0" + b"p" * MAX_DATA


def test_full_packets_are_read_to_where_they_belong() -> None:
    reader = PacketReader()
    target = memoryview(bytearray(3 * MAX_DATA))
    assert scattered(reader, FULL + FULL + b"fff0abc", target) == 2 * MAX_DATA + 3
    assert target[2 * MAX_DATA - 1 : 2 * MAX_DATA + 4] == b"pabc\0"
    assert reader.inside
    assert scattered(reader, b"de", target[2 * MAX_DATA + 3 :]) == 2
    assert target[2 * MAX_DATA : 2 * MAX_DATA + 6] == b"abcde\0"
    assert reader.next_piece() is Mark.NEED_DATA


def test_a_target_may_end_anywhere_in_a_packet() -> None:
    reader = PacketReader()
    first, second = memoryview(bytearray(3)), memoryview(bytearray(MAX_DATA - 3))
    assert scattered(reader, b"fff0abc", first) == 3
    assert scattered(reader, b"d" * (MAX_DATA - 3), second) == MAX_DATA - 3
    assert (first, second) == (b"abc", b"d" * (MAX_DATA - 3))
    assert not reader.inside


def test_what_comes_otherwise_is_fed() -> None:
    reader = PacketReader()
    target = memoryview(bytearray(4 * MAX_DATA))
    assert scattered(reader, FULL + b"0007abc0000000ahel", target) == MAX_DATA
    assert target[:MAX_DATA] == FULL[4:]
    assert reader.places(target) == []  # before what was fed is taken
    assert read_all(reader) == [b"abc", Mark.FLUSH, b"hel", Mark.NEED_DATA]
    assert scattered(reader, b"lo0000", target) == 3
    assert target[:3] == b"lo0"  # the rest of the packet that was cut: its length is known


def test_the_length_of_a_packet_that_has_begun_is_known() -> None:
    reader = PacketReader()
    reader.feed(b"0009he")
    assert read_all(reader) == [b"he", Mark.NEED_DATA]
    target = memoryview(bytearray(100))
    assert [len(place) for place in reader.places(target)][:2] == [3, 4]
    assert scattered(reader, b"llo0000", target) == 3
    assert read_all(reader) == [Mark.FLUSH, Mark.NEED_DATA]


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_a_header_that_was_cut_is_completed_first(cut: int) -> None:
    reader = PacketReader()
    target = memoryview(bytearray(100))
    assert scattered(reader, b"fff0"[:cut], target) == 0
    assert read_all(reader) == [Mark.NEED_DATA]
    assert reader.places(target) == []
    reader.feed(b"fff0"[cut:] + b"ab")
    assert read_all(reader) == [b"ab", Mark.NEED_DATA]
    assert scattered(reader, b"cd", target) == 2


def test_the_end_is_told_by_the_next_piece() -> None:
    reader = PacketReader()
    target = memoryview(bytearray(100))
    assert scattered(reader, b"", target) == 0
    assert reader.places(target) == []
    assert read_all(reader) == [Mark.END]
    reader = PacketReader()
    assert scattered(reader, b"fff0abc", target) == 3
    assert scattered(reader, b"", target[3:]) == 0
    with pytest.raises(ProtocolError, match="ends inside a packet"):
        reader.next_piece()


@pytest.mark.parametrize("header", [b"fff1", b"ffff", b"0001", b"FFF ", b"-fff", b"fff\n"])
def test_bad_lengths_in_the_place_of_a_full_packets(header: bytes) -> None:
    reader = PacketReader()
    target = memoryview(bytearray(2 * MAX_DATA))
    assert scattered(reader, FULL + header + b"abc", target) == MAX_DATA
    with pytest.raises(ProtocolError, match="packet length"):
        reader.next_piece()


def test_a_full_packets_length_in_capitals_is_as_good() -> None:
    reader = PacketReader()
    target = memoryview(bytearray(10))
    assert scattered(reader, b"FFF0abc", target) == 0
    assert read_all(reader) == [b"abc", Mark.NEED_DATA]
    assert reader.inside


def test_nothing_is_placed_in_an_empty_target() -> None:
    assert PacketReader().places(memoryview(bytearray())) == []


def test_a_large_target_needs_few_places() -> None:
    assert len(PacketReader().places(memoryview(bytearray(1 << 26)))) < 20
