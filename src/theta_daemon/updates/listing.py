"""Names in messages: quoted, each cut to a bearable length, ten at most."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

MOST = 10
_LONGEST = 200  # characters of one name


def quoted(name: str) -> str:
    """Return `name` between quotes, without control characters."""
    return repr(name) if len(name) <= _LONGEST else f"{name[:_LONGEST]!r}..."


def listed(texts: Iterable[str]) -> str:
    """Return `texts`, one after the other: the first ten, and how many more there are."""
    texts = list(texts)
    more = len(texts) - MOST
    return ", ".join(texts[:MOST]) + (f" and {more} more" if more > 0 else "")
