"""A large group on its way through the workers: in order where that is needed, and given up at any point."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from pathlib import Path

import pytest

from tests.support.checkouts import Watched
from tests.support.pipelines import Bench
from theta_daemon.errors import RepositoryError, TruncatedError
from theta_daemon.formats.source import Source
from theta_daemon.pipelines.streaming import Streaming

MIB = 1 << 20
CONTENT = b"".join(hashlib.sha256(b"%d" % number).digest() * (MIB // 32) for number in range(9)) + b"end"
FULL = RepositoryError("the disk is full")


@pytest.fixture(params=[1, 4])
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """Return pipelines with one worker, and with several."""
    bench = Bench.at(tmp_path, workers=request.param, memory_limit=64 * MIB)
    yield bench
    bench.close()


def ended(streaming: Streaming) -> None:
    """Wait for the end; raise what it ends with."""
    result: Future[None] = Future()

    def then(failure: BaseException | None) -> None:
        if failure is None:
            result.set_result(None)
        else:
            result.set_exception(failure)

    streaming.finish(then)
    result.result(30)


def assert_nothing_is_held(bench: Bench) -> None:
    limit = bench.services.settings.memory_limit + 1
    assert bench.services.pool.budget.try_acquire(limit)
    bench.services.pool.budget.release(limit)


def nothing(_: memoryview) -> None:
    """Look at bytes without noting them."""


@pytest.mark.parametrize("sizes", [[], [1], [5] * 1000, [3 * MIB] * 3 + [3], [MIB, 1, 2 * MIB, 7]])
def test_pieces_come_in_order_and_then_aside(bench: Bench, sizes: list[int]) -> None:
    lock, taken, seen = threading.Lock(), bytearray(), bytearray()
    aside: dict[int, bytes] = {}

    def take(piece: memoryview) -> None:
        assert lock.acquire(blocking=False), "two pieces at a time"
        taken.extend(piece)
        lock.release()

    def put_aside(number: int, piece: memoryview) -> None:
        aside[number] = bytes(piece)

    streaming = Streaming(bench.services, sizes, take, put_aside)
    assert streaming.size == sum(sizes)
    streaming.fill(Source(io.BytesIO(CONTENT)), seen.extend)
    ended(streaming)
    assert taken == seen == CONTENT[: sum(sizes)]
    assert list(map(len, map(aside.__getitem__, range(len(sizes))))) == sizes
    assert b"".join(aside[number] for number in range(len(sizes))) == seen
    assert_nothing_is_held(bench)


@pytest.mark.parametrize(
    ("workers", "sizes", "held"),
    [(16, [4 * MIB] * 2, 8 * MIB), (16, [4 * MIB] * 9, 8 * MIB), (16, [MIB] * 9, 8 * MIB), (1, [MIB] * 9, 3 * MIB)],
)
def test_buffers_are_few(tmp_path: Path, workers: int, sizes: list[int], held: int) -> None:
    bench = Bench.at(tmp_path, workers=workers, memory_limit=64 * MIB)
    buffers = Watched(0)
    streaming = Streaming(bench.services.replace(buffers=buffers), sizes, nothing)
    assert sum(map(len, buffers.out.values())) == held
    streaming.fill(Source(io.BytesIO(CONTENT * 4)), nothing)
    ended(streaming)
    assert buffers.out == {}
    bench.close()


@pytest.mark.parametrize("where", ["in order", "aside"])
def test_what_a_piece_meets_stops_the_reader(bench: Bench, where: str) -> None:
    def take(_: memoryview) -> None:
        if where == "in order":
            raise FULL

    def aside(_number: int, _piece: memoryview) -> None:
        raise FULL

    streaming = Streaming(bench.services, [MIB // 8] * 72, take, aside)
    readable = io.BytesIO(CONTENT)
    with pytest.raises(RepositoryError, match="the disk is full"):
        streaming.fill(Source(readable), nothing)
    assert readable.tell() < len(CONTENT)
    streaming.give_up()
    assert_nothing_is_held(bench)


def test_the_last_piece_meets_something(bench: Bench) -> None:
    def take(_: memoryview) -> None:
        raise FULL

    streaming = Streaming(bench.services, [5], take)
    streaming.fill(Source(io.BytesIO(CONTENT)), nothing)
    with pytest.raises(RepositoryError, match="the disk is full"):
        ended(streaming)
    assert_nothing_is_held(bench)


def test_a_file_that_ends_too_early_is_given_up(bench: Bench) -> None:
    asides = []
    streaming = Streaming(bench.services, [MIB] * 10, nothing, lambda number, _: asides.append(number))
    with pytest.raises(TruncatedError):
        streaming.fill(Source(io.BytesIO(CONTENT)), nothing)
    streaming.give_up()
    assert len(asides) < 10
    assert_nothing_is_held(bench)


def test_to_give_up_waits_for_what_is_done_and_for_no_more(tmp_path: Path) -> None:
    bench = Bench.at(tmp_path, workers=1, memory_limit=64 * MIB)
    begun, may_end, taken = threading.Event(), threading.Event(), []

    def take(piece: memoryview) -> None:
        begun.set()
        assert may_end.wait(30)
        taken.append(bytes(piece))

    streaming = Streaming(bench.services, [3] * 3, take)
    streaming.fill(Source(io.BytesIO(CONTENT)), nothing)
    assert begun.wait(30)
    waiting = threading.Thread(target=streaming.give_up)
    waiting.start()
    waiting.join(0.01)
    assert waiting.is_alive()
    may_end.set()
    waiting.join(30)
    assert not waiting.is_alive()
    assert len(taken) <= 3
    assert_nothing_is_held(bench)
    bench.close()


def test_a_piece_that_cannot_be_handed_out(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(_: Callable[[], None]) -> None:
        raise RuntimeError("can't start new thread")

    streaming = Streaming(bench.services, [MIB] * 9, nothing)
    with monkeypatch.context() as patch:
        patch.setattr(bench.services.pool, "submit", refused)
        with pytest.raises(RuntimeError, match="new thread"):
            streaming.fill(Source(io.BytesIO(CONTENT)), nothing)
    streaming.give_up()
    assert_nothing_is_held(bench)


def test_the_end_of_what_was_given_up_is_told_to_nobody(bench: Bench) -> None:
    streaming = Streaming(bench.services, [MIB] * 3, nothing)
    streaming.give_up()
    with pytest.raises(CancelledError):
        streaming.fill(Source(io.BytesIO(CONTENT)), nothing)
    assert_nothing_is_held(bench)
