"""What came out of a case with steps of its own: seconds by series and step, and numbers with what they must be."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from bench.measure import WorkTree
from bench.report import Document, rounds_of

Progress = Callable[[str], None]
"""Says what goes on."""


@dataclass(frozen=True, slots=True)
class Goal:
    """A number of each round, what its median must not exceed, and what it is meant to become.

    Without `must` it is only shown.
    """

    title: str
    values: list[float]
    must: float | None = None
    aim: float | None = None


@dataclass(slots=True)
class Outcome:
    """A case's numbers, in the form in which the report prints, stores and publishes them (see report.Result)."""

    name: str
    bytes: dict[str, int]
    steps: tuple[str, ...]
    seconds: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    peaks: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    goals: list[Goal] = field(default_factory=list)
    load: list[float] = field(default_factory=lambda: [os.getloadavg()[0]])

    def add(self, series: str, step: str, tree: WorkTree) -> None:
        """Take in what a step of `tree` took the last time."""
        for table, found in ((self.seconds, tree.done.seconds), (self.peaks, tree.done.peaks)):
            if step in found:
                table.setdefault(series, {}).setdefault(step, []).append(found[step])

    def rounds(self, step: str, who: str, against: str) -> list[tuple[float, float]]:
        """Return the seconds of two series, round by round."""
        ours, theirs = (self.seconds.get(series, {}).get(step, []) for series in (who, against))
        return list(rounds_of(ours, theirs))

    def ratio(self, step: str, who: str, against: str, must: float | None = None, aim: float | None = None) -> None:
        """Compare the seconds of two series, round by round."""
        ratios = [a / b for a, b in self.rounds(step, who, against)]
        self.goals.append(Goal(f"{step}: {who} / {against}", ratios, must, aim))

    def number(self, title: str, value: float, must: float | None = None) -> None:
        """Take in a number that is the same in every round."""
        self.goals.append(Goal(title, [value], must))

    def document(self) -> Document:
        """Return everything as JSON holds it."""
        return {
            "name": self.name,
            "data": next(iter(self.bytes)),
            "steps": self.steps,
            "bytes": self.bytes,
            "load_average": [*self.load, os.getloadavg()[0]],
            "noise": {},
            "absent": self.absent,
            "seconds": self.seconds,
            "peak_mebibytes": self.peaks,
            "targets": [
                {
                    "title": goal.title,
                    "kind": "number",
                    "against": "",
                    "must": goal.must,
                    "aim": goal.aim,
                    "values": goal.values,
                }
                for goal in self.goals
            ],
        }
