"""`python slow_filter.py PIPE`: theta-daemon, which reads no further in a file than 16 MiB before PIPE is opened."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from theta_daemon.daemon import entry
from theta_daemon.daemon.handlers import PipelineHandlers, make_handlers
from theta_daemon.formats.source import Readable

PIPE = sys.argv.pop()


class SlowHandlers(PipelineHandlers):
    """Handlers whose content comes slowly."""

    def clean(self, path: bytes, content: Readable) -> Iterable[bytes | memoryview]:
        """Clean as ever."""
        return super().clean(path, _Slow(content))


class _Slow:
    def __init__(self, content: Readable) -> None:
        self._content = content
        self._left: int | None = 16 << 20

    def readinto(self, view: memoryview, /) -> int:
        if self._left is not None and self._left < 0:
            self._left = None
            with open(PIPE, "rb"):  # waits for whoever writes
                pass
        size = self._content.readinto(view)
        if self._left is not None:
            self._left -= size
        return size


def _make_handlers(command: str) -> PipelineHandlers:
    made = make_handlers(command=command)
    made.__class__ = SlowHandlers
    return made


entry.run(_make_handlers)
