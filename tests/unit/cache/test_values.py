"""Values are shared while somebody uses them, kept while somebody may ask again, and never change under their users."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theta_daemon.cache.values import SharedValues, Value
from theta_daemon.workers.buffers import Buffers

LIMIT = 1000


@dataclass(slots=True)
class Given:
    """Notes whose memory was given back, which may happen once."""

    names: list[str] = field(default_factory=list)

    def of(self, name: str) -> Callable[[], None]:
        def give_back() -> None:
            assert name not in self.names, f"{name} was given back twice"
            self.names.append(name)

        return give_back


@pytest.fixture
def given_back() -> Given:
    return Given()


def offer(values: SharedValues, given_back: Given, name: str, size: int = 100) -> Value:
    """Offer a value of `size` bytes that nobody has."""
    assert values.get(name, size) is None
    return values.offer(name, memoryview(name.encode().ljust(size)), given_back.of(name))


def keep(values: SharedValues, given_back: Given, *names: str, size: int = 100) -> None:
    """Have values kept that will be asked for once more."""
    for name in names:
        values.expect([name, name])
        offer(values, given_back, name, size).release()


def kept(values: SharedValues, *names: str, size: int = 100) -> list[str]:
    """Return which of these are here, which uses each of them once."""
    found = []
    for name in names:
        value = values.get(name, size)
        if value is not None:
            found.append(name)
            value.release()
    return found


def test_a_value_that_nobody_else_needs_is_given_back_at_once(given_back: Given) -> None:
    values = SharedValues(LIMIT)
    offer(values, given_back, "a").release()
    assert given_back.names == ["a"]
    assert values.get("a", 100) is None


def test_users_of_one_value_share_its_memory(given_back: Given) -> None:
    values = SharedValues(LIMIT)
    first = offer(values, given_back, "a")
    second, third = values.get("a", 100), values.get("a", 100)
    assert second is not None
    assert third is not None
    assert first.view is second.view is third.view
    for value in (first, third, second):
        assert given_back.names == []
        value.release()
    assert kept(values, "a") == ["a"]  # it was asked for twice, so a third may come
    values.clear()
    assert given_back.names == ["a"]


def test_what_is_expected_stays(given_back: Given) -> None:
    values = SharedValues(LIMIT)
    values.expect(["a", "b", "a"])
    offer(values, given_back, "a").release()
    offer(values, given_back, "b").release()
    assert given_back.names == ["b"]
    again = values.get("a", 100)
    assert again is not None
    assert bytes(again.view) == b"a".ljust(100)


def test_what_nobody_expects_any_more_does_not(given_back: Given) -> None:
    values = SharedValues(LIMIT)
    values.expect(["a", "a"])
    values.forgo(["a"])
    offer(values, given_back, "a").release()
    assert given_back.names == ["a"]
    values.forgo(["a", "never expected"])  # nothing is below none
    values.expect(["a", "a"])
    offer(values, Given(), "a").release()
    assert kept(values, "a") == ["a"]


def test_what_was_here_before_stays(given_back: Given) -> None:
    """Who asks a second time may ask a third time: a rebase smudges the same again and again."""
    values = SharedValues(LIMIT)
    offer(values, given_back, "a").release()
    assert given_back.names == ["a"]
    offer(values, Given(), "a").release()
    assert kept(values, "a") == ["a"]


def test_the_bound(given_back: Given) -> None:
    values = SharedValues(LIMIT)
    for number in range(50):
        keep(values, given_back, f"{number}")
        held = 50 * 100 - 100 * (len(given_back.names) + 49 - number)
        assert held <= LIMIT
    assert len(given_back.names) == 40
    values.clear()
    assert len(given_back.names) == 50
    values.clear()
    assert len(given_back.names) == 50


def test_values_in_use_are_not_counted_and_not_given_back(given_back: Given) -> None:
    values = SharedValues(LIMIT)
    used = [offer(values, given_back, f"used{number}", 900) for number in range(3)]
    keep(values, given_back, "kept", size=900)
    values.clear()
    assert given_back.names == ["kept"]
    for number, value in enumerate(used):
        assert bytes(value.view) == b"used%d".ljust(901) % number


@pytest.mark.parametrize("limit", [0, 99])
def test_a_value_larger_than_the_bound_is_never_kept_nor_shared(given_back: Given, limit: int) -> None:
    values = SharedValues(limit)
    values.expect(["a"] * 3)
    value = offer(values, given_back, "a")
    assert values.get("a", 100) is None
    value.release()
    assert given_back.names == ["a"]


def test_what_nobody_expects_goes_first_and_of_that_the_oldest(given_back: Given) -> None:
    values = SharedValues(300)
    for name in "ab":
        offer(values, Given(), name).release()
        offer(values, given_back, name).release()  # seen twice: kept, though nobody is expected
    keep(values, given_back, "wanted")
    assert given_back.names == []
    keep(values, given_back, "wanted too")
    assert given_back.names == ["a"]
    keep(values, given_back, "wanted as well")
    assert given_back.names == ["a", "b"]
    assert kept(values, "wanted", "wanted too", "wanted as well") == ["wanted", "wanted too", "wanted as well"]


def test_use_makes_young(given_back: Given) -> None:
    values = SharedValues(200)
    for name in "ab":
        offer(values, Given(), name).release()
        offer(values, given_back, name).release()
    assert kept(values, "a") == ["a"]
    offer(values, Given(), "c").release()
    offer(values, given_back, "c").release()
    assert given_back.names == ["b"]


def test_of_what_is_expected_the_newest_goes(given_back: Given) -> None:
    """Files are written in turn: of shards that share more than fits, a part is always here."""
    values = SharedValues(300)
    keep(values, given_back, *"abcd")
    assert given_back.names == ["d"]
    assert kept(values, *"abcd") == ["a", "b", "c"]


def test_counts(given_back: Given) -> None:
    values = SharedValues(200)
    values.expect("aab")
    first = offer(values, given_back, "a", 100)
    second = values.get("a", 100)
    assert second is not None
    for value in (first, second):
        value.release()
    keep(values, given_back, "b", "c", size=60)
    counts = values.counts
    assert (counts.hits, counts.hit_bytes) == (1, 100)
    assert (counts.misses, counts.missed_bytes) == (3, 220)
    assert counts.evictions == 1


def test_what_two_decode_at_once_is_shared_by_neither(given_back: Given) -> None:
    """Both asked before either was done; then each gives back its own memory."""
    values = SharedValues(LIMIT)
    values.expect("aaa")
    assert values.get("a", 3) is None
    assert values.get("a", 3) is None
    one = values.offer("a", memoryview(b"one"), given_back.of("one"))
    other = values.offer("a", memoryview(b"two"), given_back.of("two"))
    assert (bytes(one.view), bytes(other.view)) == (b"one", b"two")
    other.release()
    assert given_back.names == ["two"]
    one.release()
    assert given_back.names == ["two"]
    assert kept(values, "a", size=3) == ["a"]


def test_who_asks_for_another_size_gets_nothing(given_back: Given) -> None:
    """Metadata may claim anything; the value of that size is somewhere else, or nowhere."""
    values = SharedValues(LIMIT)
    values.expect("aaaa")
    value = offer(values, given_back, "a")
    for size in (0, 99, 101):
        assert values.get("a", size) is None
    other = values.offer("a", memoryview(b"other"), given_back.of("other"))
    assert other.view == b"other"
    other.release()
    value.release()
    assert given_back.names == ["other"]
    assert kept(values, "a") == ["a"]


def test_a_part_is_copied_when_it_is_kept(given_back: Given) -> None:
    """Else a bias that is kept would keep the megabyte that it was decoded in."""
    values = SharedValues(LIMIT)
    slab = bytearray(b"first-second")
    values.expect(["first", "first", "second"])
    parts = [
        values.offer("first", memoryview(slab)[:5], given_back.of("first"), is_part=True),
        values.offer("second", memoryview(slab)[6:], given_back.of("second"), is_part=True),
    ]
    for part in parts:
        part.release()
    assert given_back.names == ["first", "second"]
    slab[:] = b"other things"
    for _ in range(2):  # and so it is when it was used once more
        again = values.get("first", 5)
        assert again is not None
        assert again.view == b"first"
        assert again.view.readonly
        again.release()
    values.clear()
    assert given_back.names == ["first", "second"]


def test_a_part_is_not_copied_under_its_users(given_back: Given) -> None:
    values = SharedValues(LIMIT)
    slab = memoryview(bytearray(b"part"))
    values.expect("aa")
    one = values.offer("a", slab, given_back.of("slab"), is_part=True)
    other = values.get("a", 4)
    assert other is not None
    one.release()
    assert other.view is slab
    assert given_back.names == []
    other.release()
    assert given_back.names == ["slab"]


def test_what_gives_back_may_ask_again() -> None:
    """Memory is given back outside of the lock."""
    values = SharedValues(LIMIT)
    asked = []
    value = values.offer("a", memoryview(b"a"), lambda: asked.append(values.get("a", 1)))
    value.release()
    values.expect("bb")
    values.offer("b", memoryview(b"b"), lambda: asked.append(values.get("b", 1))).release()
    values.clear()
    assert asked == [None, None]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("get"), st.integers(0, 5)),
        st.tuples(st.just("get"), st.integers(0, 5)),
        st.tuples(st.just("release"), st.integers(0, 9)),
        st.tuples(st.just("release"), st.integers(0, 9)),
        st.tuples(st.just("expect"), st.integers(0, 5)),
        st.tuples(st.just("forgo"), st.integers(0, 5)),
        st.tuples(st.just("clear"), st.just(0)),
    ),
    max_size=80,
)


@given(STEPS, st.sampled_from([0, 25, 60, 1000]), st.booleans())
def test_any_sequence(steps: list[tuple[str, int]], limit: int, parts: bool) -> None:
    """No memory is given back under a user, twice, or never; what is kept without one stays within the bound."""
    values = SharedValues(limit)
    live: dict[int, int] = {}  # by the identity of the memory: its size
    users: list[tuple[Value, bytes]] = []
    made = []

    def decode(number: int) -> Value:
        memory = bytearray(bytes([number]) * (10 * number + 1))
        made.append(memory)
        live[id(memory)] = len(memory)

        def give_back() -> None:
            del live[id(memory)]
            memory[:] = b"\xee" * len(memory)  # somebody else uses it

        return values.offer(str(number), memoryview(memory), give_back, is_part=parts)

    for step, number in steps:
        match step:
            case "get":
                value = values.get(str(number), 10 * number + 1) or decode(number)
                users.append((value, bytes([number]) * (10 * number + 1)))
            case "release" if number < len(users):
                users.pop(number)[0].release()
            case "expect":
                values.expect([str(number)])
            case "forgo":
                values.forgo([str(number)])
            case "clear":
                values.clear()
        for value, content in users:
            assert value.view == content
        in_use = {id(value.view.obj) for value, _ in users}
        assert sum(size for identity, size in live.items() if identity not in in_use) <= limit
    for value, _ in users:
        value.release()
    values.clear()
    assert live == {}


@pytest.fixture
def hasty() -> Iterator[None]:
    """Let threads take turns much more often than they do."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("hasty")
