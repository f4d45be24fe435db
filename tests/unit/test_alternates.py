"""Alternates: the rules of gitrepository-layout(5), and those of git where it is silent (tried with git itself)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from theta_daemon import alternates


def borrow(objects: Path, text: str | bytes) -> None:
    (objects / "info").mkdir(parents=True, exist_ok=True)
    (objects / "info" / "alternates").write_bytes(text if isinstance(text, bytes) else os.fsencode(text))


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        (b"", []),
        (b":::", []),
        (b"/a:/b c", [b"/a", b"/b c"]),
        (b"#/a:/b", [b"/b"]),
        (b'"/a:b":/c', [b"/a:b", b"/c"]),
        (rb'"/q\"\\\t\303\244"', [b'/q"\\\t\xc3\xa4']),
        (b'"/no end:/c', [b'"/no end', b"/c"]),
        (rb'"/bad \x":/c', [rb'"/bad \x"', b"/c"]),
        (b'/a"b"', [b'/a"b"']),
    ],
)
def test_split(text: bytes, paths: list[bytes]) -> None:
    assert list(alternates.split(text, b":")) == paths


def test_none(tmp_path: Path) -> None:
    assert alternates.of(tmp_path / "objects", b"", tmp_path) == []


def test_those_of_the_environment_come_first_and_start_from_the_directory(tmp_path: Path) -> None:
    borrow(tmp_path / "objects", "../a\n/b\n")
    found = alternates.of(tmp_path / "objects", b"c:/b", tmp_path / "here")
    assert found == [tmp_path / "here" / "c", Path("/b"), tmp_path / "a"]


def test_alternates_have_alternates_as_deep_as_git_goes(tmp_path: Path) -> None:
    for level in range(10):
        borrow(tmp_path / str(level), f"../{level + 1}\n")
    assert alternates.of(tmp_path / "0", b"", tmp_path) == [tmp_path / str(level) for level in range(1, 7)]


def test_a_circle_ends(tmp_path: Path) -> None:
    borrow(tmp_path / "a", "../b\n../b\n")
    borrow(tmp_path / "b", "../a\n../b\n")
    assert alternates.of(tmp_path / "a", b"", tmp_path) == [tmp_path / "b", tmp_path / "a"]


def test_bytes_that_are_no_text_and_an_end_as_in_c(tmp_path: Path) -> None:
    borrow(tmp_path / "objects", b"/\xff\xfe\n/a\0/b\n")
    assert [os.fsencode(path) for path in alternates.of(tmp_path / "objects", b"", tmp_path)] == [b"/\xff\xfe", b"/a"]
