"""Merges of every kind, with metadata in git: whatever happens, no conflict marker gets into a blob."""

from __future__ import annotations

import pytest

from tests.e2e.cli.written import metadata, without_filter
from tests.support.repository import Repository

BASE, OURS, THEIRS = (metadata({"w": value, "b": b"0"}) for value in (b"1", b"2", b"3"))
ELSEWHERE = metadata({"w": b"1", "b": b"9"})  # as text it would merge with OURS: another line has changed


@pytest.fixture
def diverged(repository: Repository) -> Repository:
    """Return a repository with BASE, OURS on main and THEIRS on the branch `other`."""
    return diverge(repository, "a.pt")


def diverge(repository: Repository, name: str, theirs: bytes = THEIRS) -> Repository:
    without_filter(repository)
    repository.write(".gitattributes", b"* filter=theta merge=theta diff=theta -text\n.git* !filter !merge\n")
    repository.write(name, BASE)
    repository.commit("base")
    repository.git("checkout", "--quiet", "-b", "other")
    repository.write(name, theirs)
    repository.commit("theirs")
    repository.git("checkout", "--quiet", "main")
    repository.write(name, OURS)
    repository.commit("ours")
    return repository


def assert_no_markers(repository: Repository) -> None:
    rows = repository.git("cat-file", "--batch-all-objects", "--batch-check=%(objecttype) %(objectname)").splitlines()
    for row in rows:
        kind, name = row.split()
        if kind == "blob":
            assert b"<<<<<<<" not in repository.git_bytes("cat-file", "blob", name)


def stages(repository: Repository, name: str = "a.pt") -> dict[int, bytes]:
    rows = repository.git("ls-files", "--stage", "--", name).splitlines()
    return {int(row.split()[2]): repository.git_bytes("cat-file", "blob", row.split()[1]) for row in rows}


def test_a_conflict_keeps_ours_and_says_how_to_choose(diverged: Repository) -> None:
    done = diverged.run("git", "merge", "other")
    assert done.returncode == 1
    assert diverged.read("a.pt") == OURS
    assert stages(diverged) == {1: BASE, 2: OURS, 3: THEIRS}
    said = [line for line in done.stderr.decode().splitlines() if line.startswith("git-theta: ")]
    assert len(said) == 1
    assert "conflict in a.pt" in said[0]
    for command in ("git checkout --ours -- a.pt", "git checkout --theirs -- a.pt", "git add -- a.pt"):
        assert command in said[0]
    assert_no_markers(diverged)


@pytest.mark.parametrize(("side", "content"), [("--ours", OURS), ("--theirs", THEIRS)])
def test_what_it_says_resolves_the_conflict(diverged: Repository, side: str, content: bytes) -> None:
    diverged.git_fails("merge", "other")
    diverged.git("checkout", side, "--", "a.pt")
    diverged.git("add", "--", "a.pt")
    diverged.git("commit", "--quiet", "--message", "merged")
    assert diverged.blob("a.pt", "HEAD") == content
    assert diverged.status() == ""


def test_changes_that_would_merge_as_text_are_a_conflict_too(repository: Repository) -> None:
    # Two sides' entries put together would be metadata that no checkpoint ever had.
    diverged = diverge(repository, "a.pt", ELSEWHERE)
    diverged.git_fails("merge", "other")
    assert diverged.read("a.pt") == OURS
    diverged.git("reset", "--quiet", "--hard")
    diverged.git("-c", "merge.theta.driver=git merge-file %A %O %B", "merge", "--quiet", "other")  # the danger is real


def test_one_sided_changes_and_equal_changes_merge_by_themselves(repository: Repository) -> None:
    diverged = diverge(repository, "a.pt", OURS)
    diverged.write("b.pt", BASE)
    diverged.commit("one side only")
    diverged.git("merge", "--quiet", "other")
    assert diverged.blob("a.pt", "HEAD") == OURS


def test_equal_sides_are_merged(repository: Repository) -> None:
    for name, content in (("o", BASE), ("a", OURS), ("b", OURS)):
        repository.write(name, content)
    repository.git("theta", "merge-driver", "o", "a", "b", "x.pt")
    assert repository.read("a") == OURS


@pytest.mark.parametrize("ours", [b"", b"\x00raw", b"<<<<<<< a\n=======\n>>>>>>> b\n"])
def test_our_file_is_never_touched(repository: Repository, ours: bytes) -> None:
    for name, content in (("o", BASE), ("a", ours), ("b", THEIRS)):
        repository.write(name, content)
    done = repository.run("git", "theta", "merge-driver", "o", "a", "b", "x.pt")
    assert done.returncode == 1
    assert repository.read("a") == ours


