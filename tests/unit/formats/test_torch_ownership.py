"""Who owns which bytes: never two, and the same whoever asks."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from theta_daemon.formats.parts import Role
from theta_daemon.formats.torch_ownership import Ownership, Range, assign_owners
from theta_daemon.formats.torch_tensors import Claim
from theta_daemon.formats.torch_walk import Found


def filling(start: int, end: int, axes: tuple[int, ...] | None = None, dtype: str = "uint8", key: str = "0") -> Claim:
    return Claim(key, dtype, (end - start,), axes, start, end, fills=True)


def within(start: int, end: int) -> Claim:
    return Claim("0", "uint8", (2,), None, start, end, fills=False)


def assign(*claims: Claim) -> Ownership:
    return assign_owners([Found((i,), claim) for i, claim in enumerate(claims)])


def roles(*claims: Claim) -> list[tuple[str, int | None]]:
    return [(one.role.value, one.owner) for one in assign(*claims).tensors]


OWNER = ("owner", None)


def test_ranges_beside_each_other() -> None:
    result = assign(filling(4, 8), filling(0, 4), filling(0, 4, key="1"))
    assert [one.role for one in result.tensors] == [Role.OWNER] * 3
    assert result.owned == {"0": [Range(0, 4, 1), Range(4, 8, 0)], "1": [Range(0, 4, 2)]}


def test_the_tensor_is_as_the_claim_says() -> None:
    (tensor,) = assign(Claim("0", "float32", (2, 3), (1, 0), 0, 24, fills=True)).tensors
    assert (tensor.keys, tensor.dtype, tensor.shape, tensor.axes) == ((0,), "float32", (2, 3), (1, 0))


def test_ties() -> None:
    assert roles(filling(0, 4), filling(0, 4), filling(0, 4)) == [OWNER, ("alias", 0), ("alias", 0)]


def test_a_range_seen_otherwise_is_a_view() -> None:
    assert roles(filling(0, 4), filling(0, 4, dtype="int8")) == [OWNER, ("view", 0)]
    assert roles(filling(0, 4, (1, 0)), filling(0, 4), filling(0, 4, (1, 0))) == [("view", 1), OWNER, ("view", 1)]


def test_what_spans_others_owns_them_whatever_the_order() -> None:
    assert roles(filling(0, 4), filling(4, 8), filling(0, 8)) == [("view", 2), ("view", 2), OWNER]
    assert roles(filling(0, 8), filling(0, 4), filling(4, 8)) == [OWNER, ("view", 0), ("view", 0)]


def test_the_first_of_two_that_overlap_owns() -> None:
    assert roles(filling(2, 9), filling(0, 4), filling(4, 5)) == [("view", 1), OWNER, OWNER]


def test_strided_tensors_are_views_of_the_first_owner_that_they_overlap() -> None:
    claims = [filling(2, 4), filling(6, 8)]
    assert roles(*claims, within(0, 2))[2] == ("view", None)
    assert roles(*claims, within(0, 9))[2] == ("view", 0)
    assert roles(*claims, within(3, 7))[2] == ("view", 0)
    assert roles(*claims, within(4, 7))[2] == ("view", 1)
    assert roles(*claims, within(4, 6))[2] == ("view", None)
    assert roles(*claims, within(8, 9))[2] == ("view", None)
    assert roles(within(0, 0)) == [("view", None)]


def test_empty_tensors_own_the_beginning() -> None:
    first, second = filling(0, 0), Claim("0", "uint8", (0, 3), None, 0, 0, fills=True)
    result = assign(filling(0, 4), first, second, first)
    assert [(one.role.value, one.owner) for one in result.tensors] == [OWNER, OWNER, OWNER, ("alias", 1)]
    assert result.owned == {"0": [Range(0, 0, 1), Range(0, 0, 2), Range(0, 4, 0)]}


CLAIMS = st.lists(
    st.builds(
        lambda start, size, fills, dtype, axes, key: Claim(
            key, dtype, (size,), axes if size else None, start if size else 0, start + size if size else 0, fills=fills
        ),
        st.integers(0, 10),
        st.integers(0, 6),
        st.booleans(),
        st.sampled_from(["uint8", "int8"]),
        st.sampled_from([None, (1, 0)]),
        st.sampled_from("ab"),
    ),
    max_size=12,
)


@given(CLAIMS)
def test_owners_never_overlap_and_everybody_has_a_role(claims: list[Claim]) -> None:
    result = assign(*claims)
    owners = []
    for key, ranges in result.owned.items():
        end = 0
        for one in ranges:
            claim = claims[one.index]
            assert (claim.key, claim.start, claim.end, claim.fills) == (key, one.start, one.end, True)
            assert one.start >= end
            end = one.end
            owners.append(one.index)
    assert sorted(owners) == [i for i, one in enumerate(result.tensors) if one.role is Role.OWNER]
    for claim, tensor in zip(claims, result.tensors, strict=True):
        if tensor.role is Role.ALIAS:
            assert tensor.owner is not None
            assert claim == claims[tensor.owner]
        elif tensor.role is Role.VIEW:
            overlapped = [
                i
                for i in owners
                if claims[i].key == claim.key and claims[i].start < claim.end and claim.start < claims[i].end
            ]
            assert (tensor.owner in overlapped) if overlapped else tensor.owner is None
            assert not claim.fills or overlapped
