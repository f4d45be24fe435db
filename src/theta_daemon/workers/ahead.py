"""Reading ahead: results that are there when they are asked for.

A checkout needs its parameter groups in one order, file after file, and git takes them in that order. So their jobs
form streams, one a file, and are started in the order of the streams, as many as fit into a window of bytes: while git
takes one group, or writes a whole file, the workers make the next.

The window never stops the stream that is being asked: should others hold it (git asked in another order than was
expected), their results are dropped and made again later. So there is no order of questions that waits for ever, and
no more than one job above the window is ever held.

One thread asks; the work itself may run anywhere.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import wait as wait_all
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from concurrent.futures import Future

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Job(Generic[T]):
    """Work that is started, perhaps more than once, by `start`; its result holds `weight` bytes until it is dropped."""

    weight: int
    start: Callable[[], Future[T]]


class ReadAhead(Generic[T]):
    """Streams of jobs within a window of `window` bytes; `drop` gives back what a result holds."""

    def __init__(self, window: int, drop: Callable[[T], None]) -> None:
        self.window = window
        self._drop = drop
        self._used = 0
        self._streams: deque[Stream[T]] = deque()

    def stream(self, jobs: Iterable[Job[T]]) -> Stream[T]:
        """Return a new stream, behind all others; what fits of it is started at once."""
        stream = Stream(self, jobs)
        self._streams.append(stream)
        self.go_on()
        return stream

    def go_on(self) -> None:
        """Start whatever fits into the window."""
        for stream in self._streams:
            if not stream._start_what_fits():
                return

    def arrange(self, streams: Sequence[Stream[T]]) -> None:
        """Put these streams before all others, in this order."""
        for stream in reversed(streams):
            self._streams.remove(stream)
            self._streams.appendleft(stream)

    def give_up(self, but: Stream[T] | None = None) -> None:
        """Drop every result that nobody has taken yet, but those of `but`; they are made again when asked for."""
        for stream in self._streams:
            if stream is not but:
                stream._give_up()

    def close(self) -> None:
        """Give everything back."""
        for stream in list(self._streams):
            stream.close()

    def _fits(self, weight: int) -> bool:
        return self._used == 0 or self._used + weight <= self.window


class Stream(Generic[T]):
    """The results of some jobs, in order."""

    def __init__(self, ahead: ReadAhead[T], jobs: Iterable[Job[T]]) -> None:
        self._ahead = ahead
        self._waiting = deque(jobs)
        self._started: deque[tuple[Job[T], Future[T]]] = deque()
        self._taken: tuple[Job[T], T] | None = None

    def next(self) -> T:
        """Drop the previous result and return the next one, or raise what its work raised.

        Raises IndexError when every result was returned.
        """
        self._drop_taken()
        if not self._started:
            if not self._waiting:
                raise IndexError("no more jobs")
            if self._ahead._streams[0] is not self:
                self._ahead.arrange([self])
            if not self._ahead._fits(self._waiting[0].weight):
                self._ahead.give_up(self)
        self._ahead.go_on()
        job, future = self._started.popleft()
        try:
            result = future.result()
        except BaseException:
            self._lay_aside(job, future)
            raise
        self._taken = (job, result)
        return result

    def first_failure(self) -> BaseException | None:
        """Wait for all that has been started, and return the exception of the first that failed."""
        for _, future in self._started:
            if (error := future.exception()) is not None:
                return error
        return None

    @property
    def is_settled(self) -> bool:
        """Whether something has been started, and all that has is done and has not failed; never waits."""
        if self._waiting and not self._started:
            return False
        return all(future.done() and future.exception() is None for _, future in self._started)

    def close(self) -> None:
        """Give back everything; the stream has no more results."""
        self._waiting.clear()
        self._drop_taken()
        while self._started:
            self._lay_aside(*self._started.popleft())
        if self in self._ahead._streams:
            self._ahead._streams.remove(self)

    def _start_what_fits(self) -> bool:
        """Start jobs in order; tell whether all are."""
        ahead = self._ahead
        while self._waiting:
            job = self._waiting[0]
            if not ahead._fits(job.weight):
                return False
            future = job.start()
            del self._waiting[0]
            ahead._used += job.weight
            self._started.append((job, future))
        return True

    def _give_up(self) -> None:
        wait_all([future for _, future in self._started])
        while self._started:
            job, future = self._started.pop()
            self._waiting.appendleft(job)
            self._lay_aside(job, future)

    def _drop_taken(self) -> None:
        if self._taken is not None:
            job, result = self._taken
            self._taken = None
            self._ahead._used -= job.weight
            self._ahead._drop(result)

    def _lay_aside(self, job: Job[T], future: Future[T]) -> None:
        self._ahead._used -= job.weight
        future.cancel()
        future.add_done_callback(self._drop_late)

    def _drop_late(self, future: Future[T]) -> None:
        if not future.cancelled() and future.exception() is None:
            self._ahead._drop(future.result())
