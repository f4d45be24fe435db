from __future__ import annotations

import pytest

from bench.cases import ADD, CASES, CHECKOUT, FLOOR, LFS, OURS, PEER, VARIANTS, Case, Target
from bench.data import DataSet
from bench.measure import Run
from bench.report import Result, spread, text, verdict

START, SMALL, LARGE = (DataSet(name, 1, 1, size) for name, size in (("start", 0), ("small", 100), ("large", 1000)))


def result(target: Target, *data: DataSet) -> Result:
    return Result(Case("case", data or (SMALL,), targets=(target,)))


def verdict_of(result: Result) -> str:
    return verdict(result.document()["targets"][0])


def test_a_ratio_pairs_the_rounds() -> None:
    target = Target(CHECKOUT, OURS, FLOOR, must=2.0, aim=1.4)
    found = result(target)
    for ours, floor in ((2.0, 1.0), (9.0, 6.0), (1.0, 1.0)):
        found.add(OURS, Run({CHECKOUT: ours}))
        found.add(FLOOR, Run({CHECKOUT: floor}))
    assert found.values(target) == [2.0, 1.5, 1.0]
    assert verdict_of(found) == "must 2 reached, aim 1.4 missed"


def test_a_ratio_to_who_ran_once_takes_that_run_for_every_round() -> None:
    target = Target(ADD, OURS, PEER)
    found = result(target)
    found.add(PEER, Run({ADD: 60.0}))
    for seconds in (1.0, 2.0):
        found.add(OURS, Run({ADD: seconds}))
    assert found.values(target) == [1 / 60, 2 / 60]


def test_a_difference_is_in_seconds() -> None:
    target = Target(CHECKOUT, OURS, FLOOR, must=0.5, kind="more")
    found = result(target)
    found.add(OURS, Run({CHECKOUT: 1.75}))
    found.add(FLOOR, Run({CHECKOUT: 1.0}))
    assert found.values(target) == [0.75]
    assert verdict_of(found) == "must 0.5 missed"


def test_growth_is_time_per_byte_without_the_start() -> None:
    target = Target(ADD, OURS, must=1.3, kind="growth")
    found = result(target, START, SMALL, LARGE)
    for data, seconds in ((START, 1.0), (SMALL, 2.0), (LARGE, 13.0)):
        found.add(found.series(OURS, data), Run({ADD: seconds}))
    assert found.values(target) == [pytest.approx(1.2)]
    assert verdict_of(found) == "must 1.3 reached"


def test_growth_from_less_than_the_start_is_never_reached() -> None:
    target = Target(ADD, OURS, must=1.3, kind="growth")
    found = result(target, START, SMALL, LARGE)
    for data, seconds in ((START, 1.0), (SMALL, 1.0), (LARGE, 13.0)):
        found.add(found.series(OURS, data), Run({ADD: seconds}))
    assert verdict_of(found) == "must 1.3 missed"


def test_a_peak_is_the_filter_s() -> None:
    target = Target(ADD, OURS, must=450, aim=350, kind="peak")
    found = result(target)
    for peak in (300.0, 420.0, 400.0):
        found.add(OURS, Run({ADD: 1.0}, {ADD: peak}))
    assert found.values(target) == [300.0, 420.0, 400.0]
    assert verdict_of(found) == "must 450 reached, aim 350 missed"


def test_what_was_not_measured_has_no_verdict() -> None:
    found = result(Target(ADD, OURS, LFS, must=1.0))
    found.add(OURS, Run({ADD: 1.0}))
    assert verdict_of(found) == ""
    assert any("add: theta-daemon / git-lfs" in line for line in text(found.document()))


def test_noise_is_how_far_the_floor_s_runs_lie_apart() -> None:
    found = result(Target(ADD, OURS, LFS))
    for seconds in (1.0, 2.0, 4.0):
        found.add(FLOOR, Run({ADD: seconds}))
    assert found.noise() == {ADD: 1.5}


def test_numbers_have_three_digits() -> None:
    assert spread([0.01234, 1.0, 1234.5]) == "1 (0.0123 .. 1234)"
    assert spread([2.0]) == "2"
    assert spread([]) == "-"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_target_is_about_something_that_the_case_measures(case: Case) -> None:
    for target in case.targets:
        assert target.step in case.steps
        assert target.who in case.contenders
        assert target.against in case.contenders or target.kind in {"growth", "peak"}
        assert (len(case.data) > 2) == (target.kind == "growth")


def test_every_variant_is_measured_somewhere() -> None:
    assert set(VARIANTS) <= {name for case in CASES for name in case.contenders}
