"""Updates of git-theta's types are worked out where there are some, and what is returned gives the bits."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from theta_daemon.errors import UnsupportedError
from theta_daemon.updates import infer as module
from theta_daemon.updates.array import Array
from theta_daemon.updates.infer import infer
from theta_daemon.updates.numbers import stored
from theta_daemon.updates.pair import Pair
from theta_daemon.updates.steps import prepare

PLENTY = 1 << 40
FLOATS = ["float16", "float32", "float64", "bfloat16", "float8_e4m3fn", "float8_e5m2"]
ONE_ZERO = ["float8_e4m3fnuz", "float8_e5m2fnuz"]
INTEGERS = ["int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"]

Values = npt.NDArray[Any]


def raw(values: Values) -> memoryview:
    return memoryview(bytearray(values.tobytes()))


def worked_out(
    update_type: str, previous: Values, new: Values, dtype: str, most: int = PLENTY
) -> dict[str, Values] | None:
    """Return the arrays of the update, None where there is none; it was proved, whatever `infer` has proved."""
    before, after = raw(previous), raw(new)
    arrays = infer(update_type, before, after, dtype, previous.shape, most)
    assert (before, after) == (raw(previous), raw(new))
    if arrays is None:
        return None
    assert sum(len(each.raw) for each in arrays.values()) <= most
    rows = previous.shape[0] if previous.shape else 1
    prepare(update_type, arrays, dtype, previous.shape).apply(before, range(rows))
    assert before == after
    return {key: np.frombuffer(each.raw, stored(each.dtype)).reshape(each.shape) for key, each in arrays.items()}


def found(update_type: str, previous: Values, new: Values, dtype: str, most: int = PLENTY) -> dict[str, Values]:
    arrays = worked_out(update_type, previous, new, dtype, most)
    assert arrays is not None
    return arrays


def weights(shape: tuple[int, ...], dtype: str, seed: int = 0) -> Values:
    return np.random.default_rng(seed).standard_normal(shape).astype(stored(dtype))


# sparse


@pytest.mark.parametrize("dtype", [*FLOATS, "float8_e4m3fnuz", "float8_e5m2fnuz"])
def test_a_few_added_numbers_are_found(dtype: str) -> None:
    previous = weights((30, 40), dtype)
    new = previous.copy()
    new[3, 7] += stored(dtype).type(0.25)
    new[29, 39] = -new[29, 39]
    arrays = found("sparse", previous, new, dtype)
    assert arrays["indices"].tolist() == [127, 1199]
    assert (arrays["indices"].dtype, arrays["indptr"].dtype) == (np.int32, np.int32)
    assert arrays["indptr"].tolist() == [0, 2]
    assert (arrays["shape"].dtype, arrays["shape"].tolist()) == (np.int64, [30, 40])
    assert arrays["data"].dtype == stored(dtype)
    assert arrays["data"].astype(float).tolist() == [
        float(new[3, 7]) - float(previous[3, 7]),
        2 * float(new[29, 39]),
    ]


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_wrap_around(dtype: str) -> None:
    limits = np.iinfo(dtype)
    previous = np.array([limits.max, limits.min, 5, 7], dtype)
    new = np.array([limits.min, limits.max, 5, 0], dtype)
    assert found("sparse", previous, new, dtype)["indices"].tolist() == [0, 1, 3]


@pytest.mark.parametrize("dtype", ["complex64", "complex128"])
def test_complex_numbers_change_in_either_part(dtype: str) -> None:
    previous = np.array([1 + 2j, 3 + 4j, 5 + 6j, 7 + 8j], dtype)
    new = np.array([1 + 2j, 3.5 + 4j, 5 + 6.5j, 0.5 - 8j], dtype)
    arrays = found("sparse", previous, new, dtype)
    assert arrays["indices"].tolist() == [1, 2, 3]
    assert arrays["data"].tolist() == [0.5, 0.5j, -6.5 - 16j]


def reachable(previous: Values, every: Values) -> Values:
    """Return what can be made of one number by adding one of `every`, and is not beyond the rounded difference."""
    own = previous.dtype
    with np.errstate(all="ignore"):
        sums = np.unique((previous.astype("f4") + every.astype("f4")).astype(own).view(f"u{own.itemsize}")).view(own)
        differences = (sums.astype("f4") - previous.astype("f4")).astype(own).astype("f4")
    wide = sums.astype("f4")
    usable = ~np.isnan(wide) & ~np.isnan(differences) & ~((wide == 0) & np.signbit(wide))
    return np.asarray(sums[usable])


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "float8_e5m2", *ONE_ZERO, "float8_e8m0fnu"])
def test_whatever_can_be_added_is_found(dtype: str) -> None:
    every = np.arange(256, dtype="u1").view(stored(dtype))
    neighbours = 0
    for previous in every[~np.isnan(every.astype("f4"))]:
        new = reachable(previous, every)
        found("sparse", np.repeat(previous, len(new)), new, dtype)
        with np.errstate(all="ignore"):
            difference = (new.astype("f4") - previous.astype("f4")).astype(new.dtype)
            sums = (difference.astype("f4") + previous.astype("f4")).astype(new.dtype)
        neighbours += int(np.count_nonzero(sums != new))
    assert (neighbours > 100) == (dtype != "float8_e8m0fnu")  # the difference alone is not enough


def test_whatever_can_be_added_to_halves_is_found() -> None:
    every = np.arange(1 << 16, dtype="u2").view("f2")
    for previous in np.geomspace(1e-7, 6e4, 20).astype("f2"):
        new = reachable(previous, every)
        found("sparse", np.repeat(previous, len(new)), new, "float16")


@pytest.mark.parametrize(
    ("previous", "new"),
    [
        ([1.0, 1.0], [1.0, 1e-9]),  # no difference has the digits
        ([1.0, 2.0], [1.0, -0.0]),
        ([0.0, 2.0], [-0.0, 2.0]),
        ([-0.0, 2.0], [-0.0, 3.0]),  # 0.0 is added to the first
        ([1.0, 2.0], [np.nan, 2.0]),
        ([np.nan, 2.0], [1.0, 2.0]),
        ([np.inf, 2.0], [1.0, 2.0]),
        ([np.inf, 2.0], [-np.inf, 2.0]),
    ],
    ids=str,
)
def test_what_nothing_added_can_make_has_no_sparse_update(previous: list[float], new: list[float]) -> None:
    assert worked_out("sparse", np.array(previous, "f4"), np.array(new, "f4"), "float32") is None


def test_a_nan_that_stays_is_no_hindrance() -> None:
    previous = np.array([np.nan, 1.0, np.inf], "f4")
    assert found("sparse", previous, np.array([np.nan, 2.0, np.inf], "f4"), "float32")["indices"].tolist() == [1]
    assert found("sparse", np.array([1.0], "f4"), np.array([np.inf], "f4"), "float32")["data"].tolist() == [np.inf]


def test_negative_zeros_that_become_zeros_need_no_number() -> None:
    previous = np.array([-0.0, 1.0, -0.0], "f4")
    assert found("sparse", previous, np.array([0.0, 1.0, 3.0], "f4"), "float32")["indices"].tolist() == [2]


def test_sparse_updates_have_at_most_so_many_bytes() -> None:
    previous = np.zeros((100, 10), "f4")
    new = previous.copy()
    new.flat[::100] = 1
    exact = 10 * 8 + 8 + 16
    assert found("sparse", previous, new, "float32", exact)["data"].tolist() == [1.0] * 10
    assert worked_out("sparse", previous, new, "float32", exact - 1) is None


def test_bools_and_raw_elements_have_none() -> None:
    for update_type in ("sparse", "low-rank", "ia3"):
        for dtype in ("bool", "complex32", "float6_e2m3fn", "float4_e2m1fn"):
            size = {"bool": 1, "complex32": 4, "float6_e2m3fn": 3, "float4_e2m1fn": 2}[dtype]
            shape = (1,) if dtype in ("bool", "complex32") else (4,)
            new = memoryview(b"\1" * size)
            assert infer(update_type, memoryview(bytes(size)), new, dtype, shape, PLENTY) is None


# low-rank


def product(height: int, width: int, rank: int, seed: int = 0) -> Values:
    """Return a matrix that is a product of small integers."""
    generator = np.random.default_rng(seed)
    left = generator.integers(-3, 4, (height, rank))
    return np.asarray(left @ generator.integers(-3, 4, (rank, width)), "f8")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(300, 400), (3, 70_000), (70_000, 3), (40, 50)])
def test_factors_are_found(dtype: str, shape: tuple[int, int]) -> None:
    rank = 2
    previous = np.round(weights(shape, "float64") * 256).astype(dtype)
    new = (previous + product(*shape, rank)).astype(dtype)
    arrays = found("low-rank", previous, new, dtype)
    assert arrays["R"].shape == (shape[0], rank)
    assert arrays["C"].shape == (rank, shape[1])
    assert arrays["R"].dtype == arrays["C"].dtype == np.dtype(dtype)


def test_the_bytes_bound_the_rank() -> None:
    previous = np.zeros((100, 200), "f4")
    new = product(100, 200, 3).astype("f4")
    exact = 3 * (100 + 200) * 4
    assert found("low-rank", previous, new, "float32", exact)["C"].shape == (3, 200)
    assert worked_out("low-rank", previous, new, "float32", exact - 1) is None
    assert worked_out("low-rank", previous, new, "float32", 0) is None


def test_factors_that_show_in_the_last_rows_alone_are_found() -> None:
    previous = np.zeros((2000, 300), "f4")
    new = previous.copy()
    new[7] = np.arange(300)
    new[1990:1995, 17] = 2.0
    new[1999] = 1.0
    assert found("low-rank", previous, new, "float32")["R"].shape == (2000, 3)


def test_differences_of_full_rank_have_none() -> None:
    previous, new = weights((64, 64), "float32"), weights((64, 64), "float32", 1)
    assert worked_out("low-rank", previous, new, "float32", 63 * 128 * 4) is None


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_differences_that_are_no_numbers_have_none(value: float) -> None:
    previous, new = np.zeros((4, 4), "f4"), np.zeros((4, 4), "f4")
    new[1, 2] = value
    assert worked_out("low-rank", previous, new, "float32") is None


def test_more_axes_and_other_numbers_have_no_factors() -> None:
    assert worked_out("low-rank", np.zeros((2, 2, 2), "f4"), np.ones((2, 2, 2), "f4"), "float32") is None
    assert worked_out("low-rank", np.zeros((2, 2), "i4"), np.ones((2, 2), "i4"), "int32") is None
    assert worked_out("low-rank", np.zeros((2, 2), "c8"), np.ones((2, 2), "c8"), "complex64") is None
    assert worked_out("low-rank", np.zeros((0, 2), "f4"), np.ones((0, 2), "f4"), "float32") is None


def test_a_vector_has_its_difference() -> None:
    previous, new = weights((500,), "float32"), weights((500,), "float32") + np.float32(0.5)
    arrays = found("low-rank", previous, new, "float32")
    assert list(arrays) == ["parameter"]
    assert worked_out("low-rank", previous, new, "float32", 1999) is None
    scalar = found("low-rank", np.array(1.0, "f4"), np.array(3.0, "f4"), "float32")
    assert scalar["parameter"].tolist() == 2.0
    assert worked_out("low-rank", np.array([1.0], "f4"), np.array([1e-9], "f4"), "float32") is None


def test_factors_have_the_same_bits_everywhere() -> None:
    numbers = (np.arange(300 * 500, dtype="i8") * 2654435761) % 7919
    previous = (numbers.reshape(300, 500) / 64).astype("f4")
    left, right = numbers[:900].reshape(300, 3) % 5, numbers[:1500].reshape(3, 500) % 7
    arrays = found("low-rank", previous, previous + np.float32(0.5) * (left @ right).astype("f4"), "float32")
    both = hashlib.sha256(arrays["R"].tobytes() + arrays["C"].tobytes()).hexdigest()
    assert both == "3d6a4a1b54a3d1674925e30b2f5308c4bf617ffc077109dc72a349dba75bb30b"


# ia3


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64", "bfloat16"])
@pytest.mark.parametrize(
    ("shape", "factors"),
    [
        ((300, 400), (1, 1)),
        ((300, 400), (1, 400)),
        ((300, 400), (300, 1)),
        ((3, 100_000), (3, 1)),
        ((100_000, 3), (1, 3)),
        ((20, 30, 3, 3), (20, 1, 1, 1)),
        ((20, 30, 40), (1, 1, 40)),
        ((20, 30, 40), (1, 1, 1)),
        ((500,), (1,)),
        ((), ()),
    ],
)
def test_factors_of_columns_rows_or_all_are_found(dtype: str, shape: tuple[int, ...], factors: tuple[int, ...]) -> None:
    previous = weights(shape, dtype)
    by = (np.random.default_rng(2).uniform(0.5, 1.5, factors) * -1.0).astype(stored(dtype))
    by.flat[::2] *= stored(dtype).type(-1)
    wide = np.float64 if dtype == "float64" else np.float32
    new = (previous.astype(wide) * by.astype(wide)).astype(stored(dtype))
    arrays = found("ia3", previous, new, dtype)
    assert arrays["ia3"].shape == factors
    assert arrays["ia3"].dtype == stored(dtype)


def test_zeros_have_any_factor() -> None:
    previous = weights((3000, 40), "float32")
    previous[:, 3] = 0
    previous[:2900, 4] = 0  # its factor shows in a later block
    previous[7, 5] = -0.0
    by = np.linspace(0.5, 2, 40, dtype="f4")
    by[6] = 0
    new = previous * by
    assert found("ia3", previous, new, "float32")["ia3"].shape == (1, 40)
    new[5, 3] = -0.0
    assert worked_out("ia3", previous, new, "float32") is None


def test_unrelated_values_have_no_factors() -> None:
    previous = weights((200, 300), "float32")
    assert worked_out("ia3", previous, weights((200, 300), "float32", 1), "float32") is None
    new = previous * np.float32(1.5)
    new[199, 299] = np.nextafter(new[199, 299], np.float32(9))  # but for the last bit of the last number
    assert worked_out("ia3", previous, new, "float32") is None


def test_the_bytes_bound_the_factors() -> None:
    previous = weights((30, 40), "float32")
    new = previous * np.linspace(1, 2, 40, dtype="f4")
    assert found("ia3", previous, new, "float32", 160)["ia3"].shape == (1, 40)
    assert worked_out("ia3", previous, new, "float32", 159) is None


def test_other_numbers_have_no_factors() -> None:
    assert worked_out("ia3", np.ones((2, 2), "i4"), np.full((2, 2), 2, "i4"), "int32") is None
    assert worked_out("ia3", np.ones((2, 2), "c8"), np.full((2, 2), 2, "c8"), "complex64") is None
    assert worked_out("ia3", np.full((4, 4), np.nan, "f4"), np.ones((4, 4), "f4"), "float32") is None


# all of them


def test_a_proposal_that_does_not_give_the_bits_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    previous, new = np.ones((700, 900), "f4"), np.full((700, 900), 2.0, "f4")
    right, wrong, large = (np.full(shape, 2.0, "f4") for shape in ((1, 1), (1, 900), (700, 900)))
    wrong[0, 899] = 3
    tried: list[tuple[int, ...]] = []

    def proposals(_: Pair) -> Iterator[Mapping[str, Array]]:
        for each in (large, wrong, right):
            tried.append(each.shape)
            yield {"ia3": Array("float32", each.shape, raw(each))}

    monkeypatch.setitem(module._SEARCHES, "ia3", proposals)
    arrays = infer("ia3", raw(previous), raw(new), "float32", (700, 900), 4 * 900)
    assert arrays is not None
    assert arrays["ia3"].shape == (1, 1)
    assert tried == [(700, 900), (1, 900), (1, 1)]


@pytest.mark.parametrize("update_type", ["sparse", "low-rank", "ia3"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_values_may_lie_at_any_address_and_be_read_only(update_type: str, dtype: str) -> None:
    previous = np.full((4, 4), 2, stored(dtype))
    before, after = previous.tobytes(), (previous * stored(dtype).type(2)).tobytes()
    odd = [memoryview(b"x" + each)[1:] for each in (before, after)]
    arrays = infer(update_type, odd[0], odd[1], dtype, (4, 4), PLENTY)
    assert arrays is not None
    assert arrays == infer(update_type, memoryview(before), memoryview(after), dtype, (4, 4), PLENTY)


@pytest.mark.parametrize("update_type", ["dense", "exact-sparse", "", "x" * 1000])
def test_other_types_are_not_worked_out(update_type: str) -> None:
    with pytest.raises(UnsupportedError, match="not worked out"):
        infer(update_type, memoryview(b"1234"), memoryview(b"1234"), "float32", (1,), PLENTY)


@pytest.mark.parametrize("shape", [(2,), (1, 1, 3), ()])
def test_values_of_other_sizes_are_a_mistake_of_the_caller(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="no two values"):
        infer("sparse", memoryview(bytes(16)), memoryview(bytes(16)), "float32", shape, PLENTY)


@pytest.mark.parametrize("update_type", ["sparse", "low-rank", "ia3"])
def test_large_values_need_little_memory_and_are_forgotten(update_type: str) -> None:
    shape = (4000, 1000)
    previous = weights(shape, "float32")
    previous = np.round(previous * 16) + np.float32(0)  # no -0.0
    new = previous.copy()
    if update_type == "ia3":
        new *= np.float32(1.5)
    else:
        new[1:4000:500] += np.arange(1000, dtype="f4")
    forgotten: list[tuple[int, int]] = []
    before, after = raw(previous), raw(new)
    tracemalloc.start()
    arrays = infer(update_type, before, after, "float32", shape, 100_000, lambda *part: forgotten.append(part))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert arrays is not None
    assert peak < 6 << 20
    times = 3 if update_type == "low-rank" else 2  # a sample, the search, and the proof
    assert sum(stop - start for start, stop in forgotten) == times * len(after)
