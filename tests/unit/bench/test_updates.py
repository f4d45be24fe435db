"""The cases about updates with little data: they hold what they say, and leave nothing behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from bench.cases import CHECKOUT
from bench.contenders import build_tools
from bench.data import DataSet
from bench.updates import chains, inferred, like_git_theta, lora, once, peer
from bench.updates.changes import Weights
from bench.updates.outcome import Outcome
from bench.updates.repository import Place, checkout, commit, types, version

SMALL = DataSet("2 small files", files=2, groups=3, size=40_000)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    build_tools(tmp_path / "tools")
    scratch = tmp_path / "case"
    scratch.mkdir()
    return Place(scratch, tmp_path / "tools", runs=1, with_peer=False)


def quiet(_what: str) -> None:
    """Say nothing."""


def values(outcome: Outcome, title: str) -> list[float]:
    (found,) = [goal.values for goal in outcome.goals if goal.title == title]
    return found


def test_one_of_a_thousand_elements_is_touched_and_the_difference_is_exact() -> None:
    weights = Weights(SMALL)
    before = [{name: tensor.clone() for name, tensor in tensors.items()} for tensors in weights.files]
    weights.touch(1)
    changed = 0
    for old, new in zip(before, weights.files, strict=True):
        for name, tensor in new.items():
            difference = tensor - old[name]
            assert torch.equal(old[name] + difference, tensor)
            assert 0 < int(difference.count_nonzero()) <= 10
            changed += int(difference.count_nonzero())
    assert changed == weights.changed


def test_every_depth_is_checked_out(place: Place) -> None:
    outcome = chains.run(place, SMALL, (1, 3), quiet)
    assert set(outcome.seconds) == {"stored dense", "auto, depth 1", "auto, depth 3"}
    assert len(values(outcome, "checkout: auto, depth 3 / stored dense")) == 1


def test_a_chain_is_cut_where_the_default_says(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chains, "DEFAULT_CHAIN", 2)
    with pytest.raises(AssertionError, match="cut elsewhere"):  # the program still has 32
        chains.run(place, SMALL, (3,), quiet)


def test_a_chain_of_the_wrong_type_is_noticed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def doubled(self: Weights, seed: int) -> None:
        for tensors in self.files:
            for tensor in tensors.values():
                tensor += seed

    monkeypatch.setattr(Weights, "touch", doubled)
    with pytest.raises(AssertionError, match="the types are"):
        chains.run(place, SMALL, (1,), quiet)


def test_types_of_git_theta_and_ours(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer, "AGAINST_PEER", 2)
    outcome = peer.run(place, SMALL, (1, 2), quiet)
    assert set(outcome.seconds) >= {"stored dense", "sparse, depth 1", "sparse, depth 2", "auto, depth 2"}
    assert any("on git-theta's chain" in series for series in outcome.seconds)
    assert set(outcome.absent.values()) == {"not asked for"}


def test_small_changes_are_stored_small(place: Place) -> None:
    outcome = inferred.run(place, DataSet("a file", files=1, groups=3, size=4_000_000), quiet)
    for update_type in ("auto", "sparse"):
        assert values(outcome, f"stored: {update_type} / 8 bytes a changed element")[0] < 1.5


def test_the_adapter_is_what_is_stored(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    make = lora.make
    monkeypatch.setattr(
        lora, "make", lambda folder: make(folder, n_layer=2, n_embd=64, n_head=2, vocab_size=500, n_positions=64)
    )
    outcome = lora.run(place, quiet)
    assert 0.5 < values(outcome, "stored: LoRA adapter / adapter file")[0] < 1.5
    assert set(outcome.seconds) == {"LoRA adapter", "stored dense"}


def test_calls_are_counted_by_the_trace(place: Place) -> None:
    outcome = once.run(place, SMALL, quiet)
    (files,) = values(outcome, "parse metadata: calls / 2 files")
    (bases,) = values(outcome, "decode: calls / 3 shared objects")
    (versions,) = [goal.values[0] for goal in outcome.goals if goal.title.startswith("read an earlier version")]
    assert files == 1.0
    assert bases == 1.0
    assert versions == 1.0


def test_what_git_theta_would_have_written_comes_back(place: Place) -> None:
    files, weights = place.scratch / "files", Weights(SMALL)
    files.mkdir()
    weights.write(files)
    tree = place.repository("repository", version(SMALL, files))
    commits = like_git_theta.build(tree, weights, 3)
    weights.write(files)
    tip = version(SMALL, files)
    assert types(tree, tip.digests) == {"sparse"}
    checkout(tree, tip, commits[-1], same_bytes=False)
    assert tree.git("status", "--porcelain") == ""


def test_a_checkout_of_other_bytes_stops_the_bench(place: Place) -> None:
    files, weights = place.scratch / "files", Weights(SMALL)
    files.mkdir()
    weights.write(files)
    first = version(SMALL, files)
    tree = place.repository("repository", first)
    commit(tree)
    weights.touch(1)
    weights.write(tree.path)
    second = commit(tree)
    with pytest.raises(AssertionError, match="not the bytes"):
        checkout(tree, first, second)
    checkout(tree, first, f"{second}~1")
    assert CHECKOUT in tree.done.seconds
    assert np.isfinite(tree.done.seconds[CHECKOUT])
