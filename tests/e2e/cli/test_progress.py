"""`git add` of a file that takes long, on a terminal: a bar while it does, and nothing of it afterwards."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

from tests.support import safetensors_files
from tests.support.repository import Repository
from tests.support.terminal import on_screen, terminal

SLOW_FILTER = Path(safetensors_files.__file__).with_name("slow_filter.py")
NAME = "caf\u00e9 \x1b[31m.safetensors"
SIZE = 24 << 20


def test_the_bar_of_an_add(repository: Repository, tmp_path: Path) -> None:
    pipe = tmp_path / "go on"
    os.mkfifo(pipe)
    repository.git("theta", "track", "*.safetensors")
    repository.git("config", "filter.theta.process", shlex.join([sys.executable, str(SLOW_FILTER), str(pipe)]))
    content = safetensors_files.file({"a": safetensors_files.entry("F32", [SIZE // 4], 0, SIZE)}, bytes(SIZE))
    repository.write(NAME, content)
    with terminal() as screen:
        git = subprocess.Popen(
            ["git", "add", "--all"],
            cwd=repository.path,
            env=dict(repository.environment),
            stderr=screen.descriptor,
        )
        bar = screen.wait_for("B/s]")
        pipe.open("wb").close()
        assert git.wait() == 0
        seen = screen.everything()
    assert re.search(
        r"\rStoring caf\u00e9 \\x1b\[31m\.safetensors:  6\d%\|#+ +\| 1\d\.\dM/25\.2M \[00:0\d<00:0\d, ", bar
    )
    assert on_screen(seen) == [""]
    repository.git("commit", "--quiet", "--message", "stored")
    repository.git("config", "filter.theta.process", "theta-daemon")
    repository.checkout_again()
    assert repository.read(NAME) == content
    assert repository.status() == ""
