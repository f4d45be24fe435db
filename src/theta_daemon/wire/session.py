"""The filter's side of a session: git's bytes in, requests out; replies in, bytes for git out.

The handshake answers itself: `next_event` queues the answers, and the first event is the first request. See
`endpoint` for the loop and `states` for the order of things; protocol/filter-process.md has every byte.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from theta_daemon.errors import ProtocolError
from theta_daemon.wire import packets
from theta_daemon.wire.endpoint import Endpoint, fields, lines, values
from theta_daemon.wire.events import (
    NEED_DATA,
    Available,
    Closed,
    Content,
    ContentEnd,
    FilterEvent,
    FinalStatus,
    ListAvailable,
    NeedData,
    Outcome,
    Reply,
    Request,
    Status,
)
from theta_daemon.wire.states import LocalProtocolError, Side, State, Step

if TYPE_CHECKING:
    from collections.abc import Sequence

VERSION = b"2"  # of the protocol: the only one there is
NOT_GIT = "git starts this program by itself, as filter.<name>.process"


class FilterSession(Endpoint):
    """Our side of the pipe.

    `capabilities` are what we can do; the session takes those that git offers too (`agreed`).
    """

    __slots__ = ("_capabilities", "_may_delay")
    side = Side.FILTER

    def __init__(self, capabilities: Sequence[str] = ("clean", "smudge", "delay")) -> None:
        super().__init__()
        self._capabilities = tuple(capabilities)
        self._may_delay = False

    def next_event(self) -> FilterEvent | NeedData:
        """Return what git said next, or NEED_DATA.

        Raises ProtocolError where git broke the protocol, from then on at every call, and LocalProtocolError where
        an answer is due: git gets the word back with `send`.
        """
        self._check_turn()
        try:
            while self.state is not State.CLOSED:
                event = self._read_content() if self.state is State.CONTENT else self._read_lines()
                if event is not None:
                    return event
        except ProtocolError as error:
            raise self._break(error) from None
        return Closed()

    def send(self, reply: Reply) -> None:
        """Queue a reply.

        Raises LocalProtocolError, and queues nothing, if it is not the filter's turn to say this: above all, nothing
        may be said before the request's content has ended.
        """
        pieces: list[bytes | memoryview]
        match reply:
            case Content(data):
                pieces = packets.content(data)
            case ContentEnd():
                pieces = [packets.FLUSH_PACKET]
            case Status(Outcome.DELAYED) if not self._may_delay:
                raise LocalProtocolError("git did not say that it can wait for this file")
            case Status(outcome):
                pieces = lines(b"status=" + outcome.value.encode())
            case FinalStatus():
                pieces = lines(*([b"status=" + reply.outcome.value.encode()] if reply.outcome else []))
            case Available(paths):
                pieces = lines(*(b"pathname=" + path for path in paths)) + lines(b"status=success")
        self._say(reply.step, pieces)

    def _read_lines(self) -> FilterEvent | NeedData | None:
        received = self._read_list()
        if received is packets.Mark.NEED_DATA:
            return NEED_DATA
        if isinstance(received, packets.Mark):
            return self._end()
        match self.state:
            case State.WELCOME:
                self._welcome(received)
            case State.OFFER:
                self._choose(received)
            case _:
                return self._request(received)
        return None

    def _end(self) -> Closed:
        if self.state is not State.IDLE:
            raise ProtocolError("the input ends before the handshake does", hint=NOT_GIT)
        self._hear(Step.END)
        return Closed()

    def _welcome(self, received: list[bytes]) -> None:
        if not received or received[0] != b"git-filter-client":
            raise ProtocolError("the other side is not git: it did not say git-filter-client", hint=NOT_GIT)
        if VERSION not in values(received, b"version"):
            raise ProtocolError("git does not offer version 2 of the filter protocol, the only one known here")
        self._hear(Step.GREET)
        self._say(Step.ACCEPT, lines(b"git-filter-server", b"version=" + VERSION))

    def _choose(self, received: list[bytes]) -> None:
        offered = values(received, b"capability")
        chosen = [name for name in self._capabilities if name.encode() in offered]
        self.agreed = frozenset(chosen)
        self._hear(Step.OFFER)
        self._say(Step.AGREE, lines(*(b"capability=" + name.encode() for name in chosen)))

    def _request(self, received: list[bytes]) -> Request | ListAvailable:
        header = fields(received)
        command = header.get(b"command", b"")
        pathname = header.get(b"pathname", b"")
        if not command:
            raise ProtocolError("a request without a command")
        if command == b"list_available_blobs":
            self._hear(Step.LIST_AVAILABLE)
            return ListAvailable()
        if not pathname and command in (b"clean", b"smudge"):
            raise ProtocolError(f"a {command.decode()} request without a pathname")
        request = Request(
            command=_text(command),
            pathname=pathname,
            ref=_text(header.get(b"ref", b"")) or None,
            treeish=_text(header.get(b"treeish", b"")) or None,
            blob=_text(header.get(b"blob", b"")) or None,
            can_delay="delay" in self.agreed and header.get(b"can-delay") == b"1",
        )
        self._may_delay = request.can_delay
        self._hear(request.step)
        return request


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")
