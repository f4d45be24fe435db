"""Decoded values that are needed more than once, kept within a bound of bytes.

Shards, branches and copies for an optimizer share parameter groups; each is decoded once for all files that a process
writes. Values are known by their content, so it does not matter under which name, or from which object, one came.

Most values are needed once, and keeping them would only push out of memory what is needed again. So a value stays when
somebody else is expected to ask for it (`expect`: a checkout knows all its files before it writes the first), or
when it was here before: whoever asks a second time may ask a third time. Of those kept, nobody's go first, and among
these the one that was used longest ago.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from functools import partial
from typing import TYPE_CHECKING

from theta_daemon.frozen import Frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_MOST_REMEMBERED = 1 << 16  # keys of values that were here; some 10 MB


class Value(Frozen):
    """The raw bytes of a parameter group in memory that its user gives back with `release`, once."""

    view: memoryview
    release: Callable[[], None]


class _Slot:
    __slots__ = ("give_back", "is_part", "key", "users", "view", "was_shared")

    def __init__(
        self, key: str, view: memoryview, give_back: Callable[[], None], *, is_part: bool, was_shared: bool
    ) -> None:
        self.key = key
        self.view = view
        self.give_back = give_back
        self.is_part = is_part
        self.was_shared = was_shared
        self.users = 1


class Counts:
    """How often a value was there, and was not, and the bytes of both."""

    def __init__(self) -> None:
        self.hits = 0
        self.hit_bytes = 0
        self.misses = 0
        self.missed_bytes = 0
        self.evictions = 0


class SharedValues:
    """Values by content; those that nobody uses hold at most `limit` bytes. Safe from any thread."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._slots: dict[str, _Slot] = {}
        self._idle: OrderedDict[str, _Slot] = OrderedDict()
        self._idle_bytes = 0
        self._expected: Counter[str] = Counter()
        self._seen: OrderedDict[str, None] = OrderedDict()
        self._lock = threading.Lock()
        self.counts = Counts()

    def expect(self, keys: Iterable[str]) -> None:
        """Note that each of these will be asked for once (more)."""
        with self._lock:
            self._expected.update(keys)

    def forgo(self, keys: Iterable[str]) -> None:
        """Note that each of these will be asked for once less: the opposite of `expect`."""
        with self._lock:
            for key in keys:
                self._asked(key)

    def is_expected(self, key: str, besides: int = 0) -> bool:
        """Whether somebody will ask for this one, `besides` those whom the caller knows."""
        return self._expected.get(key, 0) > besides

    def get(self, key: str, size: int) -> Value | None:
        """Return the value of `size` bytes with this key, None where it is not here: then `offer` it when it is."""
        with self._lock:
            slot = self._slots.get(key)
            if slot is None or len(slot.view) != size:  # who asks may be wrong about its size
                self.counts.misses += 1
                self.counts.missed_bytes += size
                return None
            self.counts.hits += 1
            self.counts.hit_bytes += size
            self._asked(key)
            if not slot.users:
                self._wake(slot)
            slot.users += 1
            slot.was_shared = True
            return Value(slot.view, partial(self._release, slot))

    def offer(self, key: str, view: memoryview, give_back: Callable[[], None], is_part: bool = False) -> Value:
        """Return a value that `get` did not have, so that others can use it too; it may be kept when it is released.

        `give_back` is called when its memory is not needed any more. `is_part` says that the memory holds other values
        too: what is kept of it is a copy.
        """
        with self._lock:
            self._asked(key)
            again = self._note(key)
            if key in self._slots or len(view) > self._limit:
                return Value(view, give_back)
            slot = self._slots[key] = _Slot(key, view, give_back, is_part=is_part, was_shared=again)
        return Value(view, partial(self._release, slot))

    def clear(self) -> None:
        """Give back the memory of all values that nobody uses."""
        with self._lock:
            dropped = [self._evict(key) for key in list(self._idle)]
        for slot in dropped:
            slot.give_back()

    def _release(self, slot: _Slot) -> None:
        give_back: list[Callable[[], None]] = []
        with self._lock:
            slot.users -= 1
            if slot.users:
                return
            if slot.was_shared or self._expected.get(slot.key):
                if slot.is_part:
                    give_back.append(slot.give_back)
                    slot.view, slot.give_back, slot.is_part = memoryview(bytes(slot.view)), _nothing, False
                self._idle[slot.key] = slot
                self._idle_bytes += len(slot.view)
                give_back += [dropped.give_back for dropped in self._shrink()]
            else:
                del self._slots[slot.key]
                give_back.append(slot.give_back)
        for each in give_back:
            each()

    def _asked(self, key: str) -> None:
        left = self._expected.get(key)
        if left is not None:
            if left > 1:
                self._expected[key] = left - 1
            else:
                del self._expected[key]

    def _note(self, key: str) -> bool:
        """Remember that the value was here; tell whether it was before."""
        again = key in self._seen
        self._seen[key] = None
        self._seen.move_to_end(key)
        if len(self._seen) > _MOST_REMEMBERED:
            self._seen.popitem(last=False)
        return again

    def _shrink(self) -> list[_Slot]:
        """Take out values until the others fit: first those that nobody is expected to ask for, the oldest first.

        Of values that somebody will ask for, the newest goes: what does not fit as a whole is kept in part.
        """
        dropped = []
        for key in [key for key in self._idle if not self._expected.get(key)] if self._full else []:
            if not self._full:
                break
            dropped.append(self._evict(key))
        while self._full:
            dropped.append(self._evict(next(reversed(self._idle))))
        return dropped

    @property
    def _full(self) -> bool:
        return self._idle_bytes > self._limit

    def _evict(self, key: str) -> _Slot:
        slot = self._idle[key]
        self._wake(slot)
        del self._slots[key]
        self.counts.evictions += 1
        return slot

    def _wake(self, slot: _Slot) -> None:
        del self._idle[slot.key]
        self._idle_bytes -= len(slot.view)


def _nothing() -> None:
    """Nothing to give back."""
