"""Every git command starts the filter anew: what is imported before the handshake is paid each time."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = {"numpy", "numcodecs", "tensorstore", "torch", "safetensors", "msgpack", "blake3", "isal", "argparse"}


@pytest.mark.parametrize("module", ["theta_daemon.daemon.entry", "theta_daemon.wire"])
def test_what_answers_the_handshake_imports_nothing_heavy(module: str) -> None:
    program = f"import {module}, sys; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    loaded = {name.split(".")[0] for name in done.stdout.split()}
    assert "theta_daemon" in loaded
    assert loaded & HEAVY == set()
