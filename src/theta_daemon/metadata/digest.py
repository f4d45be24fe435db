"""The digest that says which value a parameter group has: BLAKE3-256, as 64 lower-case hex digits.

It is taken over the raw little-endian bytes in logical C order, so it depends on neither codec, chunking nor file
format. Two entries with one digest, dtype and shape hold the same value, whatever their object ids.
"""

from __future__ import annotations

from blake3 import blake3


def digest(raw: bytes | memoryview) -> str:
    """Return the digest of `raw`, a contiguous buffer; releases the interpreter lock while it works."""
    return blake3(raw).hexdigest()


class Digest:
    """The same digest over bytes that come in pieces."""

    __slots__ = ("_state",)

    def __init__(self) -> None:
        self._state = blake3()

    def update(self, piece: bytes | memoryview) -> None:
        """Take the next bytes."""
        self._state.update(piece)

    def hexdigest(self) -> str:
        """Return the digest of all bytes so far; more may follow."""
        return self._state.hexdigest()
