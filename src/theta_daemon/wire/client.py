"""git's side of a session: requests in, bytes for the filter out; the filter's bytes in, its replies out.

We play git towards `git lfs filter-process`, and towards our own filter in tests. The greeting is queued from the
start; the first event is `Agreed`, and after it the caller has the word. See `endpoint` for the loop.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from theta_daemon.errors import ProtocolError
from theta_daemon.wire import packets
from theta_daemon.wire.endpoint import MAX_PATHS, MAX_PATHS_BYTES, Endpoint, fields, lines, values
from theta_daemon.wire.events import (
    NEED_DATA,
    Agreed,
    Available,
    ClientEvent,
    Content,
    ContentEnd,
    FinalStatus,
    ListAvailable,
    NeedData,
    Outcome,
    Question,
    Request,
    Status,
)
from theta_daemon.wire.states import Side, State, Step

if TYPE_CHECKING:
    from collections.abc import Sequence


class FilterClient(Endpoint):
    """The side that asks. `capabilities` are what we offer; `agreed` holds what the filter took."""

    __slots__ = ("_available", "_capabilities", "_may_delay")
    side = Side.GIT

    def __init__(self, capabilities: Sequence[str] = ("clean", "smudge")) -> None:
        super().__init__()
        self._capabilities = tuple(capabilities)
        self._may_delay = False
        self._available: tuple[bytes, ...] | None = None  # the paths, while their status is still to come
        self._say(Step.GREET, lines(b"git-filter-client", b"version=2"))

    def next_event(self) -> ClientEvent | NeedData:
        """Return what the filter said next, or NEED_DATA.

        Raises ProtocolError where the filter broke the protocol (that includes its end: a filter never ends by
        itself), from then on at every call, and LocalProtocolError where it is our turn to ask.
        """
        self._check_turn()
        try:
            while True:
                event = self._read_content() if self.state is State.BODY else self._read_lines()
                if event is not None:
                    return event
        except ProtocolError as error:
            raise self._break(error) from None

    def send(self, question: Question) -> None:
        """Queue a question.

        Raises LocalProtocolError, and queues nothing, if it is not our turn to say this; ValueError for a path that
        does not fit into a packet.
        """
        pieces: list[bytes | memoryview]
        match question:
            case Content(data):
                pieces = packets.content(data)
            case ContentEnd():
                pieces = [packets.FLUSH_PACKET]
            case ListAvailable():
                pieces = lines(b"command=list_available_blobs")
            case Request():
                pieces = lines(*_header(question))
        self._say(question.step, pieces)
        if isinstance(question, Request):
            self._may_delay = question.can_delay and "delay" in self.agreed

    def _read_lines(self) -> ClientEvent | NeedData | None:
        if self.state is State.LISTING and self._available is None:
            received = self._read_list(MAX_PATHS, MAX_PATHS_BYTES)
        else:
            received = self._read_list()
        if received is packets.Mark.NEED_DATA:
            return NEED_DATA
        if isinstance(received, packets.Mark):
            raise ProtocolError(f"the filter ended in state {self.state.value}")
        match self.state:
            case State.VERSION:
                self._offer(received)
                return None
            case State.CHOICE:
                return self._agree(received)
            case State.LISTING:
                return self._list(received)
            case State.FINAL:
                return self._final(received)
            case _:
                return self._status(received)

    def _offer(self, received: list[bytes]) -> None:
        if not received or received[0] != b"git-filter-server":
            raise ProtocolError("the other side is not a filter: it did not say git-filter-server")
        if values(received, b"version") != [b"2"]:
            raise ProtocolError("the filter does not answer with version 2 of the protocol, and nothing else")
        self._hear(Step.ACCEPT)
        self._say(Step.OFFER, lines(*(b"capability=" + name.encode() for name in self._capabilities)))

    def _agree(self, received: list[bytes]) -> Agreed:
        taken = values(received, b"capability")
        strange = [name for name in taken if name not in [known.encode() for known in self._capabilities]]
        if strange:
            raise ProtocolError(f"the filter takes the capability {strange[0]!r}, which nobody offered")
        self.agreed = frozenset(name.decode() for name in taken)
        self._hear(Step.AGREE)
        return Agreed(self.agreed)

    def _list(self, received: list[bytes]) -> Available | None:
        if self._available is None:
            self._available = tuple(values(received, b"pathname"))
            return None
        if _outcome(received) is not Outcome.SUCCESS:
            raise ProtocolError("the filter failed to list the files that it delayed")
        paths, self._available = self._available, None
        self._hear(Step.AVAILABLE)
        return Available(paths)

    def _status(self, received: list[bytes]) -> Status:
        outcome = _outcome(received)
        if outcome is None:
            raise ProtocolError("the filter answered without a status")
        if outcome is Outcome.DELAYED and not self._may_delay:
            raise ProtocolError("the filter delayed a file that cannot wait")
        status = Status(outcome)
        self._hear(status.step)
        return status

    def _final(self, received: list[bytes]) -> FinalStatus:
        outcome = _outcome(received)
        if outcome is Outcome.DELAYED:
            raise ProtocolError("the filter delayed a file that it had answered")
        self._hear(Step.FINAL)
        return FinalStatus(None if outcome is Outcome.SUCCESS else outcome)


def _outcome(received: list[bytes]) -> Outcome | None:
    value = fields(received).get(b"status")
    if value is None:
        return None
    try:
        return Outcome(value.decode("ascii", "replace"))
    except ValueError:
        raise ProtocolError(f"the filter answered with the unknown status {value!r}") from None


def _header(request: Request) -> list[bytes]:
    named = (("ref", request.ref), ("treeish", request.treeish), ("blob", request.blob))
    header = [b"command=" + request.command.encode()]
    if request.pathname:
        header.append(b"pathname=" + request.pathname)
    header += [f"{key}={value}".encode("utf-8", "surrogateescape") for key, value in named if value is not None]
    if request.can_delay:
        header.append(b"can-delay=1")
    return header
