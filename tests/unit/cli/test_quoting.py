from __future__ import annotations

import pytest

from theta_daemon.cli import quoting


@pytest.mark.parametrize(
    "text", [b"", b"a b", b'"\\', b"\n\t\r\a\x00\x7f\x1f", "é".encode(), b"\xff", bytes(range(256))]
)
def test_what_is_quoted_is_read_again(text: bytes) -> None:
    quoted = quoting.quote(text)
    assert quoting.unquote(b"x " + quoted + b" y", 2) == (text, 2 + len(quoted))
    assert quoting.is_plain(quoted)


@pytest.mark.parametrize("text", [b'"', b'"a', b'"a\\', b'"a\\"', b'"\\x"', b'"\\4', b'"\\40"', b'"\\477"', b'"\\08"'])
def test_what_is_no_string_is_none(text: bytes) -> None:
    assert quoting.unquote(text, 0) is None
