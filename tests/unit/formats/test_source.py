from __future__ import annotations

import errno
import io
import os
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from tests.support.streams import Pieces
from theta_daemon.errors import CheckpointError, RepositoryError, TruncatedError
from theta_daemon.formats import source as source_module
from theta_daemon.formats.source import PEEK_LIMIT, Source

Spooling = Callable[..., Source]

DATA = bytes(range(256)) * 2048  # 512 KiB, no two neighbours equal


@pytest.fixture
def spooling(tmp_path: Path) -> Iterator[Spooling]:
    """Return a function that makes a source which spools into `tmp_path`, and is closed after the test."""
    with ExitStack() as stack:

        def make(data: bytes, sizes: Sequence[int] = ()) -> Source:
            return stack.enter_context(closing(Source(Pieces(data, sizes), tmp_path)))

        yield make


def test_peek_consumes_nothing() -> None:
    source = Source(Pieces(DATA, [1, 1, 1]))
    assert source.peek(4) == DATA[:4]
    assert source.peek(2) == DATA[:2]
    assert source.position == 0
    assert source.read(6) == DATA[:6]
    assert source.position == 6


def test_peek_gives_less_only_at_the_end() -> None:
    source = Source(Pieces(DATA[:10], [3, 3, 3, 1]))
    assert source.peek(10) == DATA[:10]
    assert source.peek(11) == DATA[:10]
    assert source.read(10) == DATA[:10]
    assert source.peek(1) == b""


