"""A .gitattributes file comes with the repository: whatever it holds, editing it changes our lines only.

Git is the oracle: what we write, it must read as we meant it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.repository import Repository
from theta_daemon.cli import attributes, tracking
from theta_daemon.errors import RepositoryError, UsageError

# Bytes that mean something to git, so that random files hit the cases that matter.
NASTY = st.sampled_from(
    [
        *(b"*.pt", b"model.pt", b'"', b"\\", b"#", b"!", b"[attr]", b" ", b"\t", b"\r", b"\n", b"\r\n", b"\0", b"\x0b"),
        *(b"filter=theta", b"filter=lfs", b"-filter", b"!filter", b"-text", b"merge=theta", b"=", b"-", b"@", b"\xff"),
        *(b'"*.p\\164"', b"\xef\xbb\xbf", b"binary", b"x" * 2100),
    ]
)
FILES = st.lists(NASTY | st.binary(max_size=4), max_size=40).map(b"".join)
PATTERNS = st.lists(st.sampled_from([b"*.pt", b" ", b'"', b"#", b"!", b"\\", b"\n", b"\t", b"a", b"\xff"])).map(
    b"".join
)


@given(FILES)
def test_no_byte_is_lost(data: bytes) -> None:
    assert b"".join(line.raw for line in attributes.parse(data)) == data


@given(FILES, PATTERNS.filter(bool))
def test_tracking_changes_one_line(data: bytes, pattern: bytes) -> None:
    before = [line.raw for line in attributes.parse(data)]
    after = [line.raw for line in attributes.parse(attributes.track(data, pattern)[0])]
    if len(after) > len(before) > 0 and not data.endswith(b"\n"):
        before[-1] += b"\r\n" if before[0].endswith(b"\r\n") else b"\n"  # so that the new line can stand behind it
    changed = [old for old, new in zip(before, after, strict=False) if old != new]
    assert len(changed) + len(after) - len(before) <= 1
    assert all(attributes.parse(old)[0].pattern == pattern for old in changed)


@given(FILES, PATTERNS.filter(bool))
def test_untracking_never_adds_anything(data: bytes, pattern: bytes) -> None:
    after = attributes.untrack(data, pattern)
    if after is not None:
        assert len(after) < len(data)
        assert attributes.untrack(after, pattern) is None


@pytest.fixture(scope="module")
def oracle(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bytes, bytes], bytes]:
    """Return a function that asks git for the filter of a path, given a .gitattributes file."""
    place = tmp_path_factory.mktemp("oracle")
    environment = {"PATH": os.environ["PATH"], "HOME": str(place), "GIT_CONFIG_NOSYSTEM": "1", "GIT_ATTR_NOSYSTEM": "1"}
    repository = Repository.init(place / "repository", environment)

    def ask(data: bytes, path: bytes) -> bytes:
        repository.write(".gitattributes", data)
        return repository.git_bytes("check-attr", "-z", "--stdin", "filter", stdin=path + b"\0").split(b"\0")[2]

    return ask


LINES = st.sampled_from(
    [
        *(b"model.pt lockable", b'"mod\\145l.pt"eol=lf', b"model.pt  -text\t", b"model.pt filter=theta"),
        *(b"# model.pt filter=lfs", b"!model.pt filter=lfs", b"*.pt text=auto", b"[attr]model.pt filter=lfs", b""),
        *(b"model.pt @ filter=lfs", b"model.pt " + b"x" * 2100, b"*.safetensors filter=lfs -text", b" model.pt -diff"),
        *(b"model.pt binary", b"\xff x"),
    ]
)


@settings(max_examples=100)
@given(lines=st.lists(LINES, max_size=8), end=st.sampled_from([b"\n", b"\r\n"]), mark=st.booleans())
def test_git_reads_our_line_as_we_mean_it(
    oracle: Callable[[bytes, bytes], bytes], lines: list[bytes], end: bytes, mark: bool
) -> None:
    data = (b"\xef\xbb\xbf" if mark else b"") + end.join(lines)
    assert oracle(attributes.track(data, b"model.pt")[0], b"model.pt") == b"theta"


@settings(max_examples=60)
@given(name=st.binary(min_size=1, max_size=12).filter(lambda name: b"\0" not in name and b"/" not in name))
def test_git_reads_the_pattern_of_any_name_as_that_name(oracle: Callable[[bytes, bytes], bytes], name: bytes) -> None:
    data = attributes.track(b"", attributes.literal(name))[0]
    if name.startswith(b"[attr]"):
        return
    assert oracle(data, name) == b"theta"
    assert oracle(data, b"other " + name) == b"unspecified"


def test_a_pattern_may_not_be_a_link(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"*.py text\n")
    (tmp_path / ".gitattributes").symlink_to("secret")
    with pytest.raises(RepositoryError, match="not a regular file"):
        tracking.read(tmp_path / ".gitattributes")


def test_a_directory_is_no_attribute_file(tmp_path: Path) -> None:
    (tmp_path / ".gitattributes").mkdir()
    with pytest.raises(RepositoryError, match="not a regular file"):
        tracking.read(tmp_path / ".gitattributes")


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / ".gitattributes").open("wb") as file:
        file.truncate((100 << 20) + 1)
    with pytest.raises(RepositoryError, match="100 MiB"):
        tracking.read(tmp_path / ".gitattributes")


def test_long_runs_of_anything_are_read_in_a_moment() -> None:
    for piece in (b" ", b'"', b"\\", b"\\\\", b"-", b"!", b"=", b"\r", b"\0", b'"\\'):
        data = piece * 1_000_000
        assert attributes.parse(data)[0].raw == data
        assert attributes.parse(b"*.pt " + piece * 900)[0].raw


def test_escaping_from_the_work_tree_is_refused(repository: Repository) -> None:
    outside = repository.path.parent / "outside.pt"
    outside.write_bytes(b"x")
    for typed in ("../outside.pt", "a/../../outside.pt", str(outside)):
        error = repository.git_fails("theta", "track", typed)
        assert "outside of this work tree" in error
    assert not (repository.path / ".gitattributes").exists()


def test_macros_that_hide_a_filter_are_seen_through(repository: Repository) -> None:
    repository.write(".gitattributes", b"[attr]inner filter=lfs\n[attr]outer inner\n*.pt outer\n")
    error = repository.git_fails("theta", "track", "*.pt")
    assert ".gitattributes:3" in error


def test_pattern_that_reads_as_macro_is_refused() -> None:
    from theta_daemon.cli.track import from_top

    with pytest.raises(UsageError, match="macro"):
        from_top(b"[attr]*.pt", b"", b"/nowhere")
