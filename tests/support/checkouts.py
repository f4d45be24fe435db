"""Checkouts that git may delay, and what goes wrong in the middle of one."""

from __future__ import annotations

import os
import select
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tests.support import environment
from tests.support.fake_git import Answer, FakeGit
from tests.support.models import StateDict
from tests.support.repository import Repository
from tests.support.wrapped import FILTER, before_the_filter
from theta_daemon.wire.events import Outcome, Request
from theta_daemon.workers.buffers import Buffers

LEAST_MEMORY = 64 << 20  # the least that theta.memoryLimit may be
WINDOW = LEAST_MEMORY // 4  # what is then loaded ahead of git, and the largest group that is held as a whole
SHORTLY = 10.0  # seconds in which a filter must be gone when git is; it takes some hundredths

# Runs the real filter in this process with some of its functions counted. Just before their call number $FAULT_CALL,
# all together (before every one where that is -1), it runs $FAULT_DO. Its end adds the number of calls to $FAULT_CALLS.
_FAULTY = """
import errno, importlib, os, threading
from theta_daemon import errors
from theta_daemon.daemon.entry import run

chosen = int(os.environ["FAULT_CALL"])
fault = compile(os.environ["FAULT_DO"], "fault", "exec")
lock = threading.Lock()
calls = 0

def counted(call):
    def wrapped(*arguments, **options):
        global calls
        with lock:
            calls += 1
            now = calls == chosen or chosen < 0
        if now:
            exec(fault, globals())
        return call(*arguments, **options)
    return wrapped

for place in os.environ["FAULT_PLACES"].split():
    module, _, name = place.partition(":")
    owner = importlib.import_module(module)
    *outer, function = name.split(".")
    for each in outer:
        owner = getattr(owner, each)
    setattr(owner, function, counted(getattr(owner, function)))

real_exit = os._exit
def end(code):
    with open(os.environ["FAULT_CALLS"], "a") as file:
        file.write(f"{calls}\\n")
    real_exit(code)
os._exit = end
run()
"""

# Runs the real filter in this process; at its end adds the most memory it has held, in KiB, to $PEAKS. Without the
# garbage collector, which goes by numbers of objects and not by bytes: what waits for it may wait for long.
_MEASURED = """
import gc, os
from theta_daemon.daemon.entry import run

gc.disable()
real_exit = os._exit
def end(code):
    with open("/proc/self/status") as status, open(os.environ["PEAKS"], "a") as file:
        file.writelines(line.split()[1] + "\\n" for line in status if line.startswith("VmHWM"))
    real_exit(code)
os._exit = end
run()
"""


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    """Return float32 values that hardly compress."""
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32))


def of_size(size: int, seed: int = 0) -> StateDict:
    """Return tensors of `size` bytes in all, as a model has them: small ones, and large ones of `size / 4`."""
    quarter = size // 16
    return {
        "a.bias": noise(9, seed=seed),
        "a.weight": noise(quarter, seed=seed + 1000),
        "b.bias": noise(700, seed=seed + 2000),
        "b.weight": noise(quarter, seed=seed + 3000),
        "c.weight": noise(quarter, seed=seed + 4000),
        "d.weight": noise(quarter - 709, seed=seed + 5000),
    }


def repository_below(directory: Path) -> Repository:
    """Return an empty repository with the filter installed, for the tests of a whole module."""
    (home := directory / "home").mkdir()
    made = Repository.init(directory / "repository", environment.isolated(home))
    made.git("theta", "install", "--local")
    return made


class Delayed(FakeGit):
    """The real filter at work in a repository, and a git that waits for files, in whatever order a test wants."""

    def __init__(self, repository: Repository, program: Path = FILTER) -> None:
        environment = {**repository.environment, "GIT_DIR": str(repository.git_directory)}
        super().__init__(environment=environment, command=(str(program),))
        self.shake_hands()

    def delay(self, path: bytes, metadata: bytes) -> None:
        """Ask for a file that may come later, and have it delayed."""
        assert self.ask(Request("smudge", path, can_delay=True), metadata).status is Outcome.DELAYED

    def retry(self, path: bytes) -> Answer:
        """Ask for a file that was delayed."""
        return self.ask(Request("smudge", path))

    def all_in_order(self) -> Iterator[tuple[bytes, Answer]]:
        """Yield the answers for everything that was delayed, in the order in which git asks."""
        while paths := self.available():
            for path in sorted(paths):
                yield path, self.retry(path)


