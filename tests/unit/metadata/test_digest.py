"""The digest is BLAKE3-256, whole or in pieces."""

from __future__ import annotations

import numpy as np

from theta_daemon.metadata.digest import Digest, digest

# BLAKE3's official test vectors: the input is the bytes 0, 1, ..., 250, repeated.
EMPTY = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
OF_1025 = "d00278ae47eb27b34faecf67b4fe263f82d5412916c1ffd97c8cb7fb814b8444"


def test_digest_is_blake3() -> None:
    raw = (bytes(range(251)) * 5)[:1025]
    assert digest(b"") == EMPTY
    assert digest(memoryview(raw)) == OF_1025


def test_pieces_have_the_digest_of_the_whole() -> None:
    raw = np.random.default_rng(3).bytes(300_000)
    state = Digest()
    assert state.hexdigest() == EMPTY
    for at in range(0, len(raw), 77_777):
        state.update(memoryview(raw)[at : at + 77_777])
    assert state.hexdigest() == digest(raw)
