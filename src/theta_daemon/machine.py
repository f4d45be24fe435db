"""What this machine lets one process use: cores and memory, where nothing is configured."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_MEMORY = 1 << 30
LEAST_MEMORY = 64 << 20

_PROC_CGROUP = Path("/proc/self/cgroup")
_SYS_CGROUP = Path("/sys/fs/cgroup")


def usable_cores() -> int:
    """Return how many cores this process may run on, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


def umask() -> int:
    """Return the permission bits that new files of this process lack; before there are threads that make any."""
    found = os.umask(0o077)
    os.umask(found)
    return found


def default_memory() -> int:
    """Return the bytes to work with: 1 GiB, less on machines or in containers with less than four times that."""
    limits = [physical_memory(), *cgroup_limits()]
    return max(LEAST_MEMORY, min(MOST_MEMORY, min(limits) // 4))


def physical_memory() -> int:
    """Return the bytes of RAM, four times MOST_MEMORY where the system does not say."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 4 * MOST_MEMORY


def cgroup_limits(membership: Path = _PROC_CGROUP, mounted: Path = _SYS_CGROUP) -> Iterator[int]:
    """Yield every memory limit, in bytes, that the control groups of this process set (cgroups(7)).

    `membership` lists one `number:controllers:path` a line; version 2 has the number 0. A group's limit holds for
    all groups below it. In a container the path may name a group that is not mounted: then only the top is there.
    """
    for line in _lines(membership):
        number, controllers, path = [*line.split(":", 2), "", ""][:3]
        if number == "0":
            top, name = mounted, "memory.max"
        elif "memory" in controllers.split(","):
            top, name = mounted / "memory", "memory.limit_in_bytes"
        else:
            continue
        group = PurePosixPath("/") / path
        if ".." in group.parts:
            group = PurePosixPath("/")
        for place in (group, *group.parents):
            for text in _lines(top / str(place).lstrip("/") / name):
                if text.isascii() and text.isdigit():  # else "max"
                    yield int(text)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("ascii", "replace").splitlines()
    except OSError:
        return []
