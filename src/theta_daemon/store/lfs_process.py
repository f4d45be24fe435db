"""A conversation with `git lfs filter-process`, in which we are git.

Git LFS does everything that has to do with a remote: credentials, SSH, proxies, transfer agents, `lfs.url`,
`.lfsconfig`. Asked for a file that may wait, it fetches the object of its pointer, a hundred together; what it lists
as available then lies in its store, and we take it from there: its content never comes through the pipe.

An object that cannot be had is listed too. Asked for it again, git-lfs tries once more, says on its standard error why
it failed, and answers with the pointer (`lfs.skipdownloaderrors`; without that it would end at the first).
"""

from __future__ import annotations

import os
import re
import select
import time
from contextlib import suppress
from typing import IO, TYPE_CHECKING, Final, cast

from theta_daemon import gitcmd
from theta_daemon.errors import ObjectError, ProtocolError
from theta_daemon.store import process_tree
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

# With filters of its own it would answer with pointers and fetch nothing. And its hooks are none of our business.
_ALWAYS: Final = (
    ("lfs.fetchinclude", ""),
    ("lfs.fetchexclude", ""),
    ("lfs.skipdownloaderrors", "true"),
    ("core.hooksPath", os.devnull),
)
# Unless the user says otherwise. Objects of one group are small, and each costs a round trip: more of them at once
# than git-lfs's own 8. And we try again too: its own 8 times, up to 10 seconds apart, for each of our attempts would
# make minutes of a failure.
_DEFAULTS: Final = {"lfs.concurrenttransfers": "32", "lfs.transfer.maxretries": "3"}

_NOT_FOR_GIT_LFS: Final = ("GIT_LFS_SKIP_SMUDGE", "GIT_LFS_SKIP_DOWNLOAD_ERRORS", "GIT_LFS_PROGRESS")
_REMOTE: Final = "THETA_DAEMON_REMOTE"
_BRANCH: Final = re.compile(rb"refs/heads/(.+)\n")

_POINTER: Final = b"version https://git-lfs.github.com/spec/v1\noid sha256:%b\nsize %d\n"
_TAIL: Final = 1 << 16  # bytes kept of what it says on standard error
_LOOK: Final = 1.0  # seconds between two looks whether bytes arrive
_TICK: Final = 0.05  # seconds of waiting, after which others get their turn
_GRACE: Final = 0.5  # seconds that it has to end by itself
_REPEATS: Final = 100  # lists without a new name, after which we stop asking


class Stalled(ObjectError):
    """Nothing has moved for as long as the settings allow."""


class Conversation:
    """One child. Used by one thread, but for `kill`.

    Every method raises ProtocolError where git-lfs does not do its part, and Stalled where it does nothing.
    """

    def __init__(
        self, settings: Settings, remote: str | None, is_abandoned: Callable[[], bool], idle: Callable[[], None]
    ) -> None:
        """Start the child; `idle` is called again and again while it is waited for.

        Raises RepositoryError when git cannot be run.
        """
        self._settings = settings
        self._is_abandoned = is_abandoned
        self._idle = idle
        environment = {key: text for key, text in settings.child_environment.items() if key not in _NOT_FOR_GIT_LFS}
        options = _options(settings)
        if remote is not None:
            environment[_REMOTE] = remote
            options += _only_remote(settings)
        self._child = gitcmd.start(
            [*options, "lfs", "filter-process"], environment, settings.directory, stdin=gitcmd.PIPE
        )
        self._stdin, self._stdout, self._stderr = (
            cast("IO[bytes]", stream).fileno() for stream in (self._child.stdin, self._child.stdout, self._child.stderr)
        )
        os.set_blocking(self._stderr, False)
        self._poll = select.poll()
        self._poll.register(self._stdout, select.POLLIN)
        self._poll.register(self._stderr, select.POLLIN)
        self._stall = _Stall(settings)
        self._client = FilterClient(("clean", "smudge", "delay"))  # git-lfs insists on clean
        self._is_over = False
        self._tail = bytearray()

    def open(self) -> None:
        """Shake hands."""
        self._next()
        if not self._client.agreed >= {"smudge", "delay"}:
            raise ProtocolError("it cannot fetch several objects at once", hint="use git-lfs 2.4 or newer")

    def ask(self, name: str, ref: ObjectRef) -> bool:
        """Ask for an object by a name of ours; return whether it will be listed. Else it has come, or will not.

        May wait for most of what was asked for before: git-lfs fetches a hundred, and then the next.
        """
        self._client.send(Request("smudge", name.encode("ascii"), can_delay=True))
        self._client.send(Content(_POINTER % (ref.oid.encode("ascii"), ref.size)))
        self._client.send(ContentEnd())
        answer = self._next()
        if isinstance(answer, Status) and answer.outcome is Outcome.DELAYED:
            return True
        self._drain(answer)
        return False

    def available(self, unlisted: set[str]) -> list[str]:
        """Wait until objects are there, or known not to come; take their names out of `unlisted` and return them.

        `unlisted`, not empty, are all that were asked for and not listed yet: asked when there are none, git-lfs 3.3
        breaks down. After the first time nothing more can be asked for.
        """
        for _ in range(_REPEATS):
            self._client.send(ListAvailable())
            answer = self._next()
            if not isinstance(answer, Available) or not answer.paths:
                break
            named = dict.fromkeys(path.decode("ascii", "replace") for path in answer.paths)
            new = [name for name in named if name in unlisted]
            if new:
                unlisted.difference_update(new)
                return new
        raise ProtocolError("it forgot objects that it was asked for")

    def moved(self) -> None:
        """Note that an object has come."""
        self._stall.restart()

    def reason(self, name: str) -> bytes:
        """Return what git-lfs says of an object that was listed and is not there; it may come now."""
        self.said()
        self._tail.clear()
        self._client.send(Request("smudge", name.encode("ascii")))
        self._client.send(ContentEnd())
        self._drain(self._next())
        return self.said()

    def said(self) -> bytes:
        """Return the end of what git-lfs said on standard error; never waits."""
        with suppress(BlockingIOError):  # nothing more so far
            while said := os.read(self._stderr, _TAIL):
                self._tail += said
                del self._tail[:-_TAIL]
            with suppress(KeyError):
                self._poll.unregister(self._stderr)
        return bytes(self._tail)

    def kill(self) -> None:
        """End the child whatever it does, from any thread; whoever waits for an answer gets a ProtocolError."""
        self._is_over = True
        process_tree.end(self._child, _GRACE)

    def close(self) -> None:
        """End the child, by itself where it can. Nothing may be called afterwards, but for `kill`."""
        with suppress(OSError):
            cast("IO[bytes]", self._child.stdin).close()
        try:
            self._child.wait(_GRACE)
        except gitcmd.TimeoutExpired:
            self.kill()
        with suppress(OSError), self._child:
            pass

    def _drain(self, answer: ClientEvent) -> None:
        """Read the rest of an answer."""
        if not isinstance(answer, Status):
            raise ProtocolError("it answers something else than it was asked")
        if answer.outcome is Outcome.ABORT:
            raise ProtocolError("it refuses to fetch anything more")
        if answer.outcome is Outcome.SUCCESS:
            while not isinstance(self._next(), FinalStatus):
                pass

    def _next(self) -> ClientEvent:
        self._stall.restart()
        while (event := self._client.next_event()) is NEED_DATA:
            try:
                self._write()
                self._client.receive_data(self._read())
            except OSError as error:
                raise ProtocolError(f"it cannot be reached: {error.strerror}") from error
        return event

    def _write(self) -> None:
        # A few hundred bytes, and the next only after an answer: they always fit into the pipe.
        data = memoryview(b"".join(self._client.data_to_send()))
        while data:
            data = data[os.write(self._stdin, data) :]

    def _read(self) -> bytes:
        while True:
            ready = [descriptor for descriptor, _ in self._poll.poll(_TICK * 1000)]
            if not ready:
                self._idle()
            if self._is_over or (not ready and self._is_abandoned()):
                raise ProtocolError("the transfer was given up")
            if self._stderr in ready:
                self.said()
            if self._stdout in ready:
                return os.read(self._stdout, 1 << 16)
            self._stall.look()


