"""Laws of the signature: the pieces do not matter, the definition does."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from theta_daemon.metadata import lsh

_SIZES = {"bool": 1, "int8": 1, "uint16": 2, "int32": 4, "float32": 4, "int64": 8, "uint64": 8, "float64": 8}


@given(
    st.sampled_from(sorted(_SIZES)),
    st.integers(0, 9000),
    st.integers(0, 2**32),
    st.lists(st.integers(0, 20_000), max_size=6),
)
def test_pieces_of_any_size_give_the_signature_of_the_whole(dtype: str, count: int, seed: int, cuts: list[int]) -> None:
    raw = np.random.default_rng(seed).bytes(count * _SIZES[dtype])
    stream = lsh.Stream(dtype)
    at = 0
    for cut in cuts:
        stream.update(raw[at : at + cut])
        at += cut
    stream.update(memoryview(raw)[at:])
    assert stream.signature() == lsh.signature(raw, dtype)


@given(st.lists(st.floats(width=32), max_size=40), st.integers(0, 9000))
def test_the_sum_is_sequential_whatever_the_values(values: list[float], start: int) -> None:
    """After `start` zeros, which change nothing, comes the sum value by value, NaN and infinities included."""
    raw = bytes(4 * start) + np.array(values, "<f4").tobytes()
    unit = [_hyperplane(start + index) for index in range(len(values))]
    for which, found in enumerate(lsh.signature(raw, "float32")):
        total = 0.0
        for index, value in enumerate(values):
            total += value * unit[index][which]
        bucket = total / 1e-8
        assert found == (math.floor(bucket) if -(2.0**63) <= bucket < 2.0**63 else -(2**63))


def _hyperplane(index: int) -> list[float]:
    generator = np.random.Generator(np.random.MT19937(seed=42))
    pool = generator.normal(size=10_000)
    offsets = generator.integers(-(2**63), 2**63 - 1, size=16, dtype=np.int64)
    found: list[float] = pool[(index ^ offsets) % 10_000].tolist()
    return found
