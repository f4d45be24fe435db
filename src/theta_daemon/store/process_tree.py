"""Ending a child together with everything that it started: git-lfs behind git, and behind it ssh or a transfer agent.

A process group of its own would be simpler, but a program outside the terminal's group is stopped when it asks for a
password, and Ctrl-C does not reach it. So those below the child are looked up where the system lists them (Linux). On
other systems git hands a SIGTERM on to git-lfs, and what git-lfs started sees its pipes close.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from theta_daemon import gitcmd

if TYPE_CHECKING:
    from theta_daemon.gitcmd import Child

_MOST: Final = 100  # processes that are ended; each takes a descriptor


def end(child: Child, grace: float) -> None:
    """End `child` and all below it: politely, and after `grace` seconds by force. Safe to call from any thread."""
    if child.poll() is not None:
        return
    below = _handles(child.pid)  # before it ends: afterwards nobody knows whose they were
    try:
        with suppress(OSError):
            child.terminate()
        for handle in below:
            _send(handle, signal.SIGTERM)
        with suppress(gitcmd.TimeoutExpired):
            child.wait(grace)
        for handle in below:
            _send(handle, signal.SIGKILL)
        with suppress(OSError):
            child.kill()
    finally:
        for handle in below:
            os.close(handle)


def _handles(pid: int) -> list[int]:
    """Return a descriptor for each process below `pid`: unlike its number, that is never another's."""
    handles: list[int] = []
    todo = [pid]
    while todo:
        for child in _children(todo.pop()):
            with suppress(OSError, AttributeError):  # it has ended, or this system has no such descriptors
                if len(handles) < _MOST:
                    handles.append(os.pidfd_open(child))
                    todo.append(child)
    return handles


def _children(pid: int) -> list[int]:
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_bytes().split())
    return found


def _send(handle: int, what: signal.Signals) -> None:
    with suppress(OSError):  # it has ended
        signal.pidfd_send_signal(handle, what)
