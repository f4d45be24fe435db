"""What the daemon tells people: lines on stderr, since stdout is git's."""

from __future__ import annotations

import os
from contextlib import suppress

from theta_daemon.errors import ThetaError
from theta_daemon.progress import hidden

PROGRAM = "theta-daemon"


class Reporter:
    """Writes each error as one line; with `trace`, also where it came from."""

    def __init__(self, *, trace: bool = False, descriptor: int = 2) -> None:
        self._trace = trace
        self._descriptor = descriptor

    def error(self, error: Exception, path: bytes | None = None) -> None:
        """Report that `path`, or everything, failed."""
        self._write(f"{PROGRAM}: error: {_explain(error, path)}\n")
        if self._trace:
            import traceback

            self._write("".join(traceback.format_exception(error)))

    def warning(self, path: bytes, message: str) -> None:
        """Report what somebody should know about `path`, though it did not fail."""
        self._write(f"{PROGRAM}: warning: {ThetaError(message, path=path)}\n")

    def text(self, text: str) -> None:
        """Write `text` as it stands."""
        self._write(text)

    def _write(self, text: str) -> None:
        # One system call, so that lines of several processes do not mix; past sys.stderr, which a handler may have
        # replaced. Whoever closed stderr does not want to know.
        with hidden(), suppress(OSError):
            os.write(self._descriptor, text.encode("utf-8", "backslashreplace"))


def _explain(error: Exception, path: bytes | None) -> str:
    if isinstance(error, ThetaError):
        return str(error.at(path=path))
    if isinstance(error, MemoryError):
        return str(ThetaError("not enough memory", path=path))
    what = f"internal error: {type(error).__name__}: {error}"
    return str(ThetaError(what, path=path, hint="please report it, with what THETA_TRACE=1 adds"))
