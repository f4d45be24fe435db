"""The cases about objects that travel, with little data: they hold what they say, against a real server."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from bench import report
from bench.cases import CHECKOUT, FLOOR, LFS, OURS, TORCH_57
from bench.contenders import build_tools
from bench.data import DataSet
from bench.measure import WorkTree
from bench.transfer import clone, hosting, pull, push, shallow
from bench.transfer.cases import TRANSFER_CASES
from bench.transfer.hosting import CLONE
from bench.updates.outcome import Outcome
from bench.updates.repository import Place
from tests.support import lfs_server

# Of groups that are too large for packs: the rows tell of the objects themselves.
SMALL = DataSet("2 small files", files=2, groups=6, size=270_000)
ONE = DataSet("a small file", files=1, groups=6, size=270_000)

needs_server = [pytest.mark.needs_git_lfs, pytest.mark.needs_lfs_server]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    build_tools(tmp_path / "tools")
    scratch = tmp_path / "case"
    scratch.mkdir()
    return Place(scratch, tmp_path / "tools", runs=2)


class Rounds:
    """Hears what goes on: `order` is who was measured, one after the other."""

    def __init__(self) -> None:
        self.order: list[str] = []

    def __call__(self, what: str) -> None:
        if what.startswith("round ") and not what.startswith("round 0 "):
            self.order.append(what.partition(": ")[2])


def quiet(_what: str) -> None:
    """Say nothing."""


def values(outcome: Outcome, title: str) -> list[float]:
    (found,) = [goal.values for goal in outcome.goals if goal.title == title]
    return found


def musts(outcome: Outcome) -> dict[str, tuple[float, float | None]]:
    return {goal.title: (goal.must, goal.aim) for goal in outcome.goals if goal.must is not None}


def verdicts(outcome: Outcome) -> dict[str, str]:
    return {target["title"]: report.verdict(target) for target in outcome.document()["targets"]}


class TestWithAServer:
    pytestmark = needs_server

    def test_clones_of_both(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        rounds, running = Rounds(), Mock(wraps=lfs_server.running)
        monkeypatch.setattr(lfs_server, "running", running)
        outcome = clone.run(place, SMALL, 0.01, rounds)
        running.assert_called_once_with(place.scratch / "server", 0.01)
        assert rounds.order == [OURS, LFS, LFS, OURS]
        ours, theirs = (outcome.seconds[name][CLONE] for name in (OURS, LFS))
        assert musts(outcome) == {f"{CLONE}: {OURS} / {LFS}": (1.2, 0.9)}
        assert values(outcome, f"{CLONE}: {OURS} / {LFS}") == [a / b for a, b in zip(ours, theirs, strict=True)]
        (raw,) = values(outcome, f"{CLONE}: {LFS}, MB on the way")
        assert 2 * 6 * 0.27 < raw < 2 * 6 * 0.27 + 0.02
        (stored,) = values(outcome, f"{CLONE}: {OURS}, MB on the way")
        assert 0.8 * raw < stored < raw  # nothing was here before, and what came was compressed
        assert all(word in verdicts(outcome)[f"{CLONE}: {OURS} / {LFS}"] for word in ("must 1.2 ", "aim 0.9 "))

    def test_a_clone_with_another_file_stops_the_bench(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        def changed(self: WorkTree, step: str, *arguments: str, **others: Any) -> None:
            timed(self, step, *arguments, **others)
            if step == CLONE:
                with (self.path / "repository" / "model-001.pt").open("r+b") as file:
                    file.write(b"?")

        timed = WorkTree.timed
        monkeypatch.setattr(WorkTree, "timed", changed)
        with pytest.raises(AssertionError, match=r"model-001\.pt: not the bytes"):
            clone.run(place, SMALL, 0.0, quiet)

    def test_a_push_sends_what_git_lfs_sends(self, place: Place) -> None:
        rounds = Rounds()
        outcome = push.run(place, ONE, 3, rounds)
        assert rounds.order == [OURS, LFS, LFS, OURS]
        more = [a - b for a, b in outcome.rounds("push", OURS, LFS)]
        assert len(more) == 2
        assert values(outcome, f"push: {OURS} less {LFS}, seconds") == more
        both = [f"push: {name}, bytes sent / bytes of the 9 new objects" for name in (OURS, LFS)]
        assert [values(outcome, title) for title in both] == [[1, 1], [1, 1]]
        assert values(outcome, f"push: {OURS}, walks through the commits") == [1]
        assert musts(outcome) == {
            f"push: {OURS} less {LFS}, seconds": (1.0, None),
            **dict.fromkeys(both, (1.0, None)),
            f"push: {OURS}, walks through the commits": (1.0, None),
        }

    def test_a_push_that_leaves_objects_out_stops_the_bench(self, place: Place) -> None:
        hook = "#!/bin/sh\nexit 0\n"

        class Unhooked(Rounds):
            def __call__(self, what: str) -> None:
                for found in place.scratch.glob("*/repository/.git/hooks/pre-push"):
                    found.write_text(hook)

        with pytest.raises(AssertionError, match="theta-daemon has sent other objects"):
            push.run(place, ONE, 3, Unhooked())

    def test_a_shallow_clone_moves_what_the_tip_needs(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shallow, "MAX_CHAIN", "2")
        outcome = shallow.run(place, ONE, 5, quiet)
        needed = "dense: bytes sent / bytes of the 7 objects of the tip"
        assert values(outcome, needed) == [1.0, 1.0]
        assert values(outcome, "dense: objects of all 5 commits") == [6 + 1 + 4]
        assert set(musts(outcome).values()) == {(1.0, None)}
        assert len(musts(outcome)) == len(shallow.TYPES)
        assert verdicts(outcome)[needed] == "must 1 reached"

    def test_a_shallow_clone_that_moves_more_is_told(self, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
        clone_of_all = hosting.clone
        monkeypatch.setattr(shallow, "TYPES", ("dense",))
        monkeypatch.setattr(shallow, "clone", lambda origin, place, *_: fetch_all(clone_of_all(origin, place)))

        def fetch_all(tree: WorkTree) -> WorkTree:
            WorkTree(tree.path / "repository", tree.built, tree.environment, tree.peak).git("theta", "fetch", "--all")
            return tree

        outcome = shallow.run(place, ONE, 5, quiet)
        (goal,) = [goal for goal in outcome.goals if goal.must is not None]
        assert min(goal.values) > 1.5
        assert verdicts(outcome)[goal.title] == "must 1 missed"


def test_a_pull_is_compared_with_git_s_pipe(place: Place) -> None:
    rounds = Rounds()
    outcome = pull.run(place, SMALL, rounds)
    assert rounds.order == [OURS, FLOOR, FLOOR, OURS]
    assert set(outcome.seconds[OURS]) == {"pull", CHECKOUT}
    assert set(outcome.seconds[FLOOR]) == {CHECKOUT}
    title = "pull: theta-daemon / checkout: floor"
    pulled, piped = outcome.seconds[OURS]["pull"], outcome.seconds[FLOOR][CHECKOUT]
    assert values(outcome, title) == [a / b for a, b in zip(pulled, piped, strict=True)]
    assert musts(outcome) == {title: (1.0, None)}


def test_a_pull_that_finds_checkpoints_stops_the_bench(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_skipping(self: WorkTree, *arguments: str, stdin: str = "") -> str:
        self.environment.pop("GIT_THETA_SKIP_SMUDGE", None)  # type: ignore[attr-defined]
        return git(self, *arguments, stdin=stdin)

    git = WorkTree.git
    monkeypatch.setattr(WorkTree, "git", without_skipping)
    with pytest.raises(AssertionError, match="is no metadata"):
        pull.run(place, SMALL, quiet)


@pytest.mark.parametrize("lacking", [{"git-lfs": "install it"}, {"giftless": "set it up"}], ids=["git-lfs", "giftless"])
def test_what_is_not_installed_takes_no_part(
    place: Place, lacking: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (clone, push, shallow):
        monkeypatch.setattr(module, "missing", lambda: lacking)
    for outcome in (
        clone.run(place, SMALL, 0.0, quiet),
        push.run(place, ONE, 3, quiet),
        shallow.run(place, ONE, 5, quiet),
    ):
        assert outcome.absent == lacking
        assert any("did not take part" in line for line in report.text(outcome.document()))


def test_what_the_rows_are_about(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Any, ...]] = []
    for module in (clone, pull, push, shallow):
        monkeypatch.setattr(module, "run", lambda *arguments, of=module.__name__: asked.append((of, *arguments[1:-1])))
    for case in TRANSFER_CASES:
        case.run(place, quiet)
        assert case.runs >= 3
    assert (TORCH_57.files, TORCH_57.file_bytes // 10**6) == (8, 56)
    many_groups, one_file, small_file = (asked[number][1] for number in (2, 4, 5))
    assert (many_groups.groups, many_groups.file_bytes // 10**6) == (7400, 222)
    assert asked == [
        (clone.__name__, TORCH_57, 0.0),
        (clone.__name__, TORCH_57, 0.02),
        (clone.__name__, many_groups, 0.02, quiet, None),
        (pull.__name__, TORCH_57),
        (push.__name__, one_file, 20),
        (shallow.__name__, small_file, 200),
    ]
