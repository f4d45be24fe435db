"""What the user sees: results on stdout, everything else on stderr, one line a message.

Paths reach the terminal through `printable`, so that no file name can send control characters to it.
"""

from __future__ import annotations

import os
import shlex
import sys

from theta_daemon.cli import quoting
from theta_daemon.errors import printable
from theta_daemon.progress import hidden

PROGRAM = "git-theta"


def say(text: str) -> None:
    """Print a result."""
    sys.stdout.write(text + "\n")


def emit(data: bytes) -> None:
    """Print bytes as they are: paths for scripts."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)


def note(text: str) -> None:
    """Tell something that is neither a result nor a trouble."""
    _tell(f"{PROGRAM}: {text}\n")


def warn(text: str) -> None:
    """Tell of trouble that does not stop the command."""
    _tell(f"{PROGRAM}: warning: {text}\n")


def fail(text: str) -> None:
    """Tell why the command stops."""
    _tell(f"{PROGRAM}: error: {text}\n")


def _tell(text: str) -> None:
    with hidden():
        try:
            sys.stderr.write(text)
        except OSError:
            # Whoever closed it does not want to know, and the work goes on. Python would complain again at its exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def shown(path: bytes) -> str:
    """Return `path` as a person would type it in a shell command."""
    return shlex.quote(printable(path))


def quoted(path: bytes) -> bytes:
    """Return `path` for a line of output: as it is, or as git quotes it where it would break the line."""
    plain = quoting.is_plain(path) and not path.startswith(b'"')
    return path if plain else quoting.quote(path)


def count(number: int, noun: str) -> str:
    """Return `number` with its noun: `1 file`, `2 files`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
