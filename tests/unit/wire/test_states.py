"""The table itself: complete, free of dead ends, and the same as in protocol/filter-process.md."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from theta_daemon.wire.states import SPEAKER, TRANSITIONS, LocalProtocolError, Side, State, Step, successor

SPECIFICATION = Path(__file__).resolve().parents[3] / "protocol" / "filter-process.md"
OVER = {State.CLOSED, State.BROKEN}


def test_every_state_has_a_speaker_who_can_say_something_until_it_is_over() -> None:
    assert set(TRANSITIONS) == set(State)
    for state in State:
        assert (state in SPEAKER) is (state not in OVER)
        assert bool(TRANSITIONS[state]) is (state not in OVER)


def test_every_state_but_the_broken_one_can_be_reached() -> None:
    reached = {State.WELCOME}
    while more := {target for state in reached for target in TRANSITIONS[state].values()} - reached:
        reached |= more
    assert reached == set(State) - {State.BROKEN}


def test_every_step_has_its_place() -> None:
    assert {step for steps in TRANSITIONS.values() for step in steps} == set(Step)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("step", Step)
@pytest.mark.parametrize("side", Side)
def test_what_the_table_does_not_allow_is_refused(state: State, step: Step, side: Side) -> None:
    if SPEAKER.get(state) is side and step in TRANSITIONS[state]:
        assert successor(state, side, step) is TRANSITIONS[state][step]
    else:
        with pytest.raises(LocalProtocolError, match=f"{side.value} may not say {step.value!r} in state {state.value}"):
            successor(state, side, step)


def test_the_specification_has_the_same_table() -> None:
    rows = [
        [cell.strip(" `") for cell in line.strip("| ").split("|")]
        for line in SPECIFICATION.read_text("utf-8").splitlines()
        if re.match(r"\| `[A-Z]+` \|", line)
    ]
    specified = {(state, speaker, step, target) for state, speaker, step, _, target in rows}
    assert specified == {
        (state.value, SPEAKER[state].value, step.value, target.value)
        for state, steps in TRANSITIONS.items()
        for step, target in steps.items()
    }
