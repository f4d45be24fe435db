"""The loop that answers git: one request after the other, until git closes the pipe.

What fails, and what that costs:

    a file                      status=error and one line on stderr; the next file is served as if nothing had been
      ... after its first byte  the late error: git throws away what it got of the file, and goes on as above
    git's side of the protocol  one line on stderr, exit 1: nobody knows where the next request begins
    nobody reads our replies    silence, exit 141: git was killed, and says so itself
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from theta_daemon.daemon.channel import ChannelError, GitGone
from theta_daemon.daemon.connection import Connection
from theta_daemon.daemon.content import ContentStream
from theta_daemon.daemon.output import Output
from theta_daemon.errors import ProtocolError, UnsupportedError
from theta_daemon.trace import OFF
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
    from collections.abc import Iterable, Sequence

    from theta_daemon.daemon.channel import Channel
    from theta_daemon.daemon.report import Reporter
    from theta_daemon.formats.source import Readable
    from theta_daemon.trace import Trace

GONE = 141  # what a shell says of a program that SIGPIPE ended


class Handlers(Protocol):
    """What a request means; the daemon does not know.

    `clean` and `smudge` return the file in pieces and MUST have read all of `content` before the first piece is
    returned. They are asked for a piece only after the one before was written, so every piece may be the same buffer
    with new bytes. Any exception fails this file only; before the first piece it costs git nothing.

    Where git can wait (`can_delay`), `smudge` may return None: then `available` names the file later, and git asks
    again, with the same path and no content.
    """

    def clean(self, path: bytes, content: Readable) -> Iterable[bytes | memoryview]:
        """Return what git is to store for the file `path` with this content."""
        ...

    def smudge(
        self,
        path: bytes,
        content: Readable,
        *,
        ref: str | None,
        treeish: str | None,
        blob: str | None,
        can_delay: bool,
    ) -> Iterable[bytes | memoryview] | None:
        """Return the file `path` for what git stores; the rest says where that stands, as far as git knows."""
        ...

    def available(self) -> Sequence[bytes]:
        """Return the paths of delayed files that can be asked for now, each once; wait for one. Empty: there are none.

        Must not raise for what is wrong with a file: it is named as the others are, and fails when git asks for it.
        """
        ...

    def close(self) -> None:
        """Give back what would outlive the process: temporary files, children. Called once, however it ends."""
        ...


def serve(channel: Channel, handlers: Handlers, reporter: Reporter, trace: Trace = OFF) -> int:
    """Answer git until it closes the pipe; return the exit code."""
    connection = Connection(channel)
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, Request):
                started = time.perf_counter()
                outcome, size = _answer(connection, event, handlers, reporter, trace)
                if trace.enabled:
                    trace.event(
                        event.command,
                        path=event.pathname,
                        outcome=outcome.value,
                        bytes=size,
                        seconds=time.perf_counter() - started,
                    )
            elif isinstance(event, ListAvailable):
                with trace.stage("wait for a file that is ready"):
                    paths = tuple(handlers.available())
                connection.send(Available(paths))
                trace.event("available", files=len(paths))
            else:
                return 0
    except GitGone:
        return GONE
    except (ChannelError, ProtocolError) as error:
        reporter.error(error)
        return error.exit_code


def reply(handlers: Handlers, request: Request, content: Readable) -> Iterable[bytes | memoryview] | None:
    """Return the answer to a request, in pieces; None where it comes later."""
    match request.command:
        case "clean":
            return handlers.clean(request.pathname, content)
        case "smudge":
            return handlers.smudge(
                request.pathname,
                content,
                ref=request.ref,
                treeish=request.treeish,
                blob=request.blob,
                can_delay=request.can_delay,
            )
        case other:
            raise UnsupportedError(f"git asks for {other!r}, which this version of theta-daemon does not know")


def _answer(
    connection: Connection, request: Request, handlers: Handlers, reporter: Reporter, trace: Trace
) -> tuple[Outcome, int]:
    """Answer one request; return how it ended, and the bytes of the answer."""
    content = ContentStream(connection, ended=not request.pathname)
    output = Output(connection.write_content)
    started = False
    size = 0
    try:
        pieces = reply(handlers, request, content)
        if pieces is None:
            content.drain()
            connection.send(Status(Outcome.DELAYED))
            return Outcome.DELAYED, 0
        for piece in pieces:
            if not started:
                content.drain()  # git writes all of it before it reads
                connection.send(Status(Outcome.SUCCESS))
                started = True
            size += len(piece)
            with trace.stage("write to git", len(piece)):
                output.add(piece)
    except ChannelError:
        raise
    except Exception as error:  # noqa: BLE001 - the outermost loop: one file's bug must not fail the others
        content.drain()  # ... and where git was to blame, this says so again
        reporter.error(error, request.pathname)
        if not started:
            connection.send(Status(Outcome.ERROR))
            return Outcome.ERROR, 0
        last = FinalStatus(Outcome.ERROR)
    else:
        if not started:
            content.drain()
            connection.send(Status(Outcome.SUCCESS))
        last = FinalStatus()
    output.end()
    connection.send(ContentEnd(), last)
    return last.outcome or Outcome.SUCCESS, size
