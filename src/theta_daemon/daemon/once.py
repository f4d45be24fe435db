"""One file from stdin to stdout: the filter commands `clean %f` and `smudge %f`, for git that has no `process`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from theta_daemon.daemon.channel import ChannelError, GitGone
from theta_daemon.daemon.output import Output
from theta_daemon.daemon.serve import GONE, reply
from theta_daemon.errors import ThetaError

if TYPE_CHECKING:
    from theta_daemon.daemon.channel import Channel
    from theta_daemon.daemon.report import Reporter
    from theta_daemon.daemon.serve import Handlers
    from theta_daemon.wire.events import Request


def answer_once(channel: Channel, handlers: Handlers, request: Request, reporter: Reporter) -> int:
    """Answer one request with plain bytes; return the exit code.

    After an error part of the file may stand on stdout: the exit code says that it is not to be used, and git
    does not use it.
    """
    output = Output(channel.write)
    try:
        for piece in reply(handlers, request, channel) or ():  # nothing is delayed that cannot be
            output.add(piece)
        output.end()
        _drain(channel)
    except GitGone:
        return GONE
    except Exception as error:  # noqa: BLE001 - the outermost frame: a bug becomes one line, as in the daemon
        reporter.error(error, None if isinstance(error, ChannelError) else request.pathname)
        return error.exit_code if isinstance(error, ThetaError) else 1
    return 0


def _drain(channel: Channel) -> None:
    """Read what nobody wanted, so that whoever writes it is not stopped by a closed pipe."""
    while channel.read():
        pass
