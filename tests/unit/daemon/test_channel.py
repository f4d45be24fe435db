from __future__ import annotations

import fcntl
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from types import FrameType

import pytest

from theta_daemon.daemon.channel import MAX_PIECES, READ_SIZE, Channel, ChannelError, GitGone


class Pipe:
    """A channel whose other ends are in the test's hands."""

    def __init__(self) -> None:
        self.reading, self.far_writing = os.pipe()
        self.far_reading, self.writing = os.pipe()
        self.channel = Channel(self.reading, self.writing)

    def close(self) -> None:
        for descriptor in (self.reading, self.far_writing, self.far_reading, self.writing):
            with suppress(OSError):
                os.close(descriptor)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


def read_slowly(descriptor: int, size: int, received: bytearray) -> threading.Thread:
    """Read from another thread, in small parts, so that the writer meets a full pipe again and again."""

    def read() -> None:
        while len(received) < size and (part := os.read(descriptor, 5000)):
            received.extend(part)

    thread = threading.Thread(target=read)
    thread.start()
    return thread


def test_pipes_are_widened(pipe: Pipe) -> None:
    for descriptor in (pipe.reading, pipe.writing):
        assert fcntl.fcntl(descriptor, fcntl.F_GETPIPE_SZ) == 1 << 20


def test_what_is_no_pipe_will_do(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"content")
    with (tmp_path / "in").open("rb") as reading, (tmp_path / "out").open("wb") as writing:
        channel = Channel(reading.fileno(), writing.fileno())
        assert channel.read() == b"content"
        assert channel.read() == b""
        channel.write([b"an", bytearray(b"sw"), memoryview(b"er")])
    assert (tmp_path / "out").read_bytes() == b"answer"


def test_one_read_takes_all_that_has_arrived(pipe: Pipe) -> None:
    fcntl.fcntl(pipe.far_writing, fcntl.F_SETPIPE_SZ, 1 << 20)
    for _ in range(15):
        os.write(pipe.far_writing, b"x" * 65520)
    assert len(pipe.channel.read()) == 15 * 65520


def test_reads_share_one_buffer(pipe: Pipe) -> None:
    os.write(pipe.far_writing, b"first")
    first = pipe.channel.read()
    os.write(pipe.far_writing, b"other")
    second = pipe.channel.read()
    assert first.obj is second.obj
    assert isinstance(first.obj, bytearray)
    assert len(first.obj) == READ_SIZE
    assert first == b"other"


def test_readinto_reads_straight_into_the_target(pipe: Pipe) -> None:
    os.write(pipe.far_writing, b"content")
    target = bytearray(4)
    assert pipe.channel.readinto(memoryview(target)) == 4
    assert target == b"cont"
    os.close(pipe.far_writing)
    assert pipe.channel.readinto(memoryview(target)) == 3
    assert pipe.channel.readinto(memoryview(target)) == 0


def test_scatter_fills_one_target_after_the_other(pipe: Pipe) -> None:
    os.write(pipe.far_writing, b"content")
    targets = [memoryview(bytearray(size)) for size in (3, 0, 2, 5)]
    assert pipe.channel.scatter(targets) == 7
    assert targets == [b"con", b"", b"te", b"nt\0\0\0"]
    os.close(pipe.far_writing)
    assert pipe.channel.scatter(targets) == 0


@pytest.mark.parametrize("count", [0, 1, MAX_PIECES - 1, MAX_PIECES, MAX_PIECES + 1, 1000, 2000])
def test_any_number_of_pieces_is_written_in_order(pipe: Pipe, count: int) -> None:
    pieces = [b"%04d " % number for number in range(count)]
    pipe.channel.write(pieces)
    assert os.read(pipe.far_reading, 100_000) == b"".join(pieces) if count else True


@pytest.mark.parametrize("blocking", [True, False])
def test_more_than_the_pipe_holds(pipe: Pipe, blocking: bool) -> None:
    os.set_blocking(pipe.writing, blocking)  # whoever shares the descriptor may have done so
    pieces: list[bytes | memoryview] = [b"", b"a" * 700_000, b"b", memoryview(b"c" * 3_000_000), b"", b"d" * 10]
    received = bytearray()
    thread = read_slowly(pipe.far_reading, 3_700_011, received)
    pipe.channel.write(pieces)
    thread.join(30)
    assert received == b"".join(pieces)


def test_writing_waits_where_the_descriptor_does_not(pipe: Pipe) -> None:
    os.set_blocking(pipe.writing, False)
    full = os.write(pipe.writing, b"x" * (1 << 21))
    received = bytearray()
    with pytest.raises(BlockingIOError):
        os.write(pipe.writing, b"x")
    thread = read_slowly(pipe.far_reading, full + 3, received)
    pipe.channel.write([b"end"])
    thread.join(30)
    assert received == b"x" * full + b"end"


def test_reading_waits_where_the_descriptor_does_not(pipe: Pipe) -> None:
    os.set_blocking(pipe.reading, False)
    timer = threading.Timer(0.01, os.write, (pipe.far_writing, b"late"))
    timer.start()
    assert pipe.channel.read() == b"late"
    timer.join()


def test_a_signal_in_the_middle_loses_nothing(pipe: Pipe) -> None:
    seen = []

    def note(number: int, _: FrameType | None) -> None:
        seen.append(number)

    before = signal.signal(signal.SIGALRM, note)
    signal.setitimer(signal.ITIMER_REAL, 0.002, 0.002)
    try:
        received = bytearray()
        thread = read_slowly(pipe.far_reading, 4_000_000, received)
        payload = bytes(range(250)) * 16_000
        pipe.channel.write([payload])
        thread.join(30)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert received == payload
    assert seen


def test_nobody_reads(pipe: Pipe) -> None:
    os.close(pipe.far_reading)
    with pytest.raises(GitGone):
        pipe.channel.write([b"x"])


def test_other_failures_are_channel_errors(pipe: Pipe) -> None:
    channel = Channel(pipe.writing, pipe.reading)  # the wrong way round
    with pytest.raises(ChannelError, match="cannot read the input: Bad file descriptor"):
        channel.read()
    with pytest.raises(ChannelError, match="cannot write the output: Bad file descriptor"):
        channel.write([b"x"])
