"""Content that is read straight to where it belongs is what it would be if it were fed, however the stream is cut."""

from __future__ import annotations

from itertools import cycle

from hypothesis import given
from hypothesis import strategies as st

from tests.support import transcript
from theta_daemon.errors import ProtocolError
from theta_daemon.wire.events import NEED_DATA, Content, FilterEvent
from theta_daemon.wire.packets import MAX_DATA
from theta_daemon.wire.session import FilterSession
from theta_daemon.wire.states import SPEAKER, State

ASKED = transcript.load("handshake").from_git + b"0012command=clean\n0011pathname=a.r\n0000"
FULL = b"fff0" + (bytes(range(251)) * 262)[:MAX_DATA]

# Around the limits of a packet, of the places that are offered at a time, and of a pipe's pages.
CUTS = st.lists(
    st.one_of(st.integers(1, 12), st.sampled_from([4096, 65515, 65516, 65520, 65521, 131040, 300_000])),
    min_size=1,
    max_size=8,
)
TARGETS = st.lists(
    st.one_of(st.integers(1, 12), st.sampled_from([65515, 65516, 65517, 131032, 262_064, 262_065, 1 << 20])),
    min_size=1,
    max_size=5,
)
PACKETS = st.one_of(
    st.just(FULL),
    st.just(FULL),
    st.sampled_from([0, 1, 5, 65514, 65515]).map(lambda size: b"%04x" % (size + 4) + b"s" * size),
    st.just(b"FFF0" + b"u" * MAX_DATA),
)
GARBAGE = st.sampled_from([b"", b"0000", b"fff1", b"0003", b"fff", b"fff0", b"fff0" + b"t" * 9, b"junk", b"0004", b"f"])


def fed(wire: bytes) -> tuple[bytes, list[FilterEvent], State]:
    """Return content and other events of a session that is fed everything at once, and the state it ends in."""
    session = FilterSession()
    session.receive_data(ASKED)
    session.next_event()
    rest = iter([wire, b""])
    return heard(session, lambda _: (0, session.receive_data(next(rest, b"")))[0], memoryview(bytearray(1)), [1])


def placed(wire: bytes, cuts: list[int], targets: list[int]) -> tuple[bytes, list[FilterEvent], State]:
    """Return the same of a session that reads content to where it belongs, wherever it can."""
    session = FilterSession()
    session.receive_data(ASKED)
    session.next_event()
    sizes = cycle(cuts)
    at = 0

    def read(target: memoryview) -> int:
        nonlocal at
        places = session.places(target)
        size = min(next(sizes), len(wire) - at)
        if not places:
            session.receive_data(wire[at : at + size])
            at += size
            return 0
        count = 0
        for place in places:
            taken = min(len(place), size - count)
            place[:taken] = wire[at + count : at + count + taken]
            count += taken
        at += count
        return session.receive_placed(count)

    return heard(session, read, memoryview(bytearray(1 << 20)), targets)


def heard(session, read, target, targets):  # noqa: ANN001, ANN201
    content, events = bytearray(), []
    sizes = cycle(targets)
    try:
        while SPEAKER.get(session.state) is not session.side:
            event = session.next_event()
            if event is NEED_DATA:
                room = target[: next(sizes)]
                content += room[: read(room)]
            elif isinstance(event, Content):
                content += event.data
            else:
                events.append(event)
    except ProtocolError:
        pass
    return bytes(content), events, session.state


@given(st.lists(PACKETS, max_size=8), GARBAGE, CUTS, TARGETS)
def test_reading_into_place_changes_nothing(
    packets: list[bytes], garbage: bytes, cuts: list[int], targets: list[int]
) -> None:
    wire = b"".join(packets) + garbage
    assert placed(wire, cuts, targets) == fed(wire)
