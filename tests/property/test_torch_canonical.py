"""The canonical torch zip is the very file that torch writes."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.models import torch_bytes
from tests.support.streams import Taken
from tests.support.torch_files import read_file
from theta_daemon.formats.layout import CanonicalTensor, Layout
from theta_daemon.formats.layout_codec import encode
from theta_daemon.formats.torch_canonical import canonical
from theta_daemon.formats.torch_storages import ELEMENTS

DTYPES = [name for name, element in ELEMENTS.items() if element.dtype is not None]
# Python shares strings of one character; torch's own keys of storages are such for some Pythons
PARTS = st.text(st.characters(exclude_categories=["Cs", "Nd"]), max_size=8)
SHAPES = (
    st.lists(st.integers(0, 4) | st.sampled_from([255, 256]), max_size=4)
    .map(tuple)
    .filter(lambda shape: torch.Size(shape).numel() < 1500)
)
NAMES = st.lists(PARTS, min_size=1, max_size=3).map(tuple)


def prefix_free(names: list[tuple[str, ...]]) -> bool:
    return not any(a != b and a[: len(b)] == b for a in names for b in names)


FLAT = st.lists(st.tuples(PARTS), max_size=30, unique=True)
NESTED = st.lists(NAMES, max_size=12, unique=True).filter(prefix_free)


def values(
    names: list[tuple[str, ...]], seed: int, shapes: list[tuple[int, ...]]
) -> dict[tuple[str, ...], torch.Tensor]:
    generator = random.Random(seed)
    made = {}
    for name in names:
        dtype: torch.dtype = getattr(torch, generator.choice(DTYPES))
        shape = generator.choice(shapes)
        data = generator.randbytes(torch.Size(shape).numel() * dtype.itemsize)
        if dtype == torch.bool:
            data = bytes(byte & 1 for byte in data)
        flat = torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.zeros(0, dtype=torch.uint8)
        made[name] = flat.view(dtype).reshape(shape).clone()
    return made


def nest(tensors: dict[tuple[str, ...], torch.Tensor]) -> dict[str, Any]:
    root: dict[str, Any] = {}
    shared: dict[str, str] = {}
    for name, value in tensors.items():
        # equal parts are one object, as after parsing JSON, and none of Python's own
        parts = [shared.setdefault(part, part.encode().decode()) for part in name]
        level = root
        for part in parts[:-1]:
            level = level.setdefault(part, {})
        level[parts[-1]] = value
    return root


def check(tensors: dict[tuple[str, ...], torch.Tensor]) -> None:
    expected = torch_bytes(nest(tensors))
    plan = [CanonicalTensor(name, str(value.dtype)[6:], tuple(value.shape)) for name, value in tensors.items()]
    opaque: list[bytes] = []
    layout = canonical(plan, opaque.append)
    groups = {i: bytes(tensors[group.name].untyped_storage()) for i, group in enumerate(layout.groups)}
    assert Taken(layout, groups, opaque).file() == expected
    result = read_file(expected)
    assert result.keys() == [group.name for group in layout.groups]
    assert encode(Layout("torch-zip", layout.groups, result.taken.layout.ops)) == encode(layout)
    assert [(one.dtype, one.shape, one.axes) for one in result.tensors] == [
        (group.dtype, group.shape, None) for group in layout.groups
    ]


pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support:UserWarning")


@given(FLAT, st.integers(), st.lists(SHAPES, min_size=1, max_size=4))
def test_flat_dicts(names: list[tuple[str, ...]], seed: int, shapes: list[tuple[int, ...]]) -> None:
    check(values(names, seed, shapes))


@given(NESTED, st.integers(), st.lists(SHAPES, min_size=1, max_size=4))
def test_nested_dicts(names: list[tuple[str, ...]], seed: int, shapes: list[tuple[int, ...]]) -> None:
    check(values(names, seed, shapes))


@settings(max_examples=1)
@given(st.integers())
@pytest.mark.parametrize("count", [256, 999, 1000, 1001])
def test_many_tensors(count: int, seed: int) -> None:
    check(values([(f"layers.{i}.weight",) for i in range(count)], seed, [(0,), (), (2, 3), (1, 2, 3, 4)]))