class Watched(Buffers):
    """Buffers that know which are out."""

    def __init__(self, keep: int) -> None:
        super().__init__(keep)
        self.out: dict[int, memoryview] = {}

    def take(self, size: int) -> memoryview:
        view = super().take(size)
        self.out[id(view.obj)] = view
        return view

    def give(self, view: memoryview) -> None:
        del self.out[id(view.obj)]  # a KeyError where it was given back before
        super().give(view)


class Faulty:
    """Runs git commands in which functions of the filter fail."""

    def __init__(self, repository: Repository, directory: Path) -> None:
        self._calls = directory / "calls"
        self.program = directory / "theta-daemon"
        self._repository = before_the_filter(repository, directory, _FAULTY).in_environment(
            FAULT_CALLS=str(self._calls)
        )

    def with_fault(self, places: Sequence[str], call: int, do: str) -> Repository:
        """Return the repository with a filter that runs the Python statement `do` at that call of `places`."""
        self._calls.unlink(missing_ok=True)
        return self._repository.in_environment(FAULT_PLACES=" ".join(places), FAULT_CALL=str(call), FAULT_DO=do)

    def calls(self) -> int:
        """Return how many calls the last filter made."""
        return int(self._calls.read_text().splitlines()[-1])


class Measured:
    """Runs git commands and knows the filter's peak memory."""

    def __init__(self, repository: Repository, directory: Path) -> None:
        self._peaks = directory / "peaks"
        self.repository = before_the_filter(repository, directory, _MEASURED).in_environment(PEAKS=str(self._peaks))

    def peak(self, *command: str) -> int:
        """Run git and return the peak, in bytes, of the largest filter that it started; mapped files count."""
        self._peaks.unlink(missing_ok=True)
        self.repository.git(*command)
        return max(int(line) for line in self._peaks.read_text().split()) << 10


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended; `seconds` later nobody held its stderr any more, and of its processes `left` still ran."""

    code: int
    said: str
    seconds: float
    left: list[str]


def run_in_session(repository: Repository, *command: str, timeout: float = 60) -> Ended:
    """Run `command` in a session of its own, and wait for the end of all that it started."""
    process = subprocess.Popen(
        command,
        cwd=repository.path,
        env=dict(repository.environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    with process:
        process.wait(timeout)
        ended = time.monotonic()
        assert process.stderr is not None
        said = _read_to_the_end(process.stderr.fileno(), ended + SHORTLY)
        left = _left_of(process.pid, ended + SHORTLY)
    return Ended(process.returncode, said.decode("utf-8", "backslashreplace"), time.monotonic() - ended, left)


def _read_to_the_end(descriptor: int, deadline: float) -> bytes:
    pieces = []
    while select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
        pieces.append(os.read(descriptor, 1 << 16))
        if not pieces[-1]:
            return b"".join(pieces)
    raise AssertionError(f"somebody still runs {SHORTLY} seconds after git's end, which said {b''.join(pieces)!r}")


def _left_of(session: int, deadline: float) -> list[str]:
    """Return the names of the processes of a session that do not end before `deadline`."""
    left = []
    for entry in filter(str.isdigit, os.listdir("/proc")):
        try:
            watched = os.pidfd_open(int(entry))
        except ProcessLookupError:
            continue
        try:
            name, its_session = _process(entry)
            if (
                its_session == session
                and not select.select([watched], [], [], max(0.0, deadline - time.monotonic()))[0]
            ):
                left.append(name)
        finally:
            os.close(watched)
    return left


def _process(number: str) -> tuple[str, int]:
    """Return the name and the session of a process, 0 where it is gone."""
    try:
        head, _, rest = Path("/proc", number, "stat").read_text("utf-8", "replace").rpartition(") ")
    except OSError:
        return "", 0
    return head.partition("(")[2], int(rest.split()[3])
