"""The vectors of protocol/layout.md: made by another implementation, by safetensors and by torch, never by this one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors

from tests.support.streams import Pieces, Taken, take
from theta_daemon.errors import CheckpointError, LayoutError, TruncatedError
from theta_daemon.formats import safetensors as safetensors_format
from theta_daemon.formats.checksums import Regions
from theta_daemon.formats.layout import (
    CanonicalTensor,
    ChecksumOp,
    CombinedChecksumOp,
    Group,
    GroupOp,
    Layout,
    LiteralOp,
    Op,
    OpaqueOp,
    RegionEndOp,
    RegionStartOp,
    size,
)
from theta_daemon.formats.layout_codec import decode, encode
from theta_daemon.formats.parts import Role
from theta_daemon.formats.source import Source

FIXTURES = Path(__file__).resolve().parents[2] / "protocol" / "fixtures"


def cases(name: str, about: str = "about") -> list[Any]:
    """Return the cases of a file as parameters of a test; a file without any is a failure."""
    found = json.loads((FIXTURES / name).read_text())
    assert found
    return [pytest.param(case, id=case[about]) for case in found]


def layout(case: dict[str, Any]) -> Layout:
    groups = tuple(
        Group(
            tuple(group["name"]),
            group["dtype"],
            tuple(group["shape"]),
            tuple(group["axes"]) if "axes" in group else None,
            Role(group["role"]),
            group.get("owner"),
        )
        for group in case["groups"]
    )
    return Layout(case["format"], groups, tuple(map(operation, case["ops"])))


def operation(written: list[Any]) -> Op:
    match written:
        case ["literal", data]:
            return LiteralOp(bytes.fromhex(data))
        case ["group", index]:
            return GroupOp(index)
        case ["opaque", length]:
            return OpaqueOp(length)
        case ["region start"]:
            return RegionStartOp()
        case ["region end"]:
            return RegionEndOp()
        case ["checksum", region]:
            return ChecksumOp(region)
        case ["combined checksum"]:
            return CombinedChecksumOp()
    raise AssertionError(written)


def read(data: bytes) -> Taken:
    return take("safetensors", Source(Pieces(data)), safetensors_format.read)


@pytest.mark.parametrize("case", cases("layout/layouts.json"))
def test_a_layout_has_this_encoding(case: dict[str, Any]) -> None:
    assert encode(layout(case)).hex() == case["encoding"]
    assert decode(bytes.fromhex(case["encoding"])) == layout(case)


@pytest.mark.parametrize("case", cases("layout/layouts.json"))
def test_a_layout_writes_this_file(case: dict[str, Any]) -> None:
    values = {int(index): bytes.fromhex(value) for index, value in case["values"].items()}
    taken = Taken(layout(case), values, [bytes.fromhex(chunk) for chunk in case["opaque"]])
    assert taken.file().hex() == case["file"]
    assert size(taken.layout) == len(case["file"]) // 2


@pytest.mark.parametrize("case", cases("layout/refused.json", "why"))
def test_a_bad_layout_is_refused(case: dict[str, Any]) -> None:
    with pytest.raises(LayoutError):
        decode(bytes.fromhex(case["encoding"]))


@pytest.mark.parametrize("case", cases("layout/combined-checksum.json"))
def test_the_combined_checksum_is_torchs(case: dict[str, Any]) -> None:
    regions = Regions()
    for record in case["records"]:
        regions.start()
        regions.feed(bytes.fromhex(record["data"]))
        regions.end()
    assert regions.combined().decode() == case["combined"]


@pytest.mark.parametrize("case", cases("safetensors/canonical.json"))
def test_the_canonical_safetensors_file(case: dict[str, Any]) -> None:
    tensors = case["tensors"]
    opaque: list[bytes] = []
    made = safetensors_format.canonical(
        [CanonicalTensor((tensor["name"],), tensor["dtype"], tuple(tensor["shape"])) for tensor in tensors],
        opaque.append,
    )
    values = {tensor["name"]: bytes.fromhex(tensor["value"]) for tensor in tensors}
    groups = {index: values[group.name[0]] for index, group in enumerate(made.groups)}
    assert Taken(made, groups, opaque).file().hex() == case["file"]
    assert encode(made) == encode(read(bytes.fromhex(case["file"])).layout)


@pytest.mark.parametrize("case", cases("safetensors/read.json"))
def test_a_safetensors_file_is_read_so(case: dict[str, Any]) -> None:
    taken = read(bytes.fromhex(case["file"]))
    seen = [
        {"name": g.name[0], "dtype": g.dtype, "shape": list(g.shape), "value": taken.groups[index].hex()}
        for index, g in enumerate(taken.layout.groups)
    ]
    assert seen == case["groups"]
    assert taken.file().hex() == case["file"]


@pytest.mark.parametrize("case", cases("safetensors/refused.json", "why"))
def test_a_bad_safetensors_file_is_refused(case: dict[str, Any]) -> None:
    data = bytes.fromhex(case["file"])
    with pytest.raises(CheckpointError) as caught:
        read(data)
    assert isinstance(caught.value, TruncatedError) is case["truncated"]


@pytest.mark.parametrize("case", cases("safetensors/refused.json", "why"))
def test_the_vectors_say_where_the_library_is_less_strict(case: dict[str, Any]) -> None:
    try:
        safetensors.deserialize(bytes.fromhex(case["file"]))
    except safetensors.SafetensorError:
        read_it = False
    else:
        read_it = True
    assert read_it is case["library_reads_it"]
