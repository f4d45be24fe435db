"""A filter session over a channel: the one place where the two loops, reading and writing, meet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from theta_daemon.wire.events import NEED_DATA, Content, FilterEvent, NeedData, Reply
from theta_daemon.wire.packets import MAX_DATA
from theta_daemon.wire.session import FilterSession

if TYPE_CHECKING:
    from collections.abc import Iterable

    from theta_daemon.daemon.channel import Channel

# One system call's worth of full packets (a header and a payload each). It also bounds what slicing a piece of many
# gigabytes into packets costs.
WINDOW = 32 * MAX_DATA


class Connection:
    """Git at the other end, as events.

    Every method raises ProtocolError where git broke the protocol, and ChannelError where it cannot be reached.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._session = FilterSession()

    def poll_event(self) -> FilterEvent | NeedData:
        """Return the next event, if all its bytes were read already; never blocks."""
        return self._session.next_event()

    def next_event(self) -> FilterEvent:
        """Wait for the next event; whatever comes, what was queued before is written first."""
        try:
            while (event := self._session.next_event()) is NEED_DATA:
                self.read()
        finally:
            self.flush()
        return event

    def read(self) -> None:
        """Wait for more bytes; call only after `poll_event` returned NEED_DATA. Received content is invalid then."""
        self.flush()
        self._session.receive_data(self._channel.read())

    def read_content(self, target: memoryview) -> int:
        """Wait for more bytes, as `read` does; return how many bytes of content `target` begins with.

        Waits on while full packets follow each other and `target` has room. Where it returns 0, or has room left,
        `poll_event` says what came.
        """
        session, scatter = self._session, self._channel.scatter
        places = session.places(target)
        if not places:
            self.read()
            return 0
        filled = 0
        while places:
            filled += session.receive_placed(scatter(places))
            places = session.places(target[filled:])
        return filled

    def send(self, *replies: Reply) -> None:
        """Queue replies."""
        for reply in replies:
            self._session.send(reply)

    def flush(self) -> None:
        """Write everything that was queued."""
        pieces = self._session.data_to_send()
        if pieces:
            self._channel.write(pieces)

    def write_content(self, pieces: Iterable[bytearray | memoryview]) -> None:
        """Send pieces of content and write everything; the pieces may be used again when it returns."""
        for piece in pieces:
            for start in range(0, len(piece), WINDOW):
                if start:
                    self.flush()
                self._session.send(Content(memoryview(piece)[start : start + WINDOW]))
        self.flush()
