"""The cases about objects that travel, as data: what `make bench` runs last."""

from __future__ import annotations

from bench.cases import TORCH_57
from bench.data import DataSet
from bench.transfer import clone, pull, push, shallow
from bench.updates.cases import OwnCase

LATENCY = 0.02  # seconds, of every answer of the server
ONE_FILE = DataSet("a torch file of 57 MB, 74 float32 groups", files=1, groups=74, size=768_000)
SMALL_FILE = DataSet("a torch file of 2.4 MB, 8 float32 groups", files=1, groups=8, size=300_000)  # too large for packs
MANY_GROUPS = DataSet("a torch file of 222 MB, 7400 float32 groups", files=1, groups=7400, size=30_000)
PUSHED = 20
COMMITS = 200

TRANSFER_CASES = (
    OwnCase("clone-http", lambda place, progress: clone.run(place, TORCH_57, 0.0, progress)),
    OwnCase("clone-http-20ms", lambda place, progress: clone.run(place, TORCH_57, LATENCY, progress)),
    OwnCase(
        "clone-packs-20ms", lambda place, progress: clone.run(place, MANY_GROUPS, LATENCY, progress, None, None), runs=3
    ),
    OwnCase("pull", lambda place, progress: pull.run(place, TORCH_57, progress)),
    OwnCase("push-20-commits", lambda place, progress: push.run(place, ONE_FILE, PUSHED, progress)),
    OwnCase("clone-depth-1", lambda place, progress: shallow.run(place, SMALL_FILE, COMMITS, progress), runs=3),
)
