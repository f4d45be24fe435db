"""What one small change costs to add: bytes stored, and seconds beside storing the same change dense."""

from __future__ import annotations

from dataclasses import replace

from bench.cases import AGAIN
from bench.data import DataSet
from bench.measure import WorkTree, put_away
from bench.updates.changes import Weights
from bench.updates.outcome import Outcome, Progress
from bench.updates.repository import Place, commit, stored, types, version

TYPES = ("dense", "auto", "sparse")
BYTES_OF_A_CHANGE = 8  # a position and a value
MUST_BYTES, MUST_SECONDS = 1.5, 2.0


def run(place: Place, data: DataSet, progress: Progress) -> Outcome:
    """Add the same change in turn as each type, each time to a fresh repository that holds the base."""
    outcome = Outcome(place.scratch.name, {data.name: data.bytes}, (AGAIN,))
    weights = Weights(data)
    before, after = place.scratch / "before", place.scratch / "after"
    before.mkdir()
    weights.write(before)
    weights.touch(1)
    after.mkdir()
    weights.write(after)
    base, new = version(data, before), version(data, after)
    sizes: dict[str, int] = {}
    for number in range(place.runs):
        for update_type in TYPES[:: -1 if number % 2 else 1]:
            progress(f"round {number + 1} of {place.runs}: {update_type}")
            tree = place.repository(f"{update_type}-{number}", base, updateType=update_type)
            commit(tree)
            held = stored(tree)
            tree = replace(tree, built=new)
            tree.replace_files(after)
            tree.timed(AGAIN, "add", "--all")
            outcome.add(update_type, AGAIN, tree)
            sizes[update_type] = stored(tree) - held
            _check(tree, update_type)
            put_away(tree, tree.path.parent)
    for update_type in TYPES[1:]:
        part = sizes[update_type] / (BYTES_OF_A_CHANGE * weights.changed)
        outcome.number(f"stored: {update_type} / {BYTES_OF_A_CHANGE} bytes a changed element", part, MUST_BYTES)
        outcome.ratio(AGAIN, update_type, "dense", MUST_SECONDS)
    for update_type, size in sizes.items():
        outcome.number(f"stored: {update_type}, MB", size / 1e6)
    return outcome


def _check(tree: WorkTree, update_type: str) -> None:
    found = types(tree, tree.built.digests, "")  # what is staged
    expected = {"auto": "exact-sparse"}.get(update_type, update_type)
    assert found == {expected}, f"{update_type}: the types are {found}"
    if update_type != "dense":
        tree.git("commit", "--quiet", "--message", "change")
        tree.remove_files()
        tree.git("checkout", "--", ".")
        tree.built.same_bytes(tree.path)
