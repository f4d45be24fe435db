"""The cases about objects that travel, with little data: they hold what they say, against a real server."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.cases import CHECKOUT, LFS, OURS
from bench.contenders import build_tools
from bench.data import DataSet
from bench.transfer import clone, pull, push, shallow
from bench.transfer.hosting import CLONE
from bench.updates.outcome import Outcome
from bench.updates.repository import Place

SMALL = DataSet("2 small files", files=2, groups=6, size=40_000)
ONE = DataSet("a small file", files=1, groups=6, size=40_000)

needs_server = [pytest.mark.needs_git_lfs, pytest.mark.needs_lfs_server]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    build_tools(tmp_path / "tools")
    scratch = tmp_path / "case"
    scratch.mkdir()
    return Place(scratch, tmp_path / "tools", runs=1)


def quiet(_what: str) -> None:
    """Say nothing."""


def values(outcome: Outcome, title: str) -> list[float]:
    (found,) = [goal.values for goal in outcome.goals if goal.title == title]
    return found


class TestWithAServer:
    pytestmark = needs_server

    def test_clones_of_both(self, place: Place) -> None:
        outcome = clone.run(place, SMALL, 0.0, quiet)
        assert {name: set(steps) for name, steps in outcome.seconds.items()} == {OURS: {CLONE}, LFS: {CLONE}}
        assert len(values(outcome, f"{CLONE}: {OURS} / {LFS}")) == 1
        (theirs,) = values(outcome, f"{CLONE}: {LFS}, MB on the way")
        assert 2 * 6 * 0.04 < theirs < 2 * 6 * 0.04 + 0.02

    def test_a_push_sends_what_git_lfs_sends(self, place: Place) -> None:
        outcome = push.run(place, ONE, 3, quiet)
        assert set(outcome.seconds) == {OURS, LFS}
        assert values(outcome, f"push: {OURS}, walks through the commits") == [1]

    def test_a_shallow_clone_moves_what_the_tip_needs(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shallow, "MAX_CHAIN", "2")
        outcome = shallow.run(place, ONE, 5, quiet)
        for goal in outcome.goals:
            if goal.must is not None:
                assert goal.values == [1.0]
        assert values(outcome, "dense: objects of all 5 commits") == [6 + 1 + 4]


def test_a_pull_is_compared_with_git_s_pipe(place: Place) -> None:
    outcome = pull.run(place, SMALL, quiet)
    assert set(outcome.seconds[OURS]) == {"pull", CHECKOUT}
    assert len(values(outcome, "pull: theta-daemon / checkout: floor")) == 1
