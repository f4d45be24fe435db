"""One run of one contender: a fresh repository, each step timed, each checkout compared byte for byte.

Every timed command starts from the same state: nothing dirty (`sync`), what it will read in the page cache, and the
memory it will fill already in use a moment ago. The last matters in virtual machines: they give free memory back
to their host, and getting it again costs more than everything that is measured here (docs/performance.md).
"""

from __future__ import annotations

import mmap
import os
import stat
import subprocess
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.cases import ADD, AGAIN, CHECKOUT, STATUS
from bench.contenders import Contender, environment
from bench.data import MB, Built, digest

_CHECKPOINT_TYPES = {".pt": "pytorch", ".safetensors": "safetensors"}
_MEMORY = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


@dataclass(frozen=True, slots=True)
class Run:
    """The seconds of each step, and the peak of the filter's resident memory in MiB (of long-running filters)."""

    seconds: dict[str, float] = field(default_factory=dict)
    peaks: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WorkTree:
    """A repository of one contender with a data set in it; `peak` is where its filter's peak memory is written."""

    path: Path
    built: Built
    environment: Mapping[str, str]
    peak: Path
    done: Run = field(default_factory=Run)

    def git(self, *arguments: str, stdin: str = "") -> str:
        """Run git and return what it says; stop the bench with git's own words when it fails."""
        done = subprocess.run(
            ["git", *arguments],
            cwd=self.path,
            env=dict(self.environment),
            input=stdin.encode(),
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise SystemExit(f"bench: git {' '.join(arguments)} failed in {self.path}:\n{done.stderr.decode()[-3000:]}")
        return done.stdout.decode()

    def timed(self, step: str, *arguments: str, stdin: str = "", fetches: bool = False) -> None:
        """Run git from a quiet, warm state and note what it took; `fetches`: it writes objects as well as files."""
        self.peak.unlink(missing_ok=True)
        # What a command fills: the page cache of what it writes, and what git holds of the largest file.
        filled = 0 if step == STATUS else (1 + fetches) * self.built.data.bytes + 2 * self.built.data.file_bytes
        with memory_in_use(filled + 64 * MB):
            os.sync()
            warm(self.path)
            warm(self.built.original)
        start = time.perf_counter()
        self.git(*arguments, stdin=stdin)
        self.done.seconds[step] = time.perf_counter() - start
        if self.peak.exists():
            self.done.peaks[step] = int(self.peak.read_text()) / 1024

    def replace_files(self, source: Path) -> None:
        """Put hard links to the files of `source` into the work tree."""
        for file in source.iterdir():
            place = self.path / file.name
            place.unlink(missing_ok=True)
            place.hardlink_to(file)

    def remove_files(self) -> None:
        """Take the files of the data set out of the work tree."""
        for name in self.built.digests:
            (self.path / name).unlink()


@contextmanager
def memory_in_use(size: int) -> Iterator[None]:
    """Hold `size` bytes of memory that were written to, at most an eighth of the machine's, in huge pages.

    Huge, because the page cache takes its memory in large pieces: the small ones that lie about do not help it.
    """
    size = min(size, _MEMORY // 8) // mmap.PAGESIZE * mmap.PAGESIZE
    with mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as held:
        held.madvise(mmap.MADV_HUGEPAGE)
        held[:: mmap.PAGESIZE] = bytes(size // mmap.PAGESIZE)
        yield


def warm(folder: Path) -> None:
    """Read every file below `folder` once."""
    buffer = memoryview(bytearray(1 << 20))
    for directory, _, names in os.walk(folder):
        for name in names:
            with (Path(directory) / name).open("rb", buffering=0) as file:
                while file.readinto(buffer):
                    pass


def configuration(contender: Contender, built: Built, tools: Path, peak: Path) -> dict[str, str]:
    """Return the git configuration that sets a contender's filter up; its peak memory is written to `peak`."""
    found = {f"filter.{contender.filter}.required": "true", **contender.configuration}
    if contender.process is not None:
        process = contender.process.format(originals=built.original)
        found[f"filter.{contender.filter}.process"] = f"{tools / 'peak'} {peak} {process}"
    return found


def new_work_tree(contender: Contender, built: Built, scratch: Path, tools: Path) -> WorkTree:
    """Make a repository with the contender's filter set up and the data set's files in place, not added yet."""
    path, home, peak = scratch / "repository", scratch / "home", scratch / "peak"
    home.mkdir(exist_ok=True)
    path.mkdir()
    tree = WorkTree(path, built, environment(contender, home, _CHECKPOINT_TYPES[built.data.suffix]), peak)
    tree.git("init", "--quiet")
    # git-theta puts hooks into a repository; a commit here is no part of what is measured.
    tree.git("config", "core.hooksPath", os.devnull)
    for key, value in configuration(contender, built, tools, peak).items():
        tree.git("config", key, value)
    (path / ".gitattributes").write_text(f"*{built.data.suffix} filter={contender.filter} -text\n", "utf-8")
    tree.git("add", ".gitattributes")
    tree.git("commit", "--quiet", "--message", "attributes")
    tree.replace_files(built.original)
    return tree


def run(contender: Contender, built: Built, steps: Collection[str], scratch: Path, tools: Path) -> Run:
    """Add, check out, ask for the status, add again; where the data set asks for it, several times: the fastest."""
    runs = [_run(contender, built, steps, scratch, tools) for _ in range(built.data.repeats)]
    return Run(_least([run.seconds for run in runs]), runs[-1].peaks)


def _run(contender: Contender, built: Built, steps: Collection[str], scratch: Path, tools: Path) -> Run:
    tree = new_work_tree(contender, built, scratch, tools)
    steps = contender.steps.intersection(steps)
    tree.timed(ADD, "add", "--all")
    tree.git("commit", "--quiet", "--message", "original")
    if CHECKOUT in steps:
        tree.remove_files()
        tree.timed(CHECKOUT, "checkout", "--", ".")
        (built.same_bytes if contender.same_bytes else built.same_values)(tree.path)
    if STATUS in steps:
        for name in built.digests:
            (tree.path / name).touch()
        tree.timed(STATUS, "status", "--porcelain")
    if AGAIN in steps:
        tree.replace_files(built.changed)
        tree.timed(AGAIN, "add", "--all")
    put_away(tree, scratch)
    return tree.done


def put_away(tree: WorkTree, scratch: Path) -> None:
    """Empty all files, and leave them and their directories for the end of the bench.

    ext4 does not use an inode again within a minute or more of its deletion, and looks through all of these for each
    file that is made meanwhile: what one contender had stored would cost the next one's add more than the add itself.
    """
    tree.remove_files()  # some are further names of the original files
    empty(tree.path)
    tree.path.rename(Path(tempfile.mkdtemp(prefix="done-", dir=scratch)) / "repository")


def empty(folder: Path) -> None:
    """Empty every file below `folder`; see `put_away`."""
    for directory, _, names in os.walk(folder):
        for name in names:
            file = Path(directory) / name
            if not stat.S_ISREG(file.lstat().st_mode):
                continue  # a link may lead anywhere
            file.chmod(0o600)  # git's objects are read-only
            os.truncate(file, 0)


def _least(runs: list[dict[str, float]]) -> dict[str, float]:
    return {step: min(values[step] for values in runs) for step in runs[0]}


def hash_all(built: Built) -> Run:
    """Return the seconds that hashing the data set with SHA-256 takes: the least that `git status` could cost."""
    warm(built.original)
    start = time.perf_counter()
    for name in built.digests:
        digest(built.original / name)
    return Run({STATUS: time.perf_counter() - start})
