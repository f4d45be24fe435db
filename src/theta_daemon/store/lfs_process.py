"""A conversation with `git lfs filter-process`, in which we are git.

Git LFS does everything that has to do with a remote: credentials, SSH, proxies, transfer agents, `lfs.url`,
`.lfsconfig`. Asked for a file that may wait, it fetches the object of its pointer, a hundred together; what it lists
as available then lies in its store, and we take it from there: its content never comes through the pipe.

An object that cannot be had is listed too, at the very end. Asked for such a one again, git-lfs tries once more, says
why it failed on its standard error, and ends.
"""

from __future__ import annotations

import os
import select
import tempfile
import time
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Final, cast

from theta_daemon import gitcmd
from theta_daemon.errors import ObjectError, ProtocolError
from theta_daemon.wire.client import FilterClient
from theta_daemon.wire.events import (
    NEED_DATA,
    Available,
    Content,
    ContentEnd,
    FinalStatus,
    ListAvailable,
    Outcome,
    Request,
    Status,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from theta_daemon.metadata.entries import ObjectRef
    from theta_daemon.settings import Settings
    from theta_daemon.wire.events import ClientEvent

# Objects of one group are small, and each costs a round trip: more of them at once than git-lfs's own 8.
_TRANSFERS: Final = ("lfs.concurrenttransfers", "32")

# With any of these git-lfs answers with the pointer instead of the object, and calls that success. And its hooks are
# none of our business.
_OVERRIDES: Final = (
    ("lfs.fetchinclude", ""),
    ("lfs.fetchexclude", ""),
    ("lfs.skipdownloaderrors", "false"),
    ("core.hooksPath", os.devnull),
)
_NOT_FOR_GIT_LFS: Final = ("GIT_LFS_SKIP_SMUDGE", "GIT_LFS_SKIP_DOWNLOAD_ERRORS", "GIT_LFS_PROGRESS")

_MOST_SAID: Final = 1 << 16
_LOOK: Final = 1.0  # seconds between two looks whether bytes arrive
_GRACE: Final = 0.5  # seconds that it has to end by itself


class Stalled(ObjectError):
    """Nothing has moved for as long as the settings allow."""


class Conversation:
    """One child; used by one thread, but for `kill`. Every method raises ProtocolError where it does not do its part,
    and Stalled."""

    def __init__(self, settings: Settings, is_over: Callable[[], bool], remote: str | None) -> None:
        self._settings = settings
        self._is_over = is_over
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the child
        environment = {key: text for key, text in settings.child_environment.items() if key not in _NOT_FOR_GIT_LFS}
        configuration = list(_OVERRIDES)
        if not _is_configured(settings, _TRANSFERS[0]):
            configuration.append(_TRANSFERS)
        if remote is not None:
            configuration.append(("remote.lfsdefault", remote))
        options = [part for key, text in configuration for part in ("-c", f"{key}={text}")]
        try:
            self._child = gitcmd.start(
                [*options, "lfs", "filter-process"],
                environment,
                settings.directory,
                stdin=gitcmd.PIPE,
                stderr=self._said,
            )
        except BaseException:
            self._said.close()
            raise
        self._client = FilterClient(("clean", "smudge", "delay"))  # git-lfs insists on clean
        self._is_open = False

    def open(self) -> None:
        """Shake hands."""
        self._next()
        if not self._client.agreed >= {"smudge", "delay"}:
            raise ProtocolError("git-lfs cannot fetch several objects at once", hint="use git-lfs 2.3 or newer")

    def ask(self, ref: ObjectRef) -> bool:
        """Ask for an object; return whether it is on its way. Else git-lfs says that it has it already."""
        pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:%b\nsize %d\n"
        self._client.send(Request("smudge", ref.oid.encode("ascii"), can_delay=True))
        self._client.send(Content(pointer % (ref.oid.encode("ascii"), ref.size)))
        self._client.send(ContentEnd())
        answer = self._next()
        if isinstance(answer, Status) and answer.outcome is Outcome.DELAYED:
            return True
        self._drain(answer)
        return False

    def available(self) -> list[str]:
        """Wait until objects are there, or are known not to come; return the ids of those not named before, and more.

        Must not be called again when all were named.
        """
        self._client.send(ListAvailable())
        answer = self._next()
        if not isinstance(answer, Available):
            raise ProtocolError("git-lfs does not say which objects are available")
        if not answer.paths:
            raise ProtocolError("git-lfs forgot objects that it was asked for")
        return [path.decode("ascii", "replace") for path in answer.paths]

    def reason(self, ref: ObjectRef) -> str:
        """Return why an object, named as available and not there, did not come; it may come now. The last question."""
        with suppress(ProtocolError):
            self._client.send(Request("smudge", ref.oid.encode("ascii")))
            self._client.send(ContentEnd())
            self._drain(self._next())
        return self.said()

    def said(self) -> str:
        """End the child, and return what it said to people: lines, the last ones of many."""
        self.end()
        self._said.seek(0, os.SEEK_END)
        self._said.seek(max(self._said.tell() - _MOST_SAID, 0))
        return self._said.read().decode("utf-8", "backslashreplace")

    def end(self) -> None:
        """End the child; it may be asked nothing any more."""
        with suppress(OSError):
            cast("IO[bytes]", self._child.stdin).close()
        try:
            self._child.wait(_GRACE)
        except gitcmd.TimeoutExpired:
            self.kill()
        with suppress(OSError), self._child:
            pass

    def close(self) -> None:
        """End the child and forget what it said."""
        self.end()
        self._said.close()

    def kill(self) -> None:
        """End the child whatever it does, from any thread."""
        with suppress(OSError):
            self._child.terminate()  # git ends git-lfs then; killed, it could not
        try:
            self._child.wait(_GRACE)
        except gitcmd.TimeoutExpired:
            with suppress(OSError):
                self._child.kill()

    def _drain(self, answer: ClientEvent) -> None:
        """Read the rest of an answer."""
        if not isinstance(answer, Status) or answer.outcome is not Outcome.SUCCESS:
            return
        while not isinstance(self._next(), FinalStatus):
            pass

    def _next(self) -> ClientEvent:
        while (event := self._client.next_event()) is NEED_DATA:
            try:
                self._write()
                self._client.receive_data(self._read())
            except OSError as error:
                raise ProtocolError(f"git-lfs cannot be reached: {error.strerror}") from error
        return event

    def _write(self) -> None:
        stdin = cast("IO[bytes]", self._child.stdin)
        for piece in self._client.data_to_send():
            stdin.write(piece)
        stdin.flush()

    def _read(self) -> bytes:
        descriptor = cast("IO[bytes]", self._child.stdout).fileno()
        waiting = select.poll()
        waiting.register(descriptor, select.POLLIN)
        moved, progress = time.monotonic(), -1
        while not waiting.poll(_LOOK * 1000):
            if self._is_over():
                raise ProtocolError("the transfer was given up")
            if (now := self._progress()) != progress:
                moved, progress = time.monotonic(), now
            elif time.monotonic() - moved > self._settings.transfer_timeout:
                raise Stalled(
                    f"no byte has come for {self._settings.transfer_timeout} seconds",
                    hint="look at the network and the server; theta.transferTimeout says how long to wait",
                )
        return os.read(descriptor, 1 << 16)

    def _progress(self) -> int:
        """Return a number that changes while objects arrive."""
        total = 0
        for name in ("incomplete", "tmp"):
            with suppress(OSError), os.scandir(self._settings.lfs_storage / name) as entries:
                for entry in entries:
                    with suppress(OSError):
                        total += entry.stat(follow_symlinks=False).st_size
        return total


def _is_configured(settings: Settings, key: str) -> bool:
    arguments = ["config", "--get", key]
    code, _, _ = gitcmd.collect(gitcmd.start(arguments, settings.child_environment, settings.directory))
    return code == 0
