"""Reads protocol/fixtures/replay: chains of every update type, and the bits that come out of them everywhere."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support import environment, models
from tests.support.pipelines import Bench
from theta_daemon.metadata import text
from theta_daemon.metadata.digest import digest
from theta_daemon.pipelines.chains import chains
from theta_daemon.pipelines.replay import replay

FOLDER = environment.ROOT / "protocol" / "fixtures" / "replay" / "theta-daemon-1"
METADATA = (FOLDER / "metadata.json").read_bytes()
VALUES: dict[str, dict[str, Any]] = json.loads((FOLDER / "values.json").read_text())


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """Return pipelines over the objects of the vectors."""
    made = Bench.at(tmp_path)
    for file in (FOLDER / "objects").iterdir():
        assert hashlib.sha256(file.read_bytes()).hexdigest() == file.name
        place = made.services.settings.lfs_objects / file.name[:2] / file.name[2:4]
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, place)
    return made


def test_every_type_is_there() -> None:
    entries = text.parse(METADATA).entries
    types = {update.update_type for entry in entries.values() for update in entry.replay}
    types |= {entry.update_type for entry in entries.values()}
    assert types == {"dense", "sparse", "low-rank", "ia3", "exact-sparse"}
    assert {name for (name,) in entries} == VALUES.keys()
    assert len({entry.oid for entry in entries.values() if entry.update_type == "exact-sparse"}) == 1


def test_metadata_is_written_as_it_is() -> None:
    assert text.serialize(text.parse(METADATA)) == METADATA


@pytest.mark.parametrize("name", VALUES)
def test_values(bench: Bench, name: str) -> None:
    entries = text.parse(METADATA).entries
    chain = chains(bench.services, b"model.pt", entries)[name,]
    expected = bytes.fromhex(VALUES[name]["raw"])
    value = memoryview(bytearray(len(expected)))
    replay(bench.services, chain, value)
    assert value.hex() == expected.hex()
    assert digest(value) == entries[name,].digest


def test_the_whole_file(bench: Bench) -> None:
    tensors = models.torch_loaded(bench.smudge(METADATA, b"model.pt"))
    found = {name: bytes(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()) for name, tensor in tensors.items()}
    assert found == {name: bytes.fromhex(value["raw"]) for name, value in VALUES.items()}
