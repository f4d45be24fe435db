"""The signature against its definition, computed the slow and obvious way."""

from __future__ import annotations

import math
import threading
from pathlib import Path

import numpy as np
import pytest

from theta_daemon.dtypes import DTYPES
from theta_daemon.metadata import lsh

RECORDED = (Path(__file__).resolve().parents[3] / "protocol" / "fixtures" / "lsh" / "pool.bin").read_bytes()
POOL = np.frombuffer(RECORDED, "<f8", 10_000).tolist()
OFFSETS = np.frombuffer(RECORDED, "<i8", 16, 80_000).tolist()
HASHED = {"bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"}


def reference(values: list[float]) -> tuple[int, ...]:
    """Return the signature by protocol/metadata.md, one value at a time."""
    signature = []
    for offset in OFFSETS:
        total = 0.0
        for index, value in enumerate(values):
            total += value * POOL[(index ^ offset) % 10_000]
        bucket = total / 1e-8
        signature.append(math.floor(bucket) if -(2.0**63) <= bucket < 2.0**63 else -(2**63))
    return tuple(signature)


def test_the_random_numbers_are_the_recorded_ones() -> None:
    """NumPy does not promise its random streams for ever; git-theta's are those of today."""
    generator = np.random.Generator(np.random.MT19937(seed=42))
    assert generator.normal(size=10_000).tolist() == POOL
    limits = np.iinfo(np.int64)
    assert generator.integers(limits.min, limits.max, size=16, dtype=np.int64).tolist() == OFFSETS


@pytest.mark.parametrize("dtype", sorted(HASHED))
@pytest.mark.parametrize("count", [1, 15, 16, 17, 3000])
def test_signature_is_the_definition(dtype: str, count: int) -> None:
    raw = np.random.default_rng(count).bytes(count * DTYPES[dtype].bits // 8)
    if dtype == "bool":
        raw = bytes(byte & 1 for byte in raw)
    values = np.frombuffer(raw, DTYPES[dtype].numpy)  # floats: any bits, so also infinities and NaN
    with np.errstate(invalid="ignore"):  # signalling NaN
        doubles = values.astype(np.float64).tolist()
    assert lsh.signature(raw, dtype) == reference(doubles)


@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1.0, 1e5, 1e9])
def test_signature_of_float32_at_every_magnitude(scale: float) -> None:
    values = (np.random.default_rng(1).standard_normal(5000) * scale).astype(np.float32)
    assert lsh.signature(values.tobytes(), "float32") == reference(values.astype(np.float64).tolist())


def test_signature_where_every_step_rounds() -> None:
    generator = np.random.default_rng(2)
    values = generator.standard_normal(9000) * 10.0 ** generator.uniform(-10, 7, 9000)
    assert lsh.signature(values.tobytes(), "float64") == reference(values.tolist())


def test_blocks_far_from_the_start() -> None:
    # One value, 3 million zeros before it: the sum is that one product.
    at = 3_000_017
    values = np.zeros(at + 1, np.float32)
    values[at] = 0.25
    expected = tuple(math.floor(0.25 * POOL[(at ^ offset) % 10_000] / 1e-8) for offset in OFFSETS)
    assert lsh.signature(values.tobytes(), "float32") == expected


def test_overflow_and_nan_become_the_smallest_integer() -> None:
    for value in (math.nan, math.inf, -math.inf, 1e300):
        raw = np.array([value], "<f8").tobytes()
        assert lsh.signature(raw, "float64") == (-(2**63),) * 16


def test_nothing_is_sixteen_zeros() -> None:
    assert lsh.signature(b"", "float32") == (0,) * 16
    assert lsh.Stream("float64").signature() == (0,) * 16


@pytest.mark.parametrize("dtype", sorted(DTYPES.keys() - HASHED))
def test_what_git_theta_cannot_hash_is_sixteen_zeros(dtype: str) -> None:
    assert lsh.signature(b"\x3c" * 48, dtype) == (0,) * 16


def test_any_byte_but_zero_is_true() -> None:
    assert lsh.signature(b"\x02\x00\xff", "bool") == lsh.signature(b"\x01\x00\x01", "bool")


def test_bytes_need_no_alignment() -> None:
    raw = np.random.default_rng(4).standard_normal(1000).astype(np.float32).tobytes()
    shifted = memoryview(b"x" + raw)[1:]
    assert lsh.signature(shifted, "float32") == lsh.signature(raw, "float32")


def test_streams_in_one_thread_do_not_disturb_each_other() -> None:
    generator = np.random.default_rng(5)
    raws = [generator.standard_normal(20_000).astype(np.float32).tobytes() for _ in range(2)]
    streams = [lsh.Stream("float32") for _ in raws]
    for at in range(0, 80_000, 7001):
        for raw, stream in zip(raws, streams, strict=True):
            stream.update(raw[at : at + 7001])
    assert [stream.signature() for stream in streams] == [lsh.signature(raw, "float32") for raw in raws]


def test_threads_do_not_disturb_each_other() -> None:
    generator = np.random.default_rng(6)
    raws = [generator.standard_normal(200_000).astype(np.float32).tobytes() for _ in range(4)]
    alone = [lsh.signature(raw, "float32") for raw in raws]
    found: list[tuple[int, ...]] = [()] * len(raws)

    def compute(index: int) -> None:
        found[index] = lsh.signature(raws[index], "float32")

    threads = [threading.Thread(target=compute, args=(index,)) for index in range(len(raws))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == alone


def test_more_may_follow_a_signature() -> None:
    raw = np.random.default_rng(7).standard_normal(5000).tobytes()
    stream = lsh.Stream("float64")
    stream.update(raw[:16_000])
    assert stream.signature() == lsh.signature(raw[:16_000], "float64")
    stream.update(raw[16_000:])
    assert stream.signature() == lsh.signature(raw, "float64")


def test_a_value_cut_short_is_an_error() -> None:
    with pytest.raises(ValueError, match="3 bytes are left of a value of float32"):
        lsh.signature(bytes(7), "float32")
