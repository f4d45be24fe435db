"""Which files a checkout leaves as metadata."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.models import safetensors_bytes, state_dict
from tests.support.pipelines import Bench, plain_settings
from theta_daemon.pipelines.selection import Selection


@pytest.mark.parametrize(
    ("include", "exclude", "filled"),
    [
        ((), (), {b"a.pt", b"models/a.pt", b"models/big/b.pt", b"x/\xff.pt"}),
        (("models/",), (), {b"models/a.pt", b"models/big/b.pt"}),
        (("/models/*.pt",), (), {b"models/a.pt"}),
        ((), ("big/",), {b"a.pt", b"models/a.pt", b"x/\xff.pt"}),
        (("models/",), ("b.pt",), {b"models/a.pt"}),
        (("a.pt", "x/*"), (), {b"a.pt", b"models/a.pt", b"x/\xff.pt"}),
        ((), ("*",), set()),
    ],
)
def test_patterns_choose_as_in_gitignore(
    tmp_path: Path, include: tuple[str, ...], exclude: tuple[str, ...], filled: set[bytes]
) -> None:
    chosen = Selection(plain_settings(tmp_path).replace(fetch_include=include, fetch_exclude=exclude))
    paths = {b"a.pt", b"models/a.pt", b"models/big/b.pt", b"x/\xff.pt"}
    assert {path for path in paths if not chosen.leaves(path)} == filled
    assert {path for path in paths if chosen.includes(path)} == filled


def test_skip_smudge_leaves_everything(tmp_path: Path) -> None:
    chosen = Selection(plain_settings(tmp_path).replace(skip_smudge=True))
    assert chosen.leaves(b"a.pt")
    assert chosen.includes(b"a.pt")


def test_a_file_that_is_left_comes_out_as_its_metadata(tmp_path: Path) -> None:
    bench = Bench.at(tmp_path, fetch_exclude=("model",))
    try:
        metadata = bench.clean(safetensors_bytes(state_dict(1)))
        assert bench.smudge(metadata) == metadata
        assert bench.clean(metadata) == metadata
        assert bench.smudge(metadata, b"other") == safetensors_bytes(state_dict(1))
    finally:
        bench.close()
