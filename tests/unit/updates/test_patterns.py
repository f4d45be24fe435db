"""Our expressions beside Python's, and what Python's would take for ever for."""

from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theta_daemon.errors import UsageError
from theta_daemon.updates.patterns import Budget, Subject, parse

_atoms = st.sampled_from([*"ab.0-_^$", r"\.", r"\d", r"\w", r"\-", "[ab]", "[^a]", "[^]a]", "[a-b0]", "[a-]", r"[\d_]"])


def _grown(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    group = st.one_of(
        st.builds("({})".format, inner), st.builds("(?:{})".format, inner), st.builds("({}|{})".format, inner, inner)
    )
    return st.one_of(
        st.builds(str.__add__, inner, inner),
        st.builds("{}|{}".format, inner, inner),
        group,
        st.builds(str.__add__, group, st.sampled_from(["*", "+", "?", "*?", "+?", "??"])),
    )


@given(st.recursive(_atoms, _grown, max_leaves=12), st.lists(st.text("ab.0-_\n", max_size=8), min_size=1, max_size=8))
def test_matches_what_peft_matches(pattern: str, names: list[str]) -> None:
    ours = parse(pattern)
    for name in names:
        subject = Subject(name, Budget())
        assert subject.ends(ours) is bool(re.match(rf"(.*\.)?({pattern})$", name))
        assert subject.is_all(ours) is bool(re.fullmatch(pattern, name))


@given(st.text("ab0.-^$[]()|*+?\\{}d:", max_size=12), st.text("ab0.-", max_size=6))
def test_what_is_not_refused_means_the_same_to_python(pattern: str, name: str) -> None:
    try:
        ours = parse(pattern)
    except UsageError:
        return
    assert Subject(name, Budget()).is_all(ours) is bool(re.fullmatch(pattern, name))


@pytest.mark.parametrize(
    "pattern",
    ["(", ")", "a)|(b", "*", "a**", "a*+", "^*", "(?i)a", "(?=a)", "(?P<n>a)", "a{2}", r"\b", r"(a)\1", "[a", "[", "\\",
     r"[a-\d]", "[b-a]", "[[:alpha:]]", "(" * 20 + "a" + ")" * 20, "a" * 2000],
)  # fmt: skip
def test_what_is_not_known_is_refused(pattern: str) -> None:
    with pytest.raises(UsageError):
        parse(pattern)


@pytest.mark.parametrize("pattern", ["(((a*)*)*)*b", "((a|aa)+)+b", "(.*.*.*.*.*)*b", "(a?a?a?a?a?)*" * 20 + "b"])
def test_no_expression_takes_long(pattern: str) -> None:
    start = time.process_time()
    assert not Subject("a" * 1000, Budget()).ends(parse(pattern))
    assert time.process_time() - start < 5


def test_many_expressions_on_many_names_end() -> None:
    pattern, budget = parse("(a|b|c)*z"), Budget(100_000)

    def match_all() -> None:
        for _ in range(1000):
            Subject("abc" * 300, budget).ends(pattern)

    with pytest.raises(UsageError, match="take too long"):
        match_all()
