"""Naming: what the vectors of protocol/ cannot spell in JSON, and the time it takes."""

from __future__ import annotations

import time
from fractions import Fraction

from theta_daemon.metadata import names


def test_equal_keys_of_different_types_are_different_keys() -> None:
    assert names.assign([["l", 1], ["l", True], ["l", 1.0], ["l", Fraction(1)]]) == [
        ("l", "1"),
        ("l", "True"),
        ("l", "1.0"),
        ("l", "1~2"),
    ]


def test_containers_are_told_apart_by_type() -> None:
    assert names.assign([[0, "w"], [False, "w"], ["0", "w"], [0, "b"]]) == [
        ("0~2", "w"),
        ("False", "w"),
        ("0", "w"),
        ("0~2", "b"),
    ]


def test_surrogate_pairs_become_their_character() -> None:
    pair = "\ud83d" + "\ude00"
    assert names.assign([["\ud83d"], [pair]]) == [("\ud83d",), ("\U0001f600",)]
    # ... and give way to who has it by right.
    assert names.assign([[pair], ["\U0001f600"]]) == [("\U0001f600~2",), ("\U0001f600",)]


def test_a_bare_tensor_gives_way_to_a_key_of_its_name() -> None:
    assert names.assign([[], ["tensor"], []]) == [("tensor~2",), ("tensor",), ("tensor~3",)]


def test_integers_of_any_size_have_names() -> None:
    huge = 1 << 100_000  # str() of it fails
    [(name,), (negative,)] = names.assign([[huge], [-huge]])
    assert (name, negative) == (hex(huge), hex(-huge))


def test_no_tensors() -> None:
    assert names.assign([]) == []


def test_many_equal_keys_take_linear_time_and_space() -> None:
    long = "x" * 1_000_000
    assigned = names.assign([[long]] * 20_000)
    assert assigned[0] == (long,)
    assert assigned[-1] == ("x" * 200 + "~20000",)
    assert sum(len(name) for (name,) in assigned) < 6_000_000


def test_keys_made_to_collide_take_linear_time() -> None:
    step = (1 << 61) - 1  # Python hashes integers modulo this prime
    started = time.process_time()
    assigned = names.assign([[index * step, "w"] for index in range(20_000)])
    assert len(set(assigned)) == 20_000
    assert time.process_time() - started < 3
