"""`git clone --depth 1` of a long history: the server sends what the tip needs, and nothing of what was before."""

from __future__ import annotations

import os
from dataclasses import replace

from bench.cases import OURS
from bench.data import DataSet
from bench.measure import WorkTree, empty, put_away
from bench.transfer.hosting import CLONE, clone, missing, objects, publish, server
from bench.updates.changes import Weights
from bench.updates.outcome import Goal, Outcome, Progress
from bench.updates.repository import Place, commit, version
from theta_daemon.metadata import objects as named
from theta_daemon.metadata import text
from theta_daemon.metadata.entries import Metadata

MUST = 1.0
TYPES = ("dense", "auto")
MAX_CHAIN = "50"  # of 200 commits the tip then needs the objects of many


def run(place: Place, data: DataSet, commits: int, progress: Progress) -> Outcome:
    """Clone the last of so many commits, stored dense and as updates, and count the bytes at the server."""
    outcome = Outcome(place.scratch.name, {data.name: data.bytes}, (CLONE,))
    outcome.absent.update(missing())
    if outcome.absent:
        return outcome
    with server(place) as running:
        for update_type in TYPES:
            weights = Weights(data)
            files = place.scratch / f"{update_type}-files"
            files.mkdir()
            weights.write(files)
            tree = place.repository(update_type, version(data, files), updateType=update_type, maxChain=MAX_CHAIN)
            commit(tree)
            for number in range(1, commits):
                progress(f"commit {number + 1} of {commits}, {update_type}")
                _next(weights, tree, number, update_type)
            tip = place.scratch / f"{update_type}-tip"
            tip.mkdir()
            for name in weights.names():
                os.link(tree.path / name, tip / name)
            tree = replace(tree, built=version(data, tip))
            progress(f"sending: {update_type}")
            origin = publish(place.contender(OURS), tree, running.repository(update_type), place)
            needed = _needed(tree)
            everything = objects(tree)
            assert len(needed) < len(everything), "the tip needs all there is: a clone of all would do as well"
            goal = Goal(f"{update_type}: bytes sent / bytes of the {len(needed)} objects of the tip", [], MUST)
            for number in range(place.runs):
                progress(f"round {number + 1} of {place.runs}: {update_type}")
                before = origin.hosted.sent()
                cloned = clone(origin, place, "--depth", "1")
                goal.values.append((origin.hosted.sent() - before) / sum(needed.values()))
                outcome.add(update_type, CLONE, cloned)
                empty(cloned.path)
            outcome.goals.append(goal)
            outcome.number(f"{update_type}: objects of all {commits} commits", len(everything))
            put_away(tree, place.scratch)
    return outcome


def _next(weights: Weights, tree: WorkTree, number: int, update_type: str) -> None:
    """Change one group whole, or a few elements of each, and commit."""
    if update_type == "dense":
        for tensors in weights.files:
            tensors[list(tensors)[number % len(tensors)]] += 0.001
    else:
        weights.touch(number)
    weights.write(tree.path)
    commit(tree)


def _needed(tree: WorkTree) -> dict[str, int]:
    """Return every object that the metadata of the last commit names, with its size in bytes."""
    found = {}
    for name in tree.built.digests:
        metadata = text.read(tree.git("cat-file", "blob", f"HEAD:{name}").encode("ascii"))
        assert isinstance(metadata, Metadata), f"{name} is no metadata"
        found.update({each.oid: each.size for each in named.of(metadata)})
    return found
