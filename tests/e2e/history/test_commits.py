"""Metadata in the history of real repositories: what a commit changed, what a range of commits brought."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import theta_daemon.history.commits
from tests.e2e.history.conftest import metadata, settings_of
from tests.support.repository import Repository
from theta_daemon.errors import RepositoryError
from theta_daemon.history.commits import Commits

OpenCommits = Callable[[Repository], Commits]


@pytest.fixture
def open_commits() -> OpenCommits:
    """Return a function that opens the history of a repository."""
    return lambda repository: Commits(settings_of(repository))


def commit(repository: Repository, **files: int | None) -> str:
    """Commit metadata by file name (`_` stands for "."); None removes the file."""
    for name, value in files.items():
        path = name.replace("_", ".")
        if value is None:
            repository.git("rm", "--quiet", path)
        else:
            repository.write(path, metadata(value))
    return repository.commit("x")


def changed(commits: Commits, revision: str) -> list[tuple[bytes, bytes | None, bytes]]:
    return [(it.path, it.old.data if it.old else None, it.new.data) for it in commits.changed(revision)]


def in_range(commits: Commits, include: Sequence[str], exclude: Sequence[str] = ()) -> list[bytes]:
    return sorted(it.data for it in commits.in_range(include, exclude))


def test_changed_by_a_root_commit(stored: Repository, open_commits: OpenCommits) -> None:
    commit(stored, a_pt=1, b_pt=2)
    assert changed(open_commits(stored), "HEAD") == [
        (b"a.pt", None, metadata(1)),
        (b"b.pt", None, metadata(2)),
    ]


def test_changed_added_removed_renamed(stored: Repository, open_commits: OpenCommits) -> None:
    commit(stored, a_pt=1, b_pt=2, c_pt=3, d_pt=4)
    stored.git("mv", "d.pt", "moved.pt")
    commit(stored, a_pt=11, b_pt=None, new_pt=5)
    assert changed(open_commits(stored), "HEAD") == [
        (b"a.pt", metadata(1), metadata(11)),
        (b"moved.pt", None, metadata(4)),
        (b"new.pt", None, metadata(5)),
    ]


def test_a_merge_is_held_against_its_first_parent(stored: Repository, open_commits: OpenCommits) -> None:
    commit(stored, a_pt=1)
    stored.git("checkout", "--quiet", "-b", "theirs")
    commit(stored, theirs_pt=2)
    stored.git("checkout", "--quiet", "main")
    commit(stored, ours_pt=3)
    stored.git("merge", "--quiet", "--no-edit", "theirs")
    assert changed(open_commits(stored), "HEAD") == [(b"theirs.pt", None, metadata(2))]


def test_metadata_instead_of_a_raw_file(repository: Repository, open_commits: OpenCommits) -> None:
    repository.write("a.pt", b"PK\3\4")
    repository.write("b.json", b"{}")
    repository.commit("x")
    commit(repository, a_pt=1, b_json=2)
    assert changed(open_commits(repository), "HEAD") == [
        (b"a.pt", None, metadata(1)),
        (b"b.json", None, metadata(2)),
    ]
    repository.write("a.pt", b"PK\3\4")
    repository.commit("x")
    assert changed(open_commits(repository), "HEAD") == []


@pytest.mark.parametrize("path", ["line\nbreak\r", "x-gabcdef", ":(top)x", "\udcff", "a b\t\"'"])
def test_paths_of_any_bytes(repository: Repository, open_commits: OpenCommits, path: str) -> None:
    repository.write(path, metadata(1))
    repository.commit("x")
    commits = open_commits(repository)
    assert [it.path for it in commits.changed("HEAD")] == [os.fsencode(path)]
    [found] = commits.in_range(["HEAD"], [])
    assert found.path == os.fsencode(path.partition("\n")[0])


def test_the_id_of_a_commit(stored: Repository, open_commits: OpenCommits) -> None:
    first = commit(stored, a_pt=1)
    second = commit(stored, a_pt=2)
    stored.git("tag", "--annotate", "--message", "x", "v1", first)
    commits = open_commits(stored)
    assert [commits.commit(it) for it in ("HEAD", "HEAD^", "v1", first)] == [second, first, first, first]
    with pytest.raises(RepositoryError, match="there is no commit 'HEAD~2'"):
        commits.commit("HEAD~2")


def test_which_objects_are_here(stored: Repository, open_commits: OpenCommits) -> None:
    first = commit(stored, a_pt=1)
    tree = stored.git("rev-parse", "HEAD^{tree}")
    assert open_commits(stored).known([first, "1" * len(first), tree, first]) == [first, tree]
    assert open_commits(stored).known([]) == []


def test_remote_tracking_refs(stored: Repository, open_commits: OpenCommits) -> None:
    first, second, third = (commit(stored, a_pt=value) for value in range(3))
    for name, value in {"o/main": first, "o/x": second, "o/y": second, "o2/main": third, "team/o/main": third}.items():
        stored.git("update-ref", f"refs/remotes/{name}", value)
    stored.git("symbolic-ref", "refs/remotes/o/HEAD", "refs/remotes/o/main")
    stored.git("update-ref", "refs/heads/o/main", third)
    commits = open_commits(stored)
    assert commits.tracked("o") == {b"HEAD": first, b"main": first, b"x": second, b"y": second}
    assert commits.tracked("team/o") == {b"main": third}
    stored.git("config", "remote.team.url", "x")
    assert commits.tracked("team") == {b"o/main": third}
    stored.git("config", "remote.team/o.url", "y")
    assert commits.tracked("team") == {}  # they are those of team/o
    for other in ("", "*", "o*", "o/../o2", "/o", "file:///srv/o", "../o", "--all", "\udcff"):
        assert commits.tracked(other) == {}


def test_a_symbolic_link_is_no_checkpoint(stored: Repository, open_commits: OpenCommits) -> None:
    blob = stored.git("hash-object", "-w", "--stdin", stdin=metadata(1))
    stored.git("update-index", "--add", "--cacheinfo", f"120000,{blob},a.pt")
    stored.git("commit", "--quiet", "--message", "x")
    assert changed(open_commits(stored), "HEAD") == []
    stored.git("update-index", "--cacheinfo", f"100644,{blob},a.pt")
    stored.git("commit", "--quiet", "--message", "x")
    assert changed(open_commits(stored), "HEAD") == [(b"a.pt", None, metadata(1))]


def test_a_commit_that_is_none(repository: Repository, open_commits: OpenCommits) -> None:
    commit(repository, a_pt=1)
    commits = open_commits(repository)
    for revision in ("HEAD~1", "nothing", "HEAD^{tree}", "0" * 40, "", "--all", "\udcff"):
        with pytest.raises(RepositoryError, match="there is no commit"):
            changed(commits, revision)
    for revision in ("HEAD\nHEAD", "HEAD\r"):
        with pytest.raises(RepositoryError, match="is no revision"):
            changed(commits, revision)


def test_every_blob_of_a_range_once(stored: Repository, open_commits: OpenCommits) -> None:
    first = commit(stored, a_pt=1)
    commit(stored, a_pt=2, b_pt=2)
    commit(stored, a_pt=3)
    commit(stored, a_pt=2)
    commit(stored, b_pt=None, c_pt=4)
    commits = open_commits(stored)
    assert in_range(commits, ["HEAD"]) == [metadata(it) for it in (1, 2, 3, 4)]
    assert in_range(commits, ["HEAD"], [first]) == [metadata(it) for it in (2, 3, 4)]
    assert in_range(commits, ["main~1"], ["main~3"]) == [metadata(3)]
    assert in_range(commits, ["HEAD"], ["HEAD"]) == []
    assert in_range(commits, []) == []
    [found] = commits.in_range(["HEAD"], ["HEAD~1"])
    assert (found.path, found.blob, found.data) == (b"c.pt", stored.git("rev-parse", "HEAD:c.pt"), metadata(4))


def test_which_commit_brought_a_blob(stored: Repository, open_commits: OpenCommits) -> None:
    first = commit(stored, a_pt=1)
    second = commit(stored, a_pt=2)
    third = commit(stored, a_pt=1)
    stored.git("rm", "--quiet", "--cached", "a.pt")
    stored.git("commit", "--quiet", "--message", "gone")
    commits = open_commits(stored)
    blob = stored.git("rev-parse", f"{first}:a.pt")
    assert commits.brought(blob, ["HEAD"], []) == first
    assert commits.brought(blob, ["HEAD"], [second]) == third
    assert commits.brought(blob, ["HEAD"], [third]) is None


def test_a_range_with_merges(stored: Repository, open_commits: OpenCommits) -> None:
    base = commit(stored, a_pt=1)
    stored.git("checkout", "--quiet", "-b", "theirs")
    commit(stored, a_pt=2)
    stored.git("checkout", "--quiet", "main")
    commit(stored, a_pt=3)
    stored.git_fails("merge", "theirs")
    commit(stored, a_pt=4)  # what neither side had
    assert in_range(open_commits(stored), ["HEAD"], [base]) == [metadata(it) for it in (2, 3, 4)]


def test_several_tips_and_tags(repository: Repository, open_commits: OpenCommits) -> None:
    commit(repository, a_pt=1)
    repository.git("tag", "--annotate", "--message", "x", "v1")
    repository.git("checkout", "--quiet", "--orphan", "other")
    commit(repository, a_pt=2)
    commits = open_commits(repository)
    assert in_range(commits, ["v1", "other"]) == [metadata(1), metadata(2)]
    assert in_range(commits, ["refs/tags/v1", "other"], ["v1"]) == [metadata(2)]


def test_what_is_excluded_need_not_exist(repository: Repository, open_commits: OpenCommits) -> None:
    commit(repository, a_pt=1)
    absent = ["0" * 40, "refs/remotes/gone/main", "--all", "^HEAD", "HEAD~7"]
    assert in_range(open_commits(repository), ["HEAD"], absent) == [metadata(1)]


@pytest.mark.parametrize("absent", ["0" * 40, "nothing", "--all", "--not", "^HEAD", "-x"])
def test_what_is_included_must_exist(repository: Repository, open_commits: OpenCommits, absent: str) -> None:
    commit(repository, a_pt=1)
    with pytest.raises(RepositoryError, match="there is no '"):
        in_range(open_commits(repository), ["HEAD", absent])


def test_other_files_are_passed_over(repository: Repository, open_commits: OpenCommits) -> None:
    repository.write("a.json", b'{"name": "no lfs_metadata here"}')
    repository.write("b.txt", b'"lfs_metadata"')
    repository.write("c.bin", b"\0" * (2 << 20))
    repository.write("d/e.pt", b' \n{"theta_daemon": {}}')
    repository.write("f.pt", b'{"w": {"lfs_metadata": {}}}')
    repository.commit("x")
    found = list(open_commits(repository).in_range(["HEAD"], []))
    assert sorted(it.path for it in found) == [b"d/e.pt", b"f.pt"]


def test_more_than_one_child_reads_at_once(
    repository: Repository, open_commits: OpenCommits, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value in range(7):
        repository.write("raw.bin", bytes([value]) * (2 << 20))
        commit(repository, a_pt=value)
    expected = [metadata(it) for it in range(7)]
    for number in (1, 2, 14, 1000):
        monkeypatch.setattr(theta_daemon.history.commits, "_AT_ONCE", number)
        assert in_range(open_commits(repository), ["HEAD"]) == expected


def test_a_range_may_be_left_early(repository: Repository, open_commits: OpenCommits) -> None:
    for value in range(5):
        commit(repository, a_pt=value)
    walk = open_commits(repository).in_range(["HEAD"], [])
    next(walk)
    del walk  # warnings are errors: a child that is left behind would fail the test


def test_a_damaged_history_is_an_error(repository: Repository, open_commits: OpenCommits) -> None:
    commit(repository, a_pt=1)
    commit(repository, a_pt=2)
    tree = repository.git("rev-parse", "HEAD~1^{tree}")
    (repository.path / ".git" / "objects" / tree[:2] / tree[2:]).unlink()
    with pytest.raises(RepositoryError, match="git rev-list failed"):
        in_range(open_commits(repository), ["HEAD"])


@pytest.mark.parametrize("kept", ["blob:none", "tree:0"])
def test_a_partial_clone_has_what_it_has(
    repository: Repository, open_commits: OpenCommits, tmp_path: Path, kept: str
) -> None:
    commit(repository, a_pt=1)
    commit(repository, a_pt=2)
    repository.git("config", "uploadpack.allowFilter", "true")
    quiet = ("--quiet", "-c", "maintenance.auto=false", "-c", "gc.auto=0", f"--filter={kept}")
    repository.git("clone", *quiet, f"file://{repository.path}", str(tmp_path / "partial"))
    partial = repository.at(tmp_path / "partial")
    commit(partial, a_pt=3)
    packs = sorted(partial.path.glob(".git/objects/pack/*.pack"))
    commits = open_commits(partial)
    assert in_range(commits, ["HEAD"], ["origin/main"]) == [metadata(3)]
    assert in_range(commits, ["HEAD"]) == [metadata(2), metadata(3)]
    assert changed(commits, "HEAD") == [(b"a.pt", metadata(2), metadata(3))]
    assert sorted(partial.path.glob(".git/objects/pack/*.pack")) == packs


def test_a_shallow_clone_ends_where_it_ends(repository: Repository, open_commits: OpenCommits, tmp_path: Path) -> None:
    commit(repository, a_pt=1)
    commit(repository, a_pt=2)
    repository.git("clone", "--quiet", "--depth=1", f"file://{repository.path}", str(tmp_path / "shallow"))
    commits = open_commits(repository.at(tmp_path / "shallow"))
    assert in_range(commits, ["HEAD"]) == [metadata(2)]
    assert changed(commits, "HEAD") == [(b"a.pt", None, metadata(2))]


def test_no_child_outlives_a_killed_process(repository: Repository) -> None:
    commit(repository, a_pt=1)
    program = (
        "import os, sys; from pathlib import Path; from theta_daemon import settings\n"
        "from theta_daemon.history.record import GitRecord\n"
        "record = GitRecord(settings.load(os.environ, Path.cwd()))\n"
        "assert next(record.candidates(b'a.pt'))\n"
        "children = Path(f'/proc/{os.getpid()}/task/{os.getpid()}/children').read_text()\n"
        "print(children, flush=True); sys.stdin.read()\n"
    )
    environment = {**repository.environment, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=repository.path,
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        [child] = process.stdout.readline().split()
        watched = os.pidfd_open(int(child))
        process.kill()
    assert select.select([watched], [], [], 20)[0], "git cat-file goes on without its parent"
    os.close(watched)
    assert process.returncode == -signal.SIGKILL
