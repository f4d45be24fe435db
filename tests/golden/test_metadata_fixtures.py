"""The vectors of protocol/metadata.md: what git-theta wrote and computed, what we write, and what we refuse."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from theta_daemon.errors import ConflictError, MetadataError, UnsupportedError
from theta_daemon.formats.parts import Key, OtherKey
from theta_daemon.metadata import lsh, names, text
from theta_daemon.metadata.entries import Entry, FileEntry, Metadata, ObjectRef, Update

FIXTURES = Path(__file__).resolve().parents[2] / "protocol" / "fixtures"
THEIRS = FIXTURES / "metadata" / "git-theta-0.2.0"
OURS = FIXTURES / "metadata" / "theta-daemon-1"
ERRORS = {"metadata": MetadataError, "unsupported": UnsupportedError}


def cases(path: str) -> list[Any]:
    found = json.loads((FIXTURES / path).read_text())
    assert isinstance(found, list)
    return [pytest.param(case, id=case["why"]) for case in found]


def values(path: Path) -> Metadata:
    """Read the neutral form of a metadata file (protocol/metadata.md, "Vectors")."""
    told = json.loads(path.read_text())
    entries = {
        tuple(entry["name"]): Entry(
            shape=tuple(entry["shape"]),
            dtype=entry["dtype"],
            hash=tuple(map(int, entry["hash"])),
            version=entry["version"],
            oid=entry["oid"],
            size=int(entry["size"]),
            update_type=entry["update_type"],
            last_commit=entry["last_commit"],
            digest=entry["digest"],
            replay=tuple(Update(step["update_type"], step["oid"], int(step["size"])) for step in entry["replay"]),
        )
        for entry in told["entries"]
    }
    file = told["file"]
    if file is None:
        return Metadata(entries, None)
    refs = [ObjectRef(oid, int(size)) for oid, size in [file["layout"], *file["opaque"]]]
    return Metadata(entries, FileEntry(file["format"], refs[0], tuple(refs[1:])))


@pytest.mark.parametrize("name", ["torch", "low-rank", "nested", "empty"])
def test_what_git_theta_wrote_comes_back_byte_for_byte(name: str) -> None:
    data = (THEIRS / f"{name}.json").read_bytes()
    assert text.kind(data) is text.Kind.METADATA
    metadata = text.parse(data)
    assert metadata.file is None
    assert text.serialize(metadata) == data


def test_what_git_theta_wrote_is_understood() -> None:
    metadata = text.parse((THEIRS / "low-rank.json").read_bytes())
    assert len(metadata.entries) == 10
    updated = metadata.entries["layer.weight",]
    assert (updated.shape, updated.dtype, updated.size) == ((3, 5), "float64", 525)
    assert (updated.update_type, updated.last_commit) == ("low-rank", "cb770bf475a232a3188954c4666ed7bc9add1556")
    assert updated.digest is None
    assert metadata.entries["scale",].shape == ()
    assert metadata.entries["nothing",].shape == (0, 4)
    assert ("gewicht \u00fc \U0001f40d",) in metadata.entries


@pytest.mark.parametrize("name", ["empty", "file-only", "flat", "full"])
def test_what_we_write_stays_as_it_is(name: str) -> None:
    data = (OURS / f"{name}.json").read_bytes()
    expected = values(OURS / f"{name}.values.json")
    assert text.kind(data) is text.Kind.METADATA
    assert text.parse(data) == expected
    assert text.serialize(expected) == data


@pytest.mark.parametrize("name", ["empty", "file-only", "flat", "full"])
def test_git_theta_reads_what_we_write_and_drops_only_our_keys(name: str) -> None:
    seen = json.loads((THEIRS / "seen-of-ours.json").read_text())[f"{name}.json"]
    metadata = text.parse((OURS / f"{name}.json").read_bytes())
    assert [tuple(found) for found in seen["names"]] == list(metadata.entries)
    assert seen["diff"] == [0, 0, 0]
    without = {name: entry.replace(digest=None, replay=()) for name, entry in metadata.entries.items()}
    assert seen["written"].encode() == text.serialize(Metadata(without, None))


@pytest.mark.parametrize("case", cases("metadata/invalid.json"))
def test_invalid_metadata_is_refused(case: dict[str, Any]) -> None:
    old, new = case["replace"]
    valid = (OURS / case["file"]).read_text()
    assert old in valid
    with pytest.raises(ERRORS[case["error"]]) as caught:
        text.parse(valid.replace(old, new, 1).encode())
    assert not isinstance(caught.value, ConflictError)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("case", cases("metadata/kinds.json"))
def test_kind_tells_metadata_from_everything_else(case: dict[str, Any]) -> None:
    assert text.kind(case["text"].encode()) is text.Kind(case["kind"])


@pytest.mark.parametrize("case", cases("metadata/names.json"))
def test_names(case: dict[str, Any]) -> None:
    paths: list[list[Key]] = [
        [OtherKey(key["other"]) if isinstance(key, dict) else key for key in path] for path in case["paths"]
    ]
    assert names.assign(paths) == [tuple(name) for name in case["names"]]


def raw_input(case: dict[str, Any]) -> bytes:
    if "hex" in case:
        return bytes.fromhex(case["hex"])
    words = np.frombuffer(hashlib.shake_256(case["seed"].encode()).digest(case["bytes"]), f"<u{len(case['and']) // 2}")
    return (words & int(case["and"], 16) | int(case["or"], 16)).astype(words.dtype).tobytes()


SIGNATURES = json.loads((FIXTURES / "lsh" / "signatures.json").read_text())["cases"]


@pytest.mark.parametrize("case", SIGNATURES, ids=lambda case: f"{case['dtype']}: {case['why']}")
def test_signatures_are_git_thetas(case: dict[str, Any]) -> None:
    raw = raw_input(case)
    expected = tuple(map(int, case["signature"]))
    assert lsh.signature(raw, case["dtype"]) == expected
    pieces = lsh.Stream(case["dtype"])
    for at in range(0, len(raw), 99_991):  # a prime: most pieces end inside a value and inside a block
        pieces.update(memoryview(raw)[at : at + 99_991])
    assert pieces.signature() == expected


def test_signatures_show_the_order_of_the_sum() -> None:
    """A vector that any order of summation satisfies would prove nothing."""
    [case] = [case for case in SIGNATURES if "order of the sum" in case["why"]]
    values = np.frombuffer(raw_input(case), "<f4").astype(np.float64)
    pool, offsets = np.split(np.frombuffer((FIXTURES / "lsh" / "pool.bin").read_bytes(), "<f8"), [10_000])
    at = (np.arange(len(values)) ^ offsets.view("<i8")[0]) % 10_000
    assert np.floor(np.sum(values * pool[at]) / 1e-8) != int(case["signature"][0])
    assert np.floor(np.add.accumulate(values * pool[at])[-1] / 1e-8) == int(case["signature"][0])
