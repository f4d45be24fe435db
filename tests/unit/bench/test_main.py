"""A bench that is stopped leaves nothing behind: no folder, no server, no filter."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

PATIENCE = 30.0  # seconds until what was stopped must be gone

# A clone of small files, as often as it takes; a line for every round.
PROGRAM = """
import sys
from bench import __main__ as bench
from bench.data import DataSet
from bench.transfer import clone
from bench.updates.cases import OwnCase

def clones(place, _):
    return clone.run(place, DataSet("2 small files", 2, 6, 40_000), 0.0, lambda what: print(what, flush=True))

bench.TRANSFER_CASES = (OwnCase("clones", clones, runs=10_000),)
sys.argv = ["bench", "--case", "clones", "--scratch", sys.argv[1]]
sys.exit(bench.main())
"""


@pytest.mark.needs_git_lfs
@pytest.mark.needs_lfs_server
@pytest.mark.parametrize(
    ("number", "everyone"),
    [
        pytest.param(signal.SIGINT, True, id="Ctrl-C"),
        pytest.param(signal.SIGHUP, False, id="SIGHUP", marks=pytest.mark.heavy),
    ],
)
def test_nothing_is_left_of_a_bench_that_is_stopped(tmp_path: Path, number: signal.Signals, everyone: bool) -> None:
    bench = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
    )
    assert bench.stdout is not None
    for line in bench.stdout:
        if line.startswith("round 2 "):
            break
    assert any("giftless_driver" in command for command in at_work(tmp_path))
    (os.killpg if everyone else os.kill)(bench.pid, number)
    bench.communicate(timeout=PATIENCE)
    assert bench.returncode != 0
    assert list(tmp_path.iterdir()) == []
    until = time.monotonic() + PATIENCE
    while left := at_work(tmp_path):  # who was ended with the bench may need a moment more
        assert time.monotonic() < until, left
        threading.Event().wait(0.02)


def at_work(folder: Path) -> list[str]:
    """Return the command lines of all processes that are in `folder`, or were told of it."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            place = os.readlink(process / "cwd")
        except OSError:  # it has just ended, or is somebody else's
            continue
        if str(folder) in command or place.startswith(str(folder)):
            found.append(command)
    return found
