"""The filter session as a table: who may say what, and what comes after.

Theory of operation. The conversation is half duplex: in every state exactly one side speaks, and the other may not
send a single byte. Therefore one state, shared by both sides, describes the whole session; it holds for the filter
and for git alike, and this module does not know which of the two we are.

    handshake   WELCOME   git: its name and versions        VERSION   filter: its name and the version
                OFFER     git: its capabilities             CHOICE    filter: those it takes
    a file      IDLE      git: a request, or the end        CONTENT   git: the file's bytes, then their end
                REPLY     filter: a status                  BODY      filter: the bytes, then their end
                FINAL     filter: the last word
    delay       LISTING   filter: the paths that can be had now

Everything that moves a session from one state to another is in TRANSITIONS; everything else is illegal and takes
one path, the KeyError in `successor`. If the filter broke a rule, that is our bug (LocalProtocolError). If git did, its
bytes could not be read as what the state expects (ProtocolError), and the session is BROKEN: it never recovers, since
nothing says where the next request would begin.

One rule is not in the table, since it depends on what was said before: DELAYED is legal only as the answer to a
request that carried `can-delay=1`, in a session that agreed on the capability `delay`. Delayed answers have their place
in IDLE (LIST_AVAILABLE), REPLY (DELAYED) and LISTING.
"""

from __future__ import annotations

import enum


class Side(enum.Enum):
    """Who speaks."""

    GIT = "git"
    FILTER = "the filter"


class State(enum.Enum):
    """Where the conversation stands."""

    WELCOME = "WELCOME"
    VERSION = "VERSION"
    OFFER = "OFFER"
    CHOICE = "CHOICE"
    IDLE = "IDLE"
    CONTENT = "CONTENT"
    REPLY = "REPLY"
    BODY = "BODY"
    FINAL = "FINAL"
    LISTING = "LISTING"
    CLOSED = "CLOSED"
    BROKEN = "BROKEN"


class Step(enum.Enum):
    """What a side says that moves the conversation."""

    GREET = "greet"
    ACCEPT = "accept"
    OFFER = "offer"
    AGREE = "agree"
    REQUEST = "request"  # for a file: content follows
    BARE_REQUEST = "bare request"  # an unknown command without a path: no content follows
    LIST_AVAILABLE = "list available"
    CONTENT = "content"
    CONTENT_END = "content end"
    SUCCESS = "success"
    ERROR = "error"
    ABORT = "abort"
    DELAYED = "delayed"
    FINAL = "final"
    AVAILABLE = "available"
    END = "end"


SPEAKER: dict[State, Side] = {
    State.WELCOME: Side.GIT,
    State.VERSION: Side.FILTER,
    State.OFFER: Side.GIT,
    State.CHOICE: Side.FILTER,
    State.IDLE: Side.GIT,
    State.CONTENT: Side.GIT,
    State.REPLY: Side.FILTER,
    State.BODY: Side.FILTER,
    State.FINAL: Side.FILTER,
    State.LISTING: Side.FILTER,
}

TRANSITIONS: dict[State, dict[Step, State]] = {
    State.WELCOME: {Step.GREET: State.VERSION},
    State.VERSION: {Step.ACCEPT: State.OFFER},
    State.OFFER: {Step.OFFER: State.CHOICE},
    State.CHOICE: {Step.AGREE: State.IDLE},
    State.IDLE: {
        Step.REQUEST: State.CONTENT,
        Step.BARE_REQUEST: State.REPLY,
        Step.LIST_AVAILABLE: State.LISTING,
        Step.END: State.CLOSED,
    },
    State.CONTENT: {Step.CONTENT: State.CONTENT, Step.CONTENT_END: State.REPLY},
    State.REPLY: {
        Step.SUCCESS: State.BODY,
        Step.ERROR: State.IDLE,
        Step.ABORT: State.IDLE,
        Step.DELAYED: State.IDLE,
    },
    State.BODY: {Step.CONTENT: State.BODY, Step.CONTENT_END: State.FINAL},
    State.FINAL: {Step.FINAL: State.IDLE},
    State.LISTING: {Step.AVAILABLE: State.IDLE},
    State.CLOSED: {},
    State.BROKEN: {},
}


class LocalProtocolError(RuntimeError):
    """Our own code used the session wrongly; nothing was sent."""


def successor(state: State, speaker: Side, step: Step) -> State:
    """Return the state after `speaker` said `step`; raises LocalProtocolError where it may not say that."""
    try:
        if SPEAKER[state] is speaker:
            return TRANSITIONS[state][step]
    except KeyError:
        pass
    raise LocalProtocolError(f"{speaker.value} may not say {step.value!r} in state {state.value}")
