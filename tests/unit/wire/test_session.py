"""The filter's side, item by item of the checklist in protocol/filter-process.md.

What takes more than one exchange is a transcript (tests/golden/test_transcripts.py).
"""

from __future__ import annotations

import pytest

from theta_daemon.errors import ProtocolError
from theta_daemon.wire.events import (
    NEED_DATA,
    Available,
    Closed,
    Content,
    ContentEnd,
    FilterEvent,
    FinalStatus,
    ListAvailable,
    Outcome,
    Reply,
    Request,
    Status,
)
from theta_daemon.wire.session import FilterSession
from theta_daemon.wire.states import LocalProtocolError, State

WELCOME = b"0016git-filter-client\n000eversion=2\n0000"
OFFER = b"0015capability=clean\n0016capability=smudge\n0015capability=delay\n0000"
REPLIES: list[Reply] = [
    Status(Outcome.SUCCESS),
    Status(Outcome.ERROR),
    Status(Outcome.ABORT),
    Content(b"content"),
    ContentEnd(),
    FinalStatus(),
    Available(()),
]


def packet(text: bytes) -> bytes:
    return b"%04x" % (len(text) + 4) + text


def listed(*lines: bytes) -> bytes:
    return b"".join(packet(line + b"\n") for line in lines) + b"0000"


def sent(session: FilterSession) -> bytes:
    return b"".join(session.data_to_send())


def feed(session: FilterSession, data: bytes) -> None:
    assert session.next_event() is NEED_DATA
    session.receive_data(data)


def ready(*capabilities: str) -> FilterSession:
    """Return a session after its handshake."""
    session = FilterSession(capabilities or ("clean", "smudge"))
    feed(session, WELCOME + OFFER)
    assert session.next_event() is NEED_DATA
    sent(session)
    return session


def asked(*lines: bytes, session: FilterSession | None = None) -> FilterEvent:
    """Return the event for a request of these lines."""
    session = session or ready()
    feed(session, listed(*lines))
    event = session.next_event()
    assert event is not NEED_DATA
    return event


def awaiting_reply(session: FilterSession | None = None, *lines: bytes) -> FilterSession:
    session = session or ready()
    asked(b"command=clean", b"pathname=a", *lines, session=session)
    feed(session, b"0000")
    assert session.next_event() == ContentEnd()
    return session


def test_H1_welcome_is_answered_with_exactly_one_version() -> None:
    session = FilterSession()
    feed(session, listed(b"git-filter-client", b"version=1", b"version=2", b"version=3"))
    assert session.next_event() is NEED_DATA
    assert sent(session) == listed(b"git-filter-server", b"version=2")


@pytest.mark.parametrize("lines", [[b"version=1"], [b"version=22"], [b"version="], [b"version"], [], [b"Version=2"]])
def test_H1_without_version_2_nothing_is_answered(lines: list[bytes]) -> None:
    session = FilterSession()
    feed(session, listed(b"git-filter-client", *lines))
    with pytest.raises(ProtocolError, match="version 2"):
        session.next_event()
    assert sent(session) == b""


@pytest.mark.parametrize("first", [b"git-filter-server", b"git-filter-clients", b"version=2", b""])
def test_H1_H3_who_is_not_git_gets_no_answer(first: bytes) -> None:
    session = FilterSession()
    feed(session, listed(first, b"version=2"))
    with pytest.raises(ProtocolError, match="not git"):
        session.next_event()
    assert sent(session) == b""


@pytest.mark.parametrize(
    ("offered", "taken"),
    [
        ([b"clean", b"smudge", b"delay"], [b"clean", b"smudge", b"delay"]),
        ([b"delay", b"smudge"], [b"smudge", b"delay"]),
        ([b"clean", b"smudge"], [b"clean", b"smudge"]),
        ([b"smudge", b"clean"], [b"clean", b"smudge"]),
        ([b"clean"], [b"clean"]),
        ([b"smudge"], [b"smudge"]),
        ([b"other"], []),
        ([], []),
        ([b"Clean", b"smudge=1", b"clean "], []),
        ([b"clean", b"clean"], [b"clean"]),
    ],
)
def test_H2_H4_capabilities_are_a_subset_of_what_git_offers(offered: list[bytes], taken: list[bytes]) -> None:
    session = FilterSession()
    feed(session, WELCOME)
    assert session.next_event() is NEED_DATA
    sent(session)
    session.receive_data(listed(*(b"capability=" + name for name in offered)))
    assert session.next_event() is NEED_DATA
    assert sent(session) == listed(*(b"capability=" + name for name in taken))
    assert session.agreed == {name.decode() for name in taken}


