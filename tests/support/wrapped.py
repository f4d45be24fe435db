"""A `theta-daemon` that stands before the real one on PATH and does harm to it, or to git, at a chosen moment.

A moment is a call of the operating system, counted from the start of a filter process: the same number is the same
place in the code on every machine, however busy, but for the order in which threads get there.
"""

from __future__ import annotations

import random
import subprocess
import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tests.support.repository import Repository

FILTER = Path(sys.executable).with_name("theta-daemon")

# Runs the real filter in this process, with calls of the operating system counted. Each start of the filter adds a line
# to $HARM/starts, each end (but by a signal) one to $HARM/calls. Just before call number $HARM_CALL (of the function
# $HARM_FUNCTION, or of any) of start number $HARM_START it runs $HARM_DO.
_HARMED = """
import os, signal, threading
from theta_daemon.daemon.entry import run

directory = os.environ["HARM"]
with open(f"{directory}/starts", "a+") as starts:
    starts.write("start\\n")
    starts.flush()
    starts.seek(0)
    started = len(starts.readlines())
chosen = int(os.environ.get("HARM_CALL", "0")) if started == int(os.environ.get("HARM_START", "0")) else 0
function = os.environ.get("HARM_FUNCTION", "")
harm = compile(os.environ.get("HARM_DO", ""), "harm", "exec")
real_open, real_write, real_exit = os.open, os.write, os._exit
lock = threading.Lock()
calls = 0

def counted(name, call):
    def wrapped(*arguments, **options):
        global calls
        with lock:
            calls += function in ("", name)
            now = calls == chosen and function in ("", name)
        if now:
            exec(harm)
        return call(*arguments, **options)
    return wrapped

def end(code):
    file = real_open(f"{directory}/calls", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    real_write(file, b"%d %d\\n" % (started, calls))
    real_exit(code)

for name in ("open", "close", "write", "writev", "readv", "dup", "link", "unlink", "replace", "mkdir", "stat", "fstat",
             "listdir"):
    setattr(os, name, counted(name, getattr(os, name)))
os._exit = end
run()
"""


def before_the_filter(repository: Repository, directory: Path, program: str) -> Repository:
    """Return `repository` with an environment in which git finds `program`, a Python script, as `theta-daemon`."""
    directory.mkdir(parents=True, exist_ok=True)
    script = directory / "theta-daemon"
    script.write_text(f"#!{sys.executable}\n{program}")
    script.chmod(0o755)
    return repository.in_environment(PATH=f"{directory}:{repository.environment['PATH']}")


@dataclass(frozen=True, slots=True)
class Moment:
    """Just before call number `call` (of `function`, or of any) of the `start`-th filter process of a git command."""

    start: int
    call: int
    function: str = ""


class Harm:
    """Runs git commands in which the filter does something terrible at one moment."""

    def __init__(self, repository: Repository, directory: Path) -> None:
        self._directory = directory
        self._repository = before_the_filter(repository, directory, _HARMED).in_environment(HARM=str(directory))

    def harmed(self, do: str = "", moment: Moment | None = None) -> Repository:
        """Return the repository with a filter that runs the Python statement `do` at `moment`, which it counts anew."""
        for name in ("starts", "calls"):
            (self._directory / name).unlink(missing_ok=True)
        if moment is None:
            return self._repository
        return self._repository.in_environment(
            HARM_DO=do,
            HARM_START=str(moment.start),
            HARM_CALL=str(moment.call),
            HARM_FUNCTION=moment.function,
        )

    def run(
        self, *command: str, do: str = "", moment: Moment | None = None, own_group: bool = False
    ) -> subprocess.CompletedProcess[bytes]:
        """Run `command` and run the Python statement `do` in the filter at `moment`; wait for git's and its end."""
        harmed = self.harmed(do, moment)
        # The filter holds a copy of stderr, so this waits for its end too when git was killed.
        return subprocess.run(
            command,
            cwd=harmed.path,
            env=dict(harmed.environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=100,
            start_new_session=own_group,
        )

    def calls(self) -> dict[int, int]:
        """Return, for each filter process of the last run that ended by itself, how many calls it made."""
        lines = (self._directory / "calls").read_text().splitlines()
        return {int(start): int(count) for start, count in map(str.split, lines)}

    def moments(self, points: random.Random, count: int) -> list[Moment]:
        """Return `count` moments, evenly spread over the last run, one drawn from each part of it, in their order."""
        every = [Moment(start, call) for start, made in sorted(self.calls().items()) for call in range(1, made + 1)]
        bounds = [len(every) * number // count for number in range(count + 1)]
        return [every[points.randrange(low, high)] for low, high in pairwise(bounds)]
