"""A clone over HTTP from a Git LFS server: ours beside git-lfs with the same files."""

from __future__ import annotations

from bench.cases import LFS, OURS
from bench.data import DataSet
from bench.measure import empty, new_work_tree
from bench.transfer.hosting import CLONE, clone, publish, server
from bench.updates.outcome import Outcome, Progress
from bench.updates.repository import Place, commit

MUST, AIM = 1.2, 0.9


def run(place: Place, data: DataSet, latency: float, progress: Progress) -> Outcome:
    """Add the files with each, send them to a server of `latency` seconds, and clone in turn."""
    outcome = Outcome(place.scratch.name, {data.name: data.bytes}, (CLONE,))
    progress("building the data")
    built = data.build(place.scratch / "data", changed=False)
    everyone = {name: place.contender(name) for name in (OURS, LFS)}
    missing = {name: contender.missing for name, contender in everyone.items() if contender.missing}
    outcome.absent.update(missing)
    with server(place, latency) as running:
        origins = {}
        for name in everyone.keys() - missing.keys():
            progress(f"sending: {name}")
            folder = place.scratch / name
            folder.mkdir()
            tree = new_work_tree(everyone[name], built, folder, place.tools)
            commit(tree)
            origins[name] = publish(everyone[name], tree, running.repository(name), place)
            clone(origins[name], place)  # uncounted: the first run of a program reads it from the disk
        todo = list(origins)
        for number in range(place.runs):
            for name in todo[:: -1 if number % 2 else 1]:
                progress(f"round {number + 1} of {place.runs}: {name}")
                tree = clone(origins[name], place)
                outcome.add(name, CLONE, tree)
                empty(tree.path)
        outcome.ratio(CLONE, OURS, LFS, MUST, AIM)
        for name, origin in origins.items():
            outcome.number(f"{CLONE}: {name}, MB on the way", origin.hosted.sent() / (place.runs + 1) / 1e6)
    return outcome
