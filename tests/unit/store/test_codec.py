"""Chunks are compressed to the same bytes everywhere, and never expanded past the buffer they are given."""

from __future__ import annotations

import bz2
import gzip
import os
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from numcodecs import blosc, zstd

from theta_daemon.errors import CorruptObject, UnsupportedError, UsageError
from theta_daemon.store.codec import DEFAULT, Codec, decompress, uncompressed

RAW = np.arange(5000, dtype="<f4").tobytes()
COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "blosc": lambda data: blosc.compress(np.frombuffer(data, "<u4"), b"lz4", 5, 2),
    "zstd": lambda data: zstd.compress(data, 1),
    "zlib": zlib.compress,
    "gzip": gzip.compress,
    "bz2": bz2.compress,
}


@pytest.mark.parametrize("name", ["none", "blosc:lz4:5:bitshuffle", "blosc:zstd:0:noshuffle", "blosc:blosclz:9:auto"])
def test_names(name: str) -> None:
    assert Codec.parse(name).name == name


@pytest.mark.parametrize(
    "name", ["", "blosc", "None", "blosc:lz4:5", "blosc:lz5:5:auto", "blosc:lz4:10:auto", "blosc:lz4:-1:auto",
             "blosc:lz4:5:bit", "blosc:lz4:5:auto:x", "zlib:1", "blosc:lz4::auto"],
)  # fmt: skip
def test_names_of_nothing(name: str) -> None:
    with pytest.raises(UsageError, match="no codec"):
        Codec.parse(name)


@pytest.mark.parametrize("itemsize", [1, 2, 4, 8, 16])
def test_blosc_is_told_the_size_of_the_elements(itemsize: int) -> None:
    piece = DEFAULT.compress(memoryview(RAW), itemsize)
    assert piece[3] == itemsize
    out = bytearray(len(RAW))
    decompress("blosc", memoryview(piece), memoryview(out))
    assert out == RAW


def test_without_a_codec_nothing_is_copied() -> None:
    chunk = memoryview(RAW)
    assert Codec.parse("none").compress(chunk, 4) is chunk
    assert uncompressed(None, chunk, len(RAW)) is chunk


def test_the_bytes_depend_on_neither_thread_nor_environment() -> None:
    here = DEFAULT.compress(memoryview(RAW * 20), 4)
    with ThreadPoolExecutor(2) as pool:
        assert set(pool.map(lambda _: DEFAULT.compress(memoryview(RAW * 20), 4), range(6))) == {here}
    script = (
        "import sys; from theta_daemon.store.codec import DEFAULT;"
        "sys.stdout.buffer.write(DEFAULT.compress(memoryview(sys.stdin.buffer.read()), 4))"
    )
    misleading = {"BLOSC_CLEVEL": "9", "BLOSC_SHUFFLE": "NOSHUFFLE", "BLOSC_COMPRESSOR": "zlib", "BLOSC_NTHREADS": "3"}
    child = subprocess.run(
        [sys.executable, "-c", script], input=RAW * 20, env=os.environ | misleading, capture_output=True, check=True
    )
    assert child.stdout == here


