"""What was measured, for people (tables) and for programs (a JSON document, which the documentation is made from)."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Protocol

from bench.cases import FLOOR, Case, Target
from bench.data import DataSet
from bench.measure import Run

Document = dict[str, Any]  # what JSON holds


class Measured(Protocol):
    """A case with its numbers."""

    def document(self) -> Document:
        """Return everything as JSON holds it."""


@dataclass(slots=True)
class Result:
    """What every counted run took, in the order of the rounds: the seconds and the peaks, by series and step.

    A series is a contender with one data set. `load` is the machine's load average before and after the case.
    """

    case: Case
    seconds: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    peaks: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    load: list[float] = field(default_factory=list)

    def series(self, who: str, data: DataSet) -> str:
        """Return the name of a contender's numbers with one of the case's data sets."""
        return who if len(self.case.data) == 1 else f"{who}, {data.name}"

    def add(self, series: str, run: Run) -> None:
        """Take in one run."""
        for table, found in ((self.seconds, run.seconds), (self.peaks, run.peaks)):
            for step, value in found.items():
                table.setdefault(series, {}).setdefault(step, []).append(value)

    def noise(self) -> dict[str, float]:
        """Return how far the floor's runs of each step lie apart: largest less smallest, divided by the median."""
        steps = self.seconds.get(self.series(FLOOR, self.case.data[-1]), {})
        return {step: (max(values) - min(values)) / median(values) for step, values in steps.items()}

    def values(self, target: Target) -> list[float]:
        """Return the number that `target` is about, round by round; empty where it was not measured."""
        match target.kind:
            case "peak":
                return self.peaks.get(target.who, {}).get(target.step, [])
            case "growth":
                rounds = zip(*(self._seconds(target.who, target.step, data) for data in self.case.data), strict=True)
                return [self._growth(seconds) for seconds in rounds]
            case "ratio" | "more":
                ours, theirs = (
                    self._seconds(who, target.step, self.case.data[0]) for who in (target.who, target.against)
                )
                return [a / b if target.kind == "ratio" else a - b for a, b in rounds_of(ours, theirs)]

    def _seconds(self, who: str, step: str, data: DataSet) -> list[float]:
        return self.seconds.get(self.series(who, data), {}).get(step, [])

    def _growth(self, seconds: tuple[float, ...]) -> float:
        """Return the last data set's seconds per byte, divided by the second's; the first's are start-up."""
        small, large = ((seconds[index] - seconds[0]) / self.case.data[index].bytes for index in (1, len(seconds) - 1))
        return large / small if small > 0 else float("inf")

    def title(self, target: Target) -> str:
        """Return what the number is, in words."""
        match target.kind:
            case "ratio":
                return f"{target.step}: {target.who} / {target.against}"
            case "more":
                return f"{target.step}: {target.who} less {target.against}, seconds"
            case "growth":
                return (
                    f"{target.step}: {target.who}, time per byte, {self.case.data[-1].name} / {self.case.data[1].name}"
                )
            case "peak":
                return f"{target.step}: {target.who}, peak MiB"

    def document(self) -> Document:
        """Return everything as JSON holds it."""
        return {
            "name": self.case.name,
            "data": self.case.data[-1].name,
            "steps": self.case.steps,
            "bytes": {data.name: data.bytes for data in self.case.data},
            "load_average": self.load,
            "noise": self.noise(),
            "absent": self.absent,
            "seconds": self.seconds,
            "peak_mebibytes": self.peaks,
            "targets": [
                {
                    "title": self.title(target),
                    "kind": target.kind,
                    "against": target.against,
                    "must": target.must,
                    "aim": target.aim,
                    "values": self.values(target),
                }
                for target in self.case.targets
            ],
        }


def rounds_of(ours: list[float], theirs: list[float]) -> Iterator[tuple[float, float]]:
    """Yield the numbers of each round; where `theirs` is fewer (git-theta runs once), their median for every round."""
    if len(theirs) != len(ours):
        theirs = [median(theirs)] * len(ours) if theirs else []
    return zip(ours, theirs, strict=bool(theirs))


def text(case: Document) -> Iterator[str]:
    """Yield the lines of a case's tables."""
    sizes = ", ".join(f"{name} ({size / 1e6:.4g} MB)" for name, size in case["bytes"].items())
    yield f"== {case['name']}: {sizes}"
    noise = ", ".join(f"{step} {value:.0%}" for step, value in case["noise"].items())
    load = " .. ".join(f"{value:.1f}" for value in case["load_average"])
    yield f"   load {load}; runs of the floor lie apart by: {noise or 'not measured'}"
    width = max(map(len, (*case["seconds"], *case["absent"])), default=0) + 2
    for unit, table in (("seconds", case["seconds"]), ("the filter's peak, MiB", case["peak_mebibytes"])):
        if not table:
            continue
        yield f"   {unit + ': median (min .. max)':{width}}"
        yield "   " + " " * width + "runs" + "".join(f"{step:>28}" for step in case["steps"])
        for series, steps in table.items():
            runs = max(map(len, steps.values()))
            cells = (spread(steps.get(step, [])) for step in case["steps"])
            yield f"   {series:{width}}{runs:>4}" + "".join(f"{cell:>28}" for cell in cells)
    for name, reason in case["absent"].items():
        yield f"   {name:{width}}did not take part: {reason}"
    for target in case["targets"]:
        yield f"   {target['title']:64} {spread(target['values']):>28}   {verdict(target)}".rstrip()


def verdict(target: Document) -> str:
    """Return whether the median reaches what it must, and what it is meant to become."""
    values = target["values"]
    found = [
        f"{word} {number(target[word])} {'reached' if median(values) <= target[word] else 'missed'}"
        for word in ("must", "aim")
        if values and target[word] is not None
    ]
    return ", ".join(found)


def spread(values: list[float]) -> str:
    """Return the median, and where the values lie."""
    if not values:
        return "-"
    if len(values) == 1:
        return number(values[0])
    return f"{number(median(values))} ({number(min(values))} .. {number(max(values))})"


def number(value: float) -> str:
    """Return three digits of a number."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def document(results: Sequence[Measured], moment: time.struct_time, started: float) -> Document:
    """Return the whole run as JSON holds it; `started` is in seconds of the monotonic clock."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", moment),
        "minutes": round((time.monotonic() - started) / 60, 1),
        "machine": _machine(),
        "cases": [result.document() for result in results],
    }


def store(document: Document, folder: Path) -> Path:
    """Write the document as a file below `folder` and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{document['time'].replace('-', '').replace(':', '')}.json"
    path.write_text(json.dumps(document, indent=1) + "\n", "utf-8")
    return path


def _machine() -> dict[str, object]:
    def said(*command: str) -> str:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent)
        return done.stdout.strip()

    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": platform.machine(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
        "git": said("git", "version"),
        "git_lfs": said("git", "lfs", "version").partition(" ")[0],
        "commit": said("git", "rev-parse", "HEAD"),
        "uncommitted": said("git", "status", "--porcelain") != "",
    }
