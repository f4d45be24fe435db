"""Two ends of the wire, joined by a pipe that cuts where it likes: what one says is what the other hears."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.transcript import Turn
from theta_daemon.wire import packets
from theta_daemon.wire.client import FilterClient
from theta_daemon.wire.events import (
    NEED_DATA,
    Agreed,
    Available,
    Content,
    ContentEnd,
    FinalStatus,
    ListAvailable,
    NeedData,
    Outcome,
    Reply,
    Request,
    Status,
)
from theta_daemon.wire.packets import Mark, PacketReader
from theta_daemon.wire.session import FilterSession
from theta_daemon.wire.states import LocalProtocolError

CUTS = st.lists(st.integers(1, 70_000), min_size=1, max_size=8)
# Sizes around the limits of a packet, where an error by one would hide.
SIZES = st.one_of(st.integers(0, 20), st.sampled_from([65515, 65516, 65517, 131031, 131032, 131033, 200_000]))
OBJECT_IDS = st.one_of(st.none(), st.text("0123456789abcdef", min_size=40, max_size=40))
REQUESTS = st.builds(
    Request,
    st.sampled_from(["clean", "smudge", "later"]),
    st.binary(min_size=1, max_size=50),
    st.one_of(st.none(), st.text(st.characters(exclude_characters="\n"), min_size=1, max_size=20)),
    OBJECT_IDS,
    OBJECT_IDS,
    st.booleans(),
)


class Pair:
    """git and the filter, and between them a pipe that passes on parts of the given sizes in turn."""

    def __init__(self, sizes: list[int], capabilities: tuple[str, ...]) -> None:
        self.client = FilterClient(capabilities)
        self.session = FilterSession()
        self._sizes = sizes
        self._turn = 0
        self._to_filter = bytearray()
        self._to_git = bytearray()
        # As in a channel: one buffer for each side, overwritten by each part.
        self._filter_buffer = bytearray(1 << 20)
        self._git_buffer = bytearray(1 << 20)

    def filter_hears(self) -> object:
        while isinstance(event := self.session.next_event(), NeedData):
            self._collect()
            self.session.receive_data(self._part(self._to_filter, self._filter_buffer))
        self._collect()
        return event

    def git_hears(self) -> object:
        while isinstance(event := self.client.next_event(), NeedData):
            self._collect()
            if not self._to_git:  # in the handshake, which the session answers by itself
                assert self.session.next_event() is NEED_DATA
                self._collect()
            if self._to_git:
                self.client.receive_data(self._part(self._to_git, self._git_buffer))
            else:
                self.session.receive_data(self._part(self._to_filter, self._filter_buffer))
        return event

    def _collect(self) -> None:
        self._to_filter += b"".join(self.client.data_to_send())
        self._to_git += b"".join(self.session.data_to_send())

    def _part(self, pending: bytearray, buffer: bytearray) -> memoryview:
        assert pending, "both sides wait"
        size = min(self._sizes[self._turn % len(self._sizes)], len(pending))
        self._turn += 1
        buffer[:size] = pending[:size]
        del pending[:size]
        return memoryview(buffer)[:size]


def content_of(hear: Pair, side: str) -> bytes:
    whole = bytearray()
    listen = hear.filter_hears if side == "filter" else hear.git_hears
    while isinstance(event := listen(), Content):
        assert len(event.data)
        whole += event.data
    assert event == ContentEnd()
    return bytes(whole)


@given(
    CUTS,
    st.booleans(),
    st.lists(
        st.tuples(REQUESTS, SIZES, SIZES, st.sampled_from(["success", "error", "abort", "late", "delayed"])), max_size=4
    ),
)
def test_what_is_said_is_heard(sizes: list[int], delay: bool, exchanges: list[tuple[Request, int, int, str]]) -> None:
    offered = ("clean", "smudge", "delay") if delay else ("clean", "smudge")
    pair = Pair(sizes, offered)
    assert pair.git_hears() == Agreed(frozenset(offered))
    for request, asked, answered, end in exchanges:
        question, reply = payload(asked), payload(answered)
        for said in (request, Content(question), ContentEnd()):
            pair.client.send(said)
        known = request.command, request.pathname, request.ref, request.treeish, request.blob
        assert pair.filter_hears() == Request(*known, can_delay=request.can_delay and delay)
        assert content_of(pair, "filter") == question
        if end == "delayed" and not (request.can_delay and delay):
            with pytest.raises(LocalProtocolError):
                pair.session.send(Status(Outcome.DELAYED))
            end = "error"
        if end in ("error", "abort", "delayed"):
            pair.session.send(Status(Outcome(end)))
            assert pair.git_hears() == Status(Outcome(end))
            continue
        last = FinalStatus(Outcome.ERROR if end == "late" else None)
        replies: list[Reply] = [Status(Outcome.SUCCESS), Content(reply), ContentEnd(), last]
        for said_back in replies:
            pair.session.send(said_back)
        assert pair.git_hears() == Status(Outcome.SUCCESS)
        assert content_of(pair, "git") == reply
        assert pair.git_hears() == last


PATHS = st.lists(st.binary(min_size=1, max_size=50), max_size=400, unique=True)


@given(CUTS, st.lists(PATHS, max_size=4))
def test_what_is_listed_is_heard(sizes: list[int], lists: list[list[bytes]]) -> None:
    pair = Pair(sizes, ("smudge", "delay"))
    pair.git_hears()
    for paths in lists:
        pair.client.send(ListAvailable())
        assert pair.filter_hears() == ListAvailable()
        pair.session.send(Available(tuple(paths)))
        assert pair.git_hears() == Available(tuple(paths))


def payload(size: int) -> bytes:
    return (bytes(range(251)) * (size // 251 + 1))[:size]


@given(st.lists(st.one_of(st.none(), st.binary(max_size=30)), max_size=12), CUTS)
def test_packets_survive_any_cut(payloads: list[bytes | None], sizes: list[int]) -> None:
    wire = b"".join(b"0000" if part is None else b"%04x" % (len(part) + 4) + part for part in payloads)
    reader = PacketReader()
    buffer = bytearray(70_000)
    found: list[bytes | None] = []
    current = bytearray()
    position = turn = 0
    while (piece := reader.next_piece()) is not Mark.END:
        if piece is Mark.NEED_DATA:
            size = min(sizes[turn % len(sizes)] % 9 + 1, len(wire) - position)
            buffer[:size] = wire[position : position + size]
            reader.feed(memoryview(buffer)[:size])
            position += size
            turn += 1
        elif piece is Mark.FLUSH:
            found.append(None)
        elif isinstance(piece, memoryview):
            current += piece
            if not reader.inside:
                found.append(bytes(current))
                current.clear()
    assert found == payloads


@given(st.lists(SIZES, max_size=5))
def test_written_content_is_legal_and_complete(sizes: list[int]) -> None:
    wire = b"".join(b"".join(packets.content(payload(size))) for size in sizes) + packets.FLUSH_PACKET
    (parts,) = Turn(from_git=True, wire=wire).lists()
    assert b"".join(parts) == b"".join(map(payload, sizes))
    assert all(0 < len(part) <= 65516 for part in parts)
