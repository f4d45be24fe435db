"""`git theta pull` where every object is here: beside git's own pipe, which it need not pass."""

from __future__ import annotations

from dataclasses import replace

from bench.cases import CHECKOUT, FLOOR, OURS
from bench.data import DataSet
from bench.measure import WorkTree, new_work_tree, put_away
from bench.updates.outcome import Goal, Outcome, Progress
from bench.updates.repository import Place, checkout, commit, forget

PULL = "pull"
MUST = 1.0


def run(place: Place, data: DataSet, progress: Progress) -> Outcome:
    """Write the files from metadata in the work tree, in turn with the floor's checkout of the same files."""
    outcome = Outcome(place.scratch.name, {data.name: data.bytes}, (PULL, CHECKOUT))
    progress("building the data")
    built = data.build(place.scratch / "data", changed=False)
    trees = {}
    for name in (OURS, FLOOR):
        folder = place.scratch / name
        folder.mkdir()
        trees[name] = new_work_tree(place.contender(name), built, folder, place.tools)
        commit(trees[name])
    todo = list(trees.items())
    for number in range(-1, place.runs):  # one uncounted: the first run of a program reads it from the disk
        for name, tree in todo[:: -1 if number % 2 else 1]:
            progress(f"round {number + 1} of {place.runs}: {name}")
            if name == OURS:
                _pull(tree)
            checkout(tree, built, "HEAD")
            if number >= 0:
                outcome.add(name, CHECKOUT, tree)
                outcome.add(name, PULL, tree)
    pulled, piped = outcome.seconds[OURS][PULL], outcome.seconds[FLOOR][CHECKOUT]
    ratios = [a / b for a, b in zip(pulled, piped, strict=True)]
    outcome.goals.append(Goal(f"{PULL}: {OURS} / {CHECKOUT}: {FLOOR}", ratios, MUST))
    for tree in trees.values():
        put_away(tree, place.scratch)
    return outcome


def _pull(tree: WorkTree) -> None:
    """Leave metadata in the work tree, as a clone with GIT_THETA_SKIP_SMUDGE does, and pull; compare what came."""
    forget(tree)
    tree.remove_files()
    replace(tree, environment={**tree.environment, "GIT_THETA_SKIP_SMUDGE": "1"}).git("checkout", "--", ".")
    for name in tree.built.digests:
        assert (tree.path / name).read_bytes()[:1] == b"{", f"{name} is no metadata"
    tree.timed(PULL, "theta", "pull", "--quiet")
    tree.built.same_bytes(tree.path)
    assert not tree.git("status", "--porcelain"), "git takes what was pulled for changed"