def test_threads_that_really_use_their_buffers_again() -> None:
    """Groups decoded side by side, in buffers and in parts of slabs; each user checks what it has, until the end."""
    values, buffers = SharedValues(15_000), Buffers(1 << 18)
    contents = {str(number): bytes([number + 1]) * (997 * (number % 9 + 1)) for number in range(30)}
    failed = threading.Event()

    def decode(name: str) -> Value:
        content = contents[name]
        buffer = buffers.take(2 * len(content))
        buffer[:] = b"\xee" * len(buffer)
        is_part = int(name) % 2 == 1
        view = buffer[: len(content)]
        view[:] = content
        return values.offer(name, view, lambda: buffers.give(buffer), is_part=is_part)

    def use(seed: int) -> int:
        chosen, wrong = random.Random(seed), 0
        held: list[tuple[str, Value]] = []
        for _ in range(4000):
            if failed.is_set():
                break
            step = chosen.random()
            if step < 0.5:
                name = str(int(30 * chosen.random() ** 2))
                held.append((name, values.get(name, len(contents[name])) or decode(name)))
            elif held and (step < 0.9 or len(held) > 5):
                name, value = held.pop(chosen.randrange(len(held)))
                wrong += value.view != contents[name]
                value.release()
            elif step < 0.95:
                values.expect(chosen.choices(list(contents), k=2))
            else:
                values.forgo(chosen.choices(list(contents), k=2))
        for name, value in held:
            wrong += value.view != contents[name]
            value.release()
        if wrong:
            failed.set()
        return wrong

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(use, range(4))) == [0] * 4
    assert values.counts.hits > 100
    assert values.counts.evictions > 20