def test_H2_a_session_takes_no_more_than_it_is_told_to() -> None:
    assert ready("clean", "smudge").agreed == {"clean", "smudge"}
    assert ready("clean", "smudge", "delay").agreed == {"clean", "smudge", "delay"}


def test_R1_all_known_keys() -> None:
    lines = [b"command=smudge", b"pathname=a", b"ref=refs/heads/b", b"treeish=" + b"1" * 40, b"blob=" + b"2" * 64]
    request = Request("smudge", b"a", "refs/heads/b", "1" * 40, "2" * 64, can_delay=True)
    assert asked(*lines, b"can-delay=1", session=ready("smudge", "delay")) == request
    assert asked(b"can-delay=1", *reversed(lines), session=ready("smudge", "delay")) == request


def test_R1_unknown_keys_are_ignored() -> None:
    assert asked(b"x=y", b"command=clean", b"=", b"=z", b"flag", b"pathname=a", b"") == Request("clean", b"a")


def test_R1_the_value_may_hold_an_equals_sign() -> None:
    assert asked(b"command=clean", b"pathname==a=b=") == Request("clean", b"=a=b=")


def test_R1_the_last_line_of_a_key_counts() -> None:
    assert asked(b"pathname=a", b"command=x", b"pathname=b", b"command=clean") == Request("clean", b"b")


@pytest.mark.parametrize("value", [b"0", b"", b"2", b"true"])
def test_R1_can_delay_is_1_or_nothing(value: bytes) -> None:
    session = ready("smudge", "delay")
    assert asked(b"command=smudge", b"pathname=a", b"can-delay=" + value, session=session) == Request("smudge", b"a")


@pytest.mark.parametrize(
    "path", [b" ", b"a 'q' \"$x,=.r", b"caf\xe9", b"\xff\xfe", b"a\nb", b"a\n", b"\n", b"x" * 65506]
)
def test_R2_paths_are_raw_bytes(path: bytes) -> None:
    assert asked(b"command=clean", b"pathname=" + path) == Request("clean", path)


def test_R2_the_longest_path_may_come_without_lf() -> None:
    session = ready()
    feed(session, packet(b"command=clean") + packet(b"pathname=" + b"x" * 65507) + b"0000")
    assert session.next_event() == Request("clean", b"x" * 65507)


def test_R3_nothing_about_the_commit_is_required() -> None:
    assert asked(b"command=smudge", b"pathname=a") == Request("smudge", b"a", None, None, None)
    assert asked(b"command=smudge", b"pathname=a", b"ref=", b"blob=") == Request("smudge", b"a", None, None, None)


def test_R3_a_branch_need_not_be_utf8() -> None:
    event = asked(b"command=smudge", b"pathname=a", b"ref=refs/heads/\xe9")
    assert isinstance(event, Request)
    assert event.ref is not None
    assert event.ref.encode("utf-8", "surrogateescape") == b"refs/heads/\xe9"


def test_R4_content_comes_as_it_arrives_and_is_not_copied() -> None:
    session = ready()
    asked(b"command=clean", b"pathname=a", session=session)
    assert session.next_event() is NEED_DATA
    buffer = bytearray(b"000ahel")
    session.receive_data(buffer)
    event = session.next_event()
    assert event == Content(b"hel")
    assert isinstance(event, Content)
    assert isinstance(event.data, memoryview)
    assert event.data.obj is buffer
    feed(session, b"lo!00000")
    assert session.next_event() == Content(b"lo!")
    assert session.next_event() == ContentEnd()


def test_R4_empty_content() -> None:
    session = ready()
    feed(session, listed(b"command=clean", b"pathname=a") + b"00040000")
    assert session.next_event() == Request("clean", b"a")
    assert session.next_event() == ContentEnd()


