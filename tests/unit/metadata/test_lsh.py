"""The signature against its definition, computed the slow and obvious way."""

from __future__ import annotations

import functools
import math
import threading
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from theta_daemon.dtypes import DTYPES
from theta_daemon.metadata import lsh
from theta_daemon.metadata.compiled import Compiled

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

RECORDED = (Path(__file__).resolve().parents[3] / "protocol" / "fixtures" / "lsh" / "pool.bin").read_bytes()
POOL = np.frombuffer(RECORDED, "<f8", 10_000).tolist()
OFFSETS = np.frombuffer(RECORDED, "<i8", 16, 80_000).tolist()
HASHED = {"bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "float32", "float64"}


def sums(values: list[float]) -> list[float]:
    """Return the 16 sums by protocol/metadata.md, one value at a time."""
    totals = []
    for offset in OFFSETS:
        total = 0.0
        for index, value in enumerate(values):
            total += value * POOL[(index ^ offset) % 10_000]
        totals.append(total)
    return totals


def reference(values: list[float]) -> tuple[int, ...]:
    """Return the signature by protocol/metadata.md."""
    buckets = [total / 1e-8 for total in sums(values)]
    return tuple(math.floor(bucket) if -(2.0**63) <= bucket < 2.0**63 else -(2**63) for bucket in buckets)


@pytest.fixture(params=["as chosen", "products are stored", "compiled"])
def _either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Add as this machine chooses, as one whose `np.dot` is of no use, and with numba from the first value on."""
    compiled = Compiled(lsh._is_right, worthwhile=10**18)
    if request.param == "products are stored":
        monkeypatch.setattr(lsh, "_direction", lambda: 1)
    elif request.param == "compiled":
        compiled = numba_s()
    monkeypatch.setattr(lsh, "_compiled", compiled)


@functools.cache
def numba_s() -> Compiled:
    compiled = Compiled(lsh._is_right, worthwhile=1)
    assert compiled.get(1) is not None
    return compiled


def test_the_random_numbers_are_the_recorded_ones() -> None:
    """NumPy does not promise its random streams for ever; git-theta's are those of today."""
    generator = np.random.Generator(np.random.MT19937(seed=42))
    assert generator.normal(size=10_000).tolist() == POOL
    limits = np.iinfo(np.int64)
    assert generator.integers(limits.min, limits.max, size=16, dtype=np.int64).tolist() == OFFSETS


@pytest.mark.usefixtures("_either_way")
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


@pytest.mark.usefixtures("_either_way")
@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1.0, 1e5, 1e9])
def test_signature_of_float32_at_every_magnitude(scale: float) -> None:
    values = (np.random.default_rng(1).standard_normal(5000) * scale).astype(np.float32)
    assert lsh.signature(values.tobytes(), "float32") == reference(values.astype(np.float64).tolist())


@pytest.mark.usefixtures("_either_way")
def test_signature_where_every_step_rounds() -> None:
    generator = np.random.default_rng(2)
    values = generator.standard_normal(9000) * 10.0 ** generator.uniform(-10, 7, 9000)
    assert lsh.signature(values.tobytes(), "float64") == reference(values.tolist())


