"""Laws of naming: total, unique, prefix-free, the same every time, and nothing changes where nothing must."""

from __future__ import annotations

from collections.abc import Hashable

from hypothesis import given
from hypothesis import strategies as st

from theta_daemon.formats.parts import OtherKey
from theta_daemon.metadata import names

_awkward = [
    "",
    "0",
    "1",
    "1~2",
    "a",
    "a~2",
    "a~3",
    "None",
    "lfs_metadata",
    "lfs_metadata~",
    "theta_daemon",
    "\ud83d",
    "\ude00",
]
_keys: st.SearchStrategy[Hashable] = st.one_of(
    st.sampled_from(_awkward),
    st.sampled_from([0, 1, True, None, 1.0, (1, 2), OtherKey("a"), OtherKey("1"), OtherKey("lfs_metadata"), 1 << 70]),
    st.text(st.characters(), max_size=3),
    st.integers(),
)
_paths = st.lists(st.lists(_keys, max_size=4), max_size=12)
_deep = st.lists(st.lists(st.sampled_from(["a", "b", 0]), min_size=28, max_size=40), max_size=6)


@given(st.one_of(_paths, _deep))
def test_names_are_unique_and_none_begins_another(paths: list[list[Hashable]]) -> None:
    assigned = names.assign(paths)
    assert len(assigned) == len(paths)
    assert len(set(assigned)) == len(paths)
    prefixes = {name[:depth] for name in assigned for depth in range(len(name))}
    assert prefixes.isdisjoint(assigned)


@given(st.one_of(_paths, _deep))
def test_names_are_what_metadata_can_hold(paths: list[list[Hashable]]) -> None:
    for name in names.assign(paths):
        assert 1 <= len(name) <= names.MAX_DEPTH
        assert "lfs_metadata" not in name[1:]
        for part in name:
            assert part.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass") == part


@given(st.one_of(_paths, _deep))
def test_the_same_paths_have_the_same_names(paths: list[list[Hashable]]) -> None:
    assert names.assign(paths) == names.assign([tuple(path) for path in paths])


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), unique=True))
def test_flat_string_keys_are_kept(keys: list[str]) -> None:
    assert names.assign([[key] for key in keys]) == [(key,) for key in keys]


@given(st.sets(st.lists(st.text("ab0", max_size=2), min_size=1, max_size=3).map(tuple)))
def test_string_paths_that_do_not_clash_are_kept(paths: set[tuple[str, ...]]) -> None:
    inner = {path[:depth] for path in paths for depth in range(1, len(path))}
    fitting = sorted(paths - inner)
    assert names.assign(fitting) == fitting


@given(_paths, st.lists(_keys, max_size=4))
def test_containers_stay_together(paths: list[list[Hashable]], more: list[Hashable]) -> None:
    """Two tensors of one container have one prefix: the shape of the checkpoint is kept."""
    both = [[*more, "x"], *paths, [*more, "y"]]
    assigned = names.assign(both)
    assert assigned[0][:-1] == assigned[-1][:-1]
