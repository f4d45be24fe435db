"""The canonical torch zip: the vectors, the file over 4 GiB, and what it cannot hold."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.streams import Taken
from tests.support.torch_files import read_file
from theta_daemon.dtypes import nbytes
from theta_daemon.errors import LayoutError, UnsupportedError
from theta_daemon.formats.layout import CanonicalTensor, ChecksumOp, CombinedChecksumOp, GroupOp, LiteralOp, size
from theta_daemon.formats.layout_codec import encode
from theta_daemon.formats.torch_canonical import canonical

FIXTURES = Path(__file__).parents[3] / "protocol/fixtures/torch"
VECTORS: dict[str, dict[str, Any]] = json.loads((FIXTURES / "canonical-1.json").read_text())


def plan(name: str) -> list[CanonicalTensor]:
    return [CanonicalTensor(tuple(path), dtype, tuple(shape)) for path, dtype, shape in VECTORS[name]["tensors"]]


def written(tensors: list[CanonicalTensor]) -> Taken:
    """Return the canonical file of `tensors`, whose bytes count up."""
    values: dict[tuple[str, ...], bytes] = {}
    start = 0
    for tensor in tensors:
        end = start + nbytes(tensor.dtype, tensor.shape)
        values[tensor.name] = bytes(i % 256 for i in range(start, end))
        start = end
    opaque: list[bytes] = []
    layout = canonical(tensors, opaque.append)
    return Taken(layout, {i: values[group.name] for i, group in enumerate(layout.groups)}, opaque)


@pytest.mark.parametrize("name", VECTORS)
def test_the_vectors(name: str) -> None:
    data = written(plan(name)).file()
    path = FIXTURES / "canonical-1" / f"{name}.pt"
    if len(data) < 10_000:
        assert data == path.read_bytes()
    assert hashlib.sha256(data).hexdigest() == VECTORS[name]["sha256"]


@pytest.mark.parametrize("name", VECTORS)
def test_reading_the_file_gives_the_layout(name: str) -> None:
    taken = written(plan(name))
    result = read_file(taken.file())
    assert result.keys() == [group.name for group in taken.layout.groups]
    assert result.taken.groups == taken.groups
    # the test's reader numbers the tensors; apart from the names the layouts are one
    unnamed = [group.__class__((str(i),), group.dtype, group.shape) for i, group in enumerate(taken.layout.groups)]
    assert encode(result.taken.layout) == encode(taken.layout.__class__("torch-zip", tuple(unnamed), taken.layout.ops))


def test_groups_are_in_the_order_of_the_nested_dicts() -> None:
    tensors = [CanonicalTensor(tuple(name), "uint8", ()) for name in ("ab", "x", "ac")]
    layout = canonical(tensors, lambda _: None)
    assert [group.name for group in layout.groups] == [("a", "b"), ("a", "c"), ("x",)]


def test_a_file_over_4_gib() -> None:
    """Every byte that torch wrote there and that is not a storage's or a checksum is where torch has it."""
    sizes = {"a": 3, "big": (1 << 32) + 5, "c": 7, "e": 0}
    layout = canonical([CanonicalTensor((name,), "uint8", (n,)) for name, n in sizes.items()], lambda _: None)
    theirs: dict[int, int] = {}
    end = 0
    for offset, piece in json.loads((FIXTURES / "zip64.json").read_text()):
        data = bytes.fromhex(piece)
        theirs |= {offset + i: byte for i, byte in enumerate(data)}
        end = offset + len(data)
    assert size(layout) == end
    at = compared = 0
    for op in layout.ops:
        if isinstance(op, LiteralOp):
            assert bytes(theirs[i] for i in range(at, at + len(op.data))) == op.data
            compared += len(op.data)
            at += len(op.data)
        elif isinstance(op, GroupOp):
            at += nbytes("uint8", layout.groups[op.index].shape)
        elif isinstance(op, (ChecksumOp, CombinedChecksumOp)):
            at += 4 if isinstance(op, ChecksumOp) else 20
    assert at == end
    checksums = 2 * 4 * 10 - 4 + 20  # ten records, of which the empty one has no descriptor
    assert compared + checksums + 3 + 7 == len(theirs)


def test_a_long_pickle_goes_to_the_opaque_chunks() -> None:
    tensors = [CanonicalTensor((f"{'n' * 100}{i}",), "uint8", (0,)) for i in range(6000)]
    taken = written(tensors)
    assert len(taken.opaque) == 1
    result = read_file(taken.file())
    assert result.taken.opaque == taken.opaque
    assert result.taken.layout.ops == taken.layout.ops


@pytest.mark.parametrize("dtype", ["float4_e2m1fn", "float6_e2m3fn", "qint8", "float3"])
def test_dtypes_that_torch_lacks(dtype: str) -> None:
    with pytest.raises(UnsupportedError, match=f"parameter 'a/b': torch has no dtype {dtype}"):
        canonical([CanonicalTensor(("a", "b"), dtype, (8,))], lambda _: None)


@pytest.mark.parametrize(
    "names", [["a", "a"], ["a", "ab"], ["ab", "a"], [""], ["ab", "abc"]], ids=lambda names: "-".join(names) or "empty"
)
def test_names_that_no_nested_dict_has(names: list[str]) -> None:
    with pytest.raises(LayoutError):
        canonical([CanonicalTensor(tuple(name), "uint8", ()) for name in names], lambda _: None)


def test_deep_names_do_not_recurse() -> None:
    layout = canonical([CanonicalTensor(("k",) * 50_000, "uint8", ())], lambda _: None)
    assert len(layout.groups) == 1