def extremes(count: int) -> list[float]:
    """Return values of all magnitudes, both zeros and subnormals among them, whose sums stay finite."""
    generator = np.random.default_rng(count)
    values = generator.standard_normal(count) * 10.0 ** generator.uniform(-320, 30, count)
    values[generator.integers(0, count, count // 8)] = -0.0
    values[generator.integers(0, count, count // 8)] = 5e-324
    values[count // 2] = 1e30
    return [float(value) for value in values]


@pytest.mark.usefixtures("_either_way")
@pytest.mark.parametrize("count", [1, 2, 4095, 4096, 4097, 8191, 8193])
def test_sums_have_every_bit(count: int) -> None:
    """The integers of small values would not show the last bits."""
    for values in (np.random.default_rng(count).standard_normal(count).tolist(), extremes(count)):
        stream = lsh.Stream("float64")
        stream.update(np.array(values, "<f8").tobytes())
        assert [total.hex() for total in stream._sums.tolist()] == [total.hex() for total in sums(values)]


@pytest.mark.usefixtures("_either_way")
@pytest.mark.parametrize("count", [16, 4080, 4096, 4097, 8192, 12_304])
def test_sums_of_float32_have_every_bit(count: int) -> None:
    generator = np.random.default_rng(count)
    small = generator.standard_normal(count).astype("<f4")
    with np.errstate(under="ignore"):
        extreme = (generator.standard_normal(count) * 10.0 ** generator.uniform(-45, 30, count)).astype("<f4")
    extreme[generator.integers(0, count, count // 8)] = -0.0
    for values in (small, extreme):
        for cuts in ((0, count), (0, 16, count), (0, 1, 16, count)):
            stream = lsh.Stream("float32")
            for start, end in pairwise(cuts):
                stream.update(values[start:end].tobytes())
            expected = sums(values.astype(np.float64).tolist())
            assert [total.hex() for total in stream._sums.tolist()] == [total.hex() for total in expected]


@pytest.mark.usefixtures("_either_way")
@pytest.mark.parametrize("special", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("at", [0, 4095, 4096, 4999])
def test_what_is_not_finite_does_not_spread(special: float, at: int) -> None:
    """... to the sums of another tensor in the same buffers."""
    values = np.ones(5000)
    values[at] = special
    assert lsh.signature(values.tobytes(), "float64") == (-(2**63),) * 16
    values[at] = 1
    assert lsh.signature(values.tobytes(), "float64") == reference(values.tolist())


@pytest.mark.usefixtures("_either_way")
def test_blocks_far_from_the_start() -> None:
    # One value, 3 million zeros before it: the sum is that one product.
    at = 3_000_017
    values = np.zeros(at + 1, np.float32)
    values[at] = 0.25
    expected = tuple(math.floor(0.25 * POOL[(at ^ offset) % 10_000] / 1e-8) for offset in OFFSETS)
    assert lsh.signature(values.tobytes(), "float32") == expected


@pytest.mark.usefixtures("_either_way")
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


@pytest.mark.usefixtures("_either_way")
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


@pytest.mark.usefixtures("_either_way")
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


@pytest.mark.usefixtures("_either_way")
def test_pieces_that_end_within_blocks() -> None:
    values = np.random.default_rng(8).standard_normal(20_000)
    stream = lsh.Stream("float64")
    for start, end in pairwise((0, 1, 100, 4095, 4097, 13_000, 13_008, 20_000)):
        stream.update(values[start:end].tobytes())
    assert stream.signature() == reference(values.tolist())


@pytest.mark.usefixtures("_either_way")
@pytest.mark.parametrize("count", [700, 9000])
def test_some_of_the_integers(count: int) -> None:
    raw = np.random.default_rng(9).standard_normal(count).tobytes()
    whole = lsh.signature(raw, "float64")
    parts = [slice(0, 8), slice(8, 9), slice(9, 9), slice(9, 16)]
    assert [lsh.signature(raw, "float64", part) for part in parts] == [whole[part] for part in parts]
    assert lsh.signature(raw, "bfloat16", slice(3, 5)) == (0, 0)


@pytest.mark.usefixtures("_either_way")
@pytest.mark.parametrize("size", [4, 6, 8])
def test_some_of_the_integers_of_float32(size: int) -> None:
    values = np.random.default_rng(10).standard_normal(70_000).astype("<f4")
    whole = lsh.Stream("float32")
    whole.update(values.tobytes())
    found: list[float] = []
    for start in range(0, 16, size):
        part = lsh.Stream("float32", slice(start, start + size))
        part.update(values.tobytes())
        found += part._sums.tolist()
    assert found == whole._sums.tolist()


def _in_order(hyperplanes: NDArray[np.float64], features: NDArray[np.float64]) -> NDArray[np.float64]:
    totals = np.zeros(hyperplanes.shape[:-1])
    for index, feature in enumerate(features):
        totals = totals + hyperplanes[..., index] * feature
    return totals


def _in_pairs(hyperplanes: NDArray[np.float64], features: NDArray[np.float64]) -> NDArray[np.float64]:
    totals: NDArray[np.float64] = (hyperplanes * features).sum(axis=-1)
    return totals


def _one_bit_off(hyperplanes: NDArray[np.float64], features: NDArray[np.float64]) -> NDArray[np.float64]:
    totals = _in_order(hyperplanes, features)
    totals[..., -1] = np.nextafter(totals[..., -1], math.inf)
    return totals


@pytest.mark.parametrize(("dot", "direction"), [(_in_order, -1), (_in_pairs, 1), (_one_bit_off, 1)])
def test_numpy_that_adds_otherwise_is_found_out(
    dot: Callable[..., NDArray[np.float64]], direction: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(np, "dot", dot)
    assert lsh._direction.__wrapped__() == direction


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
