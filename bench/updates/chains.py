"""Many small updates, one after the other: what the checkout of the tip costs, beside the same files stored dense."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from bench.cases import CHECKOUT
from bench.data import Built, DataSet
from bench.measure import WorkTree, put_away
from bench.updates.changes import Weights
from bench.updates.outcome import Outcome, Progress
from bench.updates.repository import Place, checkout, commit, entries, fork, types, version

DENSE = "stored dense"
DEFAULT_CHAIN = 32
MUST = 1.5


@dataclass(slots=True)
class Chain:
    """A repository of ours with a commit of every depth up to the last, and the files of those that are checked out."""

    update_type: str
    tree: WorkTree
    commits: list[str]
    versions: dict[int, Built]
    cut: WorkTree | None = None  # the same history with the default theta.maxChain, from where it cuts the chain

    def series(self, depth: int) -> str:
        """Return the name of a depth's numbers."""
        return f"{self.update_type}, depth {depth}"


def build(place: Place, data: DataSet, update_type: str, depths: Collection[int], progress: Progress) -> Chain:
    """Add the base and as many versions as the deepest of `depths` says, each with one of 1000 elements changed."""
    weights = Weights(data)
    folder = place.scratch / f"{update_type}-0"
    folder.mkdir()
    weights.write(folder)
    built = version(data, folder)
    deepest = max(depths)
    tree = place.repository(update_type, built, maxChain=str(deepest), updateType=update_type)
    chain = Chain(update_type, tree, [commit(tree)], {0: built})
    for depth in range(1, deepest + 1):
        progress(f"update {depth} of {deepest}, {update_type}")
        weights.touch(depth)
        weights.write(tree.path)
        if depth == DEFAULT_CHAIN + 1:
            chain.cut = fork(tree, place.scratch / f"{update_type}-cut")
            chain.cut.git("config", "--unset", "theta.maxChain")
        if depth in depths:
            chain.versions[depth] = _keep(data, tree.path, place.scratch / f"{update_type}-{depth}")
        chain.commits.append(commit(tree))
        if chain.cut is not None:
            _link(tree.path, chain.cut.path, data.suffix)
            commit(chain.cut)
    _check(chain, depths)
    return chain


def _keep(data: DataSet, files: Path, folder: Path) -> Built:
    folder.mkdir()
    _link(files, folder, data.suffix)
    return version(data, folder)


def _link(source: Path, folder: Path, suffix: str) -> None:
    for file in source.glob(f"*{suffix}"):
        (folder / file.name).unlink(missing_ok=True)
        os.link(file, folder / file.name)


def _check(chain: Chain, depths: Collection[int]) -> None:
    """Stop the bench where the repository does not hold what the names of the numbers say."""
    # What its type cannot make is ours, and what cannot be an update is dense: neither may be what is measured here.
    expected = {"exact-sparse" if chain.update_type == "auto" else chain.update_type}
    for depth in depths:
        names = chain.versions[depth].digests
        found = types(chain.tree, names, chain.commits[depth])
        assert found == expected, f"{chain.series(depth)}: the types are {found}"
        lengths = {len(entry.replay) for entry in entries(chain.tree, names, chain.commits[depth])}
        assert lengths == {depth}, f"{chain.series(depth)}: replays have {lengths} steps"
    if chain.cut is not None:
        deepest = max(depths)
        lengths = {len(entry.replay) for entry in entries(chain.cut, chain.versions[deepest].digests)}
        assert lengths == {deepest - DEFAULT_CHAIN - 1}, f"the chain was cut elsewhere: {lengths} steps are left"


def run(place: Place, data: DataSet, depths: tuple[int, ...], progress: Progress) -> Outcome:
    """Check out each depth, the tip also with the default length of chains, and the tip's files stored dense."""
    chain = build(place, data, "auto", depths, progress)
    deepest = max(depths)
    tip = chain.versions[deepest]
    dense = place.repository("dense", tip)
    commit(dense)
    outcome = Outcome(place.scratch.name, {data.name: data.bytes}, (CHECKOUT,))
    cut_series = f"{chain.series(deepest)}, theta.maxChain {DEFAULT_CHAIN}"
    todo = [(DENSE, dense, tip, "HEAD")]
    todo += [(chain.series(depth), chain.tree, chain.versions[depth], chain.commits[depth]) for depth in depths]
    if chain.cut is not None:
        todo.append((cut_series, chain.cut, tip, "HEAD"))
    for number in range(place.runs):
        for series, tree, built, revision in todo[:: -1 if number % 2 else 1]:
            progress(f"round {number + 1} of {place.runs}: {series}")
            checkout(tree, built, revision)
            outcome.add(series, CHECKOUT, tree)
    for depth in depths:
        outcome.ratio(CHECKOUT, chain.series(depth), DENSE, MUST if depth == deepest else None)
    outcome.ratio(CHECKOUT, cut_series, DENSE, MUST)
    for tree in filter(None, (dense, chain.tree, chain.cut)):
        put_away(tree, place.scratch)
    return outcome
