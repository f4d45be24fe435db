"""The loop that answers git: one request after the other, until git closes the pipe.

What fails, and what that costs:

    a file                      status=error and one line on stderr; the next file is served as if nothing had been
      ... after its first byte  the late error: git throws away what it got of the file, and goes on as above
    git's side of the protocol  one line on stderr, exit 1: nobody knows where the next request begins
    nobody reads our replies    silence, exit 141: git was killed, and says so itself
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from theta_daemon.daemon.channel import ChannelError, GitGone
from theta_daemon.daemon.connection import Connection
from theta_daemon.daemon.content import ContentStream
from theta_daemon.daemon.output import Output
from theta_daemon.errors import ProtocolError, UnsupportedError
from theta_daemon.wire.events import (
    Available,
    ContentEnd,
    FinalStatus,
    ListAvailable,
    Outcome,
    Request,
    Status,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from theta_daemon.daemon.channel import Channel
    from theta_daemon.daemon.report import Reporter
    from theta_daemon.formats.source import Readable

GONE = 141  # what a shell says of a program that SIGPIPE ended


class Handlers(Protocol):
    """What a request means; the daemon does not know.

    `clean` and `smudge` return the file in pieces and MUST have read all of `content` before the first piece is
    returned. They are asked for a piece only after the one before was written, so every piece may be the same buffer
    with new bytes. Any exception fails this file only; before the first piece it costs git nothing.
    """

    def clean(self, path: bytes, content: Readable) -> Iterable[bytes | memoryview]:
        """Return what git is to store for the file `path` with this content."""
        ...

    def smudge(
        self, path: bytes, content: Readable, *, ref: str | None, treeish: str | None, blob: str | None
    ) -> Iterable[bytes | memoryview]:
        """Return the file `path` for what git stores; the rest says where that stands, as far as git knows."""
        ...

    def close(self) -> None:
        """Give back what would outlive the process: temporary files, children. Called once, however it ends."""
        ...


def serve(channel: Channel, handlers: Handlers, reporter: Reporter) -> int:
    """Answer git until it closes the pipe; return the exit code."""
    connection = Connection(channel)
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, Request):
                _answer(connection, event, handlers, reporter)
            elif isinstance(event, ListAvailable):
                connection.send(Available(()))  # nothing is ever delayed: the session does not offer it
            else:
                return 0
    except GitGone:
        return GONE
    except (ChannelError, ProtocolError) as error:
        reporter.error(error)
        return error.exit_code


def reply(handlers: Handlers, request: Request, content: Readable) -> Iterable[bytes | memoryview]:
    """Return the answer to a request, in pieces."""
    match request.command:
        case "clean":
            return handlers.clean(request.pathname, content)
        case "smudge":
            return handlers.smudge(
                request.pathname, content, ref=request.ref, treeish=request.treeish, blob=request.blob
            )
        case other:
            raise UnsupportedError(f"git asks for {other!r}, which this version of theta-daemon does not know")


def _answer(connection: Connection, request: Request, handlers: Handlers, reporter: Reporter) -> None:
    content = ContentStream(connection, ended=not request.pathname)
    output = Output(connection.write_content)
    started = False
    try:
        for piece in reply(handlers, request, content):
            if not started:
                content.drain()  # git writes all of it before it reads
                connection.send(Status(Outcome.SUCCESS))
                started = True
            output.add(piece)
    except ChannelError:
        raise
    except Exception as error:  # noqa: BLE001 - the outermost loop: one file's bug must not fail the others
        content.drain()  # ... and where git was to blame, this says so again
        reporter.error(error, request.pathname)
        if not started:
            connection.send(Status(Outcome.ERROR))
            return
        last = FinalStatus(Outcome.ERROR)
    else:
        if not started:
            content.drain()
            connection.send(Status(Outcome.SUCCESS))
        last = FinalStatus()
    output.end()
    connection.send(ContentEnd(), last)
