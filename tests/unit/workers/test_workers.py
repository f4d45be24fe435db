"""The pool admits by bytes, and lets failures travel; its memory goes round."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

import pytest

from theta_daemon.workers.budget import ByteBudget
from theta_daemon.workers.buffers import Buffers
from theta_daemon.workers.pool import Pool

if TYPE_CHECKING:
    from collections.abc import Iterator

WAIT = 30.0


@pytest.fixture
def pool() -> Iterator[Pool]:
    made = Pool(2, 100)
    yield made
    made.close()


def test_budget_admits_by_bytes() -> None:
    budget = ByteBudget(10)
    assert budget.try_acquire(6)
    assert not budget.try_acquire(5)
    assert budget.try_acquire(4)
    budget.release(6)
    assert budget.try_acquire(5)


def test_budget_admits_one_piece_larger_than_itself() -> None:
    budget = ByteBudget(10)
    assert budget.try_acquire(1000)
    assert not budget.try_acquire(1)
    budget.release(1000)
    assert budget.try_acquire(1)


def test_budget_wakes_who_waits() -> None:
    budget = ByteBudget(10)
    budget.acquire(10)
    admitted = threading.Event()

    def wait() -> None:
        budget.acquire(1)
        admitted.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert not admitted.is_set()
    budget.release(10)
    assert admitted.wait(WAIT)
    thread.join(WAIT)


def test_buffers_have_the_size_asked_for_and_are_used_again() -> None:
    buffers = Buffers(1 << 20)
    first = buffers.take(100_000)
    assert len(first) == 100_000
    memory = first.obj
    buffers.give(first)
    second = buffers.take(90_000)
    assert second.obj is memory
    assert len(second) == 90_000
    assert buffers.take(90_000).obj is not memory


def test_buffers_keep_no_more_than_told() -> None:
    buffers = Buffers(1 << 17)
    one, other = buffers.take(1 << 17), buffers.take(1 << 17)
    memories = [one.obj, other.obj]
    buffers.give(one)
    buffers.give(other)
    assert buffers.take(1 << 17).obj is memories[0]
    assert buffers.take(1 << 17).obj is not memories[1]


def test_buffers_refuse_foreign_memory() -> None:
    with pytest.raises(TypeError):
        Buffers(10).give(memoryview(b"abc"))


def test_fan_out_runs_the_last_step_once_after_all_parts(pool: Pool) -> None:
    done: list[int] = []
    lock = threading.Lock()

    def part(number: int) -> None:
        with lock:
            done.append(number)

    result = pool.fan_out([lambda n=n: part(n) for n in range(50)], lambda: sorted(done))  # type: ignore[misc]
    assert result.result(WAIT) == list(range(50))


def test_fan_out_of_nothing_still_finishes(pool: Pool) -> None:
    assert pool.fan_out([], lambda: 7).result(WAIT) == 7


def test_fan_out_passes_the_first_failure_on(pool: Pool) -> None:
    finished: list[int] = []

    def fail() -> None:
        raise ValueError("no")

    result = pool.fan_out([fail, lambda: None], lambda: finished.append(1))
    with pytest.raises(ValueError, match="no"):
        result.result(WAIT)
    assert not finished


def test_fan_out_from_a_worker_of_a_pool_of_one_thread() -> None:
    pool = Pool(1, 10)
    result: Future[int] = Future()
    pool.submit(lambda: pool.fan_out([lambda: None] * 3, lambda: 5, into=result))
    assert result.result(WAIT) == 5
    pool.close()
