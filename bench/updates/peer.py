"""Chains of git-theta's own updates: how long git-theta takes for them, how long we do, and how long ours take."""

from __future__ import annotations

from dataclasses import replace

from bench.cases import CHECKOUT, PEER
from bench.contenders import environment
from bench.data import DataSet
from bench.measure import WorkTree, put_away
from bench.updates import chains, like_git_theta
from bench.updates.chains import DENSE
from bench.updates.changes import Weights
from bench.updates.outcome import Outcome, Progress
from bench.updates.repository import Place, checkout, commit, forget, version

AGAINST_PEER = 8  # the depth at which git-theta takes part
MUST = 1 / 30
_DEEPEST_PEER = f"{PEER} on its own chain, depth {AGAINST_PEER}"
_OURS = f"theta-daemon on git-theta's chain, depth {AGAINST_PEER}"


def run(place: Place, data: DataSet, depths: tuple[int, ...], progress: Progress) -> Outcome:
    """Check out chains of type sparse at each depth, and at one depth ours and git-theta's."""
    outcome = Outcome(place.scratch.name, {data.name: data.bytes}, (CHECKOUT,))
    files, weights = place.scratch / "git-theta-files", Weights(data)
    files.mkdir()
    weights.write(files)
    tree = place.repository("git-theta", version(data, files))
    progress("writing what git-theta would have written")
    like_git_theta.build(tree, weights, AGAINST_PEER)
    weights.write(files)
    tip = version(data, files)

    sparse = chains.build(place, data, "sparse", depths, progress)
    auto = chains.build(place, data, "auto", (AGAINST_PEER,), progress)
    dense = place.repository("dense", sparse.versions[max(depths)])
    commit(dense)
    todo = [(DENSE, dense, sparse.versions[max(depths)], "HEAD")]
    todo += [(each.series(d), each.tree, each.versions[d], each.commits[d]) for each in (sparse, auto) for d in depths
             if d in each.versions]  # fmt: skip
    cut_series = f"{sparse.series(max(depths))}, theta.maxChain {chains.DEFAULT_CHAIN}"
    if sparse.cut is not None:
        todo.append((cut_series, sparse.cut, sparse.versions[max(depths)], "HEAD"))
    for number in range(place.runs):
        for series, each, built, revision in todo[:: -1 if number % 2 else 1]:
            progress(f"round {number + 1} of {place.runs}: {series}")
            checkout(each, built, revision)
            outcome.add(series, CHECKOUT, each)
        progress(f"round {number + 1} of {place.runs}: {_OURS}")
        forget(tree)
        checkout(tree, tip, "HEAD", same_bytes=False)
        outcome.add(_OURS, CHECKOUT, tree)
    theirs = _of_git_theta(place, tree)
    if isinstance(theirs, str):
        outcome.absent[_DEEPEST_PEER] = theirs
    else:
        progress(_DEEPEST_PEER)
        checkout(theirs, tip, "HEAD", same_bytes=False)
        outcome.add(_DEEPEST_PEER, CHECKOUT, theirs)
    outcome.ratio(CHECKOUT, auto.series(AGAINST_PEER), _DEEPEST_PEER, MUST)
    outcome.ratio(CHECKOUT, sparse.series(AGAINST_PEER), _DEEPEST_PEER, MUST)
    outcome.ratio(CHECKOUT, _OURS, _DEEPEST_PEER)
    for depth in depths:
        outcome.ratio(CHECKOUT, sparse.series(depth), DENSE)
    outcome.ratio(CHECKOUT, cut_series, DENSE)
    for done in (tree, dense, sparse.tree, sparse.cut, auto.tree):
        if done is not None:
            put_away(done, place.scratch)
    return outcome


def _of_git_theta(place: Place, tree: WorkTree) -> WorkTree | str:
    """Hand the repository over to git-theta, for good, or return why it does not take part."""
    peer = place.contender(PEER)
    if not place.with_peer or peer.missing is not None:
        return peer.missing if place.with_peer and peer.missing else "not asked for"
    tree.git("config", "--unset", "filter.theta.process")
    for key, value in peer.configuration.items():
        tree.git("config", key, value)
    return replace(tree, environment=environment(peer, place.scratch / "git-theta" / "home", "pytorch"))
