"""git's side of the pipe for tests: starts a filter, asks it, and never waits for ever."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from theta_daemon.wire.client import FilterClient
from theta_daemon.wire.events import (
    NEED_DATA,
    Agreed,
    ClientEvent,
    Content,
    ContentEnd,
    FinalStatus,
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


class FakeGit:
    """A running filter, and the client that talks to it. Use as a context manager: nothing outlives the test."""

    def __init__(
        self,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        command: tuple[str, ...] = (sys.executable, str(TOY)),
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
        self.client = FilterClient()

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
