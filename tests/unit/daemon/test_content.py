from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import pytest

from tests.support import transcript
from theta_daemon.daemon.channel import Channel
from theta_daemon.daemon.connection import Connection
from theta_daemon.daemon.content import ContentStream
from theta_daemon.errors import ProtocolError
from theta_daemon.wire.events import Outcome, Request, Status
from theta_daemon.wire.states import LocalProtocolError


def packet(payload: bytes) -> bytes:
    return b"%04x" % (len(payload) + 4) + payload


REQUEST = transcript.load("handshake").from_git + packet(b"command=clean") + packet(b"pathname=a") + b"0000"


class Parts(Channel):
    """A channel that returns the given parts, one a read, into buffers full of garbage; it counts the reads."""

    def __init__(self, parts: Iterable[bytes]) -> None:
        self._parts = iter(parts)
        self._part = b""
        self._buffer = memoryview(bytearray(1 << 20))
        self.reads = 0
        self.sizes: list[int] = []  # of all views that were ever filled
        self.written = b""

    def scatter(self, views: Sequence[memoryview]) -> int:
        self.reads += 1
        self.sizes += map(len, views)
        self._part = self._part or next(self._parts, b"")
        count = 0
        for view in views:
            taken, self._part = self._part[: len(view)], self._part[len(view) :]
            view[:] = taken.ljust(len(view), b"\xee")
            count += len(taken)
        return count

    def write(self, pieces: Iterable[bytes | bytearray | memoryview]) -> None:
        self.written += b"".join(pieces)


def opened(*parts: bytes) -> tuple[ContentStream, Connection, Parts]:
    """Return the content of a request whose bytes come in these parts."""
    channel = Parts([REQUEST, *parts])
    connection = Connection(channel)
    assert connection.next_event() == Request("clean", b"a")
    return ContentStream(connection), connection, channel


def read(stream: ContentStream, size: int) -> bytes:
    target = bytearray(size)
    count = stream.readinto(memoryview(target))
    return bytes(target[:count])


def test_a_read_takes_all_that_has_arrived_behind_a_short_packet_and_waits_for_no_more() -> None:
    stream, _, channel = opened(packet(b"abc") + packet(b"def") + b"0007g", b"hi0000")
    before = channel.reads
    assert read(stream, 100) == b"abcdefg"
    assert channel.reads == before + 1
    assert read(stream, 100) == b"hi"
    assert channel.reads == before + 2
    assert read(stream, 100) == b""


def test_a_read_takes_no_more_than_asked() -> None:
    stream, _, _ = opened(packet(b"abc") + packet(b"def") + b"0000")
    parts = [read(stream, 2) for _ in range(4)]
    assert max(map(len, parts)) == 2
    assert b"".join(parts) == b"abcdef"


def test_full_packets_are_waited_for_until_the_target_is_full() -> None:
    payload = bytes(range(251)) * 1000
    packets = [packet(payload[start : start + 65516]) for start in range(0, len(payload), 65516)]
    stream, _, _ = opened(*packets[:2], packets[2][:1], packets[2][1:3], packets[2][3:], packets[3] + b"0000")
    assert read(stream, 150_000) == payload[:131_032]  # a header was cut: that is not read into place
    assert read(stream, 60_000) == payload[131_032:191_032]
    assert b"".join(iter(lambda: read(stream, 100_000), b"")) == payload[191_032:]


def test_full_packets_are_read_straight_into_the_target() -> None:
    stream, _, channel = opened(packet(b"f" * 65516) * 3, b"0000")
    assert read(stream, 3 * 65516) == b"f" * 3 * 65516
    assert max(channel.sizes[1:]) == 65516  # nothing went through the channel's own buffer


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_cut_into_single_bytes(size: int) -> None:
    wire = packet(b"abc") + packet(b"") + packet(b"d" * 300) + b"0000"
    stream, _, _ = opened(*(bytes([byte]) for byte in wire))
    assert b"".join(iter(lambda: read(stream, size), b"")) == b"abc" + b"d" * 300


def test_the_end_stays_the_end() -> None:
    stream, connection, _ = opened(b"0000")
    assert read(stream, 10) == b""
    assert read(stream, 10) == b""
    connection.send(Status(Outcome.ERROR))
    connection.flush()


@pytest.mark.parametrize("already", [0, 2, 3, 6])
def test_drain_takes_the_rest(already: int) -> None:
    stream, connection, _ = opened(packet(b"abc"), packet(b"def") + b"0000")
    for _ in range(already):
        read(stream, 1)
    stream.drain()
    connection.send(Status(Outcome.ERROR))  # it is our turn


def test_reading_after_the_drain_is_our_bug_if_something_was_lost() -> None:
    stream, _, _ = opened(packet(b"abc") + b"0000")
    read(stream, 2)
    stream.drain()
    with pytest.raises(LocalProtocolError, match="not read before the reply began"):
        read(stream, 10)


def test_reading_after_the_drain_is_the_end_if_nothing_was() -> None:
    stream, _, _ = opened(packet(b"abc") + b"0000")
    assert read(stream, 3) == b"abc"
    stream.drain()
    assert read(stream, 10) == b""


@pytest.mark.parametrize("broken", [[b"0007ab"], [packet(b"ab")], [b"zzzz"], []])
def test_what_broke_the_protocol_is_raised_again_by_drain(broken: list[bytes]) -> None:
    stream, _, _ = opened(*broken)
    actions: list[Callable[[], object]] = [
        lambda: b"".join(iter(lambda: read(stream, 10), b"")),
        stream.drain,
        stream.drain,
    ]
    for action in actions:
        with pytest.raises(ProtocolError):
            action()
