from __future__ import annotations

import pytest

from theta_daemon.cli.pre_push import RefUpdate, ref_updates
from theta_daemon.errors import ProtocolError

A, B, ZERO = "a" * 40, "b" * 40, "0" * 40


def read(*lines: str) -> list[RefUpdate]:
    return list(ref_updates(line.encode() for line in lines))


def test_an_update_and_a_new_ref() -> None:
    lines = (f"refs/heads/x {A} refs/heads/x {B}\n", f"refs/heads/y {A} refs/heads/y {ZERO}\n")
    assert read(*lines) == [RefUpdate(A, B, "refs/heads/x"), RefUpdate(A, None, "refs/heads/y")]


def test_a_deletion_sends_nothing() -> None:
    assert read(f"(delete) {ZERO} refs/heads/x {B}\n") == []


def test_an_empty_line_sends_nothing() -> None:
    assert read("\n") == []


def test_sha256_repositories() -> None:
    assert read(f"HEAD {'c' * 64} refs/heads/x {'0' * 64}\n") == [RefUpdate("c" * 64, None, "refs/heads/x")]


@pytest.mark.parametrize("line", ["a b c\n", f"a {A} b {B} c\n", f"a {A[:-1]} b {B}\n", f"a --all b {B}\n"])
def test_anything_else_is_refused(line: str) -> None:
    with pytest.raises(ProtocolError, match="not git's"):
        read(line)
