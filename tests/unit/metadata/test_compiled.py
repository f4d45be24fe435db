"""When the compiled loop is made and believed. That its sums are right is tested with those of numpy (test_lsh.py)."""

from __future__ import annotations

import math
import sys
import threading
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np
import pytest

from theta_daemon.metadata import compiled, lsh
from theta_daemon.metadata.compiled import Compiled

if TYPE_CHECKING:
    from collections.abc import Callable

    from theta_daemon.metadata.compiled import Add


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Add]:
    """What was compiled: plain Python is enough here."""
    loops: list[Add] = []

    def compile_loop() -> Add:
        loops.append(compiled._add)
        return compiled._add

    monkeypatch.setattr(compiled, "_compile", compile_loop)
    return loops


def test_few_values_are_not_worth_it(made: list[Add]) -> None:
    loop = Compiled(lambda _: True, worthwhile=100)
    assert loop.get(60) is None
    assert not made
    assert loop.get(60) is compiled._add
    assert loop.get(1) is compiled._add
    assert len(made) == 1


def test_what_is_wrong_once_is_never_used(made: list[Add]) -> None:
    loop = Compiled(lambda _: False, worthwhile=1)
    assert loop.get(10) is None
    assert loop.get(10) is None
    assert len(made) == 1


def test_what_cannot_be_called_is_never_used(made: list[Add]) -> None:
    def is_right(_: Add) -> bool:
        raise TypeError("No matching definition")

    loop = Compiled(is_right, worthwhile=1)
    assert loop.get(10) is None
    assert loop.get(10) is None
    assert len(made) == 1


def test_nobody_waits_for_the_compiler(made: list[Add]) -> None:
    asked, answer = threading.Event(), threading.Event()

    def is_right(_: Add) -> bool:
        asked.set()
        return answer.wait(60)

    loop = Compiled(is_right, worthwhile=1)
    first = threading.Thread(target=loop.get, args=(1,))
    first.start()
    try:
        assert asked.wait(60)
        assert loop.get(1) is None
    finally:
        answer.set()
        first.join()
    assert loop.get(1) is compiled._add
    assert len(made) == 1


def _raises(*_: object, **__: object) -> None:
    raise SystemError("initialization failed")


@pytest.mark.parametrize("broken", ["missing", "njit raises"])
def test_without_a_numba_that_works_there_is_no_loop(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    numba: ModuleType | None = None
    if broken == "njit raises":
        numba = ModuleType("numba")
        numba.types = ModuleType("types")  # type: ignore[attr-defined]
        numba.njit = _raises  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "numba", numba)
    assert Compiled(lambda _: True, worthwhile=1).get(1) is None


def _changed(by: Callable[[float], float]) -> Add:
    def add(*arguments: object) -> None:
        compiled._add(*arguments)  # type: ignore[arg-type]
        sums = arguments[-1]
        assert isinstance(sums, np.ndarray)
        sums[-1] = by(sums[-1])

    return add


def test_one_bit_off_is_wrong() -> None:
    with np.errstate(all="ignore"):
        assert lsh._is_right(compiled._add)
        assert not lsh._is_right(_changed(lambda total: np.nextafter(total, math.inf)))
