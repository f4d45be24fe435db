"""What was measured, for people (tables) and for programs (JSON)."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from bench.cases import Case, Target


@dataclass(slots=True)
class Result:
    """The seconds of every counted run, by contender and step, in the order of the rounds; and the peaks in MB."""

    case: Case
    seconds: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    peaks: dict[str, dict[str, float]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def add(self, contender: str, seconds: dict[str, float]) -> None:
        """Take in one run."""
        for step, value in seconds.items():
            self.seconds.setdefault(contender, {}).setdefault(step, []).append(value)

    def ratios(self, target: Target) -> list[float]:
        """Return `who` divided by `against`: round by round, or against the median where one ran less often."""
        ours = self.seconds.get(target.who, {}).get(target.step, [])
        theirs = self.seconds.get(target.against, {}).get(target.step, [])
        if not ours or not theirs:
            return []
        if len(ours) != len(theirs):
            theirs = [median(theirs)] * len(ours)
        return [a / b for a, b in zip(ours, theirs, strict=True)]


def text(result: Result) -> Iterator[str]:
    """Yield the lines of a case's table."""
    case = result.case
    yield f"== {case.name}: {case.data.name} ({case.data.bytes / 1e6:.0f} MB)"
    yield "   seconds: median (min .. max); contenders in turn; warm page cache"
    yield "   " + f"{'':26}{'runs':>4}" + "".join(f"{step:>24}" for step in case.steps)
    for name, steps in result.seconds.items():
        runs = max(len(values) for values in steps.values())
        cells = (_spread(steps[step]) if step in steps else "-" for step in case.steps)
        yield f"   {name:26}{runs:>4}" + "".join(f"{cell:>24}" for cell in cells)
    for name, reason in result.absent.items():
        yield f"   {name:26}did not take part: {reason}"
    if result.peaks:
        yield "   peak memory of the filter, MB (mapped files count)"
        for name, peaks in result.peaks.items():
            cells = (f"{peaks[step]:.0f}" if peaks.get(step) else "-" for step in case.steps)
            yield f"   {name:26}{'':>4}" + "".join(f"{cell:>24}" for cell in cells)
    for target in case.targets:
        ratios = result.ratios(target)
        label = f"{target.step}: {target.who} / {target.against}"
        if not ratios:
            yield f"   {label:52} not measured"
            continue
        verdict = ""
        if target.at_most is not None:
            verdict = f"   at most {target.at_most:.3g}: {'reached' if median(ratios) <= target.at_most else 'MISSED'}"
        yield f"   {label:52} {_spread(ratios, 3):>24}{verdict}"


def store(results: list[Result], folder: Path) -> Path:
    """Write everything as one JSON file below `folder` and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    moment = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    path = folder / f"{moment}.json"
    document = {
        "time": moment,
        "machine": _machine(),
        "cases": [
            {
                "name": result.case.name,
                "data": result.case.data.name,
                "bytes": result.case.data.bytes,
                "seconds": result.seconds,
                "peak_megabytes": result.peaks,
                "absent": result.absent,
                "ratios": [
                    {
                        "step": target.step,
                        "who": target.who,
                        "against": target.against,
                        "at_most": target.at_most,
                        "seen": result.ratios(target),
                    }
                    for target in result.case.targets
                ],
            }
            for result in results
        ],
    }
    path.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    return path


def _spread(values: list[float], digits: int = 2) -> str:
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} .. {max(values):.{digits}f})"


def _machine() -> dict[str, object]:
    def said(*command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()

    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": platform.machine(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "git": said("git", "version"),
        "git_lfs": said("git", "lfs", "version"),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "commit": said("git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"),
    }
