from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from theta_daemon.interrupts import Interrupts


def test_what_comes_meanwhile_acts_at_the_end() -> None:
    done = []

    def block() -> None:
        with Interrupts():
            signal.raise_signal(signal.SIGINT)
            done.append("in spite of it")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert done == ["in spite of it"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize("work", [lambda: signal.raise_signal(signal.SIGINT), lambda: 1 / 0])
def test_it_is_heard_only_where_it_may_be(work: Callable[[], object]) -> None:
    done = []

    def block() -> None:
        with Interrupts() as interrupts:
            with pytest.raises((KeyboardInterrupt, ZeroDivisionError)):
                interrupts.hear(work)
            done.append("still deferred")
            signal.raise_signal(signal.SIGINT)
            done.append("again")
            with pytest.raises(KeyboardInterrupt):
                interrupts.hear(lambda: done.append("never"))

    with pytest.raises(KeyboardInterrupt):
        block()
    assert done == ["still deferred", "again"]


def test_nothing_comes() -> None:
    with Interrupts() as interrupts:
        assert interrupts.hear(lambda: 7) == 7
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_blocks_in_each_other() -> None:
    done = []

    def block() -> None:
        with Interrupts():
            with Interrupts():
                signal.raise_signal(signal.SIGINT)
            done.append("the outer one waits too")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert done == ["the outer one waits too"]


def test_an_error_does_not_hide_it() -> None:
    def block() -> None:
        with Interrupts():
            signal.raise_signal(signal.SIGINT)
            raise ValueError

    with pytest.raises(KeyboardInterrupt):
        block()


def test_another_thread_changes_nothing() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def work() -> None:
        with Interrupts() as interrupts:
            seen.append((interrupts.hear(lambda: 7), signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(7, before)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT])
def test_the_process_ends_by_the_signal_afterwards(number: signal.Signals) -> None:
    done = run(
        f"with Interrupts():\n    signal.raise_signal({number}); print('whole', flush=True)\nprint('never')", number
    )
    assert (done.returncode, done.stdout) == (-number, b"whole\n")


def test_what_the_caller_ignores_stays_ignored() -> None:
    done = run(
        "signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "with Interrupts() as it:\n    it.hear(lambda: signal.raise_signal(signal.SIGHUP))\nprint('went on')",
        signal.SIGHUP,
    )
    assert (done.returncode, done.stdout) == (0, b"went on\n")


def run(code: str, number: signal.Signals) -> subprocess.CompletedProcess[bytes]:
    start = "import resource, signal\nfrom theta_daemon.interrupts import Interrupts\n"
    start += f"resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); signal.signal({int(number)}, signal.SIG_DFL)\n"
    return subprocess.run([sys.executable, "-c", start + code], capture_output=True, check=False)


def test_a_wait_is_interrupted() -> None:
    def block() -> None:
        with Interrupts() as interrupts:
            ctrl_c = threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGINT))
            ctrl_c.start()
            interrupts.hear(threading.Event().wait)

    with pytest.raises(KeyboardInterrupt):
        block()
