"""THETA_TRACE: what was done and where the time went, for whoever asks, in the manner of GIT_TRACE.

    unset, "", "0", "false", "no", "off"   nothing
    "1", "2", "true", "yes", "on"          lines for people on standard error
    "3" to "9"                             the same, to that descriptor, which whoever started git has opened
    an absolute path                       JSON, one object a line, appended to that file
    ... of a directory                     the same, to a new file in it for each process

An event is one line, written with one system call: many processes may share a file. Stages and counts are summed up in
memory, from any thread, and written as one last event, `summary`. The seconds of a stage are those that its callers
spent in it, all threads together: they may add up to more than went by.

Tracing never makes a command fail. A value that means nothing here, a file that cannot be opened or written:
one warning, and no trace. Nothing is ever written to the pipes of the filter protocol, whatever the value names. A
disabled trace (`OFF`) costs a call of an empty method. At the bottom of all layers, so that everything may use it; the
process that owns standard error makes it, and hands it down.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from contextlib import nullcontext, suppress
from typing import TYPE_CHECKING, Final

from theta_daemon.errors import printable, reason
from theta_daemon.progress import hidden

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager

    Field = str | int | float | bytes | None

VARIABLE: Final = "THETA_TRACE"

_PROGRAM: Final = "theta-daemon"
_OFF: Final = {"", "0", "false", "no", "off"}
_STANDARD_ERROR: Final = {"1", "2", "true", "yes", "on"}
_DESCRIPTORS: Final = set("3456789")
_PIPES: Final = (0, 1)
_LEAST_DESCRIPTOR: Final = 10  # 0 to 2 stay what they are, even where they are closed
_NOTHING: Final = nullcontext()


class Trace:
    """A trace that is off: everything does nothing. `enabled` tells whether it is worth to prepare an event."""

    enabled = False

    def event(self, name: str, /, **fields: Field) -> None:
        """Write one line, now.

        `bytes` are text in UTF-8, such as git's paths. In lines for people `path` comes first, `bytes` and `seconds`
        have their unit, another number stands before its name (`groups=74`: "74 groups"), and None is left out.
        """

    def stage(self, name: str, nbytes: int = 0) -> AbstractContextManager[None]:
        """Return a context whose seconds, and `nbytes`, are added to the stage `name`."""
        return _NOTHING

    def add(self, stage: str, seconds: float, nbytes: int = 0) -> None:
        """Add one call to `stage`, whose time the caller has measured."""

    def count(self, name: str, number: int = 1) -> None:
        """Add `number` to the count `name`."""

    def close(self) -> None:
        """Write the summary; nothing is written after it."""


OFF: Final = Trace()


def open_trace(value: str | None, standard_error: int = 2) -> Trace:
    """Return the trace that `value`, of THETA_TRACE, asks for. To be called before the process moves its descriptors.

    What is wrong with `value` is said on `standard_error`.
    """
    word = (value or "").lower()
    if value is None or word in _OFF:
        return OFF
    if word in _STANDARD_ERROR:
        return _TextTrace(standard_error, standard_error)
    try:
        if value in _DESCRIPTORS:
            return _TextTrace(_out_of_the_way(int(value)), standard_error)
        if os.path.isabs(value):
            return _JsonTrace(_open(value), standard_error)
    except OSError as error:
        _warn(standard_error, f"could not open {_shown(value)} for tracing: {reason(error)}")
        return OFF
    _warn(
        standard_error,
        f"unknown trace value for {VARIABLE}: {_shown(value)}; to trace into a file, give an absolute path",
    )
    return OFF


class _Stage:
    """One stay in a stage."""

    __slots__ = ("_name", "_nbytes", "_started", "_trace")

    def __init__(self, trace: Trace, name: str, nbytes: int) -> None:
        self._trace = trace
        self._name = name
        self._nbytes = nbytes
        self._started = 0.0

    def __enter__(self) -> None:
        self._started = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._trace.add(self._name, time.perf_counter() - self._started, self._nbytes)


class _Total:
    """What came together in one stage."""

    __slots__ = ("calls", "nbytes", "seconds")

    def __init__(self) -> None:
        self.calls = 0
        self.seconds = 0.0
        self.nbytes = 0


class _OpenTrace(Trace):
    """A trace that is on; how its lines look is its subclass's. Safe to use from any thread."""

    def __init__(self, descriptor: int, standard_error: int) -> None:
        from threading import Lock  # not in a process that starts without a trace

        self.enabled = True
        self._descriptor = descriptor
        self._standard_error = standard_error
        self._lock = Lock()
        self._totals: dict[str, _Total] = {}
        self._counts: dict[str, int] = {}
        self._started = time.perf_counter()

    def event(self, name: str, /, **fields: Field) -> None:
        self._write(self._line(name, fields))

    def stage(self, name: str, nbytes: int = 0) -> AbstractContextManager[None]:
        return _Stage(self, name, nbytes)

    def add(self, stage: str, seconds: float, nbytes: int = 0) -> None:
        with self._lock:
            total = self._totals.get(stage)
            if total is None:
                total = self._totals[stage] = _Total()
            total.calls += 1
            total.seconds += seconds
            total.nbytes += nbytes

    def count(self, name: str, number: int = 1) -> None:
        with self._lock:
            self._counts[name] = self._counts.get(name, 0) + number

    def close(self) -> None:
        with self._lock:
            totals = dict(sorted(self._totals.items(), key=lambda item: -item[1].seconds))
            counts = dict(sorted(self._counts.items()))
        spent = os.times()
        self._write(self._summary(time.perf_counter() - self._started, spent.user + spent.system, totals, counts))
        with self._lock:
            was, self.enabled = self.enabled, False
            if was and self._descriptor != self._standard_error:
                with suppress(OSError):
                    os.close(self._descriptor)

    def _write(self, text: str) -> None:
        with self._lock:  # so that nobody writes to a descriptor that `close` has given back
            if not self.enabled:
                return
            try:
                with hidden():
                    os.write(self._descriptor, text.encode("utf-8", "backslashreplace"))
            except OSError as error:
                self.enabled = False
                _warn(self._standard_error, f"unable to write trace for {VARIABLE}: {reason(error)}")

    def _line(self, name: str, fields: Mapping[str, Field]) -> str:
        raise NotImplementedError

    def _summary(self, seconds: float, cpu: float, totals: Mapping[str, _Total], counts: Mapping[str, int]) -> str:
        raise NotImplementedError