@pytest.mark.parametrize("lines", [[b"pathname=a"], [b"command=", b"pathname=a"], [b"command=clean"], [], [b"x=y"]])
def test_a_request_needs_a_command_and_its_path(lines: list[bytes]) -> None:
    session = ready()
    feed(session, listed(*lines))
    with pytest.raises(ProtocolError, match="request without"):
        session.next_event()


def test_an_unknown_command_with_a_path_brings_content() -> None:
    session = ready()
    assert asked(b"command=\xff", b"pathname=a", session=session) == Request("\udcff", b"a")
    assert session.state is State.CONTENT


def test_an_unknown_command_without_a_path_brings_none() -> None:
    session = ready()
    assert asked(b"command=what", session=session) == Request("what")
    session.send(Status(Outcome.ERROR))
    assert sent(session) == listed(b"status=error")
    assert session.next_event() is NEED_DATA


def test_P1_success() -> None:
    session = awaiting_reply()
    for reply in (Status(Outcome.SUCCESS), Content(b"x" * 65517), Content(b""), ContentEnd(), FinalStatus()):
        session.send(reply)
    assert sent(session) == b"".join(
        [listed(b"status=success"), packet(b"x" * 65516), packet(b"x"), b"0000", b"0000"],
    )
    assert session.next_event() is NEED_DATA


def test_P1_empty_content() -> None:
    session = awaiting_reply()
    for reply in (Status(Outcome.SUCCESS), ContentEnd(), FinalStatus()):
        session.send(reply)
    assert sent(session) == listed(b"status=success") + b"00000000"


@pytest.mark.parametrize("outcome", [Outcome.ERROR, Outcome.ABORT])
def test_P2_P4_an_error_is_all_there_is_to_say(outcome: Outcome) -> None:
    session = awaiting_reply()
    session.send(Status(outcome))
    assert sent(session) == listed(b"status=" + outcome.value.encode())
    assert asked(b"command=clean", b"pathname=b", session=session) == Request("clean", b"b")


@pytest.mark.parametrize("outcome", [Outcome.ERROR, Outcome.ABORT])
def test_P3_P4_a_late_error(outcome: Outcome) -> None:
    session = awaiting_reply()
    session.send(Status(Outcome.SUCCESS))
    session.send(Content(b"abc"))
    session.send(ContentEnd())
    match outcome:
        case Outcome.ERROR:
            session.send(FinalStatus(Outcome.ERROR))
        case Outcome.ABORT:
            session.send(FinalStatus(Outcome.ABORT))
    assert sent(session) == listed(b"status=success") + b"0007abc0000" + listed(b"status=" + outcome.value.encode())


def test_P7_nothing_can_be_said_before_the_content_has_ended() -> None:
    session = FilterSession()
    arrived = [WELCOME, OFFER, listed(b"command=clean", b"pathname=a"), b"0009hello"]
    for part in arrived:
        feed(session, part)
        while session.next_event() is not NEED_DATA:
            pass
        sent(session)
        for reply in REPLIES:
            with pytest.raises(LocalProtocolError, match="the filter may not say"):
                session.send(reply)
        assert sent(session) == b""
    session.receive_data(b"0000")
    assert session.next_event() == ContentEnd()
    session.send(Status(Outcome.SUCCESS))


@pytest.mark.parametrize(
    ("said", "legal"),
    [
        ([], [Status(Outcome.SUCCESS), Status(Outcome.ERROR), Status(Outcome.ABORT)]),
        ([Status(Outcome.SUCCESS)], [Content(b"content"), ContentEnd()]),
        ([Status(Outcome.SUCCESS), ContentEnd()], [FinalStatus()]),
        ([Status(Outcome.ERROR)], []),
        ([Status(Outcome.SUCCESS), ContentEnd(), FinalStatus()], []),
    ],
)
def test_replies_come_in_their_order(said: list[Reply], legal: list[Reply]) -> None:
    for reply in REPLIES:
        session = awaiting_reply()
        for before in said:
            session.send(before)
        if reply in legal:
            session.send(reply)
        else:
            with pytest.raises(LocalProtocolError):
                session.send(reply)


def test_P7_while_a_reply_is_due_there_is_nothing_to_receive() -> None:
    session = awaiting_reply()
    with pytest.raises(LocalProtocolError, match="nothing to receive"):
        session.next_event()


