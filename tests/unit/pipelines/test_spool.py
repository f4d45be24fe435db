"""Bytes on disk in place of memory."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from theta_daemon.errors import RepositoryError
from theta_daemon.pipelines.spool import Spool


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
