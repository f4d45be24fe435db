"""What is measured, as data. A case is its data sets, the steps to time, who takes part, and what must be reached."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Literal

import torch

from bench.data import MB, DataSet

OURS, COMPATIBLE, FLOOR, SPLICED, LFS, PEER, SHA256 = (
    "theta-daemon",
    "theta-daemon, compatible",
    "floor",
    "floor, spliced",
    "git-lfs",
    "git-theta 0.2.0",
    "sha256",
)
LIMITED, UNLIMITED = "theta-daemon, 256 MiB", "theta-daemon, 16 GiB"
ADD, CHECKOUT, AGAIN, STATUS = "add", "checkout", "add again", "status"

CORES = len(os.sched_getaffinity(0))
WORKERS = {f"theta-daemon, {count} workers": count for count in (1, 2, 4, 8, 16) if count <= CORES}

# Everyone who is theta-daemon, with the git configuration that makes the difference.
VARIANTS: dict[str, dict[str, str]] = {
    OURS: {},
    COMPATIBLE: {"theta.compatible": "true"},
    LIMITED: {"theta.memoryLimit": "256m"},
    UNLIMITED: {"theta.memoryLimit": "16g"},
    **{name: {"theta.workers": str(count)} for name, count in WORKERS.items()},
}

Kind = Literal["ratio", "more", "growth", "peak"]


@dataclass(frozen=True, slots=True)
class Target:
    """A number, what it must not exceed, and what it is meant to become; without `must` it is only shown.

    ratio:  the seconds of `who`, divided by those of `against`
    more:   the seconds of `who` beyond those of `against`
    growth: the seconds of `who` per byte in the case's last data set, divided by those in its second; those that the
            first one takes, a single small group, are start-up and taken out of both
    peak:   the most memory that the filter of `who` had, MiB
    """

    step: str
    who: str
    against: str = ""
    must: float | None = None
    aim: float | None = None
    kind: Kind = "ratio"


@dataclass(frozen=True, slots=True)
class Case:
    """One table of the bench. With several data sets the first shows the start-up, and the others grow."""

    name: str
    data: tuple[DataSet, ...]
    steps: tuple[str, ...] = (ADD, CHECKOUT)
    contenders: tuple[str, ...] = (OURS, FLOOR, LFS)
    runs: int = 3
    targets: tuple[Target, ...] = ()


def _torch_files(files: int, groups: int, size: int, name: str, repeats: int = 1) -> DataSet:
    return DataSet(name, files, groups, size // groups // 8 * 8, repeats=repeats)


TORCH_57 = DataSet("8 torch files of 57 MB, 74 float32 groups each", files=8, groups=74, size=768_000)
TORCH_256 = _torch_files(8, 74, 256 * MB, "8 torch files of 256 MB, 74 float32 groups each")
SHARDS_256 = DataSet(
    "8 safetensors shards of 256 MB, 64 bfloat16 groups each",
    files=8, groups=64, size=4 * MB, dtype=torch.bfloat16, format="safetensors",
)  # fmt: skip
TINY = DataSet("200 torch files of 128 KB, 8 float32 groups each", files=200, groups=8, size=16 * 1024)
LARGE = DataSet(
    "a safetensors file of 4 GB, one float32 group of 1.5 GB and 40 of 64 MB",
    files=1, groups=40, size=64 * MB, first=1500 * MB, format="streamed",
)  # fmt: skip
START = DataSet("start-up", files=1, groups=1, size=4096, repeats=9)
FILES = (
    START,
    _torch_files(1, 8, 16 * MB, "1 file", repeats=9),
    _torch_files(8, 8, 16 * MB, "8 files"),
    _torch_files(64, 8, 16 * MB, "64 files"),
)
GROUPS = (START, *(_torch_files(1, groups, 256 * MB, f"{groups} groups") for groups in (74, 740, 7400)))


def _targets(checkout: float, checkout_aim: float) -> tuple[Target, ...]:
    return (
        Target(CHECKOUT, OURS, FLOOR, checkout, checkout_aim),
        Target(CHECKOUT, OURS, SPLICED),
        Target(CHECKOUT, OURS, LFS, 1.0),
        Target(ADD, OURS, LFS, 0.40, 0.25),
        Target(ADD, COMPATIBLE, LFS, 1.0, 0.6),
        Target(AGAIN, OURS, LFS, 0.20, 0.10),
        Target(STATUS, OURS, SHA256, 1.3),
    )


_ALL_STEPS = (ADD, CHECKOUT, AGAIN, STATUS)
_ALL = (OURS, COMPATIBLE, FLOOR, SPLICED, LFS, SHA256)
_GROWTH = tuple(
    Target(step, who, must=1.3 if who == OURS else None, kind="growth")
    for step in (ADD, CHECKOUT)
    for who in (OURS, FLOOR, LFS)
)

CASES = (
    Case(
        "torch-57",
        (TORCH_57,),
        _ALL_STEPS,
        (*_ALL, PEER),
        runs=7,
        targets=(
            *_targets(checkout=1.6, checkout_aim=1.25),
            Target(ADD, OURS, PEER, 1 / 30, 1 / 60),
            Target(CHECKOUT, OURS, PEER, 1 / 30, 1 / 60),
        ),
    ),
    Case("torch-256", (TORCH_256,), _ALL_STEPS, _ALL, targets=_targets(checkout=1.25, checkout_aim=1.05)),
    Case("shards-256", (SHARDS_256,), _ALL_STEPS, _ALL, targets=_targets(checkout=1.25, checkout_aim=1.05)),
    Case("tiny", (TINY,), runs=5, targets=(Target(CHECKOUT, OURS, FLOOR, 0.5, 0.25, "more"),)),
    Case(
        "memory",
        (LARGE,),
        contenders=(LIMITED, UNLIMITED, FLOOR),
        targets=(
            Target(ADD, LIMITED, must=450, aim=350, kind="peak"),
            Target(CHECKOUT, LIMITED, must=450, aim=350, kind="peak"),
            Target(ADD, LIMITED, UNLIMITED, 1 / 0.8),
            Target(CHECKOUT, LIMITED, UNLIMITED, 1 / 0.8),
        ),
    ),
    Case("growth-files", FILES, targets=_GROWTH),
    Case("growth-groups", GROUPS, targets=_GROWTH),
    Case(
        "scaling",
        (TORCH_57,),
        contenders=tuple(WORKERS),
        targets=tuple(Target(step, who, next(iter(WORKERS))) for step in (ADD, CHECKOUT) for who in list(WORKERS)[1:]),
    ),
)
# Start-up weighs too much in two files, and they are too few for rounds that agree: nothing must be reached.
QUICK = Case(
    "quick",
    (replace(TORCH_57, name="2 torch files of 57 MB, 74 float32 groups each", files=2),),
    _ALL_STEPS,
    CASES[0].contenders,
    targets=tuple(replace(target, must=None, aim=None) for target in CASES[0].targets),
)
