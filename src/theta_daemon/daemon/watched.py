"""Content that takes long to store: `git add` says nothing by itself, so who waits for it is shown how far it is."""

from __future__ import annotations

import os
import stat
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Final

from theta_daemon.errors import printable
from theta_daemon.progress import SILENT, STDERR, Screen, meter

if TYPE_CHECKING:
    from collections.abc import Iterator

    from theta_daemon.formats.source import Readable

LARGE: Final = 8 << 20  # bytes; less is stored before anybody could read what is shown


@contextmanager
def watched(path: bytes, content: Readable, *, shown: bool, screen: Screen = STDERR) -> Iterator[Readable]:
    """Give `content` of the file `path`, and show on a terminal how much of it was read; until the block ends."""
    if not shown:
        yield content
        return
    with ExitStack() as stack:
        yield _Watched(path, content, screen, stack)


class _Watched:
    def __init__(self, path: bytes, content: Readable, screen: Screen, stack: ExitStack) -> None:
        self._path = path
        self._content = content
        self._screen = screen
        self._stack = stack
        self._unseen = 0
        self._meter = SILENT
        self._begun = False

    def readinto(self, view: memoryview, /) -> int:
        """Read on; see Readable."""
        size = self._content.readinto(view)
        if self._begun:
            self._meter.advance(size=size)
            return size
        self._unseen += size
        if self._unseen > LARGE:
            self._begun = True
            what = f"Storing {printable(self._path)}"
            expected = _size(self._path)
            self._meter = self._stack.enter_context(meter(what, 0, expected, lines=False, screen=self._screen))
            self._meter.advance(size=self._unseen)
        return size


def _size(path: bytes) -> int:
    """Return how much is to come: what the file in the work tree has. Git does not tell, and need not read that one."""
    try:
        found = os.lstat(path)  # git runs its filters at the top of the work tree
    except (OSError, ValueError):
        return 0
    return found.st_size if stat.S_ISREG(found.st_mode) else 0
