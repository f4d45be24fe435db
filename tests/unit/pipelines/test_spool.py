"""Bytes on disk in place of memory."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from theta_daemon.errors import RepositoryError
from theta_daemon.pipelines.spool import WINDOW, Spool, SpooledPieces, windows


def test_what_was_appended_from_many_threads_is_where_it_was_said_to_be(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "made" / "when needed", 1)
    pieces = [random.Random(number).randbytes(number * 97 % 50_000) for number in range(200)]
    with ThreadPoolExecutor(4) as threads:
        places = list(threads.map(spool.append, pieces))
    view = spool.view()
    assert len(view) == sum(map(len, pieces))
    assert [view[place] for place in places] == pieces
    assert list((tmp_path / "made" / "when needed").iterdir()) == []  # it has no name


def test_what_was_forgotten_can_be_read_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1)
    content = random.Random(0).randbytes(1_000_003)
    spool.append(content)
    view = spool.view()
    for part in (slice(0, 1), slice(5000, 5001), slice(4097, 500_000), slice(999_999, 1_000_003), slice(0, 1_000_003)):
        spool.forget(part)
        assert view == content
    with pytest.raises(TypeError):
        view[0] = 1


def test_nothing_was_appended(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 0)
    assert spool.view() == b""
    spool.forget(slice(0, 0))


def test_it_says_what_the_system_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        RepositoryError, match="cannot spool a parameter group of 42 bytes: Not a directory: "
    ) as caught:
        Spool(tmp_path / "file" / "tmp", 42)
    assert str(caught.value).endswith("; make room, or raise theta.memoryLimit")


def test_windows_cut_a_part() -> None:
    assert windows(slice(5, 5)) == []
    assert windows(slice(5, 6)) == [slice(5, 6)]
    assert windows(slice(1, 2 * WINDOW + 2)) == [
        slice(1, WINDOW + 1),
        slice(WINDOW + 1, 2 * WINDOW + 1),
        slice(2 * WINDOW + 1, 2 * WINDOW + 2),
    ]


def test_spooled_pieces_can_be_gone_through_again_and_again(tmp_path: Path) -> None:
    spool = Spool(tmp_path, 1)
    places = [spool.append(bytes([number]) * 10_000) for number in range(5)]
    pieces = SpooledPieces(spool, spool.view(), [b"head", places[3], b"", b"next", places[0], slice(0, 0)])
    expected = [b"head", b"\3" * 10_000, b"", b"next", b"\0" * 10_000, b""]
    for _ in range(2):
        assert [bytes(piece) for piece in pieces] == expected
    assert len(pieces) == 6
    assert [bytes(piece) for piece in pieces[1:5:3]] == [expected[1], expected[4]]


def test_spooled_pieces_keep_one_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = Spool(tmp_path, 1)
    places = [spool.append(bytes(5000)) for _ in range(4)]
    forgotten: list[slice] = []
    pieces = SpooledPieces(spool, spool.view(), [*places[:2], b"between", *places[2:]])
    monkeypatch.setattr(spool, "forget", forgotten.append)
    held = [len(forgotten) for _ in pieces]
    assert held == [0, 1, 2, 2, 3]
    assert forgotten == places
