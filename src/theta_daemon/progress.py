"""How far long work has come, for who is waiting: the interface; nothing is shown yet."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator


class Meter(Protocol):
    """Counts what is done of one piece of work; may be used from any thread."""

    def advance(self, items: int = 0, size: int = 0) -> None:
        """Tell that so many more items, and so many more bytes, are done."""

    def expect(self, items: int = 0, size: int = 0) -> None:
        """Tell that so many more are to come than was said."""


class _Silent:
    def advance(self, items: int = 0, size: int = 0) -> None:
        """Show nothing."""

    def expect(self, items: int = 0, size: int = 0) -> None:
        """Show nothing."""


SILENT: Meter = _Silent()


@contextmanager
def meter(what: str, items: int, size: int, *, shown: bool = True) -> Iterator[Meter]:
    """Show, until the block ends, how far `what` ("Fetching objects") has come: of `items` items, `size` bytes.

    Nothing is shown where `shown` is false.
    """
    yield SILENT