def test_rebase_stops_and_goes_on(diverged: Repository) -> None:
    done = diverged.run("git", "rebase", "other")
    assert done.returncode == 1
    assert diverged.read("a.pt") == THEIRS  # in a rebase, ours is the new base
    assert b"in a rebase, theirs is your own commit" in done.stderr
    diverged.git("checkout", "--theirs", "--", "a.pt")
    diverged.git("add", "a.pt")
    diverged.git("-c", "core.editor=true", "rebase", "--continue")
    assert diverged.blob("a.pt", "HEAD") == OURS
    assert_no_markers(diverged)


@pytest.mark.parametrize(
    "command",
    [("cherry-pick", "other"), ("revert", "--no-edit", "HEAD~1"), ("stash", "pop"), ("merge", "--squash", "other")],
)
def test_every_command_that_merges(diverged: Repository, command: tuple[str, ...]) -> None:
    if command[0] == "revert":
        diverged.write("a.pt", ELSEWHERE)
        diverged.commit("once more")
    if command[0] == "stash":
        diverged.write("a.pt", THEIRS)
        diverged.git("stash", "--quiet")
        diverged.write("a.pt", ELSEWHERE)
        diverged.commit("once more")
    before = diverged.blob("a.pt", "HEAD")
    assert "git-theta: conflict in a.pt" in diverged.git_fails(*command)
    assert diverged.read("a.pt") == before
    assert_no_markers(diverged)


def test_an_octopus_is_refused_without_harm(diverged: Repository) -> None:
    # git merges several branches at once with its own text merge, whatever the attributes say. What it leaves in
    # the work tree has markers; the filter refuses to add it, and nothing is committed.
    diverged.git("checkout", "--quiet", "-b", "third", "main~1")
    diverged.write("b.pt", BASE)
    diverged.commit("third")
    diverged.git("checkout", "--quiet", "main")
    before = diverged.git("rev-parse", "HEAD")
    diverged.git_fails("merge", "third", "other")
    assert diverged.git("rev-parse", "HEAD") == before
    assert_no_markers(diverged)


def test_a_criss_cross_does_not_resolve_itself(diverged: Repository) -> None:
    # Each side has merged the other and kept its own: the merge bases are in conflict with each other. A driver that
    # kept one of them as the common base would let git take the other side without a word.
    ours, theirs = diverged.git("rev-parse", "main"), diverged.git("rev-parse", "other")
    for branch, other in (("main", theirs), ("other", ours)):
        diverged.git("checkout", "--quiet", branch)
        diverged.git_fails("merge", other)
        diverged.git("checkout", "--ours", "--", "a.pt")
        diverged.git("commit", "--quiet", "--all", "--message", "merged, kept ours")
    diverged.git("checkout", "--quiet", "main")
    error = diverged.git_fails("merge", "other")
    assert error.count("git-theta: conflict") == 1  # and not a second one for the bases
    assert stages(diverged) == {1: BASE, 2: OURS, 3: THEIRS}


def test_paths_of_any_name(repository: Repository) -> None:
    names = ["-x.pt", 'it\'s $(x) "q" `y`.pt', "two\nlines.pt", "%O %A.pt", "--help", "é.pt", "sub dir/-h"]
    without_filter(repository)
    repository.write(".gitattributes", b"* filter=theta merge=theta\n.git* !filter !merge\n")
    for branch, content in (("base", BASE), ("theirs", THEIRS), ("main", OURS)):
        repository.git("checkout", "--quiet", *(["-B", branch, "base"] if branch != "base" else ["-b", branch]))
        for name in names:
            repository.write(name, content)
        repository.commit(branch)
    done = repository.run("git", "merge", "theirs")
    assert done.returncode == 1
    assert [repository.read(name) for name in names] == [OURS] * len(names)
    said = [line for line in done.stderr.splitlines() if line.startswith(b"git-theta:")]
    assert len(said) == len(names)
    assert all(b"conflict in " in line for line in said)
    assert_no_markers(repository)


def test_both_added(repository: Repository) -> None:
    without_filter(repository)
    repository.write(".gitattributes", b"*.pt filter=theta merge=theta\n")
    repository.commit("base")
    repository.git("branch", "other")
    repository.write("a.pt", OURS)
    repository.commit("ours")
    repository.git("checkout", "--quiet", "other")
    repository.write("a.pt", THEIRS)
    repository.commit("theirs")
    repository.git("checkout", "--quiet", "main")
    repository.git_fails("merge", "other")
    assert stages(repository) == {2: OURS, 3: THEIRS}
    assert repository.read("a.pt") == OURS
    assert_no_markers(repository)


def test_wrong_arguments_are_a_wrong_command_line(repository: Repository) -> None:
    done = repository.run("git", "theta", "merge-driver", "a")
    assert done.returncode == 2
    assert b"%O %A %B %P" in done.stderr
