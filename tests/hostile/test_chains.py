"""Chains made to harm: too long, in circles, or of steps that do not fit each other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support import models
from tests.support.pipelines import Bench
from theta_daemon.errors import MetadataError, UnsupportedError
from theta_daemon.metadata import text
from theta_daemon.metadata.entries import Metadata, Update
from theta_daemon.pipelines.ancestors import MOST_STEPS
from theta_daemon.pipelines.chains import chains

PATH = b"model"
CONTENT = models.safetensors_bytes({"w": torch.ones(30, 40)})
OTHER = Update("sparse", "ab" * 32, 100)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench.at(tmp_path)


def like_git_theta(bench: Bench, **changes: Any) -> bytes:
    """Return metadata of one group `w`, as git-theta writes it, with `changes` of its parts."""
    document = json.loads(Bench.over(bench.services.settings).clean(CONTENT))
    document.pop("theta_daemon")
    document["w"].pop("theta_daemon")
    for part, values in changes.items():
        document["w"][part] |= values
    return json.dumps(document, indent=4).encode()


def increment(bench: Bench, commit: str) -> bytes:
    return like_git_theta(bench, theta_metadata={"update_type": "sparse", "last_commit": commit})


def found(bench: Bench, metadata: bytes) -> int:
    """Return of how many updates the chain of `w` is made."""
    parsed = text.parse(metadata)
    assert isinstance(parsed, Metadata)
    return len(chains(bench.services, PATH, parsed.entries)["w",].updates)


def test_the_longest_history(bench: Bench) -> None:
    commit = bench.record.commit(like_git_theta(bench))
    document = json.loads(increment(bench, commit))
    for _ in range(MOST_STEPS - 1):
        document["w"]["theta_metadata"]["last_commit"] = commit
        commit = bench.record.commit(json.dumps(document, indent=4).encode())
    last = increment(bench, commit)
    assert found(bench, last) == MOST_STEPS
    commit = bench.record.commit(last)
    with pytest.raises(MetadataError, match=rf"this commit is {MOST_STEPS} updates back") as caught:
        found(bench, increment(bench, commit))
    assert (caught.value.path, caught.value.parameter) == (PATH, "w")
    assert caught.value.commit == f"{1:040x}"


def test_a_history_in_circles(bench: Bench) -> None:
    """git cannot make one, whoever answers for it may."""
    first, second = f"{1:040x}", f"{2:040x}"
    bench.record.commit(increment(bench, second))
    bench.record.commit(increment(bench, first))
    with pytest.raises(MetadataError, match="updates back") as caught:
        found(bench, increment(bench, first))
    assert caught.value.parameter == "w"


def test_a_history_of_another_shape(bench: Bench) -> None:
    commit = bench.record.commit(like_git_theta(bench, tensor_metadata={"shape": "(40, 30)"}))
    with pytest.raises(UnsupportedError, match="changes dtype or shape") as caught:
        found(bench, increment(bench, commit))
    assert caught.value.parameter == "w"


def test_a_history_of_another_dtype(bench: Bench) -> None:
    commit = bench.record.commit(like_git_theta(bench, tensor_metadata={"dtype": "int32"}))
    with pytest.raises(UnsupportedError, match="changes dtype or shape"):
        found(bench, increment(bench, commit))


def replayed(bench: Bench, *steps: Update, update_type: str = "sparse") -> Metadata:
    """Return metadata of a group whose replay has `steps`."""
    parsed = text.parse(bench.clean(CONTENT))
    assert isinstance(parsed, Metadata)
    (entry,) = parsed.entries.values()
    return parsed.replace(entries={("w",): entry.replace(update_type=update_type, replay=steps)})


def test_the_longest_replay(bench: Bench) -> None:
    base = Update("dense", "cd" * 32, 100)
    longest = replayed(bench, base, *[OTHER] * (MOST_STEPS - 1))
    assert len(chains(bench.services, PATH, longest.entries)["w",].updates) == MOST_STEPS
    with pytest.raises(MetadataError, match=rf"{MOST_STEPS} at most are credible") as caught:
        chains(bench.services, PATH, replayed(bench, base, *[OTHER] * MOST_STEPS).entries)
    assert caught.value.parameter == "w"


@pytest.mark.parametrize(
    "steps",
    [(OTHER,), (OTHER, OTHER), (Update("dense", "cd" * 32, 100), OTHER, Update("dense", "cd" * 32, 100))],
    ids=["no base", "still no base", "two bases"],
)
def test_a_replay_is_one_base_and_updates(bench: Bench, steps: tuple[Update, ...]) -> None:
    with pytest.raises(MetadataError, match="is not one dense value") as caught:
        chains(bench.services, PATH, replayed(bench, *steps).entries)
    assert caught.value.parameter == "w"
