"""A clone over HTTP from a Git LFS server: ours beside git-lfs with the same files."""

from __future__ import annotations

from bench.cases import LFS, OURS
from bench.data import DataSet
from bench.measure import empty, new_work_tree
from bench.transfer.hosting import CLONE, clone, missing, publish, server
from bench.updates.outcome import Outcome, Progress
from bench.updates.repository import Place, commit

MUST, AIM = 1.2, 0.9


def run(
    place: Place,
    data: DataSet,
    latency: float,
    progress: Progress,
    must: float | None = MUST,
    aim: float | None = AIM,
) -> Outcome:
    """Add the files with each, send them to a server of `latency` seconds, and clone in turn."""
    outcome = Outcome(place.scratch.name, {data.name: data.bytes}, (CLONE,))
    outcome.absent.update(missing())
    if outcome.absent:
        return outcome
    progress("building the data")
    built = data.build(place.scratch / "data", changed=False)
    with server(place, latency) as running:
        origins = {}
        for name in (OURS, LFS):
            progress(f"sending: {name}")
            folder = place.scratch / name
            folder.mkdir()
            contender = place.contender(name)
            tree = new_work_tree(contender, built, folder, place.tools)
            commit(tree)
            origins[name] = publish(contender, tree, running.repository(name), place)
            clone(origins[name], place)  # uncounted: the first run of a program reads it from the disk
        todo = list(origins)
        for number in range(place.runs):
            for name in todo[:: -1 if number % 2 else 1]:
                progress(f"round {number + 1} of {place.runs}: {name}")
                tree = clone(origins[name], place)
                outcome.add(name, CLONE, tree)
                empty(tree.path)
        outcome.ratio(CLONE, OURS, LFS, must, aim)
        for name, origin in origins.items():
            outcome.number(f"{CLONE}: {name}, MB on the way", origin.hosted.sent() / (place.runs + 1) / 1e6)
    return outcome
