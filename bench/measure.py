"""One run of one contender: a fresh repository, each step timed, each checkout compared byte for byte.

Before every timed command the disk is made quiet (`sync`) and what the command will read is read once, so that
each command starts from the same state: nothing dirty, everything in the page cache.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.cases import ADD, AGAIN, CHECKOUT, STATUS
from bench.contenders import Contender, environment
from bench.data import Built, digest

_CHECKPOINT_TYPES = {"torch": "pytorch", "safetensors": "safetensors"}


@dataclass(frozen=True, slots=True)
class WorkTree:
    """A repository of one contender with a data set in it."""

    path: Path
    environment: Mapping[str, str]

    def git(self, *arguments: str) -> None:
        """Run git; stop the bench with git's own words when it fails."""
        done = subprocess.run(
            ["git", *arguments], cwd=self.path, env=dict(self.environment), capture_output=True, check=False
        )
        if done.returncode:
            raise SystemExit(f"bench: git {' '.join(arguments)} failed in {self.path}:\n{done.stderr.decode()[-3000:]}")

    def timed(self, *arguments: str) -> float:
        """Run git from a quiet, warm state and return the seconds it took."""
        os.sync()
        warm(self.path)
        start = time.perf_counter()
        self.git(*arguments)
        return time.perf_counter() - start

    def replace_files(self, source: Path) -> None:
        """Put hard links to the files of `source` into the work tree."""
        for file in source.iterdir():
            place = self.path / file.name
            place.unlink(missing_ok=True)
            place.hardlink_to(file)

    def remove_files(self, built: Built) -> None:
        """Take the files of the data set out of the work tree."""
        for name in built.digests:
            (self.path / name).unlink()


def warm(folder: Path) -> None:
    """Read every file below `folder` once."""
    buffer = memoryview(bytearray(1 << 20))
    for directory, _, names in os.walk(folder):
        for name in names:
            with (Path(directory) / name).open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass


def new_work_tree(contender: Contender, built: Built, scratch: Path, process: str | None) -> WorkTree:
    """Make a repository with the contender's filter set up and the data set's files in place, not added yet."""
    path = scratch / "repository"
    shutil.rmtree(path, ignore_errors=True)
    home = scratch / "home"
    home.mkdir(exist_ok=True)
    tree = WorkTree(path, environment(contender, home, _CHECKPOINT_TYPES[built.data.format]))
    path.mkdir()
    tree.git("init", "--quiet")
    # git-theta puts hooks into a repository; a commit here is no part of what is measured.
    tree.git("config", "core.hooksPath", os.devnull)
    tree.git("config", f"filter.{contender.filter}.required", "true")
    for key, value in contender.configuration.items():
        tree.git("config", key, value)
    if process is not None:
        tree.git("config", f"filter.{contender.filter}.process", process)
    (path / ".gitattributes").write_text(f"*{built.data.suffix} filter={contender.filter} -text\n", "utf-8")
    tree.git("add", ".gitattributes")
    tree.git("commit", "--quiet", "--message", "attributes")
    tree.replace_files(built.original)
    return tree


def run(contender: Contender, built: Built, steps: Collection[str], scratch: Path) -> dict[str, float]:
    """Return the seconds of each step."""
    process = contender.process.format(originals=built.original) if contender.process else None
    tree = new_work_tree(contender, built, scratch, process)
    return _steps(tree, contender, built, steps, lambda _, *command: tree.timed(*command))


def peaks(contender: Contender, built: Built, steps: Collection[str], scratch: Path, tools: Path) -> dict[str, float]:
    """Return the peak of the filter's resident memory in each step, in MB (only for long-running filters)."""
    if contender.process is None:
        return {}
    found: dict[str, float] = {}
    result = scratch / "peak"
    process = f"{tools / 'peak'} {result} {contender.process.format(originals=built.original)}"
    tree = new_work_tree(contender, built, scratch, process)

    def measured(step: str, *command: str) -> float:
        result.unlink(missing_ok=True)
        tree.git(*command)
        found[step] = int(result.read_text()) * 1024 / 1e6 if result.exists() else 0.0
        return 0.0

    _steps(tree, contender, built, steps, measured)
    return found


def _steps(
    tree: WorkTree, contender: Contender, built: Built, steps: Collection[str], do: Callable[..., float]
) -> dict[str, float]:
    """Add, check out, ask for the status, add again; `do(step, *git arguments)` runs what counts."""
    steps = contender.steps.intersection(steps)
    seconds = {ADD: do(ADD, "add", "--all")}
    tree.git("commit", "--quiet", "--message", "original")
    if CHECKOUT in steps:
        tree.remove_files(built)
        seconds[CHECKOUT] = do(CHECKOUT, "checkout", "--", ".")
        (built.same_bytes if contender.same_bytes else built.same_values)(tree.path)
    if STATUS in steps:
        for name in built.digests:
            (tree.path / name).touch()
        seconds[STATUS] = do(STATUS, "status", "--porcelain")
    if AGAIN in steps:
        tree.replace_files(built.changed)
        seconds[AGAIN] = do(AGAIN, "add", "--all")
    shutil.rmtree(tree.path)
    return seconds


def hash_all(built: Built) -> dict[str, float]:
    """Return the seconds that hashing the data set with SHA-256 takes: the least that `git status` could cost."""
    warm(built.original)
    start = time.perf_counter()
    for name in built.digests:
        digest(built.original / name)
    return {STATUS: time.perf_counter() - start}
