"""The memo: what is remembered, by whom, and for how long."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from theta_daemon.cache import memo
from theta_daemon.cache.memo import Memo, key

D1, D2 = "1" * 64, "2" * 64


def lines(path: Path) -> list[bytes]:
    return [line for line in path.read_bytes().split(b"\n") if line]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "theta" / "memo"


def test_a_key_tells_apart_what_is_different() -> None:
    facts = [("a",), ("a", ""), ("", "a"), ("a", "b"), ("ab",), ("ab", "c"), ("a", "bc"), ("b", "a"), (), ("\udcff",)]
    keys = {key(*fact) for fact in facts}
    assert len(keys) == len(facts)
    assert all(memo._HEX.fullmatch(it) for it in keys)


def test_a_key_is_the_same_for_ever() -> None:
    assert key("oid", "float32", "(2, 3)") == "6d5dc96d27e1ac197cc2b8d3cfbd0d7cecdfe354de519794381349e160920ba6"


def test_nothing_is_known_at_first(path: Path) -> None:
    assert Memo(path).digest_of(key("a")) is None
    assert not path.exists()


def test_a_fact_is_known_at_once_and_on_disk_after_flush(path: Path) -> None:
    first = Memo(path)
    first.remember(key("a"), D1)
    assert first.digest_of(key("a")) == D1
    assert not path.exists()
    first.flush()
    assert Memo(path).digest_of(key("a")) == D1
    assert Memo(path).digest_of(key("b")) is None


def test_many_facts_are_written_without_being_asked(path: Path) -> None:
    it = Memo(path)
    for number in range(memo.PENDING):
        it.remember(key(str(number)), D1)
    assert len(lines(path)) == memo.PENDING


def test_the_last_digest_counts(path: Path) -> None:
    it = Memo(path)
    for digest in (D1, D2):
        it.remember(key("a"), digest)
    it.flush()
    assert it.digest_of(key("a")) == Memo(path).digest_of(key("a")) == D2


def test_what_is_known_is_not_written_again(path: Path) -> None:
    for _ in range(3):
        it = Memo(path)
        it.remember(key("a"), D1)
        it.flush()
        it.flush()
    assert len(lines(path)) == 1


@pytest.mark.parametrize(
    "wrong", ["", "a", "g" * 64, "A" * 64, "1" * 63, "1" * 65, "1" * 64 + "\n", "blake3:" + "1" * 64]
)
def test_what_is_no_fact_is_a_mistake(path: Path, wrong: str) -> None:
    it = Memo(path)
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        it.remember(wrong, D1)
    with pytest.raises(ValueError, match="64 hexadecimal digits"):
        it.remember(D1, wrong)
    assert it.digest_of(wrong) is None


def test_the_lines_are_as_specified(path: Path) -> None:
    it = Memo(path)
    it.remember(D1, D2)
    it.flush()
    [line] = lines(path)
    assert line == f"{D1} {D2} ".encode() + line[-16:]


def test_deleting_the_file_loses_facts_and_nothing_else(path: Path) -> None:
    it = Memo(path)
    it.remember(key("a"), D1)
    it.flush()
    path.unlink()
    it.remember(key("b"), D2)
    it.flush()
    again = Memo(path)
    assert (again.digest_of(key("a")), again.digest_of(key("b"))) == (None, D2)


def test_the_file_stays_within_its_bound_and_keeps_the_newest(path: Path) -> None:
    limit = 100 * 147
    it = Memo(path, limit)
    for number in range(1000):
        it.remember(key(str(number)), D1)
        if number % 10 == 9:
            it.flush()
        if path.exists():
            assert path.stat().st_size <= limit
    kept = [number for number in range(1000) if Memo(path, limit).digest_of(key(str(number)))]
    assert kept == list(range(1000 - len(kept), 1000))
    assert len(kept) >= 40
    assert [it.name for it in path.parent.iterdir()] == ["memo"]


def test_of_a_file_beyond_its_bound_the_end_is_read(path: Path) -> None:
    it = Memo(path)
    for number in range(1000):
        it.remember(key(str(number)), D1)
    it.flush()
    small = Memo(path, 100 * 147)
    assert small.digest_of(key("999")) == D1
    assert small.digest_of(key("0")) is None


def test_the_umask_decides_who_may_read(path: Path) -> None:
    before = os.umask(0o077)
    try:
        it = Memo(path)
        it.remember(key("a"), D1)
        it.flush()
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o600


def test_from_many_threads(path: Path) -> None:
    it = Memo(path)

    def work(thread: int) -> None:
        for number in range(300):
            it.remember(key(str(thread), str(number)), D1)
            assert it.digest_of(key(str(thread), str(number))) == D1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    it.flush()
    assert len(lines(path)) == len(set(lines(path))) == 1200


def test_from_many_processes(path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from theta_daemon.cache.memo import Memo, key\n"
        "for number in range(60):\n"
        "    memo = Memo(Path(sys.argv[1]), 20_000)\n"  # so that they also cut the file, under each other's hands
        "    memo.remember(key(sys.argv[2], str(number)), '1' * 64)\n"
        "    memo.flush()\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    processes = [
        subprocess.Popen([sys.executable, "-c", program, str(path), str(number)], env=environment)
        for number in range(4)
    ]
    assert [process.wait() for process in processes] == [0] * 4
    assert all(memo._checks(line) for line in lines(path))
    assert [it.name for it in path.parent.iterdir()] == ["memo"]
    last = Memo(path)
    assert any(last.digest_of(key(str(number), "59")) for number in range(4))
