"""By how much another machine's value may be off: at least what other orders of summation make, and not much more."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.update_arrays import sparse_arrays, update_array
from theta_daemon.updates.git_theta import slack


def normal(*shape: int, seed: int, scale: float = 1.0, dtype: str = "float32") -> NDArray[Any]:
    return np.random.default_rng(seed).normal(0, scale, shape).astype(dtype)


def in_order(left: NDArray[Any], right: NDArray[Any], order: NDArray[Any]) -> NDArray[Any]:
    """Return the product of matrices, one summand after the other."""
    total = np.zeros((len(left), right.shape[1]), left.dtype)
    for k in order:
        total += left[:, k : k + 1] * right[k : k + 1]
    return total


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rank", [2, 8, 300])
def test_other_orders_are_within_it_and_larger_changes_are_not(dtype: str, rank: int) -> None:
    left, right = normal(50, rank, seed=1, dtype=dtype), normal(rank, 40, seed=2, dtype=dtype)
    previous = normal(50, 40, seed=3, dtype=dtype)
    arrays = {"R": update_array(left), "C": update_array(right)}
    new = left @ right + previous
    off = slack("low-rank", arrays, update_array(new), None)
    assert off is not None
    rng = np.random.default_rng(4)
    for _ in range(20):
        other = in_order(left, right, rng.permutation(rank)) + previous
        assert (np.abs(other - new) <= off).all()
    assert (off < 64 * np.sqrt(rank) * np.finfo(dtype).eps * (np.sqrt(rank) + np.abs(new))).all()


def test_nothing_is_off_before_a_product_of_matrices() -> None:
    value = update_array(normal(6, 5, seed=1))
    assert slack("sparse", sparse_arrays([3], np.ones(1, np.float32), (6, 5)), value, None) is None
    assert slack("ia3", {"ia3": update_array(normal(5, seed=2))}, value, None) is None
    assert slack("low-rank", {"parameter": value}, value, None) is None


def test_what_follows_carries_it_on() -> None:
    value = normal(6, 5, seed=1)
    before = np.full((6, 5), 1e-3, np.float32)
    factors = np.array([[0.0, 1, -2, 4, 8]], np.float32)
    off = slack("ia3", {"ia3": update_array(factors)}, update_array(value), before)
    assert off is not None
    np.testing.assert_allclose(off, 1e-3 * np.abs(factors) + np.abs(value) * 1.2e-7, rtol=1e-2)
    off = slack("sparse", sparse_arrays([3], np.ones(1, np.float32), (6, 5)), update_array(value), before)
    assert off is not None
    np.testing.assert_allclose(off, before + np.abs(value) * 1.2e-7, rtol=1e-3)
