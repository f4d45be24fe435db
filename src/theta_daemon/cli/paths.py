"""Paths of the work tree in lines of output, as `git status` and `git ls-files` print them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from theta_daemon.cli import quoting

if TYPE_CHECKING:
    from pathlib import Path

    from theta_daemon.cli.verb import Place

_SPECIAL = (b'"', b"\\")
_HIGH = 0x80


class Paths:
    """Paths relative to the directory of the call, quoted where they need it (core.quotePath)."""

    def __init__(self, place: Place, top: Path) -> None:
        self._place = place
        self._below = os.fsencode(os.path.relpath(place.directory.resolve(), top.resolve()))
        self._quotes_high: bool | None = None

    def relative(self, path: bytes) -> bytes:
        """Return the `path`, given from the top of the work tree."""
        return os.path.relpath(path, self._below)

    def line(self, path: bytes) -> bytes:
        """Return the `path`, given from the top of the work tree, for the end of a line."""
        path = self.relative(path)
        is_high = max(path) >= _HIGH and self._is_high_quoted()
        if not is_high and quoting.is_plain(path) and not any(special in path for special in _SPECIAL):
            return path
        text = quoting.quote(path)
        return b"".join(b"\\%03o" % byte if byte >= _HIGH else bytes([byte]) for byte in text) if is_high else text

    def _is_high_quoted(self) -> bool:
        if self._quotes_high is None:
            answer = self._place.git.items("config", "-z", "--type=bool", "--default=true", "--get", "core.quotePath")
            self._quotes_high = answer != [b"false"]
        return self._quotes_high
