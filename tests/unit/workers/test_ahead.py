"""Results are there when they are asked for, in order, within the window, and all of them are given back."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theta_daemon.workers.ahead import Job, ReadAhead, Stream

WINDOW = 100


@dataclass(eq=False, slots=True)
class Result:
    """What a job made; `weight` bytes are held until it is dropped."""

    name: str
    weight: int
    is_dropped: bool = False


class Memory:
    """Makes jobs and counts what their results hold; safe from any thread.

    Jobs are done when they are started; those whose names are in `later` when they are finished, those in `failing`
    fail.
    """

    def __init__(self) -> None:
        self.held = 0
        self.peak = 0
        self.starts: list[str] = []
        self.later: set[str] = set()
        self.failing: set[str] = set()
        self.pending: dict[str, tuple[Future[Result], int]] = {}
        self._lock = threading.Lock()

    def job(self, name: str, weight: int) -> Job[Result]:
        return Job(weight, lambda: self._start(name, weight))

    def jobs(self, names: str, weight: int = 40) -> list[Job[Result]]:
        return [self.job(name, weight) for name in names.split()]

    def finish(self, *names: str) -> None:
        for name in names:
            future, weight = self.pending.pop(name)
            self._end(future, name, weight)

    def drop(self, result: Result) -> None:
        with self._lock:
            assert not result.is_dropped, f"{result.name} was dropped twice"
            result.is_dropped = True
            self.held -= result.weight

    def _start(self, name: str, weight: int) -> Future[Result]:
        future: Future[Result] = Future()
        future.set_running_or_notify_cancel()
        with self._lock:
            self.starts.append(name)
            self.held += weight
            self.peak = max(self.peak, self.held)
        if name in self.later:
            self.pending[name] = (future, weight)
        else:
            self._end(future, name, weight)
        return future

    def _end(self, future: Future[Result], name: str, weight: int) -> None:
        if name in self.failing:
            with self._lock:
                self.held -= weight
            future.set_exception(ValueError(f"{name} is broken"))
        else:
            future.set_result(Result(name, weight))


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def ahead(memory: Memory) -> Iterator[ReadAhead[Result]]:
    """Return a read-ahead of 100 bytes, and fail the test that leaves any of them held."""
    made = ReadAhead[Result](WINDOW, memory.drop)
    yield made
    made.close()
    memory.finish(*list(memory.pending))
    assert memory.held == 0


def names(stream: Stream[Result], count: int) -> str:
    return " ".join(stream.next().name for _ in range(count))


def started(memory: Memory) -> str:
    """Return the jobs that were started since this was asked last."""
    found, memory.starts = memory.starts, []
    return " ".join(found)


def test_results_come_in_order_and_are_held_until_the_next_is_asked_for(
    memory: Memory, ahead: ReadAhead[Result]
) -> None:
    stream = ahead.stream(memory.jobs("a b c d"))
    assert started(memory) == "a b"
    first = stream.next()
    assert (first.name, first.is_dropped, started(memory)) == ("a", False, "")
    second = stream.next()
    assert (second.name, first.is_dropped, started(memory)) == ("b", True, "c")
    assert names(stream, 2) == "c d"
    assert (stream.is_done, memory.held) == (True, 40)
    with pytest.raises(IndexError):
        stream.next()
    assert memory.held == 0
    with pytest.raises(IndexError):
        stream.next()


def test_streams_are_started_in_their_order(memory: Memory, ahead: ReadAhead[Result]) -> None:
    one, other = ahead.stream(memory.jobs("a b c")), ahead.stream(memory.jobs("d e f"))
    assert names(one, 3) == "a b c"
    assert names(other, 3) == "d e f"
    assert started(memory) == "a b c d e f"
    assert memory.peak == 80


def test_a_small_job_of_a_later_stream_does_not_overtake(memory: Memory, ahead: ReadAhead[Result]) -> None:
    one = ahead.stream([memory.job("a", 60), memory.job("b", 60)])
    ahead.stream([memory.job("small", 1)])
    assert started(memory) == "a"
    assert names(one, 2) == "a b"
    assert started(memory) == "b small"


def test_a_stream_of_nothing(memory: Memory, ahead: ReadAhead[Result]) -> None:
    empty, other = ahead.stream([]), ahead.stream(memory.jobs("a"))
    assert empty.is_settled
    assert empty.first_failure() is None
    with pytest.raises(IndexError):
        empty.next()
    assert names(other, 1) == "a"


def test_the_window_counts_bytes_and_not_jobs(memory: Memory, ahead: ReadAhead[Result]) -> None:
    stream = ahead.stream([memory.job(str(number), 1) for number in range(150)])
    assert len(memory.starts) == WINDOW
    stream.next()
    assert len(memory.starts) == WINDOW  # what was returned is held too
    stream.next()
    assert len(memory.starts) == WINDOW + 1
    assert memory.peak == WINDOW


@pytest.mark.parametrize("weight", [WINDOW + 1, 1000])
def test_a_job_larger_than_the_window_is_made_alone(memory: Memory, ahead: ReadAhead[Result], weight: int) -> None:
    stream = ahead.stream([memory.job("a", 1), memory.job("large", weight), memory.job("b", 1), memory.job("c", 1)])
    assert started(memory) == "a"
    assert names(stream, 2) == "a large"
    assert started(memory) == "large"
    assert memory.peak == weight
    assert names(stream, 2) == "b c"


def test_a_job_larger_than_the_window_may_be_made_ahead_of_time(memory: Memory, ahead: ReadAhead[Result]) -> None:
    ahead.stream([memory.job("large", 1000)])
    assert started(memory) == "large"
    other = ahead.stream(memory.jobs("a"))
    assert started(memory) == ""
    assert names(other, 1) == "a"  # asked in another order than was expected
    assert memory.held == 40


def test_two_large_jobs_may_share_more_than_the_window(memory: Memory) -> None:
    """One is taken while the other is made; but no third, and nothing above `most`."""
    ahead = ReadAhead[Result](WINDOW, memory.drop, most=200)
    weights = {"a": 90, "b": 90, "c": 15, "d": 110, "e": 110}
    stream = ahead.stream(memory.job(name, weight) for name, weight in weights.items())
    assert started(memory) == "a b"
    assert names(stream, 1) == "a"
    assert started(memory) == ""  # two are held
    assert names(stream, 2) == "b c"
    assert started(memory) == "c d"
    assert names(stream, 1) == "d"
    assert started(memory) == ""  # d and e would be 220
    assert memory.peak == 180
    ahead.close()
    assert memory.held == 0


def test_a_stream_that_is_asked_out_of_turn_gets_the_memory(memory: Memory, ahead: ReadAhead[Result]) -> None:
    first, second = ahead.stream(memory.jobs("a b c")), ahead.stream(memory.jobs("d e"))
    assert started(memory) == "a b"
    assert names(second, 2) == "d e"
    assert started(memory).startswith("d e")
    assert memory.peak <= WINDOW
    second.close()
    assert names(first, 3) == "a b c"  # those that were dropped are made again
    assert memory.peak <= WINDOW


def test_a_stream_that_is_asked_out_of_turn_takes_what_is_there(memory: Memory, ahead: ReadAhead[Result]) -> None:
    first, second = ahead.stream(memory.jobs("a")), ahead.stream(memory.jobs("b c d"))
    assert started(memory) == "a b"
    assert names(second, 1) == "b"
    assert started(memory) == ""
    assert names(first, 1) == "a"
    assert names(second, 2) == "c d"
    assert started(memory) == "c d"


def test_every_order_of_questions_is_answered(memory: Memory, ahead: ReadAhead[Result]) -> None:
    """Also while each stream holds what it returned last, which nobody can take from it."""
    streams = [ahead.stream(memory.jobs(f"{letter}1 {letter}2 {letter}3", 90)) for letter in "abc"]
    expected = []
    for number in (1, 2, 3):
        for letter, stream in zip("abc", streams, strict=True):
            expected.append(f"{letter}{number}")
            assert stream.next().name == expected[-1]
    assert Counter(memory.starts).keys() == {*expected}
    assert memory.peak <= 3 * 90


def test_streams_can_be_put_into_another_order(memory: Memory, ahead: ReadAhead[Result]) -> None:
    memory.later = {"a"}
    streams = [ahead.stream([memory.job(name, 60)]) for name in "abcd"]
    ahead.arrange([streams[3], streams[1]])
    memory.finish("a")
    assert names(streams[0], 1) == "a"
    streams[0].close()
    ahead.go_on()
    assert started(memory) == "a d"
    assert names(streams[3], 1) == "d"
    streams[3].close()
    ahead.go_on()
    assert started(memory) == "b"


def test_what_nobody_has_taken_can_be_given_up(memory: Memory, ahead: ReadAhead[Result]) -> None:
    one, other = ahead.stream(memory.jobs("a b c", 30)), ahead.stream(memory.jobs("d e", 30))
    taken = one.next()
    assert started(memory) == "a b c"
    ahead.give_up()
    assert memory.held == 30
    assert not taken.is_dropped
    assert names(one, 2) == "b c"
    assert names(other, 2) == "d e"
    assert started(memory) == "b c d e"


def test_what_is_given_up_has_been_given_back(memory: Memory, ahead: ReadAhead[Result]) -> None:
    """Somebody needs the memory now: jobs that run are waited for."""
    memory.later = {"a", "b"}
    ahead.stream(memory.jobs("a b"))
    threading.Timer(0.05, memory.finish, ("a", "b")).start()
    ahead.give_up()
    assert memory.held == 0


def test_all_but_one_stream_can_be_given_up(memory: Memory, ahead: ReadAhead[Result]) -> None:
    one, other = ahead.stream(memory.jobs("a")), ahead.stream(memory.jobs("b"))
    ahead.give_up(but=one)
    assert memory.held == 40
    assert names(one, 1) == "a"
    assert names(other, 1) == "b"
    assert started(memory) == "a b b"


def test_a_failure_is_raised_in_its_turn(memory: Memory, ahead: ReadAhead[Result]) -> None:
    memory.failing = {"b"}
    stream = ahead.stream(memory.jobs("a b c"))
    assert stream.next().name == "a"
    with pytest.raises(ValueError, match="b is broken"):
        stream.next()
    assert stream.next().name == "c"


def test_a_failure_that_was_given_up_is_made_again(memory: Memory, ahead: ReadAhead[Result]) -> None:
    memory.failing = {"a"}
    stream = ahead.stream(memory.jobs("a"))
    ahead.give_up()
    memory.failing = set()
    assert stream.next().name == "a"


def test_the_first_failure_is_known_before_anybody_asks(memory: Memory, ahead: ReadAhead[Result]) -> None:
    memory.failing = {"b", "c"}
    good, bad = ahead.stream(memory.jobs("a", 10)), ahead.stream(memory.jobs("a b c d", 10))
    assert good.first_failure() is None
    assert good.is_settled
    assert str(bad.first_failure()) == "b is broken"
    assert not bad.is_settled
    assert names(bad, 1) == "a"  # nothing was taken


def test_the_first_failure_waits_for_all_that_runs(memory: Memory, ahead: ReadAhead[Result]) -> None:
    memory.later, memory.failing = {"a", "b"}, {"b"}
    stream = ahead.stream(memory.jobs("a b c"))
    assert not stream.is_settled
    for name in "ab":
        threading.Timer(0.05, memory.finish, name).start()
    assert str(stream.first_failure()) == "b is broken"


def test_settled_is_what_is_done_as_a_whole(memory: Memory, ahead: ReadAhead[Result]) -> None:
    memory.later = {"b", "d"}
    one, other = ahead.stream(memory.jobs("a b", 40)), ahead.stream(memory.jobs("c d", 20))
    assert (one.is_settled, other.is_settled) == (False, False)
    memory.finish("b")
    assert (one.is_settled, other.is_settled) == (True, False)  # the other is only begun
    one.close()
    ahead.go_on()
    assert not other.is_settled
    memory.finish("d")
    assert other.is_settled


@pytest.mark.parametrize("taken", range(5))
def test_a_stream_is_closed_early(memory: Memory, ahead: ReadAhead[Result], taken: int) -> None:
    memory.later = {"c", "d"}
    stream, other = ahead.stream(memory.jobs("a b c d", 20)), ahead.stream(memory.jobs("e", 20))
    for name in "cd"[: max(taken - 2, 0)]:
        memory.finish(name)
    names(stream, taken)
    stream.close()
    late = [name for name in "cd" if name in memory.pending]
    assert memory.held == 20 * len(late) + 20
    with pytest.raises(IndexError):
        stream.next()
    stream.close()
    memory.finish(*late)
    assert memory.held == 20
    assert names(other, 1) == "e"


def test_jobs_that_fail_after_nobody_wants_them_hold_nothing(memory: Memory, ahead: ReadAhead[Result]) -> None:
    memory.later, memory.failing = {"a", "b"}, {"b"}
    stream = ahead.stream(memory.jobs("a b"))
    stream.close()
    memory.finish("b", "a")
    assert memory.held == 0


def test_a_closed_stream_makes_room(memory: Memory, ahead: ReadAhead[Result]) -> None:
    one, other = ahead.stream(memory.jobs("a b")), ahead.stream(memory.jobs("c d"))
    one.close()
    ahead.go_on()
    assert started(memory) == "a b c d"
    assert names(other, 2) == "c d"


def test_everything_is_closed(memory: Memory, ahead: ReadAhead[Result]) -> None:
    memory.later = {"c"}
    streams = [ahead.stream(memory.jobs(names, 10)) for names in ("a b", "c d", "e")]
    names(streams[0], 1)
    ahead.close()
    assert memory.held == 10
    memory.finish("c")
    assert memory.held == 0
    for stream in streams:
        with pytest.raises(IndexError):
            stream.next()


def test_work_that_cannot_be_started_leaves_nothing_behind(memory: Memory, ahead: ReadAhead[Result]) -> None:
    def refuse() -> Future[Result]:
        raise RuntimeError("no more threads")

    with pytest.raises(RuntimeError, match="no more threads"):
        ahead.stream([memory.job("a", 10), Job(10, refuse)])
    other = ahead.stream(memory.jobs("b c d", 90))  # which nobody keeps from its memory
    assert memory.held == 90
    assert names(other, 3) == "b c d"


def test_an_interrupt_while_a_result_is_waited_for(memory: Memory, ahead: ReadAhead[Result]) -> None:
    class Interrupted(Future[Result]):
        def result(self, timeout: float | None = None) -> Result:
            raise KeyboardInterrupt

    future = Interrupted()
    stream = ahead.stream([Job(10, lambda: future), memory.job("b", 10)])
    with pytest.raises(KeyboardInterrupt):
        stream.next()
    stream.close()
    assert memory.held == 0


@dataclass(frozen=True, slots=True)
class Plan:
    """The jobs of a stream: weights, and which fail."""

    weights: tuple[int, ...]
    failing: frozenset[int]


PLANS = st.builds(
    Plan,
    st.lists(st.one_of(st.integers(0, 40), st.integers(80, 250)), max_size=8).map(tuple),
    st.frozensets(st.integers(0, 7), max_size=2),
)
STEPS = st.one_of(
    st.tuples(st.just("next"), st.integers(0, 5)),
    st.tuples(st.just("next"), st.integers(0, 5)),
    st.tuples(st.just("next"), st.integers(0, 5)),
    st.tuples(st.just("close"), st.integers(0, 5)),
    st.tuples(st.just("give up"), st.integers(-1, 5)),
    st.tuples(st.just("arrange"), st.permutations(range(6)).map(tuple)),
    st.tuples(st.just("go on"), st.none()),
    st.tuples(st.just("stream"), PLANS),
)


class Model:
    """What anybody may expect of a read-ahead, whatever it does inside."""

    def __init__(self, memory: Memory, window: int, most: int) -> None:
        self.memory = memory
        self.limit = max(window, most)
        self.ahead = ReadAhead[Result](window, memory.drop, most=most)
        self.streams: list[Stream[Result]] = []
        self._left: list[list[Job[Result]]] = []
        self._names: list[list[str]] = []
        self.taken: list[Result | None] = []

    def stream(self, plan: Plan) -> None:
        number = len(self.streams)
        named = [f"{number}.{at}" for at in range(len(plan.weights))]
        self.memory.failing |= {named[at] for at in plan.failing if at < len(named)}
        jobs = [self.memory.job(name, weight) for name, weight in zip(named, plan.weights, strict=True)]
        self.streams.append(self.ahead.stream(jobs))
        self._names.append(named)
        self._left.append(jobs)
        self.taken.append(None)

    def next(self, number: int) -> None:
        before, self.taken[number] = self.taken[number], None
        if not self._names[number]:
            with pytest.raises(IndexError):
                self.streams[number].next()
        else:
            name = self._names[number].pop(0)
            self._left[number].pop(0)
            if name in self.memory.failing:
                with pytest.raises(ValueError, match=f"{name} is broken"):
                    self.streams[number].next()
            else:
                result = self.taken[number] = self.streams[number].next()
                assert result.name == name
        assert before is None or before.is_dropped

    def close(self, number: int) -> None:
        self.streams[number].close()
        self._names[number].clear()
        self._left[number].clear()
        self.taken[number] = None

    def check(self) -> None:
        taken = [result for result in self.taken if result is not None]
        assert not any(result.is_dropped for result in taken), "a result was dropped under its user"
        held = sum(result.weight for result in taken)
        # One result may be larger than all that is allowed, when nothing else is held but what cannot be dropped.
        largest = max((job.weight for jobs in self._left for job in jobs), default=0)
        assert self.memory.held <= max(self.limit, held, largest)


@given(st.integers(0, 120), st.sampled_from([0, 200]), st.lists(PLANS, max_size=4), st.lists(STEPS, max_size=40))
def test_any_interleaving(window: int, most: int, plans: list[Plan], steps: list[tuple[str, object]]) -> None:
    memory = Memory()
    model = Model(memory, window, most)
    for plan in plans:
        model.stream(plan)
        model.check()
    for step, argument in steps:
        known = len(model.streams)
        match step, argument:
            case "stream", Plan():
                model.stream(argument)
            case "arrange", tuple(order):
                listed = [model.streams[at] for at in order if at < known and not is_closed(model, at)]
                model.ahead.arrange(listed)
            case "give up", int(at):
                model.ahead.give_up(but=model.streams[at] if 0 <= at < known else None)
            case "go on", _:
                model.ahead.go_on()
            case "next", int(at) if at < known:
                model.next(at)
            case "close", int(at) if at < known:
                model.close(at)
        model.check()
    model.ahead.close()
    assert memory.held == 0


def is_closed(model: Model, number: int) -> bool:
    return model.streams[number] not in model.ahead._streams


@given(
    st.integers(1, 120),
    st.lists(st.lists(st.integers(0, 150), max_size=6), min_size=1, max_size=5),
    st.randoms(use_true_random=False),
)
def test_any_order_of_questions_with_real_threads(window: int, files: list[list[int]], random: Random) -> None:
    """Nobody waits for ever, and all that was ever made is dropped once."""
    memory = Memory()
    with ThreadPoolExecutor(2) as pool:

        def job(name: str, weight: int) -> Job[Result]:
            return Job(weight, lambda: pool.submit(lambda: memory.job(name, weight).start().result()))

        ahead = ReadAhead[Result](window, memory.drop)
        streams = [
            ahead.stream([job(f"{number}.{at}", weight) for at, weight in enumerate(weights)])
            for number, weights in enumerate(files)
        ]
        questions = [number for number, weights in enumerate(files) for _ in weights]
        random.shuffle(questions)
        asked: Counter[int] = Counter()
        closed: set[int] = set()
        for number in questions[: len(questions) * 2 // 3]:
            if number in closed:
                continue
            assert streams[number].next().name == f"{number}.{asked[number]}"
            asked[number] += 1
            if random.random() < 0.1:
                ahead.give_up()
            if random.random() < 0.1:
                streams[number].close()
                closed.add(number)
        ahead.close()
    assert memory.held == 0


def test_nothing_is_started_while_it_is_held(memory: Memory) -> None:
    ahead = ReadAhead[Result](WINDOW, memory.drop)
    ahead.hold()
    first, second = ahead.stream(memory.jobs("a b")), ahead.stream(memory.jobs("c"))
    assert memory.starts == []
    assert first.next().name == "a"  # who asks is served
    assert memory.starts == ["a"]
    ahead.release()
    assert memory.starts == ["a", "b"]
    assert [first.next().name, second.next().name] == ["b", "c"]
    ahead.close()
    assert memory.held == 0
