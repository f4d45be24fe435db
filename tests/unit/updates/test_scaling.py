from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from theta_daemon.updates.array import Array
from theta_daemon.updates.scaling import converted, scaled, transposed

_DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}


def array(value: torch.Tensor) -> Array:
    raw = value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return Array(str(value.dtype).removeprefix("torch."), tuple(value.shape), memoryview(raw))


def tensor(array: Array) -> torch.Tensor:
    return torch.frombuffer(bytearray(array.raw), dtype=_DTYPES[array.dtype]).reshape(array.shape)


def random(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("dtype", _DTYPES.values(), ids=str)
@pytest.mark.parametrize("factor", [0.125, 0.5, 2.0, 16.0, -4.0])
def test_powers_of_two_change_no_digit(dtype: torch.dtype, factor: float) -> None:
    a, b = random(4, 300, dtype=dtype).clamp(min=0.01), random(500, 4, dtype=dtype)
    found = scaled(array(a), array(b), factor)
    assert found is not None
    assert torch.equal(tensor(found[0]), a * factor)
    assert torch.equal(tensor(found[1]), b)


@pytest.mark.parametrize("dtype", _DTYPES.values(), ids=str)
def test_other_factors_round_each_element_once(dtype: torch.dtype) -> None:
    a, b = random(3, 70_000, dtype=dtype), random(5, 3, dtype=dtype)
    factor = 16 / math.sqrt(3)
    found = scaled(array(a), array(b), factor)
    assert found is not None
    changed = [not torch.equal(tensor(new), old) for new, old in zip(found, (a, b), strict=True)]
    assert sorted(changed) == [False, True]
    new, old = (tensor(found[0]), a) if changed[0] else (tensor(found[1]), b)
    exact = old.double() * factor
    assert ((new.double() - exact).abs() <= exact.abs() * torch.finfo(dtype).eps / 2).all()


def test_one_changes_nothing() -> None:
    a, b = array(random(2, 3)), array(random(4, 2))
    assert scaled(a, b, 1.0) == (a, b)


def test_the_factor_that_loses_less_is_scaled() -> None:
    large, small = torch.full((2, 3), 60000.0, dtype=torch.float16), torch.full((4, 2), 1.0, dtype=torch.float16)
    found = scaled(array(large), array(small), 2.0)
    assert found is not None
    assert (tensor(found[0]) == 60000).all()
    assert (tensor(found[1]) == 2).all()
    tiny = torch.full((2, 3), 6e-8, dtype=torch.float16)
    found = scaled(array(tiny), array(small), 0.5)
    assert found is not None
    assert torch.equal(tensor(found[0]), tiny)
    assert (tensor(found[1]) == 0.5).all()
    assert scaled(array(large), array(large), 2.0) is None


@pytest.mark.parametrize("dtype", _DTYPES.values(), ids=str)
def test_infinities_and_nan_stay(dtype: torch.dtype) -> None:
    a = torch.tensor([[math.inf, -math.inf, math.nan, 1.0]], dtype=dtype)
    found = scaled(array(a), array(torch.ones(2, 1, dtype=dtype)), 2.0)
    assert found is not None
    assert tensor(found[0]).tolist()[0][:2] == [math.inf, -math.inf]
    assert tensor(found[0]).isnan().tolist() == [[False, False, True, False]]
    assert tensor(found[0])[0, 3] == 2


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 1), (2, 5)])
@pytest.mark.parametrize("dtype", _DTYPES.values(), ids=str)
def test_transposed(shape: tuple[int, int], dtype: torch.dtype) -> None:
    value = random(*shape, dtype=dtype)
    assert torch.equal(tensor_or_empty(transposed(array(value))), value.T)


def tensor_or_empty(array: Array) -> torch.Tensor:
    return tensor(array) if len(array.raw) else torch.empty(array.shape, dtype=_DTYPES[array.dtype])


@pytest.mark.parametrize("old", _DTYPES.values(), ids=str)
@pytest.mark.parametrize("new", _DTYPES, ids=str)
def test_converted_as_torch_does(old: torch.dtype, new: str) -> None:
    value = random(7, 9, dtype=old) * 1000
    found = converted(array(value), new)
    assert found.shape == (7, 9)
    np.testing.assert_array_equal(tensor(found).double().numpy(), value.to(_DTYPES[new]).double().numpy())