class _Stall:
    """A clock that begins anew whenever more bytes lie in Git LFS's store than before, or an object has come.

    More than ever since then, because git-lfs by itself begins a download that has stalled again, with an empty file.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self.restart()

    def restart(self) -> None:
        """Begin anew."""
        self._moved = self._looked = time.monotonic()
        self._most = 0

    def look(self) -> None:
        """Raise Stalled when nothing has come for too long."""
        now = time.monotonic()
        if now - self._looked < _LOOK / 2:  # it said something on standard error, and may do so often
            return
        self._looked = now
        size = self._partial()
        if size > self._most:
            self._moved, self._most = now, size
        elif now - self._moved > self._settings.transfer_timeout:
            raise Stalled(f"nothing has come for {self._settings.transfer_timeout} seconds (theta.transferTimeout)")

    def _partial(self) -> int:
        """Return the bytes of all files that are not whole yet."""
        storage = os.fspath(self._settings.lfs_storage)
        # What git-lfs copies from a folder grows in one of its own below `tmp`.
        return _bytes_in(os.path.join(storage, "incomplete")) + _bytes_in(os.path.join(storage, "tmp"), below=1)


def _bytes_in(folder: str, below: int = 0) -> int:
    """Return the bytes of the files in a folder, and in those that are no deeper than `below` in it."""
    size = 0
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                if not entry.is_dir(follow_symlinks=False):
                    size += entry.stat(follow_symlinks=False).st_size
                elif below:
                    size += _bytes_in(entry.path, below - 1)
    return size


def _options(settings: Settings) -> list[str]:
    arguments = ["config", "--name-only", "--get-regexp", "^lfs\\."]
    _, out, _ = gitcmd.collect(gitcmd.start(arguments, settings.child_environment, settings.directory))
    configured = set(os.fsdecode(out).split("\n"))
    values = [*_ALWAYS, *((key, text) for key, text in _DEFAULTS.items() if key not in configured)]
    return [part for key, text in values for part in ("-c", f"{key}={text}")]


def _only_remote(settings: Settings) -> list[str]:
    """Return options that make git-lfs take the remote of a variable, whatever the branch follows."""
    arguments = ["symbolic-ref", "--quiet", "HEAD"]
    _, head, _ = gitcmd.collect(gitcmd.start(arguments, settings.child_environment, settings.directory))
    branch = _BRANCH.fullmatch(head)
    keys = ["remote.lfsdefault", *([f"branch.{os.fsdecode(branch[1])}.remote"] if branch else [])]
    return [f"--config-env={key}={_REMOTE}" for key in keys]
