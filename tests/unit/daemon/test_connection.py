from __future__ import annotations

from collections.abc import Iterable

from tests.support import transcript
from theta_daemon.daemon.channel import MAX_PIECES, Channel
from theta_daemon.daemon.connection import Connection
from theta_daemon.wire.events import Closed, ContentEnd, FinalStatus, Outcome, Request, Status

ASKED = transcript.load("clean-empty").from_git


class Writes(Channel):
    """A channel that has one request to read, and keeps every write."""

    def __init__(self) -> None:
        self._parts = iter([ASKED])
        self.writes: list[list[int]] = []
        self.data = b""

    def read(self) -> memoryview:
        return memoryview(next(self._parts, b""))

    def write(self, pieces: Iterable[bytes | bytearray | memoryview]) -> None:
        gathered = list(pieces)
        self.writes.append([len(piece) for piece in gathered])
        self.data += b"".join(gathered)


def asked() -> tuple[Connection, Writes]:
    channel = Writes()
    connection = Connection(channel)
    assert connection.next_event() == Request("clean", b"s0.r")
    assert connection.next_event() == ContentEnd()
    channel.writes.clear()
    channel.data = b""
    return connection, channel


def test_the_handshake_is_answered_before_the_first_event() -> None:
    channel = Writes()
    Connection(channel).next_event()
    assert channel.data == transcript.load("handshake").from_filter


def test_status_and_content_travel_together() -> None:
    connection, channel = asked()
    connection.send(Status(Outcome.SUCCESS))
    connection.write_content([bytearray(b"abc"), memoryview(b"d" * 5000)])
    assert channel.data == b"0013status=success\n00000007abc138c" + b"d" * 5000
    assert len(channel.writes) == 1


def test_a_piece_of_any_size_is_cut_into_few_packets_at_a_time() -> None:
    connection, channel = asked()
    connection.send(Status(Outcome.SUCCESS))
    connection.write_content([memoryview(bytes(10_000_000))])
    packets = [size for sizes in channel.writes for size in sizes if size > 20]
    assert packets == [65516] * (10_000_000 // 65516) + [10_000_000 % 65516]
    assert max(len(sizes) for sizes in channel.writes) <= MAX_PIECES + 2  # ... and the status


def test_what_was_queued_is_written_before_the_end() -> None:
    connection, channel = asked()
    connection.send(Status(Outcome.SUCCESS), ContentEnd(), FinalStatus())
    assert channel.writes == []
    assert connection.next_event() == Closed()
    assert channel.data == b"0013status=success\n000000000000"
