"""The worker pool: threads that decode, encode and hash.

Hashing, blosc and file access release the GIL, so threads use all cores. Nothing that runs in the pool ever
waits for something else in the pool: work that has several steps hands the next step on (`fan_out`), so
a pool of one thread cannot deadlock. An exception in a worker travels in its future to whoever needs the result.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Generic, TypeVar

from theta_daemon.workers.budget import ByteBudget

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

T = TypeVar("T")


class Pool:
    """`workers` threads and a budget of `limit` bytes in flight."""

    def __init__(self, workers: int, limit: int) -> None:
        self.workers = workers
        self.budget = ByteBudget(limit)
        self._executor = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="theta-worker")

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Run `work` in a worker."""
        return self._executor.submit(work)

    def fan_out(
        self, parts: Sequence[Callable[[], None]], then: Callable[[], T], into: Future[T] | None = None
    ) -> Future[T]:
        """Run `parts` side by side and, once all are done, `then`; the first exception wins and `then` is not run.

        The result goes into the future `into` where one is given (a step of longer work), else into a new one.
        """
        result: Future[T] = Future() if into is None else into
        if into is None:
            result.set_running_or_notify_cancel()  # parts may run at once: too late to cancel
        return _FanOut(self._executor, parts, then, result).start()

    def close(self) -> None:
        """Cancel what has not started and let the threads end."""
        self._executor.shutdown(wait=False, cancel_futures=True)


class _FanOut(Generic[T]):
    def __init__(
        self,
        executor: ThreadPoolExecutor,
        parts: Sequence[Callable[[], None]],
        then: Callable[[], T],
        result: Future[T],
    ) -> None:
        self._executor = executor
        self._parts = parts
        self._then = then
        self._left = len(parts)
        self._failed: BaseException | None = None
        self._lock = threading.Lock()
        self._result = result

    def start(self) -> Future[T]:
        if not self._parts:
            self._executor.submit(self._finish)
        for part in self._parts:
            self._executor.submit(self._run, part)
        return self._result

    def _run(self, part: Callable[[], None]) -> None:
        try:
            if self._failed is None:
                part()
        except BaseException as error:  # noqa: BLE001 - it travels to the waiting thread
            self._failed = self._failed or error
        with self._lock:
            self._left -= 1
            last = self._left == 0
        if last:
            self._finish()

    def _finish(self) -> None:
        if self._failed is not None:
            self._result.set_exception(self._failed)
            return
        try:
            value = self._then()
        except BaseException as error:  # noqa: BLE001 - it travels to the waiting thread
            self._result.set_exception(error)
        else:
            self._result.set_result(value)
