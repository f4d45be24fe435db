"""What a tensor claims of its storage, compared with torch's own view of strides."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from theta_daemon.errors import CheckpointError
from theta_daemon.formats.pickle_values import Dict, Global, Object, PersistentId
from theta_daemon.formats.torch_tensors import Claim, claim_storage, claim_tensor, has_bits


def stored(numel: int = 24, kind: str = "FloatStorage") -> PersistentId:
    return PersistentId(("storage", Global("torch", kind), "k", "cpu", numel))


UNTYPED = "UntypedStorage"


def test_c_order() -> None:
    claim = claim_tensor(stored(), 2, (2, 3), (3, 1))
    assert claim == Claim("k", "float32", (2, 3), None, 8, 32, fills=True)


def test_permuted() -> None:
    claim = claim_tensor(stored(), 0, (4, 2, 3), (1, 12, 4))
    assert (claim.axes, claim.fills, claim.start, claim.end) == ((1, 2, 0), True, 0, 96)


@pytest.mark.parametrize("stride", [0, 1, 7, 1 << 60])
def test_axes_of_one_element_may_have_any_stride(stride: int) -> None:
    assert claim_tensor(stored(), 0, (1, 6), (stride, 1)).axes is None
    assert claim_tensor(stored(), 0, (2, 1, 3), (1, stride, 2)).axes == (1, 2, 0)


@pytest.mark.parametrize(
    ("size", "stride", "end"),
    [((2, 3), (4, 1), 28), ((3,), (2,), 20), ((10**9, 10**3), (0, 0), 4), ((3, 2), (1, 1), 16), ((2, 2), (0, 1), 8)],
)
def test_strided_and_expanded_tensors_only_lie_in_their_range(
    size: tuple[int, ...], stride: tuple[int, ...], end: int
) -> None:
    assert claim_tensor(stored(), 0, size, stride) == Claim("k", "float32", size, None, 0, end, fills=False)


@given(st.permutations(range(4)), st.lists(st.integers(1, 3), min_size=4, max_size=4))
def test_axes_turn_the_value_into_the_order_of_the_storage(order: list[int], shape: list[int]) -> None:
    whole = torch.arange(torch.Size(shape).numel(), dtype=torch.float32).reshape(shape)
    value = whole.permute(order)
    claim = claim_tensor(stored(whole.numel()), 0, tuple(value.shape), value.stride())
    assert claim.fills
    back = value if claim.axes is None else value.permute(claim.axes)
    assert torch.equal(back.contiguous().flatten(), whole.flatten())
    assert claim.axes is None or claim.axes != tuple(range(4))


def test_scalars_and_empty_tensors() -> None:
    assert claim_tensor(stored(), 3, (), ()) == Claim("k", "float32", (), None, 12, 16, fills=True)
    assert claim_tensor(stored(), 3, (2, 0), (1, 1)) == Claim("k", "float32", (2, 0), None, 0, 0, fills=True)
    assert claim_tensor(stored(0), 99, (0,), (1,)).fills


def test_the_dtype_of_an_untyped_storage() -> None:
    claim = claim_tensor(stored(24, UNTYPED), 1, (3,), (1,), Global("torch", "uint32"))
    assert claim == Claim("k", "uint32", (3,), None, 4, 16, fills=True)
    with pytest.raises(CheckpointError, match="ends at byte 28 of storage 'k', which has 24"):
        claim_tensor(stored(24, UNTYPED), 1, (6,), (1,), Global("torch", "uint32"))


@pytest.mark.parametrize("dtype", [Global("torch", "float3"), None, 5, Global("torch", "bits2x4")])
def test_a_type_that_is_not_known_or_packed_claims_all_bytes(dtype: object) -> None:
    storage = stored(24, UNTYPED) if dtype is not None else stored(24, "QUInt4x2Storage")
    assert claim_tensor(storage, 0, (7, 3), (3, 1), dtype or None) == Claim(
        "k", "uint8", (24,), None, 0, 24, fills=True
    )
    assert not claim_tensor(storage, 1, (7, 3), (3, 1), dtype or None).fills


def test_a_class_that_is_not_known_claims_nothing() -> None:
    for claim in (claim_tensor(stored(24, "New"), 0, (3,), (1,)), claim_storage(stored(24, "New"))):
        assert (claim.start, claim.end, claim.fills) == (0, 0, False)


def test_raw_tensors_are_bytes_in_the_order_of_the_storage() -> None:
    claim = claim_tensor(stored(24, "ComplexFloatStorage"), 1, (2, 3), (1, 2), raw=True)
    assert claim == Claim("k", "uint8", (48,), None, 8, 56, fills=True)
    assert claim_tensor(stored(24, "QInt32Storage"), 0, (6,), (1,)).shape == (24,)
    assert claim_tensor(stored(24), 0, (0, 3), (3, 1), raw=True).shape == (0,)


def test_bits() -> None:
    assert has_bits(Dict(["conj", True]))
    assert has_bits("anything")
    assert not has_bits(None)
    assert not has_bits(Dict())


def test_a_storage_by_itself() -> None:
    assert claim_storage(stored()) == Claim("k", "float32", (24,), None, 0, 96, fills=True)
    assert claim_storage(stored(24, UNTYPED)) == Claim("k", "uint8", (24,), None, 0, 24, fills=True)
    assert claim_storage(stored(24, "QInt32Storage")) == Claim("k", "uint8", (96,), None, 0, 96, fills=True)


def test_sizes_may_be_lists_or_torch_sizes() -> None:
    size = Object(Global("torch", "Size"), ((2, 3),))
    assert claim_tensor(stored(), 0, size, [3, 1]).shape == (2, 3)
    assert claim_tensor(stored(), 0, Object(Global("torch", "Size"), ()), ()).shape == ()


@pytest.mark.parametrize(
    ("offset", "size", "stride", "reason"),
    [
        (0, (25,), (1,), "ends at byte 100 of storage 'k', which has 96"),
        (20, (5,), (1,), "ends at byte 100"),
        (24, (), (), "ends at byte 100"),
        (0, (2, 2), (1, 24), "ends at byte 104"),
        (0, (2,), (1 << 61,), "ends at byte 9223372036854775812"),
        (-1, (2,), (1,), "offset or strides make no sense"),
        (True, (2,), (1,), "offset or strides make no sense"),
        (1 << 63, (2,), (1,), "offset or strides make no sense"),
        ("0", (2,), (1,), "offset or strides make no sense"),
        (0, (2,), (1, 1), "offset or strides make no sense"),
        (0, (-2,), (1,), "not all sensible integers"),
        (0, (2,), (-1,), "not all sensible integers"),
        (0, (2.0,), (1,), "not all sensible integers"),
        (0, (True,), (1,), "not all sensible integers"),
        (0, (1 << 63,), (0,), "not all sensible integers"),
        (0, (1 << 40, 1 << 40), (0, 0), "larger than any file"),
        (0, 5, (1,), "its shape is no short list"),
        (0, (1,) * 65, (1,) * 65, "its shape is no short list"),
    ],
)
def test_what_no_tensor_can_be(offset: object, size: object, stride: object, reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        claim_tensor(stored(), offset, size, stride)


def test_a_tensor_without_a_storage() -> None:
    with pytest.raises(CheckpointError, match="something other than a storage"):
        claim_tensor(None, 0, (1,), (1,))


def test_every_stride_of_torch_is_told_from_the_others() -> None:
    """Whatever `as_strided` makes of a storage, `fills` says whether it holds each element of its range once."""
    whole = torch.arange(24, dtype=torch.float32)
    for size in itertools.product(range(1, 4), repeat=2):
        for stride in itertools.product(range(5), repeat=2):
            value = whole.as_strided(size, stride)
            claim = claim_tensor(stored(), 0, size, stride)
            seen = sorted(value.flatten().tolist())
            assert claim.fills == (seen == list(range(len(seen))))
            assert claim.end == 4 * (max(seen) + 1)
