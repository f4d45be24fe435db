"""What C's allocator does with memory that is freed.

Every chunk that is compressed gets some MiB, and is freed when it was written. The GNU C library would give such memory
back to the system and take it anew for the next chunk, and pages that are new have to be cleared: for large groups
that took as long as compressing them.
"""

from __future__ import annotations

import functools
from contextlib import suppress
from typing import Final

from theta_daemon.store.payload import CHUNK_BYTES

# malloc.h of the GNU C library
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3

_KEPT: Final = 4 * CHUNK_BYTES  # of freed memory at the end of each thread's heap: nothing else is ever kept


@functools.cache
def keep_freed_memory() -> None:
    """Let threads use again what they have freed; does nothing with another C library. Once is enough."""
    from ctypes import CDLL

    with suppress(AttributeError, OSError):
        mallopt = CDLL(None).mallopt
        # Either switches off that the thresholds grow by themselves, so both are needed.
        mallopt(_M_MMAP_THRESHOLD, 2 * CHUNK_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