@pytest.mark.parametrize("itemsize", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("name", ["blosc:lz4:5:bitshuffle", "blosc:zstd:1:auto", "blosc:lz4hc:3:shuffle"])
def test_the_bytes_are_those_of_numcodecs(name: str, itemsize: int) -> None:
    codec = Codec.parse(name)
    array = np.frombuffer(RAW, {1: "u1", 2: "<u2", 4: "<u4", 8: "<u8", 16: "<c16"}[itemsize])
    blosc.use_threads = False
    theirs = blosc.compress(array, str(codec.cname).encode(), codec.level, codec.shuffle)
    assert codec.compress(memoryview(RAW), itemsize) == theirs


def test_decompressing_lets_other_threads_run() -> None:
    piece = memoryview(DEFAULT.compress(memoryview(RAW * 200), 4))
    running, asked = threading.Event(), threading.Event()
    interrupted: list[bool] = []

    def decode() -> None:
        out = memoryview(bytearray(len(RAW) * 200))
        deadline = time.monotonic() + 10
        running.set()
        while not asked.is_set() and time.monotonic() < deadline:
            decompress("blosc", piece, out)
        interrupted.append(asked.is_set())

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # so that this thread goes on only where the other one lets it
    try:
        thread = threading.Thread(target=decode)
        thread.start()
        running.wait()
        asked.set()
        thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert interrupted == [True]


def test_nothing_heavy_is_imported_to_compress_and_decompress() -> None:
    script = (
        "import sys; from theta_daemon.store import codec;"
        "piece = codec.DEFAULT.compress(memoryview(bytes(5000)), 4);"
        "codec.decompress('blosc', memoryview(piece), memoryview(bytearray(5000)));"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    loaded = set(done.stdout.split())
    assert "theta_daemon.store.codec" in loaded
    assert loaded & {"numpy", "unittest", "blosc", "zstandard", "subprocess", "dataclasses"} == set()


def test_incompressible_chunks_are_used_where_they_lie() -> None:
    noise = np.random.default_rng(0).integers(0, 256, 10_000, "u1").tobytes()
    piece = DEFAULT.compress(memoryview(noise), 4)
    assert uncompressed("blosc", memoryview(piece), len(noise)) == noise
    assert uncompressed("blosc", memoryview(DEFAULT.compress(memoryview(RAW), 4)), len(RAW)) is None


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_decompresses(compressor: str) -> None:
    piece = COMPRESSORS[compressor](RAW)
    out = bytearray(len(RAW))
    decompress(compressor, memoryview(piece), memoryview(out))
    assert out == RAW


@pytest.mark.parametrize("compressor", COMPRESSORS)
@pytest.mark.parametrize("size", [4, len(RAW) - 4, len(RAW) + 4, 2 * len(RAW)])
def test_a_chunk_of_another_size(compressor: str, size: int) -> None:
    piece = memoryview(COMPRESSORS[compressor](RAW))
    guarded = bytearray(b"\xaa" * (size + 64))
    with pytest.raises(CorruptObject):
        decompress(compressor, piece, memoryview(guarded)[:size])
    assert guarded[size:] == b"\xaa" * 64


@pytest.mark.parametrize("compressor", COMPRESSORS)
@pytest.mark.parametrize("kept", [0, 3, 5, 15, 17, 100, -1])
def test_a_chunk_that_ends_early(compressor: str, kept: int) -> None:
    piece = COMPRESSORS[compressor](RAW)[:kept]
    with pytest.raises(CorruptObject):
        decompress(compressor, memoryview(piece), memoryview(bytearray(len(RAW))))


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_a_chunk_with_something_behind_it(compressor: str) -> None:
    piece = COMPRESSORS[compressor](RAW) + b"x"
    with pytest.raises(CorruptObject):
        decompress(compressor, memoryview(piece), memoryview(bytearray(len(RAW))))


def test_an_uncompressed_chunk_of_another_size() -> None:
    with pytest.raises(CorruptObject):
        uncompressed(None, memoryview(RAW), len(RAW) - 1)
    with pytest.raises(CorruptObject):
        decompress(None, memoryview(RAW), memoryview(bytearray(len(RAW) + 1)))


def test_compressors_that_are_not_known() -> None:
    snappy = struct.pack("<BBBBIII", 2, 1, 2 << 5, 4, len(RAW), len(RAW), 20) + b"none"
    for name, piece in (("blosc", snappy), ("lzma", b""), ("\x1b[2J" * 20, b"")):
        with pytest.raises(UnsupportedError) as caught:
            decompress(name, memoryview(piece), memoryview(bytearray(len(RAW))))
        assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    ("offset", "form", "value"),
    [
        (0, "B", 1),  # version
        (0, "B", 3),
        (2, "B", 0x28 | 0x10),  # a reserved flag
        (2, "B", 0x33 | 0x02),  # says that it is stored as it is
        (3, "B", 0),  # type size
        (3, "B", 3),  # does not divide the block
        (4, "I", 0),  # raw size
        (4, "I", len(RAW) + 4),
        (4, "I", 0xFFFFFFFF),
        (8, "I", 0),  # block size
        (8, "I", len(RAW) + 4),
        (8, "I", 0x80000000),
        (12, "I", 0),  # compressed size
        (12, "I", 16),
        (12, "I", 0x7FFFFFFF),
        (12, "I", 0xFFFFFFFF),
    ],
)
def test_blosc_headers_that_lie(offset: int, form: str, value: int) -> None:
    piece = bytearray(COMPRESSORS["blosc"](RAW))
    struct.pack_into("<" + form, piece, offset, value)
    guarded = bytearray(b"\xaa" * (len(RAW) + 64))
    with pytest.raises(CorruptObject):
        decompress("blosc", memoryview(piece), memoryview(guarded)[: len(RAW)])
    assert guarded == b"\xaa" * len(guarded)


def test_a_blosc_block_that_does_not_divide_into_elements() -> None:
    # c-blosc cuts it into 3 parts of 170 bytes and leaves 2 bytes as they were: another value's, in a reused buffer.
    parts = b"".join(struct.pack("<I", 170) + bytes(170) for _ in range(3))
    piece = struct.pack("<BBBBIIIi", 2, 1, 1 << 5, 3, 512, 512, 20 + len(parts), 20) + parts
    with pytest.raises(CorruptObject, match="blocks of 512 bytes, elements of 3"):
        decompress("blosc", memoryview(piece), memoryview(bytearray(512)))


@pytest.mark.parametrize("start", [-1, -(2**31), 2**31 - 1, 0, 12, 10**6])
def test_blosc_offsets_that_lead_outside(start: int) -> None:
    piece = bytearray(COMPRESSORS["blosc"](RAW))
    struct.pack_into("<i", piece, 16, start)
    guarded = bytearray(b"\xaa" * (len(RAW) + 64))
    with pytest.raises(CorruptObject):
        decompress("blosc", memoryview(piece), memoryview(guarded)[: len(RAW)])
    assert guarded[len(RAW) :] == b"\xaa" * 64
