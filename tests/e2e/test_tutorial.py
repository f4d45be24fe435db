"""docs/tutorial.md runs as it is written: its `sh` blocks, in order, in one shell."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from tests.support.environment import ROOT


def test_the_tutorial_runs_as_written(tmp_path: Path, git_environment: dict[str, str]) -> None:
    text = (ROOT / "docs" / "tutorial.md").read_text("utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 8
    done = subprocess.run(
        ["sh", "-e", "-x", "-c", "".join(blocks)],
        cwd=tmp_path,
        env=git_environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    # Shown beside the commands: the size of the store before and after, and the models that are the same.
    assert "git-theta is installed" in done.stdout
    assert done.stdout.count("model.safetensors: OK") == 2