def test_peek_reaches_its_limit_behind_what_was_read() -> None:
    data = os.urandom(16) * (PEEK_LIMIT // 8)
    source = Source(Pieces(data, [70_000] * 5))
    source.read(60_001)
    assert source.peek(PEEK_LIMIT) == data[60_001 : 60_001 + PEEK_LIMIT]
    assert source.read(len(data) - 60_001) == data[60_001:]


@pytest.mark.parametrize("n", [-1, PEEK_LIMIT + 1])
def test_peek_refuses_what_it_would_not_bound(n: int) -> None:
    with pytest.raises(ValueError, match="peek"):
        Source(Pieces(DATA)).peek(n)


def test_read_joins_short_reads() -> None:
    source = Source(Pieces(DATA, [1, 2, 3, 100, 70_000]))
    assert source.read(300_000) == DATA[:300_000]
    assert source.read(0) == b""
    assert source.read(len(DATA) - 300_000) == DATA[300_000:]
    assert source.position == len(DATA)


def test_read_says_where_the_file_ends_and_what_it_needs() -> None:
    source = Source(Pieces(DATA[:100]))
    source.read(40)
    with pytest.raises(TruncatedError, match=r"ends after 100 bytes but needs at least 5000040; "):
        source.read(5_000_000)


def test_read_allocates_what_arrives_not_what_is_promised() -> None:
    source = Source(Pieces(DATA))
    tracemalloc.start()
    try:
        with pytest.raises(TruncatedError):
            source.read(1 << 40)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


def test_read_some_gives_what_is_there() -> None:
    source = Source(Pieces(DATA[:100], [10, 20]))
    assert source.read_some(1000) == DATA[:10]
    assert source.read_some(5) == DATA[10:15]
    assert source.read_some(1000) == DATA[15:30]
    assert source.read_some(1000) == DATA[30:100]
    assert source.read_some(1000) == b""
    assert source.position == 100
    with pytest.raises(ValueError, match="0 bytes"):
        source.read_some(0)


def test_readinto_fills_the_callers_memory_straight_from_the_stream() -> None:
    readable = Pieces(DATA)
    source = Source(readable)
    source.read(8)  # buffers up to 64 KiB
    value = bytearray(400_000)
    source.readinto(memoryview(value))
    assert value == DATA[8 : 8 + len(value)]
    assert source.position == 8 + len(value)
    assert readable.calls == 2  # one that filled the buffer, one into `value` itself
    assert readable.largest == len(value) - ((1 << 16) - 8)


def test_a_far_peek_makes_no_later_read_reach_farther() -> None:
    data = bytes(range(256)) * 16384
    readable = Pieces(data)
    source = Source(readable)
    assert source.peek(PEEK_LIMIT) == data[:PEEK_LIMIT]
    assert source.read(PEEK_LIMIT) == data[:PEEK_LIMIT]
    readable.largest = 0
    assert source.peek(4) == data[PEEK_LIMIT : PEEK_LIMIT + 4]
    assert readable.largest == 1 << 16  # what follows may be a group's bytes, which go straight to their place
    assert source.read(len(data) - PEEK_LIMIT) == data[PEEK_LIMIT:]


def test_little_that_is_unread_makes_no_read_short() -> None:
    data = bytes(range(256)) * 1024
    readable = Pieces(data, (65_436,))
    source = Source(readable)
    assert source.read(65_400) == data[:65_400]
    readable.largest = 0
    assert source.peek(100) == data[65_400:65_500]
    assert readable.largest == (1 << 16) - 36


def test_readinto_nothing_asks_for_nothing() -> None:
    readable = Pieces(DATA)
    Source(readable).readinto(memoryview(bytearray()))
    assert readable.calls == 0


def test_readinto_says_that_the_file_is_cut() -> None:
    source = Source(Pieces(DATA[:1000]))
    with pytest.raises(TruncatedError, match="ends after 1000 bytes but needs at least 200000"):
        source.readinto(memoryview(bytearray(200_000)))


def test_a_spooled_tail_is_read_in_any_order(spooling: Spooling, tmp_path: Path) -> None:
    source = spooling(DATA, [100, 200, 70_000])
    assert source.read(50) == DATA[:50]
    assert source.peek(20) == DATA[50:70]
    tail = source.spool()
    assert (tail.start, tail.size, source.position) == (50, len(DATA) - 50, 50)
    assert tail.pread(len(DATA) - 7, 7) == DATA[-7:]
    assert tail.pread(50, 300_000) == DATA[50:300_050]
    assert tail.pread(60, 0) == b""
    assert list(tmp_path.iterdir()) == []  # it has no name


def test_a_source_goes_on_from_its_spooled_tail(spooling: Spooling) -> None:
    source = spooling(DATA)
    source.read(1000)
    tail = source.spool()
    assert tail.pread(400_000, 10) == DATA[400_000:400_010]
    assert source.read(10) == DATA[1000:1010]
    assert source.spool() is tail
    value = bytearray(len(DATA) - 1010)
    source.readinto(memoryview(value))
    assert value == DATA[1010:]
    assert source.peek(1) == b""


def test_an_empty_tail_can_be_spooled(spooling: Spooling) -> None:
    source = spooling(b"abc")
    source.read(3)
    tail = source.spool()
    assert (tail.start, tail.size) == (3, 0)
    assert source.read_some(1) == b""


@pytest.mark.parametrize(("offset", "n"), [(0, 1), (9, 5), (-1, 1), (20, -1)])
def test_pread_refuses_what_was_not_spooled(spooling: Spooling, offset: int, n: int) -> None:
    source = spooling(DATA[:100])
    source.read(10)
    tail = source.spool()
    with pytest.raises(CheckpointError):
        tail.pread(offset, n)


def test_pread_beyond_the_end_allocates_nothing(spooling: Spooling) -> None:
    source = spooling(DATA[:100])
    tail = source.spool()
    with pytest.raises(TruncatedError, match="has only 100"):
        tail.pread(1, 1 << 50)


def test_pread_does_not_wait_for_bytes_that_somebody_cut_off(spooling: Spooling) -> None:
    source = spooling(DATA[:100])
    tail = source.spool()
    os.ftruncate(tail._file.fileno(), 50)
    with pytest.raises(RepositoryError, match="shrunk"):
        tail.pread(0, 100)


def test_a_full_disk_is_explained(spooling: Spooling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: memoryview) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(source_module, "_write_all", full)
    source = spooling(DATA)
    with pytest.raises(RepositoryError, match=r"No space left on device; make room in .*") as caught:
        source.spool()
    assert str(tmp_path) in str(caught.value)


def test_the_spool_directory_is_made_when_it_is_needed(tmp_path: Path) -> None:
    with closing(Source(Pieces(DATA), tmp_path / "theta" / "temporary")) as source:
        source.read(1000)
        assert list(tmp_path.iterdir()) == []
        assert source.spool().size == len(DATA) - 1000


def test_a_spool_directory_that_cannot_be_made_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        closing(Source(Pieces(DATA), tmp_path / "file" / "temporary")) as source,
        pytest.raises(RepositoryError, match=r"cannot keep the rest .*: Not a directory"),
    ):
        source.spool()


def test_an_error_of_the_stream_is_not_blamed_on_the_disk(tmp_path: Path) -> None:
    class Broken:
        def readinto(self, view: memoryview, /) -> int:
            raise OSError(errno.EIO, "pipe")

    with closing(Source(Broken(), tmp_path)) as source, pytest.raises(OSError, match="pipe"):
        source.spool()


def test_a_closed_source_holds_no_memory() -> None:
    """It may stay in a cycle until the garbage collector comes by, and there are thousands of them in a large add."""
    tracemalloc.start()
    try:
        closed = []
        for _ in range(20):
            source = Source(io.BytesIO(DATA))
            source.peek(PEEK_LIMIT)
            source.close()
            closed.append(source._fill)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 1 << 20
