from __future__ import annotations

import pytest

from theta_daemon.cli import tracking


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        (b"model.pt", b"model.pt"),
        (b"/a/*.pt", b"a/x.pt"),
        (b"a/**/b?.pt", b"a/x/bx.pt"),
        (b"v[12]/[]a].pt", b"v1/].pt"),
        (b"a\\*\\[.pt", b"a*[.pt"),
        (b"a[.pt", b"a[.pt"),
        (b"a\\", b"a"),
        (b"**", b"x"),
    ],
)
def test_an_example_of_a_pattern(pattern: bytes, path: bytes) -> None:
    assert tracking.example(pattern) == path
