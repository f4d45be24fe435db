"""What was parsed once: metadata and layouts, by content, within a bound of bytes.

The shards of a model, its versions and its branches mostly have one layout; a rebase or a stash smudges and cleans the
same metadata again and again. What is parsed is frozen, so all may share it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


class Parsed:
    """The results of `parse` that were used last, for content of at most `limit` bytes in all; safe from any thread.

    A result may take many times the memory of the bytes it was parsed from: allow for that in `limit`.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._known: OrderedDict[tuple[Callable[[bytes], object], str], tuple[int, object]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, parse: Callable[[bytes], T], key: str, content: Callable[[], bytes]) -> T:
        """Return `parse(content())`, or what that was before for the same `parse` and `key`: the content's id.

        Passes on what either raises, and remembers no failure.
        """
        with self._lock:
            found = self._known.get((parse, key))
            if found is not None:
                self._known.move_to_end((parse, key))
                return found[1]  # type: ignore[return-value]
        data = content()
        result = parse(data)
        with self._lock:
            if (parse, key) not in self._known and len(data) <= self._limit:
                self._known[parse, key] = (len(data), result)
                self._held += len(data)
                while self._held > self._limit:
                    _, (size, _) = self._known.popitem(last=False)
                    self._held -= size
        return result
