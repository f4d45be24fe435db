"""A request's content as a stream to read from, so that whoever reads it need not know of packets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from theta_daemon.wire.events import NEED_DATA, Content
from theta_daemon.wire.states import LocalProtocolError

if TYPE_CHECKING:
    from theta_daemon.daemon.connection import Connection


class ContentStream:
    """Reads the content of the request that the connection has just received.

    Nobody else may take events from the connection until `drain` was called. Errors of the connection pass through;
    `drain` raises them again, whatever a reader made of them.
    """

    def __init__(self, connection: Connection, *, ended: bool = False) -> None:
        self._connection = connection
        self._piece = memoryview(b"")
        self._ended = ended  # from the start, for a request that brings no content
        self._dropped = False

    def readinto(self, view: memoryview, /) -> int:
        """Fill the front of the non-empty `view`; return the number of bytes, at least 1, or 0 at the end.

        What git sends in full packets is read straight into `view`, and waited for until `view` is full; after a
        shorter packet it waits for no more. Raises LocalProtocolError after `drain` took content that nobody had read:
        whoever replies must have read everything, for git sends nothing twice.
        """
        if self._dropped:
            raise LocalProtocolError("the content was not read before the reply began")
        filled = 0
        while filled < len(view):
            if self._piece or self._next(wait=False):
                taken = min(len(self._piece), len(view) - filled)
                view[filled : filled + taken] = self._piece[:taken]
                self._piece = self._piece[taken:]
                filled += taken
            elif self._ended or filled:
                break
            else:
                filled = self._connection.read_content(view)
        return filled

    def drain(self) -> None:
        """Take what is left of the content from git and forget it."""
        self._dropped = self._dropped or len(self._piece) > 0
        while self._next(wait=True):
            self._dropped = True
        self._piece = memoryview(b"")

    def _next(self, *, wait: bool) -> bool:
        """Get the next piece; False at the end of the content, and where it would have to wait but must not."""
        while not self._ended:
            event = self._connection.poll_event()
            if event is NEED_DATA:
                if not wait:
                    return False
                self._connection.read()
            elif isinstance(event, Content):
                self._piece = memoryview(event.data)
                return True
            else:
                self._ended = True
        return False
