"""Whatever torch saves comes back byte for byte, and what tensors own is what torch says they hold."""

from __future__ import annotations

import io
import random
from collections.abc import Callable
from typing import Any

import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support.models import torch_bytes
from tests.support.torch_files import Read, read_file
from theta_daemon.errors import CheckpointError, TruncatedError
from theta_daemon.formats.layout_codec import encode
from theta_daemon.formats.parts import Role

DTYPES = [
    torch.bool,
    torch.uint8,
    torch.int64,
    torch.uint32,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.complex64,
    torch.float8_e4m3fn,
]
SPLITS = st.lists(st.integers(1, 3000), max_size=20)
KEYS = st.one_of(
    st.text(max_size=6), st.integers(-9, 1 << 70), st.none(), st.booleans(), st.tuples(st.integers()), st.floats()
)

Make = Callable[[int], torch.Tensor]  # from a seed for the values


@st.composite
def storages(draw: st.DrawFn) -> Make:
    dtype, numel = draw(st.sampled_from(DTYPES)), draw(st.integers(0, 12))

    def make(seed: int) -> torch.Tensor:
        data = bytearray(random.Random(seed).randbytes(numel * dtype.itemsize))
        if dtype == torch.bool:
            data = bytearray(byte & 1 for byte in data)
        return torch.frombuffer(data, dtype=dtype).clone() if data else torch.zeros(0, dtype=dtype)

    return make


@st.composite
def trees(draw: st.DrawFn) -> Callable[[int], Any]:
    """Return a function from a seed to a value of nested containers with views of few storages."""
    pool = draw(st.lists(storages(), min_size=1, max_size=3))

    def leaf() -> Callable[[list[torch.Tensor]], Any]:
        which = draw(st.integers(0, len(pool) - 1))
        kind = draw(st.sampled_from(["whole", "slice", "strided", "permuted", "number", "storage", "conj"]))
        a, b, c = draw(st.integers(0, 12)), draw(st.integers(0, 12)), draw(st.integers(1, 3))

        def make(stored: list[torch.Tensor]) -> Any:
            value = stored[which]
            if kind == "slice":
                return value[a : a + b]
            if kind == "strided":
                return value[a::c]
            if kind == "permuted" and value.numel() >= 6:
                return value[:6].view(1, 2, 3).permute(*[(0, 2, 1), (2, 0, 1), (1, 2, 0)][c - 1])
            if kind == "number":
                return a
            if kind == "storage":
                return torch.nn.Parameter(value, requires_grad=False)
            if kind == "conj":
                return value.conj()
            return value

        return make

    def build(depth: int) -> Callable[[list[torch.Tensor]], Any]:
        kind = draw(st.sampled_from(["leaf", "dict", "list", "tuple"])) if depth else "leaf"
        if kind == "leaf":
            return leaf()
        inner = [build(depth - 1) for _ in range(draw(st.integers(0, 4)))]
        if kind == "dict":
            keys = draw(st.lists(KEYS, min_size=len(inner), max_size=len(inner), unique_by=lambda key: (str(key), key)))
            return lambda stored: {key: make(stored) for key, make in zip(keys, inner, strict=True)}
        if kind == "list":
            return lambda stored: [make(stored) for make in inner]
        return lambda stored: tuple(make(stored) for make in inner)

    root = build(3)
    return lambda seed: root([make(seed + i) for i, make in enumerate(pool)])


def leaves(value: Any) -> list[torch.Tensor]:
    """Return the tensors in the order in which torch pickles them."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [one for inner in value for one in leaves(inner)] if isinstance(value, (list, tuple)) else []


def stored_bytes(value: torch.Tensor) -> bytes:
    """Return a tensor's bytes in the order of its storage, for one that fills a range of it."""
    if not value.numel():
        return b""
    whole = bytes(value.untyped_storage())
    start = value.storage_offset() * value.itemsize
    return whole[start : start + value.numel() * value.itemsize]


@given(trees(), SPLITS)
def test_whatever_torch_saves(make: Callable[[int], Any], splits: list[int]) -> None:
    value = make(0)
    data = torch_bytes(value)
    result = read_file(data, splits)
    assert result.taken.file() == data
    check_values(result, leaves(value))


def check_values(result: Read, values: list[torch.Tensor]) -> None:
    assert len(result.tensors) == len(values)
    for index, (one, value) in enumerate(zip(result.tensors, values, strict=True)):
        if one.role is Role.VIEW:
            continue
        owner = index if one.owner is None else one.owner
        assert result.taken.groups[owner] == stored_bytes(value)
        if not value.is_conj():
            assert (one.dtype, one.shape) == (str(value.dtype).removeprefix("torch."), tuple(value.shape))
            logical = value if one.axes is None else value.permute(one.axes)
            assert stored_bytes(logical.contiguous()) == stored_bytes(value)


@given(trees(), st.integers(1, 1 << 30))
def test_the_layout_does_not_depend_on_the_values(make: Callable[[int], Any], seed: int) -> None:
    """Where every byte of every storage has an owner."""
    value = make(0)
    first, second = read_file(torch_bytes(value)), read_file(torch_bytes(make(seed)))
    stored = {one.untyped_storage().data_ptr(): one.untyped_storage().nbytes() for one in leaves(value)}
    if sum(map(len, first.taken.groups.values())) == sum(stored.values()):
        assert encode(first.taken.layout) == encode(second.taken.layout)


@given(trees(), st.data())
def test_cut_files(make: Callable[[int], Any], draw: st.DataObject) -> None:
    data = torch_bytes(make(0))
    end = draw.draw(st.integers(0, len(data) - 1))
    try:
        read_file(data[:end], draw.draw(SPLITS))
    except TruncatedError:
        return
    raise AssertionError("a cut file was read")


@given(trees(), st.data())
def test_changed_bytes_are_refused_or_come_back(make: Callable[[int], Any], draw: st.DataObject) -> None:
    data = bytearray(torch_bytes(make(0)))
    for _ in range(draw.draw(st.integers(1, 3))):
        data[draw.draw(st.integers(0, len(data) - 1))] = draw.draw(st.integers(0, 255))
    try:
        result = read_file(bytes(data))
    except CheckpointError as error:
        assert "\n" not in str(error)
    else:
        assert result.taken.file() == data


def test_torch_reads_what_comes_back() -> None:
    value = {"a": torch.arange(6.0).view(2, 3).t(), "b": [torch.ones(2, dtype=torch.bfloat16)]}
    loaded = torch.load(io.BytesIO(read_file(torch_bytes(value)).taken.file()))
    assert torch.equal(loaded["a"], torch.arange(6.0).view(2, 3).t())
