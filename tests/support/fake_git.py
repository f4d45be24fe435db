"""git's side of the pipe for tests: starts a filter, asks it, and never waits for ever."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from theta_daemon.wire.client import FilterClient
from theta_daemon.wire.events import (
    NEED_DATA,
    Agreed,
    Available,
    ClientEvent,
    Content,
    ContentEnd,
    FinalStatus,
    ListAvailable,
    Outcome,
    Question,
    Request,
    Status,
)

TOY = Path(__file__).with_name("toy_filter.py")
PATIENCE = 30.0  # seconds until a test gives up; no test waits for that long unless it fails


@dataclass(frozen=True, slots=True)
class Answer:
    """What the filter answered for one file; `final` says what git would make of it."""

    status: Outcome
    content: bytes = b""
    packets: tuple[int, ...] = ()
    final: Outcome = Outcome.SUCCESS


@dataclass(frozen=True, slots=True)
class Checkout:
    """What came of a checkout: the answers in the order in which they came, and the lists of delayed paths."""

    answers: Mapping[bytes, Answer]
    lists: Sequence[Sequence[bytes]]

    @property
    def failed(self) -> list[bytes]:
        """The paths that failed, in the order in which git was told."""
        return [path for path, answer in self.answers.items() if answer.final is not Outcome.SUCCESS]

    @property
    def contents(self) -> dict[bytes, bytes]:
        """What git would have written before it gave up at the first failure."""
        written: dict[bytes, bytes] = {}
        for path, answer in self.answers.items():
            if answer.final is not Outcome.SUCCESS:
                break
            written[path] = answer.content
        return written


class FakeGit:
    """A running filter, and the client that talks to it. Use as a context manager: nothing outlives the test."""

    def __init__(
        self,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        command: tuple[str, ...] = (sys.executable, str(TOY)),
        capabilities: tuple[str, ...] = ("clean", "smudge", "delay"),
    ) -> None:
        self.process = subprocess.Popen(
            [*command, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, **(environment or {})},
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.to_filter = self.process.stdin.fileno()
        self.from_filter = self.process.stdout.fileno()
        self.client = FilterClient(capabilities)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    def shake_hands(self) -> None:
        """Do the handshake."""
        assert isinstance(self.next_event(), Agreed)

    def say(self, *questions: Question) -> None:
        """Queue questions and write them."""
        for question in questions:
            self.client.send(question)
        self._write()

    def ask(self, request: Request, content: bytes = b"") -> Answer:
        """Ask for one file."""
        self.say(request, Content(content), ContentEnd())
        status = self.next_event()
        assert isinstance(status, Status)
        if status.outcome is not Outcome.SUCCESS:
            return Answer(status.outcome, final=status.outcome)
        pieces: list[bytes] = []
        while isinstance(event := self.next_event(), Content):
            pieces.append(bytes(event.data))
        assert isinstance(event, ContentEnd)
        final = self.next_event()
        assert isinstance(final, FinalStatus)
        return Answer(Outcome.SUCCESS, b"".join(pieces), tuple(map(len, pieces)), final.outcome or Outcome.SUCCESS)

    def available(self) -> list[bytes]:
        """Ask for the delayed files that can be had now."""
        self.say(ListAvailable())
        event = self.next_event()
        assert isinstance(event, Available)
        return list(event.paths)

    def check_out(self, files: Mapping[bytes, bytes]) -> Checkout:
        """Ask for all files as git does in a checkout: it delays what it may, and takes lists until one is empty."""
        answers: dict[bytes, Answer] = {}
        delayed: set[bytes] = set()
        for path, content in files.items():
            answer = self.ask(Request("smudge", path, can_delay=True), content)
            if answer.status is Outcome.DELAYED:
                delayed.add(path)
            else:
                answers[path] = answer
        lists: list[list[bytes]] = []
        while listed := self.available():
            lists.append(listed)
            assert delayed.issuperset(listed), "a path was listed that was not delayed, or was listed before"
            assert len({*listed}) == len(listed)
            delayed.difference_update(listed)
            for path in sorted(listed):
                answers[path] = self.ask(Request("smudge", path))
        assert not delayed, "not every delayed path was listed"
        return Checkout(answers, lists)

    def next_event(self) -> ClientEvent:
        """Wait for what the filter says next."""
        self._write()
        while (event := self.client.next_event()) is NEED_DATA:
            self._write()
            self.client.receive_data(self.read())
        return event

    def read(self) -> bytes:
        """Wait for the filter's next bytes."""
        ready, _, _ = select.select([self.from_filter], [], [], PATIENCE)
        assert ready, f"the filter said nothing for {PATIENCE} seconds"
        return os.read(self.from_filter, 1 << 20)

    def wait_for_stderr(self, text: bytes) -> None:
        """Wait until the filter has written `text` to stderr."""
        assert self.process.stderr is not None
        seen = b""
        deadline = time.monotonic() + PATIENCE
        while text not in seen:
            ready, _, _ = select.select([self.process.stderr], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"no {text!r} on stderr, only {seen!r}"
            piece = os.read(self.process.stderr.fileno(), 65536)
            assert piece, f"no {text!r} on stderr, only {seen!r}"
            seen += piece

    def end(self) -> tuple[int, str]:
        """Close the pipe and wait for the filter's end; return its exit code and what it wrote to stderr."""
        rest, errors = self.process.communicate(timeout=PATIENCE)
        assert rest == b"", "the filter said something after it had answered everything"
        return self.process.returncode, errors.decode()

    def _write(self) -> None:
        for piece in self.client.data_to_send():
            left = memoryview(piece)
            while left:
                left = left[os.write(self.to_filter, left) :]
