"""What is measured, as data. A case is a data set, the steps to time, who takes part, and what must be reached."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from bench.data import MB, DataSet

OURS, COMPATIBLE, FLOOR, LFS, PEER, SHA256 = (
    "theta-daemon",
    "theta-daemon, compatible",
    "floor",
    "git-lfs",
    "git-theta 0.2.0",
    "sha256",
)
ADD, CHECKOUT, AGAIN, STATUS = "add", "checkout", "add again", "status"


@dataclass(frozen=True, slots=True)
class Target:
    """`who`'s time for `step`, divided by `against`'s, should be at most `at_most`; without it, it is only shown."""

    step: str
    who: str
    against: str
    at_most: float | None = None


@dataclass(frozen=True, slots=True)
class Case:
    """One table of the bench. The first run of all is a warm-up and is not counted."""

    name: str
    data: DataSet
    steps: tuple[str, ...] = (ADD, CHECKOUT)
    contenders: tuple[str, ...] = (OURS, COMPATIBLE, FLOOR, LFS)
    runs: int = 5
    targets: tuple[Target, ...] = ()
    memory: bool = True


TORCH_57 = DataSet("8 torch files of 57 MB, 74 float32 groups each", files=8, groups=74, size=768_000)
TORCH_57_QUICK = DataSet("2 torch files of 57 MB, 74 float32 groups each", files=2, groups=74, size=768_000)
TORCH_256 = DataSet("8 torch files of 256 MB, 74 float32 groups each", files=8, groups=74, size=256 * MB // 74 // 8 * 8)
SHARDS_256 = DataSet(
    "8 safetensors shards of 256 MB, 64 bfloat16 groups each",
    files=8, groups=64, size=4 * MB, dtype=torch.bfloat16, format="safetensors",
)  # fmt: skip
TINY = DataSet("200 torch files of 128 KB, 8 float32 groups each", files=200, groups=8, size=16 * 1024)

_PEER_TARGETS = (Target(ADD, OURS, PEER, 1 / 30), Target(CHECKOUT, OURS, PEER, 1 / 30))
_LARGE_TARGETS = (
    Target(CHECKOUT, OURS, FLOOR, 1.25),
    Target(CHECKOUT, OURS, LFS, 1.0),
    Target(ADD, OURS, LFS, 0.40),
    Target(ADD, COMPATIBLE, LFS, 1.0),
    Target(AGAIN, OURS, LFS, 0.20),
    Target(STATUS, OURS, SHA256, 1.3),
)

# `make bench` runs the first; `make bench ARGS=--all` everything; `ARGS='--case tiny'` one.
CASES = (
    Case(
        "torch-57",
        TORCH_57,
        steps=(ADD, CHECKOUT, AGAIN, STATUS),
        contenders=(OURS, COMPATIBLE, FLOOR, LFS, PEER, SHA256),
        runs=7,
        targets=(Target(CHECKOUT, OURS, FLOOR, 2.0), Target(ADD, OURS, LFS, 1.0), *_PEER_TARGETS),
    ),
    Case(
        "torch-256",
        TORCH_256,
        steps=(ADD, CHECKOUT, AGAIN, STATUS),
        contenders=(OURS, COMPATIBLE, FLOOR, LFS, SHA256),
        targets=_LARGE_TARGETS,
    ),
    Case(
        "shards-256",
        SHARDS_256,
        steps=(ADD, CHECKOUT, AGAIN, STATUS),
        contenders=(OURS, FLOOR, LFS, SHA256),
        targets=tuple(target for target in _LARGE_TARGETS if target.who == OURS),
    ),
    Case("tiny", TINY, contenders=(OURS, COMPATIBLE, FLOOR, LFS)),
)
QUICK = Case(
    "quick",
    TORCH_57_QUICK,
    steps=(ADD, CHECKOUT, AGAIN, STATUS),
    contenders=(OURS, COMPATIBLE, FLOOR, LFS, PEER, SHA256),
    runs=3,
    targets=tuple(replace(target, at_most=None) for target in CASES[0].targets),  # start-up weighs too much here
)
