"""The console script `theta-daemon`: what the process is, before and around what it does.

Started by git at the first file of every command, so it imports little and answers the handshake first. Here, and
nowhere else, are the process's descriptors, signals, arguments and end:

* git's pipes are moved away from descriptors 0 and 1, before any other code runs. A stray `print`, in a library or a
  plugin, ends up on stderr and not in a checkpoint, and no child process can read git's requests.
* SIGTERM and SIGINT unwind the stack, so that temporary files go, and end the process without a word.
* The end is at once (git waits for it): no thread is joined, no `atexit` runs. What must not outlive the process
  is given back by `Handlers.close`.
* The trace that THETA_TRACE asks for is opened while the descriptors still are what whoever started us made them, and
  closed, with its summary, after everything else.
"""

from __future__ import annotations

import gc
import os
import signal
import sys
from contextlib import closing, suppress
from functools import partial
from typing import TYPE_CHECKING

from theta_daemon import __version__
from theta_daemon.daemon.channel import Channel, ChannelError, GitGone
from theta_daemon.daemon.report import PROGRAM, Reporter
from theta_daemon.daemon.serve import GONE, Handlers, serve
from theta_daemon.trace import VARIABLE, open_trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import FrameType
    from typing import NoReturn

    from theta_daemon.formats.source import Readable
    from theta_daemon.trace import Trace

# NumPy's BLAS starts a thread for each core when it is imported, and these spin for 30 ms (2^26 cycles) before they
# sleep: most of the processor time of the import, taken from those who work. Of 2^10 cycles nobody notices anything.
_BLAS_SPINS = ("OPENBLAS_THREAD_TIMEOUT", "10")

# What is imported and parsed lives as long as the process: looking for garbage among it costs a tenth of the start.
_COLLECT_AFTER = 100_000

USAGE = f"""\
usage: {PROGRAM}                  answer git's filter protocol on stdin and stdout
       {PROGRAM} clean PATH       turn the checkpoint on stdin into its metadata on stdout
       {PROGRAM} smudge PATH      turn the metadata on stdin into its checkpoint on stdout
       {PROGRAM} --version
       {PROGRAM} --help

PATH is the file's path from the top of the work tree; the file itself is not opened.
THETA_TRACE=1 in the environment shows what is done, how long it takes, and where an error came from.
"""

SET_UP = f"""\
{PROGRAM} is the filter behind git-theta: it versions machine-learning checkpoints in git. git starts it by itself,
for the files that .gitattributes gives to it; there is nothing to type here. To set it up:

    git theta install
    git theta track '*.safetensors'

`{PROGRAM} --help` says what it can do by hand.
"""


def main(argv: list[str], make_handlers: Callable[[str], Handlers] | None = None) -> int:
    """Do what the arguments say; return the exit code.

    Takes over descriptors 0 and 1 and the signals of the process for good. `make_handlers` is called at the first
    request, with its command, and not before.
    """
    with closing(open_trace(os.environ.get(VARIABLE))) as trace:
        reporter = Reporter(trace=trace.enabled)
        try:
            return _main(argv, make_handlers, reporter, trace)
        except Exception as error:  # noqa: BLE001 - the outermost frame; what gets here is our bug, or the system's
            reporter.error(error)
            return 1


def _main(argv: list[str], make_handlers: Callable[[str], Handlers] | None, reporter: Reporter, trace: Trace) -> int:
    match argv:
        case ["--help" | "-h"]:
            return _print(USAGE, reporter)
        case ["--version"]:
            return _print(f"{PROGRAM} {__version__}\n", reporter)
        case [] if os.isatty(0):
            reporter.text(SET_UP)
            return 1
        case [] | ["clean" | "smudge", _]:
            pass
        case _:
            reporter.text(USAGE)
            return 2
    channel = Channel(*_take_descriptors())
    signal.signal(signal.SIGTERM, _terminate)
    _expect_interrupts()
    make_handlers = make_handlers or partial(_pipelines, trace, channel.is_abandoned)
    with closing(_LazyHandlers(make_handlers)) as handlers:
        if not argv:
            return serve(channel, handlers, reporter, trace)
        from theta_daemon.daemon.once import answer_once
        from theta_daemon.wire.events import Request

        return answer_once(channel, handlers, Request(argv[0], os.fsencode(argv[1])), reporter)


def run(make_handlers: Callable[[str], Handlers] | None = None) -> NoReturn:
    """Be the process: `main`, then the end."""
    _expect_interrupts()  # first: of two in a row the second must find the first one's `_ignore`
    gc.set_threshold(_COLLECT_AFTER)
    os.environ.setdefault(*_BLAS_SPINS)
    code: object = 128 + signal.SIGINT
    try:
        try:
            code = main(sys.argv[1:], make_handlers)
        except SystemExit as ended:
            code = ended.code
        signal.signal(signal.SIGINT, _ignore)  # all that it could ask for is done
    except KeyboardInterrupt:  # in `main`, or behind it, where it comes too late to change anything
        signal.signal(signal.SIGINT, _ignore)
    for stream in (sys.stdout, sys.stderr):
        with suppress(AttributeError, OSError, ValueError):  # closed from the start, or by now
            stream.flush()
    os._exit(code if isinstance(code, int) else 1)


class _LazyHandlers:
    """Handlers that are made at the first request; making them may fail, and then fails that request."""

    def __init__(self, make: Callable[[str], Handlers]) -> None:
        self._make = make
        self._made: Handlers | None = None

    def clean(self, path: bytes, content: Readable) -> Iterable[bytes | memoryview]:
        return self._get("clean").clean(path, content)

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
        return self._get("smudge").smudge(path, content, ref=ref, treeish=treeish, blob=blob, can_delay=can_delay)

    def available(self) -> Sequence[bytes]:
        return () if self._made is None else self._made.available()

    def close(self) -> None:
        if self._made is not None:
            self._made.close()

    def _get(self, command: str) -> Handlers:
        if self._made is None:
            self._made = self._make(command)
        return self._made


def _pipelines(trace: Trace, is_abandoned: Callable[[], bool], command: str) -> Handlers:
    from theta_daemon.daemon.handlers import make_handlers  # and with it everything heavy

    return make_handlers(trace, command, is_abandoned)


def _take_descriptors() -> tuple[int, int]:
    """Return descriptors for what were stdin and stdout; 0 is empty from now on, and 1 is stderr."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            # Closed by whoever started us: fill the place, or a file opened later would be taken for it. What stands in
            # for stdout cannot be written: replies must fail, not vanish.
            os.open(os.devnull, os.O_WRONLY if descriptor == 2 else os.O_RDONLY)
    reading, writing = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return reading, writing


def _terminate(number: int, _frame: FrameType | None) -> NoReturn:
    signal.signal(number, signal.SIG_DFL)  # a second one does not wait for the clean-up of the first
    raise SystemExit(128 + number)


def _expect_interrupts() -> None:
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else whoever started us has it ignored
        signal.signal(signal.SIGINT, _interrupt)


def _interrupt(number: int, _frame: FrameType | None) -> NoReturn:
    # Ctrl-C comes twice: from the terminal, and from git, which passes on what ends it. The second must not end the
    # clean-up of the first. (Not SIG_IGN: Python complains of a signal that came before that was set.)
    signal.signal(number, _ignore)
    raise KeyboardInterrupt


def _ignore(_number: int, _frame: FrameType | None) -> None:
    """Go on."""


def _print(text: str, reporter: Reporter) -> int:
    try:
        Channel(0, 1).write([text.encode()])
    except GitGone:
        return GONE
    except ChannelError as error:
        reporter.error(error)
        return error.exit_code
    return 0
