"""What git's handshake waits for imports nothing heavy."""

from __future__ import annotations

import subprocess
import sys


def test_parsing_metadata_imports_no_numpy() -> None:
    script = (
        "import sys; from theta_daemon.metadata import entries, text; text.parse(text.serialize(text.parse(b'{}')));"
        "print(*sorted(sys.modules.keys() & {'numpy', 'blake3', 'asyncio'}))"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (ran.stdout.split(), ran.stderr) == ([], "")