def test_a_request_that_came_early_waits_for_the_reply() -> None:
    session = ready()
    feed(session, (listed(b"command=clean", b"pathname=a") + b"0000") * 2)
    for _ in range(2):
        assert session.next_event() == Request("clean", b"a")
        assert session.next_event() == ContentEnd()
        session.send(Status(Outcome.ERROR))
    assert session.next_event() is NEED_DATA


def test_F4_S1_the_end_between_requests() -> None:
    session = ready()
    feed(session, b"")
    assert session.next_event() == Closed()
    assert session.next_event() == Closed()
    assert session.state is State.CLOSED


@pytest.mark.parametrize(
    "before", [b"", b"0", WELCOME[:20], WELCOME[:-4], WELCOME, WELCOME + OFFER[:-1], WELCOME + OFFER + b"000"]
)
def test_F4_the_end_anywhere_else(before: bytes) -> None:
    session = FilterSession()
    if before:
        feed(session, before)
    feed(session, b"")
    with pytest.raises(ProtocolError, match=r"ends"):
        session.next_event()


def test_a_broken_session_stays_broken() -> None:
    session = ready()
    feed(session, b"zzzz" + WELCOME)
    for _ in range(2):
        with pytest.raises(ProtocolError, match="hexadecimal"):
            session.next_event()
    assert session.state is State.BROKEN
    with pytest.raises(LocalProtocolError):
        session.send(Status(Outcome.SUCCESS))


class TestDelay:
    """D: who may say what about files that wait; what they are is for the pipelines."""

    def test_D1_only_with_can_delay(self) -> None:
        session = awaiting_reply(ready("clean", "delay"), b"can-delay=1")
        session.send(Status(Outcome.DELAYED))
        assert sent(session) == listed(b"status=delayed")
        awaiting_reply(session)
        with pytest.raises(LocalProtocolError, match="can wait"):
            session.send(Status(Outcome.DELAYED))
        session.send(Status(Outcome.ERROR))

    def test_D1_only_where_delay_was_agreed(self) -> None:
        request = asked(b"command=smudge", b"pathname=a", b"can-delay=1", session=ready("clean", "smudge"))
        assert request == Request("smudge", b"a", can_delay=False)
        session = awaiting_reply(ready("clean", "smudge"), b"can-delay=1")
        with pytest.raises(LocalProtocolError, match="can wait"):
            session.send(Status(Outcome.DELAYED))
        assert sent(session) == b""
        session.send(Status(Outcome.ERROR))

    def test_D1_success_at_once_is_allowed(self) -> None:
        session = awaiting_reply(ready("clean", "delay"), b"can-delay=1")
        session.send(Status(Outcome.SUCCESS))

    def test_D2_D4_the_list_has_the_paths_as_they_came(self) -> None:
        session = ready("smudge", "delay")
        assert asked(b"command=list_available_blobs", session=session) == ListAvailable()
        session.send(Available((b"a=b\n", b"\xff")))
        assert sent(session) == listed(b"pathname=a=b\n", b"pathname=\xff") + listed(b"status=success")
        assert session.next_event() is NEED_DATA

    def test_D3_the_empty_list_says_no_more(self) -> None:
        session = ready("smudge", "delay")
        asked(b"command=list_available_blobs", session=session)
        session.send(Available(()))
        assert sent(session) == b"0000" + listed(b"status=success")

    def test_D5_D6_the_second_request_is_like_any_other(self) -> None:
        session = ready("clean", "delay")
        awaiting_reply(session, b"can-delay=1")
        session.send(Status(Outcome.DELAYED))
        awaiting_reply(session)
        session.send(Status(Outcome.ERROR))

    def test_D8_the_end_while_files_are_delayed(self) -> None:
        session = ready("clean", "delay")
        awaiting_reply(session, b"can-delay=1")
        session.send(Status(Outcome.DELAYED))
        feed(session, b"")
        assert session.next_event() == Closed()

    def test_D11_a_list_needs_an_answer(self) -> None:
        session = ready("smudge", "delay")
        asked(b"command=list_available_blobs", session=session)
        for reply in REPLIES[:-1]:
            with pytest.raises(LocalProtocolError):
                session.send(reply)
