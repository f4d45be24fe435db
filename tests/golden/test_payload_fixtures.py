"""Reads protocol/fixtures/payload: what git-theta 0.2.0 wrote, and what our first version wrote."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support import environment, tensorstore_payload
from theta_daemon import dtypes
from theta_daemon.store import payload
from theta_daemon.store.codec import Codec

FOLDER = environment.ROOT / "protocol" / "fixtures" / "payload"
WRITERS = ("git-theta-0.2.0", "theta-daemon-1")
CASES = {
    f"{writer}/{name}": case
    for writer in WRITERS
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
        data = file.read()
    value = asyncio.run(params.get_update_serializer().deserialize(data))["parameter"]
    found[path] = [str(value.dtype), list(value.shape), hashlib.sha256(value.tobytes()).hexdigest()]
print(json.dumps(found))
"""


def data_of(name: str) -> bytes:
    return (FOLDER / f"{name}.msgpack").read_bytes()


def test_every_fixture_is_tested() -> None:
    stored = {str(path.relative_to(FOLDER).with_suffix("")) for path in FOLDER.rglob("*.msgpack")}
    assert {name for name in stored if not name.startswith("updates/")} == CASES.keys()
    assert len(UNCOMPRESSED) >= 10


@pytest.mark.parametrize("name", CASES)
def test_reads(name: str) -> None:
    case: dict[str, Any] = CASES[name]
    shape = tuple(case["shape"])
    out = bytearray(dtypes.nbytes(case["dtype"], shape))
    payload.decode_into(memoryview(data_of(name)), case["dtype"], shape, memoryview(out))
    assert hashlib.sha256(out).hexdigest() == case["sha256"]
    assert out.hex() == case.get("raw", out.hex())


@pytest.mark.parametrize("name", CASES)
def test_tensorstore_reads(name: str) -> None:
    assert hashlib.sha256(tensorstore_payload.read(data_of(name)).tobytes()).hexdigest() == CASES[name]["sha256"]


@pytest.mark.parametrize("name", UNCOMPRESSED)
def test_writes_uncompressed_payloads_byte_for_byte(name: str) -> None:
    case: dict[str, Any] = CASES[name]
    shape = tuple(case["shape"])
    raw = bytearray(dtypes.nbytes(case["dtype"], shape))
    payload.decode_into(memoryview(data_of(name)), case["dtype"], shape, memoryview(raw))
    pieces = payload.encode(memoryview(raw), case["dtype"], shape, Codec.parse("none"))
    assert b"".join(pieces) == data_of(name)


@pytest.mark.needs_git_theta
def test_git_theta_reads() -> None:
    paths = {str(FOLDER / f"{name}.msgpack"): case for name, case in CASES.items()}
    command: list[str | Path] = [environment.PEER / "bin" / "python", "-c", READ_BY_GIT_THETA, *paths]
    found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    for path, case in paths.items():
        dtype, shape, digest = found[path]
        assert digest == case["sha256"]
        if dtypes.DTYPES[case["dtype"]].zarr is not None:
            assert [dtype, shape] == [case["dtype"], case["shape"]]
