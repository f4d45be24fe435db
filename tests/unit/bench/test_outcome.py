from __future__ import annotations

from pathlib import Path

import pytest

from bench.cases import ADD, CHECKOUT
from bench.measure import Run, WorkTree
from bench.publish import tables
from bench.report import document, text, verdict
from bench.updates.outcome import Outcome


def ran(**seconds: float) -> WorkTree:
    return WorkTree(Path(), None, {}, Path(), Run(seconds, {"checkout": 50.0}))  # type: ignore[arg-type]


@pytest.fixture
def outcome() -> Outcome:
    found = Outcome("updates", {"two files": 100}, (CHECKOUT,))
    for deep, dense in ((3.0, 2.0), (6.0, 3.0)):
        found.add("depth 8", CHECKOUT, ran(checkout=deep))
        found.add("stored dense", CHECKOUT, ran(checkout=dense))
    found.add("git-theta", CHECKOUT, ran(checkout=90.0))
    return found


def test_ratios_pair_the_rounds(outcome: Outcome) -> None:
    outcome.ratio(CHECKOUT, "depth 8", "stored dense", must=1.7)
    assert outcome.goals[0].values == [1.5, 2.0]
    assert verdict(outcome.document()["targets"][0]) == "must 1.7 missed"


def test_who_ran_once_is_compared_with_every_round(outcome: Outcome) -> None:
    outcome.ratio(CHECKOUT, "depth 8", "git-theta", must=1 / 30)
    assert outcome.goals[0].values == [3 / 90, 6 / 90]


def test_what_did_not_take_part_has_no_verdict(outcome: Outcome) -> None:
    outcome.ratio(CHECKOUT, "depth 8", "nobody", must=1.0)
    assert verdict(outcome.document()["targets"][0]) == ""


def test_a_step_that_was_not_timed_adds_nothing(outcome: Outcome) -> None:
    outcome.add("depth 8", ADD, ran(checkout=1.0))
    assert outcome.seconds["depth 8"] == {CHECKOUT: [3.0, 6.0]}


def test_it_is_printed_and_published_as_the_others_are(outcome: Outcome) -> None:
    outcome.ratio(CHECKOUT, "depth 8", "stored dense", must=1.7)
    outcome.number("stored: depth 8, MB", 3.5)
    outcome.number("stored: depth 8 / changed", 1.2, must=1.5)
    printed = "\n".join(text(outcome.document()))
    assert "== updates: two files (0.0001 MB)" in printed
    assert "must 1.7 missed" in printed
    import time

    page = list(tables(document([outcome], time.gmtime(0), time.monotonic())))
    assert "| updates | stored: depth 8 / changed | 1.2 | must 1.5 reached |" in page
    assert "| stored: depth 8, MB | 3.5 |" in page
    assert "| depth 8 | 2 | 4.5 (3 .. 6) |" in page
