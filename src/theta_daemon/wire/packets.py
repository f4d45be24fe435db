"""pkt-lines, git's framing: four hexadecimal digits that give the length, then the payload.

`PacketReader` is fed bytes as they arrive and hands out pieces of payload: slices of what it was fed, never copies,
so that a packet need not be complete before its first bytes are used. Or it says beforehand where payload and headers
are to be put, for one scatter read, and finds out afterwards whether they came as expected. `content`, `line` and
`FLUSH_PACKET` write. Nothing here knows what a packet means.

Source: git's gitprotocol-common (pkt-line format) and pkt-line.h (LARGE_PACKET_MAX).
"""

from __future__ import annotations

import binascii
import enum

from theta_daemon.errors import ProtocolError

HEADER = 4
MAX_PACKET = 65520  # with its header
MAX_DATA = MAX_PACKET - HEADER
FLUSH_PACKET = b"0000"
_FULL_HEADER = b"fff0"  # that of a packet of MAX_PACKET bytes
_AHEAD = 4  # headers that are expected at a time: more have seldom arrived, and each costs time


class Mark(enum.Enum):
    """What a reader returns where there is no payload."""

    FLUSH = "flush"  # a flush packet
    NEED_DATA = "need data"  # everything fed so far was handed out
    END = "end"  # the stream ended, between two packets


def parse_length(header: bytes | memoryview) -> int:
    """Return the length that a packet's four header bytes give: 0 for a flush packet, else 4 to 65520.

    Exactly four hexadecimal digits, in either case: `int(x, 16)` alone would also take a sign, blanks, underscores
    and an 0x prefix, and then read a length that the writer never meant. Raises ProtocolError.
    """
    try:
        length = int.from_bytes(binascii.unhexlify(header), "big")
    except ValueError:
        raise ProtocolError(f"the packet length {bytes(header)!r} is not four hexadecimal digits") from None
    if 0 < length < HEADER or length > MAX_PACKET:
        raise ProtocolError(f"the packet length {length} is not allowed (0, or 4 to {MAX_PACKET})")
    return length


class PacketReader:
    """Splits a stream of bytes into packets, however the stream was cut.

    `feed` takes the next bytes, and b"" for the end of the stream; the bytes must not change before `next_piece` has
    returned NEED_DATA, and only then may more be fed. So the caller can read into one buffer again and again.
    """

    __slots__ = ("_ended", "_header", "_headers", "_places", "_position", "_remaining", "_view")

    def __init__(self) -> None:
        self._view = memoryview(b"")
        self._headers = [memoryview(bytearray(HEADER)) for _ in range(_AHEAD)]
        self._places: list[memoryview] = []
        self._position = 0
        self._header = b""  # the first digits of a header that was cut
        self._remaining = 0  # payload bytes of the current packet that were not handed out yet
        self._ended = False

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes of the stream; b"" says that it ended."""
        if self._position < len(self._view):
            raise RuntimeError("data fed before all earlier data was taken")
        if self._ended:
            raise RuntimeError("data fed after the end of the stream")
        self._view = memoryview(data)
        self._position = 0
        self._ended = not self._view

    @property
    def inside(self) -> bool:
        """Whether the packet that the last piece belongs to has more payload to come."""
        return self._remaining > 0

    def next_piece(self) -> memoryview | Mark:
        """Return the next bytes of payload, or a mark.

        A piece ends where its packet ends or where the fed bytes end; it is empty only for an empty packet (0004).
        Raises ProtocolError for a bad length and for a stream that ends inside a packet.
        """
        view, position = self._view, self._position
        if not self._remaining:
            missing = HEADER - len(self._header)
            header = view[position : position + missing]
            position += len(header)
            self._position = position
            if len(header) < missing:
                return self._starve(header)
            length = parse_length(self._header + header if self._header else header)
            self._header = b""
            if length == 0:
                return Mark.FLUSH
            self._remaining = length - HEADER
            if not self._remaining:
                return view[position:position]
        piece = view[position : position + self._remaining]
        if not piece:
            return self._starve(piece)
        self._position = position + len(piece)
        self._remaining -= len(piece)
        return piece

    def places(self, target: memoryview) -> list[memoryview]:
        """Return where to read the next bytes of the stream, in this order, so that payload comes to lie in `target`.

        That supposes that the packets to come are full ones, as git's are but for the last of a file: `placed` finds
        out. None for an empty target, at the end of the stream, and where other bytes come first: those fed earlier, or
        the rest of a header.
        """
        places: list[memoryview] = []
        if self._header or self._ended or self._position < len(self._view):
            return places
        size = len(target)
        end = min(self._remaining, size)
        if end:
            places.append(target[:end])
        for header in self._headers:
            if end == size:
                break
            start, end = end, min(end + MAX_DATA, size)
            places += (header, target[start:end])
        self._places = places
        return places

    def placed(self, count: int) -> int:
        """Take the `count` bytes that were read into the places; return how many bytes of payload `target` begins with.

        What does not follow a full packet's header was put in a wrong place, and is fed instead: the next pieces come
        from a copy of it. `count` is 0 where the stream ended.
        """
        places, remaining, payload = self._places, self._remaining, 0
        left = count
        for index, place in enumerate(places):
            if not left:
                break
            if remaining:
                taken = min(left, len(place))
                payload += taken
                remaining -= taken
                left -= taken
            elif place == _FULL_HEADER and left >= HEADER:
                remaining = MAX_DATA
                left -= HEADER
            else:
                self.feed(b"".join(places[index:])[:left])
                break
        self._remaining = remaining
        if not count:
            self.feed(b"")
        return payload

    def _starve(self, header: memoryview) -> Mark:
        if not self._ended:
            self._header += header
            return Mark.NEED_DATA
        if self._header or self._remaining:
            raise ProtocolError("the stream ends inside a packet")
        return Mark.END


def content(payload: bytes | bytearray | memoryview) -> list[bytes | memoryview]:
    """Return `payload` as packets, in pieces to be written one after the other; nothing for an empty payload.

    Every packet but the last is full. The payload is not copied: its pieces are slices of it.
    """
    view = memoryview(payload)
    size = view.nbytes
    if not size:
        return []
    if view.ndim != 1 or view.format != "B":
        view = view.cast("B")
    pieces: list[bytes | memoryview] = []
    full = size - size % MAX_DATA
    for start in range(0, full, MAX_DATA):
        pieces += (_FULL_HEADER, view[start : start + MAX_DATA])
    if full < size:
        pieces += (b"%04x" % (size - full + HEADER), view[full:])
    return pieces


def line(text: bytes) -> bytes:
    """Return one text line as a packet, with the LF that git expects from a good writer.

    Raises ValueError for a text that does not fit into a packet.
    """
    if len(text) >= MAX_DATA:
        raise ValueError(f"a line of {len(text)} bytes does not fit into a packet")
    return b"%04x%b\n" % (len(text) + 1 + HEADER, text)
