"""git's side, as far as the transcripts do not show it: above all what it makes of filters that misbehave."""

from __future__ import annotations

import pytest

from theta_daemon.errors import ProtocolError
from theta_daemon.wire.client import FilterClient
from theta_daemon.wire.events import (
    NEED_DATA,
    Agreed,
    Available,
    ClientEvent,
    Content,
    ContentEnd,
    FinalStatus,
    ListAvailable,
    Outcome,
    Request,
    Status,
)
from theta_daemon.wire.states import LocalProtocolError, State

SERVER = b"0016git-filter-server\n000eversion=2\n0000"


def listed(*lines: bytes) -> bytes:
    return b"".join(b"%04x" % (len(line) + 5) + line + b"\n" for line in lines) + b"0000"


def heard(client: FilterClient, data: bytes) -> ClientEvent:
    assert client.next_event() is NEED_DATA
    client.data_to_send()
    client.receive_data(data)
    event = client.next_event()
    assert event is not NEED_DATA
    return event


def agreed(*capabilities: str) -> FilterClient:
    client = FilterClient(capabilities or ("clean", "smudge"))
    taken = listed(*(f"capability={name}".encode() for name in client._capabilities))
    assert heard(client, SERVER + taken) == Agreed(frozenset(client._capabilities))
    return client


def skip(client: FilterClient) -> None:
    while client.next_event() is not NEED_DATA:
        pass


def asking(client: FilterClient | None = None, *, can_delay: bool = False) -> FilterClient:
    client = client or agreed()
    client.send(Request("smudge", b"a", can_delay=can_delay))
    client.send(ContentEnd())
    return client


def test_H1_it_greets_first() -> None:
    assert b"".join(FilterClient().data_to_send()) == listed(b"git-filter-client", b"version=2")


@pytest.mark.parametrize(
    "answer",
    [
        listed(b"git-filter-client", b"version=2"),
        listed(),
        listed(b"git-filter-server"),
        listed(b"git-filter-server", b"version=1"),
        listed(b"git-filter-server", b"version=2", b"version=2"),
        b"HTTP",
        b"",
    ],
)
def test_H1_H3_who_is_no_filter_is_refused(answer: bytes) -> None:
    client = FilterClient()
    with pytest.raises(ProtocolError):
        heard(client, answer)
    assert client.state is State.BROKEN


def test_H2_a_capability_that_nobody_offered_is_refused() -> None:
    with pytest.raises(ProtocolError, match="nobody offered"):
        heard(FilterClient(("clean",)), SERVER + listed(b"capability=clean", b"capability=smudge"))


def test_H2_a_subset_is_fine() -> None:
    assert heard(FilterClient(), SERVER + listed(b"capability=smudge")) == Agreed(frozenset({"smudge"}))


def test_questions_come_in_their_order() -> None:
    client = FilterClient()
    with pytest.raises(LocalProtocolError):
        client.send(Request("clean", b"a"))
    client = agreed()
    with pytest.raises(LocalProtocolError):
        client.send(Content(b"x"))
    with pytest.raises(LocalProtocolError, match="nothing to receive"):
        client.next_event()
    client.send(Request("clean", b"a"))
    with pytest.raises(LocalProtocolError):
        client.send(ListAvailable())


def test_R2_a_path_that_fits_into_no_packet_is_refused_and_nothing_said() -> None:
    client = agreed()
    client.data_to_send()
    with pytest.raises(ValueError, match="does not fit"):
        client.send(Request("clean", b"x" * 65507))
    assert client.data_to_send() == []
    client.send(Request("clean", b"x" * 65506))


def test_P5_an_unknown_status_is_refused() -> None:
    for answer in (b"status=maybe", b"status=", b"status=Success"):
        with pytest.raises(ProtocolError, match="unknown status"):
            heard(asking(), listed(answer))


def test_P5_no_status_is_refused() -> None:
    with pytest.raises(ProtocolError, match="without a status"):
        heard(asking(), listed(b"something=else"))


@pytest.mark.parametrize(
    "said", [b"", b"0013status=success\n", listed(b"status=success"), listed(b"status=success") + b"0009he"]
)
def test_P5_a_filter_that_ends_is_refused(said: bytes) -> None:
    client = asking()
    for data in [said, b""] if said else [b""]:
        skip(client)
        client.receive_data(data)
    with pytest.raises(ProtocolError, match="end"):
        skip(client)


def test_P6_the_last_status_counts_and_unknown_keys_do_not() -> None:
    assert heard(asking(), listed(b"status=error", b"x=y", b"flag", b"status=success")) == Status(Outcome.SUCCESS)


@pytest.mark.parametrize(
    ("last", "final"),
    [
        (listed(), FinalStatus()),
        (listed(b"status=success"), FinalStatus()),
        (listed(b"x=y"), FinalStatus()),
        (listed(b"status=error"), FinalStatus(Outcome.ERROR)),
        (listed(b"status=abort"), FinalStatus(Outcome.ABORT)),
    ],
)
def test_P1_P3_P4_the_last_word(last: bytes, final: FinalStatus) -> None:
    client = asking()
    assert heard(client, listed(b"status=success") + b"0009hello0000" + last) == Status(Outcome.SUCCESS)
    assert client.next_event() == Content(b"hello")
    assert client.next_event() == ContentEnd()
    assert client.next_event() == final


def test_D1_delayed_is_refused_where_the_file_cannot_wait() -> None:
    with pytest.raises(ProtocolError, match="cannot wait"):
        heard(asking(), listed(b"status=delayed"))
    with pytest.raises(ProtocolError, match="cannot wait"):
        heard(asking(can_delay=True), listed(b"status=delayed"))
    assert heard(asking(agreed("smudge", "delay"), can_delay=True), listed(b"status=delayed")) == Status(
        Outcome.DELAYED
    )


def test_D1_delayed_is_no_last_word() -> None:
    client = asking(agreed("smudge", "delay"), can_delay=True)
    assert heard(client, listed(b"status=success") + b"0000" + listed(b"status=delayed")) == Status(Outcome.SUCCESS)
    assert client.next_event() == ContentEnd()
    with pytest.raises(ProtocolError):
        client.next_event()


def test_D2_D3_lists() -> None:
    client = agreed("smudge", "delay")
    client.send(ListAvailable())
    paths = tuple(b"%d" % number for number in range(5000))
    whole = listed(*(b"pathname=" + path for path in paths)) + listed(b"status=success")
    assert heard(client, whole) == Available(paths)
    client.send(ListAvailable())
    assert heard(client, listed() + listed(b"status=success")) == Available(())


def test_P4_a_failing_list_breaks_the_session() -> None:
    client = agreed("smudge", "delay")
    client.send(ListAvailable())
    with pytest.raises(ProtocolError, match="failed to list"):
        heard(client, listed() + listed(b"status=abort"))
