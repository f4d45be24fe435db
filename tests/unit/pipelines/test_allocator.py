"""What is freed is used again, not given back to the system."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from types import SimpleNamespace

import pytest

from theta_daemon.pipelines.allocator import keep_freed_memory

CHURN = """
import resource, threading
from theta_daemon.pipelines.allocator import keep_freed_memory

keep_freed_memory()
keep_freed_memory()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def churn():
    for _ in range(5):
        len(bytes(4 << 20))
    before = faults()
    for _ in range(50):
        len(bytes(4 << 20))
    print(faults() - before)

thread = threading.Thread(target=churn)
thread.start()
thread.join()
"""


def test_a_thread_gets_the_pages_again_that_it_has_freed() -> None:
    done = subprocess.run([sys.executable, "-c", CHURN], capture_output=True, check=True)
    assert int(done.stdout) < 1000  # 4 MiB have 1024 pages


@pytest.mark.parametrize("library", [SimpleNamespace(), None], ids=["without mallopt", "none"])
def test_another_c_library_is_left_alone(library: object, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_: str | None) -> object:
        if library is None:
            raise OSError("cannot be loaded")
        return library

    monkeypatch.setattr(ctypes, "CDLL", load)
    keep_freed_memory.__wrapped__()
