"""A group on its way into a spool: in order, whoever writes it, and given up at any point."""

from __future__ import annotations

import hashlib
import io
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from blake3 import blake3

from tests.support.pipelines import Bench
from theta_daemon.errors import RepositoryError, TruncatedError
from theta_daemon.formats.source import Source
from theta_daemon.pipelines.spool import Spool
from theta_daemon.pipelines.spooling import Spooling

MIB = 1 << 20
CONTENT = b"".join(hashlib.sha256(b"%d" % number).digest() * (MIB // 32) for number in range(20)) + b"end"


@pytest.fixture(params=[1, 4])
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """Return pipelines with one worker, and with several."""
    bench = Bench.at(tmp_path, workers=request.param, memory_limit=16 * MIB)
    yield bench
    bench.close()


def ended(spooling: Spooling) -> tuple[Spool, str]:
    """Wait for the end; raise what it ends with."""
    result: Future[tuple[Spool, str]] = Future()
    spooling.finish(lambda spool, digest: result.set_result((spool, digest)), result.set_exception)
    return result.result(30)


def assert_nothing_is_held(bench: Bench) -> None:
    limit = bench.services.settings.memory_limit + 1
    assert bench.services.pool.budget.try_acquire(limit)
    bench.services.pool.budget.release(limit)


@pytest.mark.parametrize("size", [0, 1, MIB, MIB + 1, len(CONTENT)])
def test_the_bytes_and_their_digest(bench: Bench, size: int) -> None:
    spooling = Spooling(bench.services, size)
    seen = bytearray()
    spooling.fill(Source(io.BytesIO(CONTENT)), seen.extend)
    spool, digest = ended(spooling)
    assert spool.view() == seen == CONTENT[:size]
    assert digest == blake3(CONTENT[:size]).hexdigest()
    assert_nothing_is_held(bench)


def test_a_step_that_fails_stops_the_reader(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_spool: Spool, _data: memoryview) -> slice:
        raise RepositoryError("the disk is full")

    monkeypatch.setattr(Spool, "append", full)
    spooling = Spooling(bench.services, len(CONTENT))
    readable = io.BytesIO(CONTENT)
    with pytest.raises(RepositoryError, match="the disk is full"):
        spooling.fill(Source(readable), lambda _: None)
    assert readable.tell() < len(CONTENT)
    spooling.give_up()
    assert_nothing_is_held(bench)


def test_the_last_step_fails(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_spool: Spool, _data: memoryview) -> slice:
        raise RepositoryError("the disk is full")

    monkeypatch.setattr(Spool, "append", full)
    spooling = Spooling(bench.services, 5)
    spooling.fill(Source(io.BytesIO(CONTENT)), lambda _: None)
    with pytest.raises(RepositoryError, match="the disk is full"):
        ended(spooling)
    assert_nothing_is_held(bench)


def test_a_file_that_ends_too_early_is_given_up(bench: Bench) -> None:
    spooling = Spooling(bench.services, len(CONTENT) + 1)
    with pytest.raises(TruncatedError):
        spooling.fill(Source(io.BytesIO(CONTENT)), lambda _: None)
    spooling.give_up()
    assert_nothing_is_held(bench)


def test_to_give_up_waits_for_the_step_that_is_done_and_for_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench.at(tmp_path, workers=1, memory_limit=16 * MIB)
    begun, may_end, appended = threading.Event(), threading.Event(), 0

    def slow(_spool: Spool, data: memoryview) -> slice:
        nonlocal appended
        begun.set()
        assert may_end.wait(30)
        appended += 1
        return slice(0, len(data))

    monkeypatch.setattr(Spool, "append", slow)
    spooling = Spooling(bench.services, 4 * MIB)
    spooling.fill(Source(io.BytesIO(CONTENT)), lambda _: None)
    assert begun.wait(30)
    waiting = threading.Thread(target=spooling.give_up)
    waiting.start()
    while spooling._steps:
        pass
    assert waiting.is_alive()
    may_end.set()
    waiting.join(30)
    assert appended == 1
    assert_nothing_is_held(bench)
    bench.close()


def test_an_interrupt_while_a_step_is_handed_out(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The step is there, and nobody was told: to give up must not wait for it."""

    def interrupted(_: Callable[[], None]) -> None:
        raise KeyboardInterrupt

    spooling = Spooling(bench.services, len(CONTENT))
    with monkeypatch.context() as patch:
        patch.setattr(bench.services.pool, "submit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            spooling.fill(Source(io.BytesIO(CONTENT)), lambda _: None)
    spooling.give_up()
    assert_nothing_is_held(bench)
