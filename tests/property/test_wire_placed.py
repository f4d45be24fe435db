"""Content that is read straight to where it belongs is what it would be if it were fed, however the stream is cut."""

from __future__ import annotations

from collections.abc import Callable
from itertools import cycle

from hypothesis import given
from hypothesis import strategies as st

from tests.support import transcript
from theta_daemon.errors import ProtocolError
from theta_daemon.wire.events import Content, FilterEvent, NeedData
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


Heard = tuple[bytes, list[FilterEvent], State]


def asked() -> FilterSession:
    """Return a session in which git has asked for a file."""
    session = FilterSession()
    session.receive_data(ASKED)
    session.next_event()
    return session


def heard(session: FilterSession, read: Callable[[memoryview], int], targets: list[int]) -> Heard:
    """Return the content, the other events, and the state in which all that ends; `read` is asked for more."""
    content = bytearray()
    events: list[FilterEvent] = []
    memory = memoryview(bytearray(1 << 20))
    sizes = cycle(targets)
    try:
        while SPEAKER.get(session.state) is not session.side:
            event = session.next_event()
            if isinstance(event, NeedData):
                target = memory[: next(sizes)]
                content += target[: read(target)]
            elif isinstance(event, Content):
                content += event.data
            else:
                events.append(event)
    except ProtocolError:
        assert session.state is State.BROKEN
    return bytes(content), events, session.state


def fed(wire: bytes) -> Heard:
    """Feed everything at once, and then the end."""
    session = asked()
    parts = iter([wire, b""] if wire else [b""])

    def read(_: memoryview) -> int:
        session.receive_data(next(parts))
        return 0

    return heard(session, read, [1])


def placed(wire: bytes, cuts: list[int], targets: list[int]) -> Heard:
    """Read content to where it belongs, wherever that can be done."""
    session = asked()
    sizes = cycle(cuts)
    at = 0

    def read(target: memoryview) -> int:
        nonlocal at
        part = wire[at : at + next(sizes)]
        places = session.places(target)
        if not places:
            session.receive_data(part)
            at += len(part)
            return 0
        count = 0
        for place in places:
            taken = part[count : count + len(place)]
            place[: len(taken)] = taken
            count += len(taken)
        at += count
        return session.receive_placed(count)

    return heard(session, read, targets)


@given(st.lists(PACKETS, max_size=8), GARBAGE, CUTS, TARGETS)
def test_reading_into_place_changes_nothing(
    packets: list[bytes], garbage: bytes, cuts: list[int], targets: list[int]
) -> None:
    wire = b"".join(packets) + garbage
    assert placed(wire, cuts, targets) == fed(wire)
