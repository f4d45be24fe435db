"""Files of git-theta's that share their base: nothing is read, parsed or decoded twice in one command. By the trace."""

from __future__ import annotations

import json
from dataclasses import replace

from bench.cases import CHECKOUT
from bench.data import DataSet
from bench.measure import put_away
from bench.updates import like_git_theta
from bench.updates.changes import Weights
from bench.updates.outcome import Goal, Outcome, Progress
from bench.updates.repository import Place, checkout, forget, version

UPDATES = 20
# Stages of the trace, with what each of them is to be gone through once for.
_STAGES = {
    "parse metadata": "files",
    "read an earlier version": "blobs in the history",
    "decode": "shared objects",
}


def run(place: Place, data: DataSet, progress: Progress) -> Outcome:
    """Check out files of 20 updates each, as git-theta records them, and count what was read and decoded."""
    outcome = Outcome(place.scratch.name, {data.name: data.bytes}, (CHECKOUT,))
    weights = Weights(data)
    weights.files = [{name: tensor.clone() for name, tensor in weights.files[0].items()} for _ in weights.files]
    files = place.scratch / "files"
    files.mkdir()
    weights.write(files)
    tree = place.repository("git-theta", version(data, files))
    progress("writing what git-theta would have written")
    commits = like_git_theta.build(tree, weights, UPDATES)
    weights.write(files)
    tip = version(data, files)
    # What has to be read of the history: every version but the tip's, which git sends itself.
    earlier = {tree.git("rev-parse", f"{each}:{name}") for each in commits[:-1] for name in tip.digests}
    trace = place.scratch / "trace"
    traced = replace(tree, environment={**tree.environment, "THETA_TRACE": str(trace)})
    calls: dict[str, list[int]] = {stage: [] for stage in _STAGES}
    for number in range(place.runs):
        progress(f"round {number + 1} of {place.runs}")
        trace.unlink(missing_ok=True)
        forget(tree)
        checkout(traced, tip, "HEAD", same_bytes=False)
        outcome.add("theta-daemon", CHECKOUT, traced)
        for stage, number_of_calls in _calls(trace.read_text("utf-8")).items():
            calls[stage].append(number_of_calls)
    for stage, needed in zip(_STAGES, (data.files, len(earlier), data.groups), strict=True):
        outcome.goals.append(
            Goal(f"{stage}: calls / {needed} {_STAGES[stage]}", [count / needed for count in calls[stage]], must=1.0)
        )
    put_away(tree, place.scratch)
    return outcome


def _calls(trace: str) -> dict[str, int]:
    """Return how often each of the stages was gone through, by the summary of the one process of a checkout."""
    summaries = [event for event in map(json.loads, trace.splitlines()) if event["event"] == "summary"]
    assert len(summaries) == 1, f"{len(summaries)} processes have written a summary"
    return {stage: summaries[0]["stages"].get(stage, {"calls": 0})["calls"] for stage in _STAGES}
