from __future__ import annotations

import pytest

from theta_daemon.cli import attributes
from theta_daemon.errors import UsageError

ALL = b"filter=theta merge=theta diff=theta -text"


def tracked(data: bytes, pattern: bytes = b"*.pt") -> bytes:
    return attributes.track(data, pattern)[0]


def test_a_new_pattern_goes_to_the_end() -> None:
    assert tracked(b"") == b"*.pt " + ALL + b"\n"
    assert tracked(b"*.py text\n") == b"*.py text\n*.pt " + ALL + b"\n"


def test_a_missing_last_newline_is_added_for_the_new_line() -> None:
    assert tracked(b"*.py text") == b"*.py text\n*.pt " + ALL + b"\n"


def test_a_file_with_crlf_gets_a_line_with_crlf() -> None:
    assert tracked(b"# a\r\n*.py text\r\n") == b"# a\r\n*.py text\r\n*.pt " + ALL + b"\r\n"


def test_tracking_again_changes_nothing() -> None:
    data = tracked(b"*.py text\r\n")
    assert tracked(data) == data


def test_the_line_of_the_pattern_gets_only_what_it_lacks() -> None:
    data = b"# mine\n*.pt filter=theta  merge=theta\tdiff=theta \n*.py text\n"
    assert tracked(data) == b"# mine\n*.pt filter=theta  merge=theta\tdiff=theta -text \n*.py text\n"


def test_its_last_line_that_is_ours_is_the_one_to_complete() -> None:
    data = b"*.pt lockable\n*.pt filter=theta\n*.pt eol=lf\n"
    assert tracked(data) == b"*.pt lockable\n*.pt filter=theta merge=theta diff=theta -text\n*.pt eol=lf\n"


@pytest.mark.parametrize(
    ("before", "added"),
    [
        (b"text", ALL),  # must not be converted, whatever the line says before
        (b"-text", b"filter=theta merge=theta diff=theta"),
        (b"text=auto", ALL),
        (b"binary", ALL),  # a macro: later attributes of the line win
        (b"merge=mine", b"filter=theta diff=theta -text"),
        (b"-diff", b"filter=theta merge=theta -text"),
        (b"filter=theta filter=theta", b"merge=theta diff=theta -text"),
    ],
)
def test_what_the_line_says_stays(before: bytes, added: bytes) -> None:
    assert tracked(b"*.pt " + before + b"\n") == b"*.pt " + before + b" " + added + b"\n"


def test_a_line_without_attributes_gets_them() -> None:
    assert tracked(b"*.pt  \r\n") == b"*.pt " + ALL + b"  \r\n"


@pytest.mark.parametrize(
    "line",
    [
        b"# *.pt",
        b"  # *.pt",
        b"[attr]*.pt text",
        b"!*.pt text",
        b"*.pt.old text",
        b"",
        b"*.pt " + b"x" * 2048,  # git skips it
        b"\0*.pt text",
        b"*.pt @ text",  # one name that is not allowed, and git skips the line
        b"*.pt --text",
        b"*.pt =text",
    ],
)
def test_what_is_no_line_of_the_pattern_is_left_alone(line: bytes) -> None:
    assert tracked(line + b"\n") == line + b"\n*.pt " + ALL + b"\n"


def test_a_byte_order_mark_is_no_part_of_the_pattern() -> None:
    assert tracked(b"\xef\xbb\xbf*.pt text\n") == b"\xef\xbb\xbf*.pt text " + ALL + b"\n"
    assert tracked(b"*.py text\n\xef\xbb\xbf*.pt text\n").count(b"\n") == 3


@pytest.mark.parametrize(
    ("pattern", "spelled"),
    [
        (b"a b.pt", b'"a b.pt"'),
        (b"#a.pt", b'"#a.pt"'),
        (b'"a".pt', b'"\\"a\\".pt"'),
        (b"a\nb\x01.pt", b'"a\\nb\\001.pt"'),
        (b"a\\*b.pt", b"a\\*b.pt"),
        (b"a \\*.pt", b'"a \\\\*.pt"'),
        ("modèle.pt".encode(), "modèle.pt".encode()),
        (b"\xff\xfe.pt", b"\xff\xfe.pt"),
    ],
)
def test_patterns_are_quoted_where_git_needs_it(pattern: bytes, spelled: bytes) -> None:
    data, line = attributes.track(b"", pattern)
    assert line == spelled + b" " + ALL
    assert attributes.parse(data)[0].pattern == pattern
    assert attributes.track(data, pattern)[0] == data


def test_a_quoted_line_is_found_whatever_its_spelling() -> None:
    assert tracked(b'"*.p\\164"eol=lf\n') == b'"*.p\\164"eol=lf ' + ALL + b"\n"
    assert attributes.parse(b'"a\\x.pt text\n')[0].pattern == b'"a\\x.pt'  # no such escape: git reads it as it stands


def test_a_line_that_git_would_skip_is_not_written() -> None:
    with pytest.raises(UsageError, match="2048"):
        attributes.track(b"", b"a" * 2048)
    with pytest.raises(UsageError, match="2048"):
        attributes.track(b"*.pt " + b"x" * 2030 + b"\n", b"*.pt")


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        (b"model.pt", b"model.pt"),
        (b"model[1]*?.pt", b"model\\[1]\\*\\?.pt"),
        (b"!a.pt", b"\\!a.pt"),
        (b"a!.pt", b"a!.pt"),
        (b"a\\b", b"a\\\\b"),
    ],
)
def test_paths_as_patterns(path: bytes, pattern: bytes) -> None:
    assert attributes.literal(path) == pattern


def test_untrack_takes_the_line_when_nothing_else_is_on_it() -> None:
    data = b"# a\n*.pt " + ALL + b"\n*.py text"
    assert attributes.untrack(data, b"*.pt") == b"# a\n*.py text"


def test_untrack_leaves_the_other_attributes_as_they_stand() -> None:
    data = b"*.pt  lockable filter=theta\tmerge=theta diff=theta -text x=y \r\n"
    assert attributes.untrack(data, b"*.pt") == b"*.pt  lockable x=y \r\n"


def test_untrack_leaves_other_patterns_and_other_filters_alone() -> None:
    assert attributes.untrack(b"*.pt filter=lfs -text\nx.pt filter=theta\n", b"*.pt") is None


def test_untrack_undoes_track() -> None:
    before = b"*.py text\r\n\xff\n\n# end\n"
    assert attributes.untrack(tracked(before), b"*.pt") == before


@pytest.mark.parametrize(
    ("data", "number"),
    [
        (b"*.pt filter=lfs\n", 1),
        (b"\n*.pt -filter\n", 2),
        (b"*.pt filter\n", 1),
        (b"*.pt filter=theta\n*.pt filter=lfs\n*.pt text\n", 2),
        (b"*.pt filter=lfs\n*.pt filter=theta\n", None),
        (b"*.pt filter=lfs\n*.pt !filter\n", None),
        (b"x.pt filter=lfs\n", None),
        (b"*.pt filter=lfs filter=theta\n", None),
    ],
)
def test_the_line_with_another_filter_is_known(data: bytes, number: int | None) -> None:
    assert attributes.other_filter(data, b"*.pt") == number
