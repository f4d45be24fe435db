"""Metadata blobs through `git cat-file`, in any repository that git can read.

git itself reads, because it alone knows every repository: split and sparse indexes, reftable, SHA-256, alternates,
replaced objects. `CatFile` asks one question at a time, by any name; a child is started at the first and lives until
`forget`. `looks` asks for a list of ids, and git reads ahead of its caller. When this process ends, however it does,
a child's standard input or output closes and it ends too. It never fetches: what a partial clone does not hold is
absent.

Only metadata is asked for, so a blob that does not begin like JSON is absent as well, and a checkpoint that was
committed raw is neither held in memory nor read to its end.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from typing import IO, TYPE_CHECKING, TypeVar, cast

from theta_daemon import gitcmd
from theta_daemon.errors import RepositoryError, printable, reason
from theta_daemon.frozen import Frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from theta_daemon.settings import Settings

T = TypeVar("T")

LIMIT = 256 << 20  # bytes of a metadata blob: more than 500 000 parameter groups
_HEAD = 64  # bytes that show whether a blob may be metadata
_DRAINED = 1 << 20  # up to this size reading what is not wanted costs less than starting git anew
FOUND = re.compile(rb"([0-9a-f]{40}|[0-9a-f]{64}) ([a-z]+) ([0-9]{1,18})\n")


class Blob(Frozen):
    """A blob's id, in hexadecimal, and all its bytes."""

    id: str
    data: bytes


class Look(Frozen):
    """What a look at a blob shows: id, size in bytes, and all its bytes where it begins like JSON."""

    id: str
    size: int
    data: bytes | None


class _Running(Frozen):
    child: gitcmd.Child
    answers: IO[bytes]
    said: IO[bytes]  # a file, because a pipe that nobody reads could fill


def local_environment(settings: Settings) -> dict[str, str]:
    """Return the environment for children that must not fetch what a partial clone lacks."""
    return gitcmd.without_fetching(settings.child_environment)


def begins_like_json(head: bytes) -> bool:
    """Tell whether a file that begins with `head` may be metadata: a JSON object."""
    return head.lstrip(b" \t\r\n").startswith(b"{")


class CatFile:
    """Finds and reads blobs through a child for each; may be used from any thread, one question at a time."""

    def __init__(self, settings: Settings) -> None:
        self._contents = _Conversation(settings, "--batch")
        self._names = _Conversation(settings, "--batch-check")

    def metadata(self, name: bytes, seen: set[str] | None = None) -> Blob | None:
        """Return the blob that `name` (gitrevisions(7), without line breaks) stands for.

        None where there is no such object here, where it is no blob, where it does not begin like JSON or is larger
        than LIMIT, and where its id is in `seen`, to which it is added.
        Raises RepositoryError when git fails.
        """
        found = set() if seen is None else seen
        look = self._contents.ask(name, lambda answers: _answer(name, answers, LIMIT, found))
        return Blob(look.id, look.data) if look is not None and look.data is not None else None

    def identify(self, name: bytes) -> str | None:
        """Return the id of the blob that `name` stands for, without reading it; None where there is no such blob here.

        Raises RepositoryError when git fails.
        """
        found = self._names.ask(name, lambda answers: (_header(name, answers), True))
        return found[1].decode("ascii") if found is not None and found[2] == b"blob" else None

    def forget(self) -> None:
        """End the children, and with them what they remember of the index; the next question starts another."""
        self._contents.end()
        self._names.end()


class _Conversation:
    """Questions, one at a time, to a child that is started with the first."""

    def __init__(self, settings: Settings, option: str) -> None:
        self._settings = settings
        self._option = option
        self._lock = threading.Lock()
        self._running: _Running | None = None

    def ask(self, name: bytes, receive: Callable[[IO[bytes]], tuple[T | None, bool]]) -> T | None:
        """Ask for `name`; return what `receive` makes of the answer, which it also says to have read to its end or not.

        None also where the child ended because of something that it may not fetch.
        """
        with self._lock:
            running = self._running = self._running or _start(self._settings, gitcmd.PIPE, self._option)
            received, in_step = None, False
            try:
                questions = cast("IO[bytes]", running.child.stdin)
                questions.write(name + b"\n")
                questions.flush()
                received, in_step = receive(running.answers)
            except (BrokenPipeError, EOFError):
                _explain_end(running)
            finally:
                if not in_step:
                    self._stop()
            return received

    def end(self) -> None:
        with self._lock:
            self._stop()

    def _stop(self) -> None:
        running, self._running = self._running, None
        if running is not None:
            _stop(running)


