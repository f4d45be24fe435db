"""Whatever comes over the wire, it is understood, or refused with ProtocolError; it never costs much memory.

The other side is git, so this guards against bugs and broken pipes more than against enemies.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import transcript
from theta_daemon.errors import ProtocolError
from theta_daemon.wire.client import FilterClient
from theta_daemon.wire.endpoint import MAX_LINES, MAX_LIST_BYTES
from theta_daemon.wire.events import NEED_DATA, Available, Closed, ContentEnd, ListAvailable, Outcome, Request, Status
from theta_daemon.wire.session import FilterSession
from theta_daemon.wire.states import SPEAKER, State

HANDSHAKE = transcript.load("handshake").from_git
SHORT = [name for name in transcript.NAMES if len(transcript.load(name).from_git) < 1500]
FRAGMENTS = st.sampled_from(
    [
        *(b"0000", b"0004", b"0001", b"fff0", b"000ahello\n", b"=", b"\xff", HANDSHAKE),
        *(b"0012command=clean\n", b"0011pathname=a.r\n", b"0021command=list_available_blobs\n"),
        *(b"0013status=success\n", b"0011status=error\n", b"000eversion=2\n"),
    ]
)
GARBAGE = st.lists(st.one_of(FRAGMENTS, st.binary(max_size=6)), max_size=12).map(b"".join)


def drive(session: FilterSession, data: bytes, size: int) -> bool:
    """Feed `data` and its end in parts, answering every request with an error; tell whether all was understood."""
    parts = [data[start : start + size] for start in range(0, len(data), size)]
    feed = iter([*parts, b""])
    try:
        while True:
            if SPEAKER.get(session.state) is session.side:
                session.send(Available(()) if session.state is State.LISTING else Status(Outcome.ERROR))
            event = session.next_event()
            if event == Closed():
                return True
            if event is NEED_DATA:
                session.receive_data(next(feed))
    except ProtocolError:
        assert session.state is State.BROKEN
        return False


@given(GARBAGE, st.booleans(), st.integers(1, 50))
def test_garbage_is_understood_or_refused_however_it_is_cut(garbage: bytes, after_handshake: bool, size: int) -> None:
    data = HANDSHAKE * after_handshake + garbage
    assert drive(FilterSession(), data, size) == drive(FilterSession(), data, 1 << 20)


@given(GARBAGE, st.integers(1, 50), st.sampled_from(["handshake", "status", "content", "list"]))
def test_a_filter_that_talks_garbage_is_understood_or_refused(garbage: bytes, size: int, where: str) -> None:
    client = client_at(where)
    feed = iter([*(garbage[start : start + size] for start in range(0, len(garbage), size)), b""])
    refused = False
    while SPEAKER.get(client.state) is not client.side and not refused:
        try:
            if client.next_event() is NEED_DATA:
                client.data_to_send()
                client.receive_data(next(feed))
        except ProtocolError:
            refused = True
    assert refused is (client.state is State.BROKEN)


def client_at(where: str) -> FilterClient:
    client = FilterClient(("smudge", "delay"))
    if where != "handshake":
        client.next_event()
        client.receive_data(
            b"0016git-filter-server\n000eversion=2\n0000" + b"0016capability=smudge\n0015capability=delay\n0000"
        )
        client.next_event()
        if where == "list":
            client.send(ListAvailable())
        else:
            client.send(Request("smudge", b"a"))
            client.send(ContentEnd())
    if where == "content":
        client.next_event()
        client.receive_data(b"0013status=success\n0000")
        client.next_event()
    return client


@pytest.mark.parametrize("name", SHORT)
def test_a_session_that_is_cut_anywhere_is_over_or_broken(name: str) -> None:
    loaded = transcript.load(name)
    whole = loaded.from_git
    for length in range(len(whole)):
        understood = drive(FilterSession(), whole[:length], 1 << 20)
        # To be understood, it must end where a request could begin.
        assert not understood or whole[:length].endswith(b"0000")


def list_of(count: int, line: bytes) -> bytes:
    return (b"%04x" % (len(line) + 4) + line) * count


@pytest.mark.parametrize(
    "endless",
    [
        list_of(MAX_LINES + 1, b"a=b"),
        list_of(MAX_LINES + 1, b""),
        list_of(17, b"a=" + b"b" * 65514),
        list_of(17, b"pathname=" + b"b" * 65507),
    ],
    ids=["lines", "empty lines", "bytes", "paths"],
)
def test_a_list_without_end_is_refused(endless: bytes) -> None:
    assert not drive(FilterSession(), HANDSHAKE + endless, 65520)
    assert not drive(FilterSession(), endless, 65520)
    client = client_at("status")
    with pytest.raises(ProtocolError, match="a list of more than"):
        swallow(client, endless)


def test_lists_within_the_limits_are_read() -> None:
    data = (
        HANDSHAKE + list_of(MAX_LINES - 2, b"a=b") + list_of(1, b"command=x") + list_of(1, b"pathname=a") + b"00000000"
    )
    assert drive(FilterSession(), data, 100)
    data = HANDSHAKE + list_of(MAX_LIST_BYTES // 65516, b"a=" + b"b" * 65514) + list_of(1, b"command=x") + b"0000"
    assert drive(FilterSession(), data, 65520)


def test_the_limits_are_those_of_one_list() -> None:
    request = (
        list_of(1, b"command=clean") + list_of(1, b"pathname=" + b"b" * 65507) + list_of(200, b"a=b") + b"00000000"
    )
    assert drive(FilterSession(), HANDSHAKE + request * 20, 65520)


def test_a_list_of_paths_without_end_is_refused() -> None:
    client = client_at("list")
    path = list_of(100, b"pathname=" + b"b" * 65507)
    with pytest.raises(ProtocolError, match="a list of more than"):  # noqa: PT012 - which part is refused does not matter
        for _ in range(20):
            swallow(client, path)


def swallow(client: FilterClient, data: bytes) -> None:
    assert client.next_event() is NEED_DATA
    client.receive_data(data)
    assert client.next_event() is NEED_DATA


def peak_of(action: Callable[[], None]) -> int:
    tracemalloc.start()
    try:
        action()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_content_is_never_gathered() -> None:
    part = list_of(20, b"x" * 65516)

    def read_a_gigabyte_of_packets() -> None:
        session = FilterSession()
        session.receive_data(HANDSHAKE + b"0012command=clean\n0011pathname=a.r\n0000")
        session.next_event()
        for _ in range(50):
            while session.next_event() is not NEED_DATA:
                pass
            session.receive_data(part)

    assert peak_of(read_a_gigabyte_of_packets) < 1_000_000


def test_a_promised_length_costs_nothing() -> None:
    def read_promises() -> None:
        for _ in range(1000):
            session = FilterSession()
            session.receive_data(b"fff0")
            assert session.next_event() is NEED_DATA

    assert peak_of(read_promises) < 1_000_000


def test_endless_empty_packets_in_content_are_nothing() -> None:
    session = FilterSession()
    session.receive_data(HANDSHAKE + b"0012command=clean\n0011pathname=a.r\n0000" + b"0004" * 100_000 + b"0000")
    assert isinstance(session.next_event(), Request)
    assert session.next_event() == ContentEnd()


def test_an_unknown_last_word_is_refused() -> None:
    client = client_at("content")
    client.receive_data(b"00000011status=maybe\n0000")
    assert client.next_event() == ContentEnd()
    with pytest.raises(ProtocolError, match="unknown status"):
        client.next_event()
    assert client.state is State.BROKEN
