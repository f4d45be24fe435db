"""The environment of a test's git commands: the test's own, whatever the developer has configured."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PEER = ROOT / ".venv-git-theta"

# What a program needs of the machine to start at all. Everything else is left behind, every GIT_* variable above all.
_KEEP = ("PATH", "TMPDIR", "LD_LIBRARY_PATH", "SYSTEMROOT", "CI")


def isolated(home: Path) -> dict[str, str]:
    """Return an environment whose HOME is `home`, with git's configuration empty and its clock standing still."""
    bin_directory = Path(sys.executable).parent
    for program in ("theta-daemon", "git-theta"):
        if not (bin_directory / program).exists():
            pytest.fail(f"{program} is not installed beside {sys.executable}: `make .venv/.ready` does that")
    kept = {name: os.environ[name] for name in _KEEP if name in os.environ}
    return kept | {
        "PATH": f"{bin_directory}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(home),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": str(home / ".gitconfig"),
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_AUTHOR_NAME": "A Tester",
        "GIT_AUTHOR_EMAIL": "tester@example.invalid",
        "GIT_AUTHOR_DATE": "2026-01-02T03:04:05+00:00",
        "GIT_COMMITTER_NAME": "A Tester",
        "GIT_COMMITTER_EMAIL": "tester@example.invalid",
        "GIT_COMMITTER_DATE": "2026-01-02T03:04:05+00:00",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
    }


def peer_is_installed() -> bool:
    """Tell whether git-theta 0.2.0 stands in its own environment."""
    return (PEER / ".ready").exists()


def with_peer(base: dict[str, str]) -> dict[str, str]:
    """Return `base` with git-theta 0.2.0's programs on PATH in place of ours."""
    own = f"{Path(sys.executable).parent}{os.pathsep}"
    return base | {"PATH": f"{PEER / 'bin'}{os.pathsep}{base['PATH'].removeprefix(own)}"}
