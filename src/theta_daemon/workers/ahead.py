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

from collections import OrderedDict, deque
from concurrent.futures import wait as wait_all
from typing import TYPE_CHECKING, Generic, TypeVar

from theta_daemon.frozen import Frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from concurrent.futures import Future

T = TypeVar("T")

_LEAST_JOBS = 2


class Job(Frozen, Generic[T]):
    """Work that is started, perhaps more than once, by `start`; its result holds `weight` bytes until it is dropped."""

    weight: int
    start: Callable[[], Future[T]]


class ReadAhead(Generic[T]):
    """Streams of jobs within a window of `window` bytes; `drop` gives back what a result holds.

    Two jobs that follow each other may hold up to `most` bytes, so that one is made while the other is taken.
    """

    def __init__(self, window: int, drop: Callable[[T], None], most: int = 0) -> None:
        self.window = window
        self.most = most
        self._drop = drop
        self._used = 0
        self._jobs = 0
        self._is_held = False
        self._streams: OrderedDict[Stream[T], None] = OrderedDict()
        self._unstarted: OrderedDict[Stream[T], None] = OrderedDict()  # those with a job to start, in the same order

    def stream(self, jobs: Iterable[Job[T]]) -> Stream[T]:
        """Return a new stream, behind all others; what fits of it is started at once."""
        stream = Stream(self, jobs)
        self._streams[stream] = self._unstarted[stream] = None
        try:
            self.go_on()
        except BaseException:
            stream.close()  # nobody else can
            raise
        return stream

    def go_on(self) -> None:
        """Start whatever fits into the window."""
        while self._unstarted and not self._is_held:
            stream = next(iter(self._unstarted))
            if not stream._start_what_fits():
                return
            self._unstarted.pop(stream, None)

    def hold(self) -> None:
        """Start nothing ahead until `release`: more is to come that decides what is worth keeping."""
        self._is_held = True

    def release(self) -> None:
        """Start whatever fits into the window, from now on."""
        if self._is_held:
            self._is_held = False
            self.go_on()

    def arrange(self, streams: Sequence[Stream[T]]) -> None:
        """Put these streams before all others, in this order."""
        for stream in reversed(streams):
            self._streams.move_to_end(stream, last=False)
        self._look_again()

    def give_up(self, but: Stream[T] | None = None) -> None:
        """Drop every result that nobody has taken yet, but those of `but`; they are made again when asked for."""
        for stream in self._streams:
            if stream is not but:
                stream._give_up()
        self._look_again()

    def close(self) -> None:
        """Give everything back."""
        for stream in list(self._streams):
            stream.close()

    def _look_again(self) -> None:
        self._unstarted = OrderedDict.fromkeys(stream for stream in self._streams if stream._waiting)

    def _fits(self, weight: int) -> bool:
        used = self._used + weight
        return self._used == 0 or used <= self.window or (self._jobs < _LEAST_JOBS and used <= self.most)

    def _hold(self, job: Job[T]) -> None:
        self._used += job.weight
        self._jobs += 1

    def _let_go(self, job: Job[T]) -> None:
        self._used -= job.weight
        self._jobs -= 1


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
            if next(iter(self._ahead._streams)) is not self:
                self._ahead.arrange([self])
            if not self._ahead._fits(self._waiting[0].weight):
                self._ahead.give_up(self)
            self._start()  # fits or not: what other streams returned last is not ours to drop
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
        """Wait for all that has been started, or fits now, and return the exception of the first that failed."""
        if not self._started:
            self._ahead.go_on()
        for _, future in self._started:
            if (error := future.exception()) is not None:
                return error
        return None

    @property
    def is_done(self) -> bool:
        """Whether every result was returned."""
        return not self._waiting and not self._started

    @property
    def is_settled(self) -> bool:
        """Whether all of it has been started, is done and has not failed; never waits."""
        return not self._waiting and all(future.done() and future.exception() is None for _, future in self._started)

    def close(self) -> None:
        """Give back everything; the stream has no more results."""
        self._waiting.clear()
        self._drop_taken()
        while self._started:
            self._lay_aside(*self._started.popleft())
        self._ahead._streams.pop(self, None)
        self._ahead._unstarted.pop(self, None)

    def _start_what_fits(self) -> bool:
        """Start jobs in order; tell whether all are."""
        while self._waiting:
            if not self._ahead._fits(self._waiting[0].weight):
                return False
            self._start()
        return True

    def _start(self) -> None:
        job = self._waiting[0]
        future = job.start()
        del self._waiting[0]
        self._ahead._hold(job)
        self._started.append((job, future))

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
            self._ahead._let_go(job)
            self._ahead._drop(result)

    def _lay_aside(self, job: Job[T], future: Future[T]) -> None:
        self._ahead._let_go(job)
        future.cancel()
        future.add_done_callback(self._drop_late)

    def _drop_late(self, future: Future[T]) -> None:
        if not future.cancelled() and future.exception() is None:
            self._ahead._drop(future.result())