class _JsonTrace(_OpenTrace):
    """One JSON object a line."""

    def _line(self, name: str, fields: Mapping[str, object]) -> str:
        import json

        now = time.time_ns()
        when = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now // 10**9))}.{now // 1000 % 10**6:06}Z"
        # ASCII, so that a path which is no UTF-8 is valid JSON too; a kind of number that json does not know is text.
        return json.dumps({"time": when, "pid": os.getpid(), "event": name, **fields}, default=_decoded) + "\n"

    def _summary(self, seconds: float, cpu: float, totals: Mapping[str, _Total], counts: Mapping[str, int]) -> str:
        stages = {
            name: {"calls": total.calls, "seconds": round(total.seconds, 6), "bytes": total.nbytes}
            for name, total in totals.items()
        }
        fields = {"seconds": round(seconds, 6), "cpu_seconds": round(cpu, 6), "stages": stages, "counts": counts}
        return self._line("summary", fields)


class _TextTrace(_OpenTrace):
    """Lines for people, and at the end a table."""

    def _line(self, name: str, fields: Mapping[str, Field]) -> str:
        path = fields.get("path")
        what = name if path is None else f"{name} {_shown(path)}"
        phrases = [_phrase(key, value) for key, value in fields.items() if key != "path" and value is not None]
        return _stamped(f"{what}: {', '.join(phrases)}" if phrases else what)

    def _summary(self, seconds: float, cpu: float, totals: Mapping[str, _Total], counts: Mapping[str, int]) -> str:
        lines = [f"summary: {seconds:.3f} s, {cpu:.3f} s of processor time"]
        width = max(map(len, ("stage", *totals, *counts)))
        if totals:
            lines.append(f"  {'stage':<{width}}{'calls':>9}{'seconds':>10}{'MB':>10}{'MB/s':>8}")
        for name, total in totals.items():
            line = f"  {name:<{width}}{total.calls:>9}{total.seconds:>10.3f}"
            if total.nbytes:
                line += f"{total.nbytes / 1e6:>10.1f}{total.nbytes / 1e6 / max(total.seconds, 1e-9):>8.0f}"
            lines.append(line)
        lines += [f"  {name:<{width}}{number:>9}" for name, number in counts.items()]
        return "".join(map(_stamped, lines))


def _stamped(text: str) -> str:
    now = time.time_ns()
    clock = time.strftime("%H:%M:%S", time.localtime(now // 10**9))
    return f"{clock}.{now // 1000 % 10**6:06} {_PROGRAM}: {text}\n"


def _phrase(key: str, value: Field) -> str:
    words = key.replace("_", " ")
    match value:
        case int() | float() if key == "seconds":
            return f"{value:.3f} s"
        case int() if key == "bytes" and value >= 100_000:
            return f"{value / 1e6:.1f} MB"
        case int() if not isinstance(value, bool):
            return f"{value} {words}"
        case float():
            return f"{words} {value:.4g}"
    return f"{words} {_shown(value)}"


def _decoded(value: object) -> str:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value)


def _shown(value: object) -> str:
    return printable(_decoded(value).encode("utf-8", "surrogateescape"))


def _open(path: str) -> int:
    if os.path.isdir(path):
        now = time.time_ns()
        when = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now // 10**9))
        path = os.path.join(path, f"{when}.{now // 1000 % 10**6:06}Z-P{os.getpid()}")
    # Without O_NONBLOCK a named pipe that nobody reads would be waited for.
    opened = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o666)
    try:
        os.set_blocking(opened, True)
        return _out_of_the_way(opened)
    finally:
        os.close(opened)


def _out_of_the_way(descriptor: int) -> int:
    """Return another descriptor for what `descriptor` is, in whose place nothing will stand that is opened later."""
    there = os.fstat(descriptor)
    if any(pipe != descriptor and _is_open_as(pipe, there) for pipe in _PIPES):
        # /dev/stdout, say: in a filter that is the pipe to git, whatever it was for whoever started git.
        raise OSError(errno.EINVAL, "the filter's standard input and output are git's")
    return fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _LEAST_DESCRIPTOR)


def _is_open_as(descriptor: int, file: os.stat_result) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file)
    except OSError:
        return False


def _warn(standard_error: int, message: str) -> None:
    with suppress(OSError):
        os.write(standard_error, f"{_PROGRAM}: warning: {message}\n".encode("utf-8", "backslashreplace"))
