from __future__ import annotations

import pytest

from theta_daemon.cli import terminal


def test_errors_are_one_line_of_this_program(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.fail("no")
    terminal.warn("hm")
    terminal.note("so")
    assert capsys.readouterr().err == "git-theta: error: no\ngit-theta: warning: hm\ngit-theta: so\n"


@pytest.mark.parametrize(
    ("path", "shown"),
    [(b"a.pt", "a.pt"), (b"a b.pt", "'a b.pt'"), (b"-it's", "'-it'\"'\"'s'"), (b"\x1b[2J", "'\\x1b[2J'")],
)
def test_paths_are_shown_as_they_are_typed(path: bytes, shown: str) -> None:
    assert terminal.shown(path) == shown


@pytest.mark.parametrize(
    ("path", "quoted"), [(b"a b\xff", b"a b\xff"), (b"a\nb", b'"a\\nb"'), (b'"a"', b'"\\"a\\""'), (b'a"', b'a"')]
)
def test_paths_in_lists(path: bytes, quoted: bytes) -> None:
    assert terminal.quoted(path) == quoted


def test_counts() -> None:
    assert [terminal.count(number, "file") for number in (0, 1, 2)] == ["0 files", "1 file", "2 files"]
