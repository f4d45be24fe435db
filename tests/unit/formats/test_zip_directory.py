"""The directory at the end of a zip that was spooled."""

from __future__ import annotations

import io
import struct
import zipfile
from collections.abc import Callable, Iterator

import pytest

from tests.support.streams import Pieces
from tests.support.torch_files import KNOWN, Record, zip_file
from theta_daemon.errors import CheckpointError, TruncatedError
from theta_daemon.formats import zip_directory
from theta_daemon.formats.source import Source, SpooledTail
from theta_daemon.formats.zip_directory import read_directory, record_data

Spool = Callable[..., SpooledTail]


@pytest.fixture
def spool() -> Iterator[Spool]:
    sources: list[Source] = []

    def tail(data: bytes, skip: int = 0) -> SpooledTail:
        sources.append(Source(Pieces(data)))
        sources[-1].read(skip)
        return sources[-1].spool()

    yield tail
    for source in sources:
        source.close()


RECORDS = [Record("a/x", b"12345", KNOWN), Record("a/y", b"", KNOWN), Record("a/z", b"678")]


@pytest.mark.parametrize("comment", [b"", b"a comment", b"PK\5\6" + bytes(200)[:17]])
def test_every_record_is_listed(spool: Spool, comment: bytes) -> None:
    tail = spool(zip_file(RECORDS, comment))
    directory = read_directory(tail)
    assert [(entry.name, entry.size) for entry in directory.entries] == [(b"a/x", 5), (b"a/y", 0), (b"a/z", 3)]
    assert record_data(tail, directory.by_name()[b"a/z"]) == b"678"
    assert directory.by_offset()[0].name == b"a/x"


def test_the_spool_may_begin_inside_the_file(spool: Spool) -> None:
    tail = spool(zip_file(RECORDS), 20)
    entry = read_directory(tail).by_name()[b"a/z"]
    assert record_data(tail, entry) == b"678"


def test_zip64_ends(spool: Spool) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("a", "1")
    data = bytearray(buffer.getvalue())
    start, end = data.index(b"PK\1\2"), data.index(b"PK\5\6")
    wide = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 0, 0, 0, 0, 1, 1, end - start, start)
    data[end:end] = wide + struct.pack("<4sIQI", b"PK\6\7", 0, end, 1)
    at = data.index(b"PK\5\6")
    data[at + 8 : at + 20] = b"\xff" * 12
    assert [entry.name for entry in read_directory(spool(bytes(data))).entries] == [b"a"]
    data[end] = 0
    with pytest.raises(CheckpointError, match="a record that is not there"):
        read_directory(spool(bytes(data)))


def test_many_records(spool: Spool, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [Record(f"{'n' * 300}{i}", b"", KNOWN) for i in range(5000)]
    tail = spool(zip_file(records))
    assert len(read_directory(tail).entries) == 5000
    monkeypatch.setattr(zip_directory, "MAX_ENTRIES", 4999)
    with pytest.raises(CheckpointError, match="more records than any real"):
        read_directory(tail)


def test_a_file_without_an_end(spool: Spool) -> None:
    data = zip_file(RECORDS)
    for cut in (data[:-1], data[:-22], b"", b"PK", data + bytes(1 << 18)):
        with pytest.raises(TruncatedError, match="no directory at its end"):
            read_directory(spool(cut))


def test_an_end_that_lies(spool: Spool) -> None:
    data = bytearray(zip_file(RECORDS))
    at = len(data) - 10
    data[at : at + 4] = struct.pack("<I", 1000)  # the directory's size
    with pytest.raises(CheckpointError, match="lies behind its end"):
        read_directory(spool(bytes(data)))
    data[at : at + 8] = struct.pack("<II", 60, 2)  # size and start
    with pytest.raises(CheckpointError, match="something other than records"):
        read_directory(spool(bytes(data)))
    data[at : at + 8] = struct.pack("<II", 20, len(data) - 22 - 20)
    with pytest.raises(CheckpointError):
        read_directory(spool(bytes(data)))


def test_a_directory_before_the_spool(spool: Spool) -> None:
    data = zip_file(RECORDS)
    with pytest.raises(CheckpointError, match="before its own index"):
        read_directory(spool(data, len(data) - 30))


def test_a_record_that_is_not_there(spool: Spool) -> None:
    tail = spool(zip_file([Record("a", b"1", place=1 << 20), Record("b", b"", central=1 << 20)]))
    for name in (b"a", b"b"):
        with pytest.raises(CheckpointError):
            record_data(tail, read_directory(tail).by_name()[name])
