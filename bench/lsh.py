"""`python -m bench.lsh`: git-theta's hash of a tensor, computed by it and by us (with numpy alone and with numba).

Both are warm: git-theta compiles its loop anew in every process and draws its random numbers anew for every tensor,
none of which is counted here. It splits one tensor over its threads. So does "ours, shared", each thread with some of
the 16 integers; "numpy" and "numba" are ours with one tensor a thread, and a value's time is the wall time over all
values of all threads.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

import numpy as np

from bench.contenders import PEER_BIN
from theta_daemon.metadata import lsh
from theta_daemon.metadata.compiled import WORTHWHILE

COUNTS = (768, 65_536, 4_194_304)
ROUNDS = 7
VALUES = 1 << 22  # hashed in each round, by many calls where tensors are small

Hash = Callable[[int, int], tuple[float, tuple[int, ...]]]  # of so many values, so many times: seconds, signature

# Runs in git-theta's environment: for each line "count calls" it answers "seconds signature".
_PEER = """
import sys, time
import numpy as np
from git_theta.lsh import get_lsh
hasher = get_lsh()
for line in sys.stdin:
    count, calls = map(int, line.split())
    values = np.random.default_rng(count).standard_normal(count).astype(np.float32)
    hasher.hash(values)
    start = time.perf_counter()
    for _ in range(calls):
        found = hasher.hash(values)
    print(time.perf_counter() - start, *found, flush=True)
"""


class Peer:
    """git-theta's hash in a process of its own, with so many threads."""

    def __init__(self, threads: int) -> None:
        self._process = subprocess.Popen(
            [PEER_BIN / "python", "-W", "ignore", "-c", _PEER],
            env=os.environ | {"NUMBA_NUM_THREADS": str(threads)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.communicate()

    def __call__(self, count: int, calls: int) -> tuple[float, tuple[int, ...]]:
        """Return the seconds for so many calls, and the signature."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{count} {calls}\n")
        self._process.stdin.flush()
        seconds, *signature = self._process.stdout.readline().split()
        return float(seconds), tuple(map(int, signature))


def ours(threads: int, *, shared: bool = False, may_compile: bool = True) -> Hash:
    """Return our hash of a tensor in each of `threads`, or of one `shared` by them, as a function like a Peer."""
    parts = [slice(lsh.SIZE * at // threads, lsh.SIZE * (at + 1) // threads) for at in range(threads)]
    planes = parts if shared else [lsh.ALL] * threads

    def run(count: int, calls: int) -> tuple[float, tuple[int, ...]]:
        values = np.random.default_rng(count).standard_normal(count).astype(np.float32)
        raw = values.tobytes()
        signature = lsh.signature(raw, "float32")

        def hash_some(part: slice) -> None:
            stream = lsh.Stream("float32", part, may_compile=may_compile)
            stream.update(raw)
            stream.signature()

        def hash_all(part: slice) -> None:
            for _ in range(calls):
                hash_some(part)

        workers = [threading.Thread(target=hash_all, args=(part,)) for part in planes]
        start = time.perf_counter()
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        seconds = time.perf_counter() - start
        return seconds if shared else seconds / threads, signature

    return run


def main() -> None:
    """Print nanoseconds a value, the best of some rounds taken in turn."""
    parser = argparse.ArgumentParser(prog="python -m bench.lsh", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer values and rounds")
    options = parser.parse_args()
    lsh.signature(bytes(4 * WORTHWHILE), "float32")  # numba, where it is installed, is ready then
    rounds, values = (3, VALUES // 4) if options.quick else (ROUNDS, VALUES)
    if not (PEER_BIN / "git-theta").exists():
        raise SystemExit("bench: git-theta 0.2.0 is not installed: scripts/setup git-theta .venv-git-theta")

    both = min(len(os.sched_getaffinity(0)), lsh.SIZE)
    print(f"\nlocality-sensitive hash of float32, ns a value (best of {rounds} rounds)\n")
    print(f"{'values':>10}  {'threads':>7}  {'git-theta':>9}  {'numpy':>6}  {'numba':>6}  {'ratio':>5}  {'shared':>7}")
    for threads in sorted({1, both}):
        with Peer(threads) as theirs:
            contenders: list[Hash] = [
                theirs,
                ours(threads, may_compile=False),
                ours(threads),
                ours(threads, shared=True),
            ]
            for count in COUNTS:
                calls = max(1, values // count)
                times: list[tuple[float, ...]] = []
                for _ in range(rounds):
                    results = [run(count, calls) for run in contenders]
                    if len({signature for _, signature in results}) > 1:
                        raise SystemExit(f"bench: the signatures of {count} values differ")
                    times.append(tuple(seconds for seconds, _ in results))
                them, plain, us, shared = (min(column) * 1e9 / (calls * count) for column in zip(*times, strict=True))
                numbers = f"{them:>9.1f}  {plain:>6.1f}  {us:>6.1f}  {them / us:>5.2f}  {shared:>7.1f}"
                print(f"{count:>10}  {threads:>7}  {numbers}")


if __name__ == "__main__":
    main()
