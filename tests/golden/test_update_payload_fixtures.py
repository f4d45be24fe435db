"""Reads protocol/fixtures/payload/updates: what git-theta 0.2.0 wrote, and what our first version wrote."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support import environment, tensorstore_payload
from theta_daemon import dtypes
from theta_daemon.store.arrays import encode_arrays, open_arrays
from theta_daemon.store.codec import Codec

FOLDER = environment.ROOT / "protocol" / "fixtures" / "payload" / "updates"
CASES: dict[str, dict[str, Any]] = {
    f"{writer}/{name}": case
    for writer in ("git-theta-0.2.0", "theta-daemon-1")
    for name, case in json.loads((FOLDER / writer / "expected.json").read_text()).items()
}
UNCOMPRESSED = [name for name in CASES if name.endswith("-none")]

# Run by git-theta's own Python: its serializer reads each payload named and says what it found.
READ_BY_GIT_THETA = """
import asyncio, hashlib, json, sys
from git_theta import params
found = {}
for path in sys.argv[1:]:
    with open(path, "rb") as file:
        update = asyncio.run(params.get_update_serializer().deserialize(file.read()))
    found[path] = {
        name: [str(value.dtype), list(value.shape), hashlib.sha256(value.tobytes()).hexdigest()]
        for name, value in update.items()
    }
print(json.dumps(found))
"""


def data_of(name: str) -> bytes:
    return (FOLDER / f"{name}.msgpack").read_bytes()


def expected(name: str) -> dict[str, list[object]]:
    return {each: [array["dtype"], array["shape"], array["sha256"]] for each, array in CASES[name].items()}


def test_every_fixture_is_tested() -> None:
    stored = {str(path.relative_to(FOLDER).with_suffix("")) for path in FOLDER.rglob("*.msgpack")}
    assert stored == CASES.keys()
    assert len(UNCOMPRESSED) >= 7


@pytest.mark.parametrize("name", CASES)
def test_reads(name: str) -> None:
    data = data_of(name)
    most = sum(dtypes.nbytes(array["dtype"], tuple(array["shape"])) for array in CASES[name].values())
    for _ in range(2):
        found = open_arrays(memoryview(data), 2 * most)
        assert list(found) == list(CASES[name])
        seen = {
            each: [array.dtype, [*array.shape], hashlib.sha256(array.raw).hexdigest()] for each, array in found.items()
        }
        assert seen == expected(name)
        assert all(array.raw.hex() == CASES[name][each].get("raw", array.raw.hex()) for each, array in found.items())


@pytest.mark.parametrize("name", CASES)
def test_tensorstore_reads(name: str) -> None:
    found = tensorstore_payload.read_all(data_of(name))
    seen = {
        each: [str(value.dtype), [*value.shape], hashlib.sha256(value.tobytes()).hexdigest()]
        for each, value in found.items()
    }
    assert seen == expected(name)


@pytest.mark.parametrize("name", UNCOMPRESSED)
def test_writes_uncompressed_payloads_byte_for_byte(name: str) -> None:
    found = open_arrays(memoryview(data_of(name)), 1 << 20)
    assert b"".join(encode_arrays(found, Codec.parse("none"))) == data_of(name)


@pytest.mark.needs_git_theta
def test_git_theta_reads() -> None:
    paths = {str(FOLDER / f"{name}.msgpack"): name for name in CASES}
    command: list[str | Path] = [environment.PEER / "bin" / "python", "-c", READ_BY_GIT_THETA, *paths]
    found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert found == {path: expected(name) for path, name in paths.items()}
