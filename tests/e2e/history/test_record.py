"""The record in every state of a real repository: which versions of a path there are, and in which order."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.e2e.history.conftest import Open, metadata, settings_of, values
from tests.support.repository import Repository
from theta_daemon.errors import RepositoryError
from theta_daemon.history.record import Candidate, GitRecord

ODD_PATHS = [
    b"plain.pt",
    b"d/e/f.pt",
    b" sp ace ",
    b"-dash",
    b"--",
    b"line\nbreak.pt",
    b"carriage\r",
    b"carriage\r\n",
    b"\r",
    b"quo\"te's\\",
    b"caf\xc3\xa9",
    b"not\xff\xfeutf8",
    b"control\x01\x1b\x7f",
    b"a:b",
    b":",
    b":0:plain.pt",
    b":/plain",
    b":(top)plain.pt",
    b"HEAD:plain.pt",
    b"x@{1}",
    b"x@{u}",
    b"@{-1}",
    b"@",
    b"x~1",
    b"x^",
    b"x^0",
    b"x^{commit}",
    b"x^{/first}",
    b"x^{}",
    b"^{tree}",
    b"{",
    b"}{",
    b"*.pt",
    b"[p]lain.pt",
    b"missing",
    b"x missing",
    b"...",
    b"HEAD",
    b"x-g%(head)s",
    b"x-g%(head)s~1",
    b"x-gG%(head)s",
]


def write(repository: Repository, path: bytes, data: bytes) -> None:
    file = os.path.join(os.fsencode(repository.path), path)
    os.makedirs(os.path.dirname(file), exist_ok=True)
    with open(file, "wb") as out:
        out.write(data)


def set_to(repository: Repository, value: int, path: str = "m.pt") -> None:
    write(repository, path.encode(), metadata(value))
    repository.git("add", "--", path)


def commit(repository: Repository, value: int, path: str = "m.pt") -> str:
    set_to(repository, value, path)
    repository.git("commit", "--quiet", "--message", str(value))
    return repository.git("rev-parse", "HEAD")


def test_nothing_at_all(stored: Repository, open_record: Open) -> None:
    assert values(open_record(stored), b"m.pt") == []


def test_before_the_first_commit(stored: Repository, open_record: Open) -> None:
    set_to(stored, 1)
    assert values(open_record(stored), b"m.pt") == [("index", 1)]


def test_index_and_head(stored: Repository, open_record: Open) -> None:
    commit(stored, 1)
    set_to(stored, 2)
    assert values(open_record(stored), b"m.pt") == [("index", 2), ("HEAD", 1)]


def test_a_candidate_is_a_blob_by_its_id(stored: Repository, open_record: Open) -> None:
    set_to(stored, 1)
    blob = stored.git("rev-parse", ":m.pt")
    assert list(open_record(stored).candidates(b"m.pt")) == [Candidate("index", blob, metadata(1))]


def test_each_blob_comes_once_from_where_it_stands_first(stored: Repository, open_record: Open) -> None:
    commit(stored, 1)
    stored.git("reset", "--quiet", "--hard", commit(stored, 1, "other"))
    assert values(open_record(stored), b"m.pt") == [("index", 1)]


def test_a_detached_head(stored: Repository, open_record: Open) -> None:
    first = commit(stored, 1)
    commit(stored, 2)
    stored.git("checkout", "--quiet", first)
    set_to(stored, 3)
    assert values(open_record(stored), b"m.pt") == [("index", 3), ("HEAD", 1)]


def test_orig_head(stored: Repository, open_record: Open) -> None:
    first = commit(stored, 1)
    commit(stored, 2)
    stored.git("reset", "--quiet", "--hard", first)
    assert values(open_record(stored), b"m.pt") == [("index", 1), ("ORIG_HEAD", 2)]


def test_a_path_that_was_removed_from_the_index(stored: Repository, open_record: Open) -> None:
    commit(stored, 1)
    stored.git("rm", "--quiet", "--cached", "m.pt")
    assert values(open_record(stored), b"m.pt") == [("HEAD", 1)]


def test_a_merge_that_stopped(stored: Repository, open_record: Open) -> None:
    diverge(stored)
    stored.git_fails("merge", "theirs")
    assert values(open_record(stored), b"m.pt") == [("index stage 2", 2), ("index stage 3", 3), ("index stage 1", 1)]


def test_a_merge_that_stopped_and_was_resolved(stored: Repository, open_record: Open) -> None:
    diverge(stored)
    stored.git_fails("merge", "theirs")
    set_to(stored, 4)
    assert values(open_record(stored), b"m.pt") == [("index", 4), ("HEAD", 2), ("MERGE_HEAD", 3)]


def test_a_cherry_pick_that_stopped(stored: Repository, open_record: Open) -> None:
    diverge(stored)
    stored.git_fails("cherry-pick", "theirs")
    set_to(stored, 4)
    assert values(open_record(stored), b"m.pt") == [("index", 4), ("HEAD", 2), ("CHERRY_PICK_HEAD", 3)]


def test_a_rebase_that_stopped(stored: Repository, open_record: Open) -> None:
    diverge(stored)
    stored.git_fails("rebase", "theirs")
    set_to(stored, 4)
    assert values(open_record(stored), b"m.pt") == [("index", 4), ("HEAD", 3), ("REBASE_HEAD", 2)]


def diverge(repository: Repository) -> None:
    commit(repository, 1)
    repository.git("checkout", "--quiet", "-b", "theirs")
    commit(repository, 3)
    repository.git("checkout", "--quiet", "main")
    commit(repository, 2)


def test_a_branch_or_tag_named_like_a_head_is_not_taken_for_it(repository: Repository, open_record: Open) -> None:
    commit(repository, 1)
    repository.git("update-ref", "refs/heads/MERGE_HEAD", "HEAD")
    repository.git("update-ref", "refs/tags/ORIG_HEAD", "HEAD")
    commit(repository, 2)
    assert values(open_record(repository), b"m.pt") == [("index", 2)]


def test_candidates_are_read_when_they_are_asked_for(repository: Repository, open_record: Open) -> None:
    commit(repository, 1)
    set_to(repository, 2)
    candidates = open_record(repository).candidates(b"m.pt")
    assert next(candidates).origin == "index"
    repository.git("commit", "--quiet", "--message", "2")
    assert list(candidates) == []  # HEAD has caught up with the index


def test_two_iterators_at_once(repository: Repository, open_record: Open) -> None:
    commit(repository, 1)
    commit(repository, 11, "n.pt")
    set_to(repository, 2)
    set_to(repository, 12, "n.pt")
    record = open_record(repository)
    pairs = zip(record.candidates(b"m.pt"), record.candidates(b"n.pt"), strict=True)
    assert [(a.origin, b.data == metadata(10 + n)) for n, (a, b) in zip((2, 1), pairs, strict=True)] == [
        ("index", True),
        ("HEAD", True),
    ]


def test_an_index_that_changes_is_seen(stored: Repository, open_record: Open) -> None:
    record = open_record(stored)
    assert values(record, b"m.pt") == []
    for value in (1, 2, 3):
        set_to(stored, value)
        assert values(record, b"m.pt") == [("index", value)]
    stored.git("rm", "--quiet", "--cached", "m.pt")
    assert values(record, b"m.pt") == []


def test_an_unchanged_index_is_read_once(repository: Repository, open_record: Open) -> None:
    set_to(repository, 1)
    trace = repository.path / ".git" / "trace"
    record = open_record(repository.in_environment(GIT_TRACE=str(trace)))
    for _ in range(5):
        assert values(record, b"m.pt") == [("index", 1)]
    assert trace.read_text().count("cat-file") == 1


@pytest.mark.parametrize("path", ODD_PATHS)
def test_every_path_means_itself(repository: Repository, open_record: Open, path: bytes) -> None:
    commit(repository, 1, "plain.pt")
    head = commit(repository, 2, "x")
    commit(repository, 3, "lain.pt")
    path = path.replace(b"%(head)s", head[:7].encode())
    for value, message in ((4, "a"), (5, "b")):
        write(repository, path, metadata(value))
        repository.git("add", "--all")
        repository.git("commit", "--quiet", "--message", message)
    write(repository, path, metadata(6))
    repository.git("add", "--all")
    record = open_record(repository)
    assert values(record, path) == [("index", 6), ("HEAD", 5)]
    commits = repository.git("rev-list", "HEAD", "--").split()
    found = [record.version(it, path) for it in commits[:2]]
    assert [it and it.data for it in found] == [metadata(5), metadata(4)]


@pytest.mark.parametrize(
    "path", [b"./m.pt", b"../repository/m.pt", b"d/../m.pt", b"", b"/m.pt", b"d", b"d/", b"m.pt/", b"m.pt\0", b"m.p"]
)
def test_other_spellings_are_other_paths(repository: Repository, open_record: Open, path: bytes) -> None:
    commit(repository, 1)
    commit(repository, 1, "d/e.pt")
    assert values(open_record(repository), path) == []


@pytest.mark.parametrize("path", [b"d-gabcdef", b"d\n", b"d~"])
def test_a_directory_is_not_taken_for_a_file(repository: Repository, open_record: Open, path: bytes) -> None:
    commit(repository, 1, f"{path.decode()}/m.pt")
    assert values(open_record(repository), path) == []


def test_paths_start_from_the_top_wherever_git_is_run(repository: Repository, open_record: Open) -> None:
    for name in ("m.pt", "d/m.pt", "m~", "d/m~"):
        commit(repository, len(name), name)
    record = open_record(repository.at(repository.path / "d"))
    for path in (b"m.pt", b"d/m.pt", b"m~", b"d/m~"):
        assert values(record, path) == [("index", len(path))]


def test_what_is_no_blob_is_no_candidate(repository: Repository, open_record: Open) -> None:
    commit(repository, 1, "d/m.pt")
    head = repository.git("rev-parse", "HEAD")
    repository.git("update-index", "--add", "--cacheinfo", f"160000,{head},d2")
    repository.git("commit", "--quiet", "--message", "a submodule")
    record = open_record(repository)
    assert values(record, b"d") == []
    assert values(record, b"d2") == []


def test_what_cannot_be_metadata_is_no_candidate(repository: Repository, open_record: Open) -> None:
    for number, data in enumerate([b"PK\3\4", b"", b"x" * (3 << 20), b"<<<<<<< ours\n{}"]):
        write(repository, b"m%d.pt" % number, data)
    repository.git("add", "--all", "--intent-to-add")
    set_to(repository, 9, "last.pt")
    record = open_record(repository)
    assert values(record, b"m0.pt") == []
    repository.git("add", "--all")
    assert [values(record, b"m%d.pt" % number) for number in range(4)] == [[]] * 4
    assert values(record, b"last.pt") == [("index", 9)]


def test_a_version_of_a_commit(stored: Repository, open_record: Open) -> None:
    first = commit(stored, 1)
    commit(stored, 2)
    record = open_record(stored)
    assert record.version(first, b"m.pt") == Candidate(first, stored.git("rev-parse", f"{first}:m.pt"), metadata(1))
    assert record.version(first, b"other.pt") is None
    assert record.version("0" * len(first), b"m.pt") is None


@pytest.mark.parametrize("commit_id", ["HEAD", "main", "", "-x", "abc", "--all", ":0", "A" * 40])
def test_a_version_goes_by_a_full_id_alone(repository: Repository, open_record: Open, commit_id: str) -> None:
    commit(repository, 1)
    assert open_record(repository).version(commit_id, b"m.pt") is None


def test_a_split_index(stored: Repository, open_record: Open) -> None:
    set_to(stored, 1)
    stored.git("update-index", "--split-index")
    record = open_record(stored)
    assert list((stored.path / ".git").glob("sharedindex.*"))
    assert values(record, b"m.pt") == [("index", 1)]
    for value in (2, 3):
        set_to(stored, value)
        assert values(record, b"m.pt") == [("index", value)]


def test_a_sparse_index(stored: Repository, open_record: Open) -> None:
    for name in ("in/m.pt", "out/m.pt", "out/deep/m~"):
        commit(stored, len(name), name)
    stored.git("sparse-checkout", "set", "--cone", "--sparse-index", "in")
    record = open_record(stored)
    for path in (b"in/m.pt", b"out/m.pt", b"out/deep/m~"):
        assert values(record, path)[:1] == [("index", len(path))]


def test_an_index_of_the_callers_own(repository: Repository, open_record: Open, tmp_path: Path) -> None:
    commit(repository, 1)
    commit(repository, 1, "m~")
    other = repository.in_environment(GIT_INDEX_FILE=str(tmp_path / "index"))
    record = open_record(other)
    assert values(record, b"m.pt") == [("HEAD", 1)]
    set_to(other, 2)
    set_to(other, 2, "m~")
    assert values(record, b"m.pt") == values(record, b"m~") == [("index", 2), ("HEAD", 1)]
    assert values(open_record(repository), b"m.pt") == [("index", 1)]


def test_a_linked_worktree(stored: Repository, open_record: Open, tmp_path: Path) -> None:
    commit(stored, 1)
    stored.git("worktree", "add", "--quiet", "-b", "theirs", str(tmp_path / "linked"))
    linked = stored.at(tmp_path / "linked")
    commit(linked, 2)
    set_to(linked, 3)
    commit(stored, 4)
    assert values(open_record(linked), b"m.pt")[:2] == [("index", 3), ("HEAD", 2)]
    assert values(open_record(stored), b"m.pt") == [("index", 4)]
    linked.git("commit", "--quiet", "--message", "3")
    linked.git_fails("merge", "main")
    set_to(linked, 5)
    assert values(open_record(linked), b"m.pt")[:3] == [("index", 5), ("HEAD", 3), ("MERGE_HEAD", 4)]
    assert values(open_record(stored), b"m.pt") == [("index", 4)]


def test_a_submodule(repository: Repository, open_record: Open, tmp_path: Path) -> None:
    inner = Repository.init(tmp_path / "inner", repository.environment)
    commit(inner, 1)
    allow = ("-c", "protocol.file.allow=always")
    repository.git(*allow, "submodule", "--quiet", "add", str(inner.path), "sub")
    submodule = repository.at(repository.path / "sub")
    set_to(submodule, 2)
    assert values(open_record(submodule), b"m.pt") == [("index", 2), ("HEAD", 1)]


def test_a_bare_repository(stored: Repository, open_record: Open, tmp_path: Path) -> None:
    commit(stored, 1)
    commit(stored, 2, "m~")
    stored.git("clone", "--quiet", "--bare", ".", str(tmp_path / "bare"))
    record = open_record(stored.at(tmp_path / "bare"))
    assert values(record, b"m.pt") == [("HEAD", 1)]
    assert values(record, b"m~") == [("HEAD", 2)]


def test_git_dir_and_work_tree_apart(repository: Repository, open_record: Open, tmp_path: Path) -> None:
    commit(repository, 1)
    commit(repository, 1, "m~")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    apart = repository.at(elsewhere).in_environment(
        GIT_DIR=str(repository.path / ".git"), GIT_WORK_TREE=str(repository.path)
    )
    record = open_record(apart)
    set_to(repository, 2)
    set_to(repository, 2, "m~")
    assert values(record, b"m.pt") == values(record, b"m~") == [("index", 2), ("HEAD", 1)]


def test_objects_of_an_alternate(stored: Repository, open_record: Open, tmp_path: Path) -> None:
    commit(stored, 1)
    stored.git("clone", "--quiet", "--shared", ".", str(tmp_path / "clone"))
    assert values(open_record(stored.at(tmp_path / "clone")), b"m.pt") == [("index", 1)]


@pytest.mark.parametrize("kept", ["blob:none", "tree:0"])
@pytest.mark.parametrize("name", ["m.pt", "m~"])
def test_a_partial_clone_is_never_filled(
    repository: Repository, open_record: Open, tmp_path: Path, kept: str, name: str
) -> None:
    commit(repository, 1, name)
    commit(repository, 2, name)
    repository.git("config", "uploadpack.allowFilter", "true")
    url = f"file://{repository.path}"
    quiet = ("--quiet", "--no-checkout", "-c", "maintenance.auto=false", "-c", "gc.auto=0")
    repository.git("clone", *quiet, f"--filter={kept}", url, str(tmp_path / "partial"))
    partial = repository.at(tmp_path / "partial")
    record = open_record(partial)
    before = objects(partial)
    assert values(record, name.encode()) == []
    assert objects(partial) == before

    partial.git("checkout", "--quiet", "main")
    set_to(partial, 3, name)
    before = objects(partial)
    first = partial.git("rev-parse", "HEAD~1")
    assert values(record, name.encode()) == [("index", 3), ("HEAD", 2)]
    assert record.version(first, name.encode()) is None
    assert values(record, name.encode()) == [("index", 3), ("HEAD", 2)]
    assert objects(partial) == before


def objects(repository: Repository) -> list[Path]:
    """Return the packs and loose objects; a fetch would bring another pack."""
    return sorted(
        it for pattern in ("??/*", "pack/*.pack") for it in (repository.path / ".git" / "objects").glob(pattern)
    )


def test_a_shallow_clone(repository: Repository, open_record: Open, tmp_path: Path) -> None:
    first = commit(repository, 1)
    commit(repository, 2)
    repository.git("clone", "--quiet", "--depth=1", f"file://{repository.path}", str(tmp_path / "shallow"))
    record = open_record(repository.at(tmp_path / "shallow"))
    assert values(record, b"m.pt") == [("index", 2)]
    assert record.version(first, b"m.pt") is None


def test_a_damaged_object_is_an_error(repository: Repository, open_record: Open) -> None:
    set_to(repository, 1)
    blob = repository.git("rev-parse", ":m.pt")
    loose = repository.path / ".git" / "objects" / blob[:2] / blob[2:]
    loose.chmod(0o644)
    loose.write_bytes(loose.read_bytes()[:-8] + b"x" * 8)
    with pytest.raises(RepositoryError, match=blob):
        values(open_record(repository), b"m.pt")


@pytest.mark.parametrize("path", [b"m.pt", b"m~"])
def test_a_damaged_index_is_an_error(repository: Repository, open_record: Open, path: bytes) -> None:
    set_to(repository, 1)
    (repository.path / ".git" / "index").write_bytes(b"garbage" * 100)
    with pytest.raises(RepositoryError, match="index"):
        values(open_record(repository), path)


def test_a_child_that_is_killed_is_an_error_once(repository: Repository) -> None:
    set_to(repository, 1)
    record = GitRecord(settings_of(repository))
    assert values(record, b"m.pt") == [("index", 1)]
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    [child] = [int(it) for it in children if b"cat-file" in Path(f"/proc/{it}/cmdline").read_bytes()]
    os.kill(child, 9)
    with pytest.raises(RepositoryError, match="signal 9"):
        values(record, b"m.pt")
    assert values(record, b"m.pt") == [("index", 1)]
    record.close()


def test_replaced_objects_are_followed_as_git_follows_them(repository: Repository, open_record: Open) -> None:
    commit(repository, 1)
    write(repository, b"other", metadata(2))
    other = repository.git("hash-object", "-w", "other")
    repository.git("replace", repository.git("rev-parse", "HEAD:m.pt"), other)
    assert values(open_record(repository), b"m.pt") == [("index", 2)]
