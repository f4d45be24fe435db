"""Reads protocol/transcripts: what git and a filter said to each other, packet by packet.

The notation is specified in protocol/filter-process.md. Nothing here uses the code under test.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

DIRECTORY = Path(__file__).resolve().parents[2] / "protocol" / "transcripts"
NAMES = sorted(path.stem for path in DIRECTORY.glob("*.txt"))

_LINE = re.compile(r'(git[<>]) (?:(flush|eof)|(raw )?"((?:[^"\\]|\\.)*)"(?: \* ([0-9]+))?)')
_ESCAPE = re.compile(r'\\(?:x([0-9a-f]{2})|([n"\\]))')


@dataclass(frozen=True, slots=True)
class Turn:
    """What one side sends until the other one does."""

    from_git: bool
    wire: bytes

    def lists(self) -> list[list[bytes]]:
        """Return the payloads up to each flush packet; what no flush packet ends is left out."""
        found: list[list[bytes]] = [[]]
        position = 0
        while re.fullmatch(rb"[0-9a-fA-F]{4}", header := self.wire[position : position + 4]):
            length = int(header, 16)
            if length:
                found[-1].append(self.wire[position + 4 : position + length])
            else:
                found.append([])
            position += length or 4
        return found[:-1]


@dataclass(frozen=True, slots=True)
class Transcript:
    """A session: its turns, and how the filter exits."""

    name: str
    turns: tuple[Turn, ...]
    exit_code: int

    @property
    def from_git(self) -> bytes:
        """Everything that git sent."""
        return b"".join(turn.wire for turn in self.turns if turn.from_git)

    @property
    def from_filter(self) -> bytes:
        """Everything that the filter sent."""
        return b"".join(turn.wire for turn in self.turns if not turn.from_git)

    def sent_before(self, from_git: bool, position: int) -> int:
        """Return how many bytes the side may have sent at most when it got `position` bytes from the other one."""
        received = sent = 0
        for turn in self.turns:
            if turn.from_git is from_git:
                sent += len(turn.wire)
            else:
                received += len(turn.wire)
                if received > position:
                    break
        return sent


def load(name: str) -> Transcript:
    """Read one transcript; a line that is not understood is an error."""
    turns: list[Turn] = []
    exit_code: int | None = None
    for number, line in enumerate((DIRECTORY / f"{name}.txt").read_text("ascii").splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        assert exit_code is None, f"{name}.txt:{number}: after the end"
        if line.startswith("exit "):
            exit_code = int(line.removeprefix("exit "))
            continue
        match = _LINE.fullmatch(line)
        assert match is not None, f"{name}.txt:{number}: {line!r}"
        from_git, wire = match[1] == "git>", _wire(match)
        if turns and turns[-1].from_git is from_git:
            turns[-1] = Turn(from_git, turns[-1].wire + wire)
        else:
            turns.append(Turn(from_git, wire))
    assert exit_code is not None, f"{name}.txt: no exit"
    return Transcript(name, tuple(turns), exit_code)


def _wire(match: re.Match[str]) -> bytes:
    _, word, raw, text, count = match.groups()
    if word is not None:
        return b"0000" if word == "flush" else b""
    payload = _ESCAPE.sub(_unescaped, text).encode("latin-1") * int(count or 1)
    return payload if raw else b"%04x" % (len(payload) + 4) + payload


def _unescaped(match: re.Match[str]) -> str:
    code, character = match.groups()
    if code:
        return chr(int(code, 16))
    return "\n" if character == "n" else str(character)