def looks(
    settings: Settings,
    blobs: Sequence[str],
    limit: int = LIMIT,
    begins: Callable[[bytes], bool] = begins_like_json,
) -> Iterator[Look | None]:
    """Look at each of `blobs`, full ids, in turn; None where there is no such blob here.

    What is larger than `limit` bytes counts as no metadata, and so does what `begins` refuses by its first bytes.
    Raises RepositoryError when git fails.
    """
    at = 0
    while at < len(blobs):
        with scratch() as questions:
            questions.write("".join(f"{blob}\n" for blob in blobs[at:]).encode("ascii"))
            questions.seek(0)
            running = _start(settings, questions, "--batch", "--buffer")
        try:
            in_step = True
            while in_step and at < len(blobs):
                look, in_step = None, False
                try:
                    look, in_step = _answer(blobs[at].encode("ascii"), running.answers, limit, set(), begins)
                except EOFError:
                    _explain_end(running)
                at += 1
                yield look
        finally:
            _stop(running)


def _start(settings: Settings, questions: int | IO[bytes], *options: str) -> _Running:
    said = scratch()
    try:
        child = gitcmd.start(
            ["cat-file", *options],
            local_environment(settings),
            settings.directory,
            stdin=questions,
            stderr=said,
        )
    except RepositoryError:
        said.close()
        raise
    return _Running(child, cast("IO[bytes]", child.stdout), said)


def _stop(running: _Running) -> None:
    running.child.kill()  # it only reads: there is nothing it could leave half done
    running.said.close()
    with contextlib.suppress(BrokenPipeError), running.child:
        pass  # closes the pipes and waits


def scratch() -> IO[bytes]:
    """Return a file without a name: in memory where the system can, so that a full disk stops no `git status`."""
    try:
        if hasattr(os, "memfd_create"):  # Linux
            return os.fdopen(os.memfd_create("git cat-file"), "w+b")
        import tempfile  # and with it shutil, random, bz2, lzma: 4 ms

        return tempfile.TemporaryFile()
    except OSError as error:
        raise RepositoryError(f"no temporary file can be made: {reason(error)}", hint="make room") from error


def _answer(
    name: bytes,
    answers: IO[bytes],
    limit: int,
    seen: set[str],
    begins: Callable[[bytes], bool] = begins_like_json,
) -> tuple[Look | None, bool]:
    """Read the answer to `name`; return the blob it names, and whether the answer was read to its end.

    Raises EOFError where the child ended in between, RepositoryError for an answer that git does not give.
    """
    found = _header(name, answers)
    if found is None:
        return None, True
    blob, kind, size = found[1].decode("ascii"), found[2], int(found[3])
    wanted = kind == b"blob" and size <= limit and blob not in seen
    seen.add(blob)
    head = b""
    if wanted:  # git prints the header before it reads the object, so what is not wanted costs nothing up to here
        head = _exactly(answers, min(size, _HEAD))
        wanted = begins(head)
    in_step = wanted or size <= _DRAINED
    rest = _exactly(answers, size - len(head) + 1) if in_step else b""  # and the line break behind every object
    look = Look(blob, size, head + rest[:-1] if wanted else None)
    return (look if kind == b"blob" else None), in_step


def _header(name: bytes, answers: IO[bytes]) -> re.Match[bytes] | None:
    """Read the first line of the answer to `name`: id, kind and size, or None where there is no such object.

    Raises as `_answer` does.
    """
    header = answers.readline()
    if not header.endswith(b"\n"):
        raise EOFError
    found = FOUND.fullmatch(header)
    if found is None and not (header.startswith(name + b" ") or header.endswith(b" submodule\n")):
        # neither "<name> missing" nor "<name> ambiguous"
        raise RepositoryError(f"git cat-file answered {printable(header[:100])!r} to {printable(name)!r}")
    return found


def _explain_end(running: _Running) -> None:
    """Raise RepositoryError for a child that ended, unless it did so for an object that it may not fetch."""
    running.child.kill()
    code = running.child.wait()
    running.said.seek(0)
    said = running.said.read(1 << 16)
    if not gitcmd.lacks_what_was_promised(said):
        raise gitcmd.failure("git cat-file", code, said)


def _exactly(answers: IO[bytes], size: int) -> bytes:
    data = answers.read(size)
    if len(data) != size:
        raise EOFError
    return data
