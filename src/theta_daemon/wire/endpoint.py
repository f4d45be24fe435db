"""What the two ends of a session have in common: bytes in, events out, and the state between them.

An end is used in one loop, whichever side it plays:

    event = end.next_event()      until it is NEED_DATA, then
    write(end.data_to_send())     and only then
    end.receive_data(read())

`send` queues an event's bytes for the next `data_to_send`. Payload is never copied on the way: what is received are
slices of the fed bytes, and what is sent are slices of the given ones, so both must stay as they are until used up.
Content can also be read straight to where it belongs: `places` and `receive_placed` in place of `receive_data`.
No descriptor, no clock, no thread: an end does nothing by itself.
"""

from __future__ import annotations

from theta_daemon.errors import ProtocolError
from theta_daemon.wire import packets
from theta_daemon.wire.events import NEED_DATA, Content, ContentEnd, NeedData
from theta_daemon.wire.states import SPEAKER, LocalProtocolError, Side, State, Step, successor

# git sends at most six lines of at most 65516 bytes, and a filter answers with one; paths of delayed files are many.
MAX_LINES = 256
MAX_LIST_BYTES = 1 << 20
MAX_PATHS = 1 << 20
MAX_PATHS_BYTES = 1 << 26

_CONTENT, _BODY, _FILTER = State.CONTENT, State.BODY, Side.FILTER  # looked up once: that takes longer than comparing


class Endpoint:
    """One end of a session; `FilterSession` and `FilterClient` say which.

    Invariant: `state` is that of the conversation as far as this end knows it, that is, with everything queued in
    `data_to_send` counted as said.
    """

    __slots__ = ("_failure", "_line", "_lines", "_outbox", "_reader", "_size", "agreed", "state")
    side: Side

    def __init__(self) -> None:
        self.state = State.WELCOME
        self.agreed: frozenset[str] = frozenset()
        self._reader = packets.PacketReader()
        self._line = bytearray()
        self._lines: list[bytes] = []
        self._size = 0
        self._outbox: list[bytes | memoryview] = []
        self._failure: ProtocolError | None = None

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Take what the other side sent; b"" says that it closed its end.

        MUST be called only after `next_event` returned NEED_DATA. `data` MUST NOT change until it does so again.
        """
        self._reader.feed(data)

    def places(self, target: memoryview) -> list[memoryview]:
        """Return where to read what the other side sends next, so that content comes to lie in `target` uncopied.

        To be filled by one scatter read, which `receive_placed` is told of. Empty where no content is due, and where
        something else has to be read first, with `receive_data`. MUST be called only after `next_event` returned
        NEED_DATA.
        """
        if self.state is not (_CONTENT if self.side is _FILTER else _BODY):
            return []
        return self._reader.places(target)

    def receive_placed(self, count: int) -> int:
        """Take the `count` bytes that were read into the last places, 0 where the other side closed its end.

        Returns the bytes of content that `target` begins with; whatever else came is for `next_event` to tell.
        """
        return self._reader.placed(count)

    def data_to_send(self) -> list[bytes | memoryview]:
        """Return, and forget, the pieces to be written to the other side in this order."""
        outbox, self._outbox = self._outbox, []
        return outbox

    def _say(self, step: Step, pieces: list[bytes | memoryview]) -> None:
        self.state = successor(self.state, self.side, step)
        self._outbox += pieces

    def _hear(self, step: Step) -> None:
        self.state = successor(self.state, Side.GIT if self.side is Side.FILTER else Side.FILTER, step)

    def _check_turn(self) -> None:
        """Raise what broke the session before, or LocalProtocolError where the other side has nothing to say."""
        if self._failure is not None:
            raise self._failure
        if SPEAKER.get(self.state) is self.side:
            raise LocalProtocolError(f"{self.side.value} speaks in state {self.state.value}: nothing to receive")

    def _break(self, error: ProtocolError) -> ProtocolError:
        self.state = State.BROKEN
        self._failure = error
        return error

    def _read_content(self) -> Content | ContentEnd | NeedData:
        while True:
            piece = self._reader.next_piece()
            if piece is packets.Mark.FLUSH:
                self._hear(Step.CONTENT_END)
                return ContentEnd()
            if piece is packets.Mark.NEED_DATA:
                return NEED_DATA
            if piece is packets.Mark.END:
                raise ProtocolError("the stream ends inside a file's content")
            if len(piece):
                return Content(piece)

    def _read_list(self, max_lines: int = MAX_LINES, max_bytes: int = MAX_LIST_BYTES) -> list[bytes] | packets.Mark:
        """Return the lines up to the next flush packet without their LF, or NEED_DATA, or END before the first byte."""
        while True:
            piece = self._reader.next_piece()
            if piece is packets.Mark.FLUSH:
                lines, self._lines, self._size = self._lines, [], 0
                return lines
            if piece is packets.Mark.NEED_DATA:
                return piece
            if piece is packets.Mark.END:
                if self._lines:
                    raise ProtocolError("the stream ends inside a list of lines")
                return piece
            self._size += len(piece)
            if self._size > max_bytes or len(self._lines) >= max_lines:
                raise ProtocolError(f"a list of more than {max_lines} lines or {max_bytes} bytes")
            self._line += piece
            if not self._reader.inside:
                self._lines.append(bytes(self._line.removesuffix(b"\n")))
                self._line.clear()


def fields(lines: list[bytes]) -> dict[bytes, bytes]:
    """Return the `key=value` lines of a list; the value may hold `=`, and the last line of a key wins.

    Lines without `=` are keys that we do not know, and as such left out.
    """
    return {key: value for key, separator, value in (line.partition(b"=") for line in lines) if separator}


def values(lines: list[bytes], key: bytes) -> list[bytes]:
    """Return the values of every `key=value` line with this key, in order."""
    return [value for name, separator, value in (line.partition(b"=") for line in lines) if separator and name == key]


def lines(*texts: bytes) -> list[bytes | memoryview]:
    """Return a list of lines and its flush packet."""
    return [*map(packets.line, texts), packets.FLUSH_PACKET]
