"""A repository of plain Git LFS, to see what git-lfs does by itself."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.repository import Repository


@pytest.fixture
def raw(new_repository: Callable[[str], Repository], bare: Path) -> Repository:
    """Return a repository of plain Git LFS, with two commits of three files, nothing pushed."""
    made = new_repository("raw")
    made.git("lfs", "install", "--local")
    made.git("remote", "add", "origin", str(bare))
    # Nothing here waits long: what fails is tried once more, and what says nothing for a second has failed.
    for name, value in {"maxretries": "1", "maxretrydelay": "1"}.items():
        made.git("config", f"lfs.transfer.{name}", value)
    made.git("config", "lfs.activitytimeout", "1")
    made.write(".gitattributes", b"*.bin filter=lfs diff=lfs merge=lfs -text\n")
    for number in range(2):
        for name in "abc":
            made.write(f"{name}.bin", random.Random(f"{name}{number}").randbytes(100_000))
        made.commit(f"number {number}")
    return made
