"""`make bench`: add and checkout, ours beside git's own pipe, git-lfs and git-theta 0.2.0.

Contenders run in turn (A B C A B C ...), so that a slow minute of the machine falls on all of them, and ratios are
taken round by round. Every checkout is compared with what was added, outside the timed part.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import measure, report
from bench.cases import CASES, FLOOR, QUICK, SHA256, Case
from bench.contenders import ROOT, build_tools, contenders

# Benches of single parts; they print their own tables.
PARTS = ("lsh", "codecs")


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    names = [case.name for case in CASES]
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--quick", action="store_true", help="little data, few runs: under two minutes")
    choice.add_argument("--all", action="store_true", help="every case; needs some 20 GB of disk and an hour")
    choice.add_argument("--case", action="append", choices=names, help="this case only (may be repeated)")
    parser.add_argument("--only", action="append", metavar="NAME", help="this contender only (may be repeated)")
    parser.add_argument("--runs", type=int, help="counted runs of each contender")
    parser.add_argument("--no-parts", action="store_true", help=f"leave out the benches of {' and '.join(PARTS)}")
    parser.add_argument("--scratch", type=Path, help="folder for data and repositories (default: /var/tmp)")
    options = parser.parse_args()

    cases: tuple[Case, ...] = (QUICK,) if options.quick else CASES if options.all else CASES[:1]
    if options.case:
        cases = tuple(case for case in CASES if case.name in options.case)
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    if load > cores / 2:
        print(
            f"note: this machine is busy (load {load:.1f} on {cores} cores); the spread below shows how much it matters"
        )
    scratch = Path(tempfile.mkdtemp(prefix="theta-bench-", dir=options.scratch or _scratch()))
    try:
        tools = scratch / "tools"
        build_tools(tools)
        results = [run_case(case, scratch, tools, options.only, options.runs) for case in cases]
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    print(f"stored: {report.store(results, ROOT / 'bench' / 'results').relative_to(ROOT)}")

    if not options.no_parts:
        for part in PARTS:
            if (ROOT / "bench" / f"{part}.py").exists():
                arguments = ["--quick"] if options.quick else []
                subprocess.run([sys.executable, "-m", f"bench.{part}", *arguments], cwd=ROOT, check=True)
    return 0


def run_case(case: Case, scratch: Path, tools: Path, only: list[str] | None, runs: int | None) -> report.Result:
    """Measure one case and print its table."""
    progress = _Progress(case.name)
    progress("building the data")
    built = case.data.build(scratch / case.name)
    result = report.Result(case)
    everyone = contenders(tools)
    for name in case.contenders:
        if name in everyone and everyone[name].missing is not None:
            result.absent[name] = everyone[name].missing or ""
    taking_part = [n for n in case.contenders if n not in result.absent and (not only or n in only)]
    rounds = runs or case.runs

    if FLOOR in taking_part:  # what runs first on a machine pays for everybody: the floor, uncounted
        measure.run(everyone[FLOOR], built, case.steps, scratch)
    for number in range(rounds):
        for name in taking_part:
            progress(f"round {number + 1} of {rounds}: {name}")
            if name == SHA256:
                result.add(name, measure.hash_all(built))
            elif everyone[name].most_runs is None or number < (everyone[name].most_runs or 0):
                result.add(name, measure.run(everyone[name], built, case.steps, scratch))
    for name in taking_part if case.memory else ():
        progress(f"memory: {name}")
        if name in everyone and (found := measure.peaks(everyone[name], built, case.steps, scratch, tools)):
            result.peaks[name] = found
    shutil.rmtree(scratch / case.name)
    progress("")
    print("\n".join(report.text(result)))
    return result


def _scratch() -> Path | None:
    """Return a folder that is on a disk rather than in memory, as /tmp may be."""
    place = Path("/var/tmp")  # noqa: S108 - a fresh folder with a random name is made in it
    return place if place.is_dir() else None


class _Progress:
    """One line on stderr that says what goes on; silent where stderr is no terminal."""

    def __init__(self, case: str) -> None:
        self.case = case
        self.start = time.monotonic()

    def __call__(self, what: str) -> None:
        if sys.stderr.isatty():
            line = f"{self.case}: {time.monotonic() - self.start:.0f} s: {what}" if what else ""
            print(f"\r\033[K{line}", end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
