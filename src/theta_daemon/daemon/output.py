"""Pieces of a file on their way out: few large writes, whatever the pieces are like."""

from __future__ import annotations

from typing import TYPE_CHECKING

from theta_daemon.wire.packets import MAX_DATA

if TYPE_CHECKING:
    from collections.abc import Callable

SMALL = 4096  # below this, copying is cheaper than a packet of its own


class Output:
    """Passes pieces on to `write`: large ones at once and uncopied, small ones gathered until a packet is full.

    A piece may be a buffer that its maker uses again for the next piece: nothing refers to it when `add` returns.
    """

    def __init__(self, write: Callable[[list[bytearray | memoryview]], None]) -> None:
        self._write = write
        self._small = bytearray()

    def add(self, piece: bytes | bytearray | memoryview) -> None:
        """Take the next piece of the file."""
        view = memoryview(piece)
        if not view.nbytes:
            return
        if view.ndim != 1 or view.format != "B":
            view = view.cast("B")
        if len(view) >= SMALL:
            self._flush(view)
        else:
            if len(self._small) + len(view) > MAX_DATA:
                self._flush()
            self._small += view

    def end(self) -> None:
        """Pass on what was gathered: the file is complete."""
        self._flush()

    def _flush(self, *large: memoryview) -> None:
        small, self._small = self._small, bytearray()
        pieces: list[bytearray | memoryview] = [small, *large] if small else [*large]
        if pieces:
            self._write(pieces)
