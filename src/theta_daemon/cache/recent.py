"""What this process smudged last for each path.

First in the record that clean compares with: `merge -X renormalize` and stash smudge and clean the same
content within one git command, while index and HEAD hold something else.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

_PER_PATH = 4


class Recent:
    """The last few metadata blobs smudged for each path, bounded by `limit` bytes in all; safe from any thread."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._held = 0
        self._paths: OrderedDict[bytes, tuple[bytes, ...]] = OrderedDict()
        self._lock = threading.Lock()

    def remember(self, path: bytes, metadata: bytes) -> None:
        """Note that `metadata` was smudged for `path`."""
        with self._lock:
            known = self._paths.pop(path, ())
            self._held -= sum(map(len, known))
            known = (metadata, *(other for other in known if other != metadata))[:_PER_PATH]
            self._paths[path] = known
            self._held += sum(map(len, known))
            while self._held > self._limit:
                _, dropped = self._paths.popitem(last=False)
                self._held -= sum(map(len, dropped))

    def of(self, path: bytes) -> tuple[bytes, ...]:
        """Return what was smudged for `path`, newest first."""
        with self._lock:
            return self._paths.get(path, ())
