"""A pseudo terminal: what a program writes to it, and when it has written enough."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import termios
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE = 60  # seconds until a test fails that waits for something to be written


class Terminal:
    """`descriptor` is the terminal that programs write to; 100 columns wide."""

    def __init__(self) -> None:
        self._reading, self.descriptor = pty.openpty()
        self.resize(100)
        self._open = True
        self.text = ""

    def resize(self, columns: int) -> None:
        """Make it so many columns wide; 0 is what some terminals say that do not know."""
        fcntl.ioctl(self.descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def wait_for(self, what: str) -> str:
        """Read until `what` has come; return everything that has."""
        while what not in self.text:
            assert select.select([self._reading], [], [], PATIENCE)[0], f"{what!r} did not come: {self.text!r}"
            self.text += os.read(self._reading, 1 << 16).decode()
        return self.text

    def everything_so_far(self) -> None:
        """Read what has been written, and forget it."""
        while select.select([self._reading], [], [], 0.05)[0]:
            os.read(self._reading, 1 << 16)
        self.text = ""

    def everything(self) -> str:
        """Hang up and return all that was ever written."""
        if self._open:
            self._open = False
            os.close(self.descriptor)
        while True:
            try:
                data = os.read(self._reading, 1 << 16)
            except OSError:  # what a terminal says when nobody has it open and everything was read
                return self.text
            self.text += data.decode()

    def close(self) -> None:
        """Give everything back."""
        self.everything()
        os.close(self._reading)


@contextmanager
def terminal() -> Iterator[Terminal]:
    """Open a terminal and close it at the end."""
    opened = Terminal()
    try:
        yield opened
    finally:
        opened.close()


def on_screen(text: str) -> list[str]:
    """Return the lines that a person sees in the end: what was wiped away is gone."""
    lines = [""]
    column = 0
    for character in text:
        match character:
            case "\n":
                lines.append("")
            case "\r":
                column = 0
                continue
            case _:
                line = lines[-1]
                lines[-1] = f"{line[:column]}{character}{line[column + 1 :]}"
                column += 1
                continue
    return [line.rstrip() for line in lines]
