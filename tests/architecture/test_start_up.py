"""Every git command starts the filter anew: what is imported before the handshake is paid each time."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"numpy", "blosc", "zstandard", "tensorstore", "torch", "safetensors", "blake3", "isal", "argparse"}

# What takes longer to import than a small file takes to check out, and is needed for rare files alone.
RARE = {"numpy", "numcodecs", "blosc", "zstandard", "unittest", "dataclasses", "inspect", "msgpack", "tqdm"}


def loaded_with(*modules: str) -> set[str]:
    program = f"import {', '.join(modules)}, sys; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    loaded = set(done.stdout.split())
    assert "theta_daemon" in loaded
    return loaded


@pytest.mark.parametrize("module", ["theta_daemon.daemon.entry", "theta_daemon.wire"])
def test_what_answers_the_handshake_imports_nothing_heavy(module: str) -> None:
    assert loaded_with(module) & (HEAVY | RARE) == set()


@pytest.mark.parametrize(
    "modules",
    [
        ("pipelines.smudge", "pipelines.services", "store.payload", "history.record"),
        ("pipelines.clean", "formats.safetensors", "formats.torch_zip"),
    ],
    ids=["checkout", "add"],
)
def test_what_most_files_need_imports_nothing_that_few_do(modules: tuple[str, ...]) -> None:
    assert loaded_with(*(f"theta_daemon.{module}" for module in modules)) & RARE == set()
