"""A file of more than 2 GiB, in which one parameter group alone is, with little memory allowed. Needs 8 GB of disk."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.support.repository import Repository
from tests.support.wrapped import FILTER, before_the_filter

MIB = 1 << 20
LARGE = 2148 * MIB  # past what a signed 32-bit integer holds
NEEDED = 8 << 30

# Runs the real filter as a child and notes the most memory that it held, in KiB.
MEASURED = f"""
import os, subprocess, sys
child = subprocess.Popen([{str(FILTER)!r}, *sys.argv[1:]])
_, status, used = os.wait4(child.pid, 0)
with open(os.environ["PEAKS"], "a") as file:
    file.write(f"{{used.ru_maxrss}}\\n")
os._exit(os.waitstatus_to_exitcode(status) & 255)
"""


def write(path: Path) -> None:
    """Write the checkpoint: zeros, with some noise in every 16th MiB; a file with holes where the system has them."""
    sizes = {"first": 4 * MIB, "large": LARGE, "last": 40 * MIB}
    ends = np.cumsum(list(sizes.values())).tolist()
    header = json.dumps(
        {
            name: {"dtype": "BF16", "shape": [size // 2], "data_offsets": [end - size, end]}
            for (name, size), end in zip(sizes.items(), ends, strict=True)
        }
    ).encode()
    noise = np.random.default_rng(0)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        start = file.tell()
        for offset in range(0, ends[-1], 16 * MIB):
            file.seek(start + offset)
            file.write(noise.bytes(MIB // 4))
        file.truncate(start + ends[-1])


@pytest.mark.heavy
@pytest.mark.timeout(1200)
def test_a_group_of_more_than_2_gib(repository: Repository, tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free
    assert free > NEEDED, f"{NEEDED >> 30} GiB of free disk are needed in {tmp_path}, and {free >> 30} are there"
    repository.git("theta", "track", "*.safetensors")
    repository.git("config", "--local", "theta.memoryLimit", "256m")
    original, path = tmp_path / "original", repository.path / "large.safetensors"
    write(original)
    subprocess.run(["cp", "--sparse=always", original, path], check=True)

    peaks = tmp_path / "peaks"
    measured = before_the_filter(repository, tmp_path / "measured", MEASURED).in_environment(PEAKS=str(peaks))
    measured.git("add", "--all")
    peak = max(map(int, peaks.read_text().split()))
    print(f"most memory of the filter during git add: {peak >> 10} MiB")  # noqa: T201 - `pytest -s` shows it
    assert peak >> 10 < 512

    repository.git("commit", "--quiet", "--message", "large")
    path.unlink()
    repository.git("checkout", "--", path.name)
    subprocess.run(["cmp", original, path], check=True)
    os.utime(path)
    assert repository.status() == ""
