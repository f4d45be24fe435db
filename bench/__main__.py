"""`make bench`: add and checkout, ours beside git's own pipe, git-lfs and git-theta 0.2.0.

Contenders run in turn, in one order and then in the other (A B C, C B A, ...), so that a slow minute of the machine
falls on all of them, and ratios are taken round by round. Every checkout is compared with what was added, outside
the timed part. A whole run also rewrites the numbers and the plot in docs/performance.*.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from bench import measure, report
from bench.cases import AGAIN, CASES, PEER, QUICK, SHA256, START, Case
from bench.contenders import ROOT, build_tools, contenders
from bench.measure import empty
from bench.publish import publish
from bench.transfer.cases import TRANSFER_CASES
from bench.updates.cases import UPDATE_CASES, OwnCase
from bench.updates.repository import Place

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PATIENCE = 20.0  # seconds, with a folder that does not go


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    names = [case.name for case in (*CASES, *UPDATE_CASES, *TRANSFER_CASES)]
    choice = parser.add_mutually_exclusive_group()
    choice.add_argument("--quick", action="store_true", help="little data, few runs: under two minutes")
    choice.add_argument("--case", action="append", choices=names, help="this case only (may be repeated)")
    parser.add_argument("--only", action="append", metavar="NAME", help="this contender only (may be repeated)")
    parser.add_argument("--runs", type=int, help="counted runs of each contender")
    parser.add_argument("--scratch", type=Path, help="folder for data and repositories (default: /var/tmp)")
    options = parser.parse_args()

    cases: tuple[Case | OwnCase, ...] = (QUICK,) if options.quick else (*CASES, *UPDATE_CASES, *TRANSFER_CASES)
    if options.case:
        cases = tuple(case for case in cases if case.name in options.case)
    load, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    if load > cores / 2:
        print(
            f"note: this machine is busy (load {load:.1f} on {cores} cores); the spread below shows how much it matters"
        )
    for number in _ENDING[1:]:  # so that the scratch folder goes
        signal.signal(number, lambda number, _: sys.exit(128 + number))
    moment, started = time.gmtime(), time.monotonic()
    scratch = Path(tempfile.mkdtemp(prefix="theta-bench-", dir=options.scratch or _scratch()))
    try:
        tools = scratch / "tools"
        build_tools(tools)
        results: list[report.Measured] = [
            run_case(case, scratch, tools, options.only, options.runs)
            if isinstance(case, Case)
            else run_own(case, scratch, tools, options.only, options.runs)
            for case in cases
        ]
    finally:
        _remove(scratch)
    document = report.document(results, moment, started)
    print(f"stored: {report.store(document, ROOT / 'bench' / 'results').relative_to(ROOT)}")
    if not (options.quick or options.case or options.only or options.runs):
        publish(document)
        print("written: docs/performance.md, docs/performance.svg, docs/performance.json")
    return 0


def run_case(case: Case, scratch: Path, tools: Path, only: list[str] | None, runs: int | None) -> report.Result:
    """Measure one case and print its tables."""
    progress = _Progress(case.name)
    folder = scratch / case.name
    result = report.Result(case, load=[os.getloadavg()[0]])
    everyone = contenders(tools)
    for name in case.contenders:
        if name in everyone and everyone[name].missing is not None:
            result.absent[name] = everyone[name].missing or ""
    taking_part = [n for n in case.contenders if n not in result.absent and (not only or n in only)]
    rounds = runs or case.runs

    # The largest case's files, their objects and their work tree, and the same again for what is added again.
    needed, free = 5 * max(data.bytes for data in case.data), shutil.disk_usage(scratch).free
    if free < needed:
        raise SystemExit(f"bench: {case.name} needs {needed / 1e9:.0f} GB below {scratch}, {free / 1e9:.0f} are free")
    progress("building the data")
    everything = [data.build(folder / str(i), changed=AGAIN in case.steps) for i, data in enumerate(case.data)]
    small = replace(START, repeats=1).build(folder / "start", changed=True)
    for name in taking_part:  # uncounted: the first run of a program reads it from the disk
        if name != SHA256:
            measure.run(everyone[name], small, case.steps, scratch, tools)
    for number in range(rounds):
        for built in everything:
            for name in taking_part[:: -1 if number % 2 else 1]:
                progress(f"round {number + 1} of {rounds}: {result.series(name, built.data)}")
                if name == SHA256:
                    result.add(name, measure.hash_all(built))
                elif everyone[name].most_runs is None or number < (everyone[name].most_runs or 0):
                    series = result.series(name, built.data)
                    result.add(series, measure.run(everyone[name], built, case.steps, scratch, tools))
    empty(folder)  # removed at the very end: see `put_away`
    result.load.append(os.getloadavg()[0])
    progress("")
    print("\n".join(report.text(result.document())), flush=True)
    return result


def run_own(case: OwnCase, scratch: Path, tools: Path, only: list[str] | None, runs: int | None) -> report.Measured:
    """Measure one case that brings its own steps and print its tables."""
    progress = _Progress(case.name)
    folder = scratch / case.name
    folder.mkdir()
    outcome = case.run(Place(folder, tools, runs or case.runs, with_peer=not only or PEER in only), progress)
    empty(folder)
    progress("")
    print("\n".join(report.text(outcome.document())), flush=True)
    return outcome


def _remove(folder: Path) -> None:
    """Remove a folder, also when Ctrl-C is pressed again; programs that were just ended may still write into it."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in _ENDING}
    until = time.monotonic() + _PATIENCE
    while folder.exists() and time.monotonic() < until:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.05)
    for number, handler in before.items():
        signal.signal(number, handler)


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
