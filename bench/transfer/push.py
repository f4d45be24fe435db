"""A push of many commits: what our hook adds to the time in which git-lfs sends the same objects."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from bench.cases import LFS, OURS
from bench.data import DataSet
from bench.measure import put_away
from bench.transfer.hosting import SEND, lines, missing, new_bare, objects, send, server
from bench.updates.changes import Weights
from bench.updates.outcome import Goal, Outcome, Progress
from bench.updates.repository import Place, commit, version

PUSH = "push"
GROUPS = 3  # changed by each commit
MUST = 1.0  # seconds


def run(place: Place, data: DataSet, commits: int, progress: Progress) -> Outcome:
    """Push commits with three changed groups each, and have git-lfs send the same objects to another place.

    What the first commit has is there before, as it is where somebody goes on training.
    """
    outcome = Outcome(place.scratch.name, {data.name: data.bytes}, (PUSH,))
    outcome.absent.update(missing())
    if outcome.absent:
        return outcome
    files = place.scratch / "files"
    files.mkdir()
    weights = Weights(data)
    weights.write(files)
    tree = place.repository("pushed", version(data, files))
    tree.git("config", "--unset", "core.hooksPath")
    tree.git("theta", "install", "--local", "--force")
    base = commit(tree)
    there = objects(tree)
    for number in range(commits):
        progress(f"commit {number + 1} of {commits}")
        _touch(weights, number)
        weights.write(tree.path)
        commit(tree)
    new = sorted(set(objects(tree)).difference(there))
    assert len(new) == commits * GROUPS * data.files, f"{len(new)} objects are new"
    trace = place.scratch / "trace"
    sent: dict[str, list[float]] = {OURS: [], LFS: []}
    traced = replace(tree, environment={**tree.environment, "GIT_TRACE2_EVENT": str(trace)})
    with server(place) as running:
        for number in range(-1, place.runs):  # one uncounted: the first run of a program reads it from the disk
            for name in (OURS, LFS)[:: -1 if number % 2 else 1]:
                progress(f"round {number + 1} of {place.runs}: {name}")
                hosted = running.repository(f"{'ours' if name == OURS else 'git-lfs'}-{number + 1}")
                new_bare(tree, hosted, place.scratch / f"{hosted.name}.git")
                send(tree, there)
                tree.git("push", "--quiet", "--no-verify", "origin", f"{base}:refs/heads/main")
                received = hosted.received()
                if name == OURS:
                    pushing = traced if number < 0 else tree
                    pushing.timed(PUSH, "push", "--quiet", "origin", "HEAD:refs/heads/main")
                else:
                    tree.timed(PUSH, *SEND, stdin=lines(new))
                held = hosted.objects()
                assert held.keys() == {*there, *new}, f"{name} has sent other objects"
                if number >= 0:
                    outcome.add(name, PUSH, tree)
                    sent[name].append((hosted.received() - received) / sum(held[oid] for oid in new))
    more = [a - b for a, b in outcome.rounds(PUSH, OURS, LFS)]
    outcome.goals.append(Goal(f"{PUSH}: {OURS} less {LFS}, seconds", more, MUST))
    for name, ratios in sent.items():
        outcome.goals.append(Goal(f"{PUSH}: {name}, bytes sent / bytes of the {len(new)} new objects", ratios, 1.0))
    outcome.number(f"{PUSH}: {OURS}, walks through the commits", _walks(trace), must=1)
    put_away(tree, place.scratch)
    return outcome


def _walks(trace: Path) -> int:
    """Return how often git walked through the commits for us: `git rev-list`, but for the receiver's own check."""
    starts = [event["argv"] for event in map(json.loads, trace.read_text().splitlines()) if event["event"] == "start"]
    return sum("rev-list" in argv and "--alternate-refs" not in argv for argv in starts)


def _touch(weights: Weights, number: int) -> None:
    """Change three groups of each file, others than the last commit did."""
    for tensors in weights.files:
        names = list(tensors)
        for index in range(GROUPS):
            tensors[names[(number * GROUPS + index) % len(names)]] += 0.001
