from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.cli.written import entry, metadata, packs, partial_clone, reference, without_filter
from tests.support.environment import PEER
from tests.support.repository import Repository
from theta_daemon.metadata import text
from theta_daemon.metadata.entries import Metadata

HOOK = '#!/bin/sh\ngit theta post-commit "$@"\n'  # as git-theta leaves it


@pytest.fixture
def hooked(repository: Repository) -> Repository:
    without_filter(repository)
    hook = repository.git_directory / "hooks" / "post-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(HOOK)
    hook.chmod(0o755)
    repository.write(".gitattributes", b"*.pt filter=theta merge=theta diff=theta -text\n")
    return repository


def oids(*contents: bytes) -> list[str]:
    return sorted(reference(content).oid for content in contents)


def record(repository: Repository, commit: str) -> list[str]:
    data = (repository.git_directory / "theta" / "commits" / commit).read_text("ascii")
    found = json.loads(data)
    assert data == json.dumps({"oids": found["oids"]}, indent=4)  # git-theta's own spelling
    assert isinstance(found["oids"], list)
    return list(found["oids"])


def test_a_root_commit_records_everything(hooked: Repository) -> None:
    hooked.write("a.pt", metadata({"w": b"1", "b": b"2"}, layout=b"layout", opaque=(b"o",)))
    hooked.write("other.json", b'{"a": 1}')
    commit = hooked.commit("first")
    assert record(hooked, commit) == oids(b"1", b"2", b"layout", b"o")


def test_a_commit_records_what_it_added_and_changed(hooked: Repository) -> None:
    hooked.write("a.pt", metadata({"w": b"1", "b": b"2", "gone": b"3"}, layout=b"layout"))
    hooked.commit("first")
    hooked.write("a.pt", metadata({"w": b"1", "b": b"4", "new": b"5"}, layout=b"layout"))
    hooked.write("sub/dir/é b.pt", metadata({"w": b"6"}))
    commit = hooked.commit("second")
    assert record(hooked, commit) == oids(b"4", b"5", b"6")


def test_an_object_that_moved_to_another_parameter_is_recorded_as_git_theta_does(hooked: Repository) -> None:
    hooked.write("a.pt", metadata({"w": b"1", "b": b"2"}))
    hooked.commit("first")
    hooked.write("a.pt", metadata({"w": b"2", "b": b"2"}))
    assert record(hooked, hooked.commit("second")) == oids(b"2")


def test_what_an_increment_builds_on_is_recorded(hooked: Repository) -> None:
    hooked.write("a.pt", text.serialize(Metadata({("w",): entry(b"3", b"1", b"2")}, None)))
    assert record(hooked, hooked.commit("first")) == oids(b"1", b"2", b"3")


def test_commits_without_checkpoints_have_a_record_too(hooked: Repository) -> None:
    hooked.write("a.pt", metadata({"w": b"1"}))
    hooked.commit("first")
    hooked.git("commit", "--quiet", "--allow-empty", "--message", "empty")
    assert record(hooked, hooked.git("rev-parse", "HEAD")) == []
    hooked.git("rm", "--quiet", "a.pt")
    hooked.git("commit", "--quiet", "--message", "removed")
    assert record(hooked, hooked.git("rev-parse", "HEAD")) == []


def test_a_merge_is_compared_with_its_first_parent(hooked: Repository) -> None:
    hooked.write("a.pt", metadata({"w": b"1"}))
    hooked.commit("first")
    hooked.git("branch", "other")
    hooked.write("b.pt", metadata({"w": b"2"}))
    hooked.commit("ours")
    hooked.git("checkout", "--quiet", "other")
    hooked.write("c.pt", metadata({"w": b"3"}))
    hooked.commit("theirs")
    hooked.git("checkout", "--quiet", "main")
    hooked.git("merge", "--quiet", "--no-commit", "other")
    hooked.git("commit", "--quiet", "--message", "merged")
    assert record(hooked, hooked.git("rev-parse", "HEAD")) == oids(b"3")


def test_a_renamed_file_is_a_new_file(hooked: Repository) -> None:
    hooked.write("a.pt", metadata({"w": b"1"}))
    hooked.commit("first")
    hooked.git("mv", "a.pt", "b.pt")
    assert record(hooked, hooked.commit("second")) == oids(b"1")


def test_writing_again_repairs_a_record(hooked: Repository) -> None:
    hooked.write("a.pt", metadata({"w": b"1"}))
    commit = hooked.commit("first")
    path = hooked.git_directory / "theta" / "commits" / commit
    path.write_text('{"oids": [')
    hooked.git("theta", "post-commit")
    assert record(hooked, commit) == oids(b"1")
    assert [found.name for found in path.parent.iterdir()] == [commit]


def test_a_partial_clone_is_never_filled(hooked: Repository) -> None:
    hooked.write("a.pt", metadata({"w": b"1", "b": b"1"}))
    hooked.write("other.pt", metadata({"w": b"2"}))
    hooked.commit("first")
    clone = partial_clone(hooked, "other.pt")
    before = packs(clone)
    clone.write("a.pt", metadata({"w": b"3", "b": b"1"}))
    clone.git("add", "--sparse", "a.pt")
    clone.git("commit", "--quiet", "--message", "second")
    clone.git("theta", "post-commit")
    # What a.pt was before is not here: everything in it counts as new.
    assert record(clone, clone.git("rev-parse", "HEAD")) == oids(b"1", b"3")
    assert packs(clone) == before


def test_a_file_in_place_of_a_symbolic_link(hooked: Repository) -> None:
    (hooked.path / "a.pt").symlink_to("nowhere")
    hooked.commit("first")
    (hooked.path / "a.pt").unlink()
    hooked.write("a.pt", metadata({"w": b"1"}))
    assert record(hooked, hooked.commit("second")) == oids(b"1")


def test_damaged_metadata_is_left_out_with_a_warning(hooked: Repository) -> None:
    hooked.write("a.pt", metadata({"w": b"1"}))
    hooked.write("bad.pt", b'{"w": {"lfs_metadata": {"oid": "../../x"}}}')
    hooked.git("add", "--all")
    done = hooked.run("git", "commit", "--quiet", "--message", "first")
    assert done.returncode == 0
    assert b"git-theta: warning: blob" in done.stderr
    assert record(hooked, hooked.git("rev-parse", "HEAD")) == oids(b"1")


def test_a_commit_in_a_linked_work_tree_can_be_pushed_from_any(hooked: Repository) -> None:
    hooked.write("a.pt", metadata({"w": b"1"}))
    hooked.commit("first")
    hooked.git("worktree", "add", "--quiet", "../linked")
    linked = hooked.at(hooked.path.parent / "linked")
    linked.write("a.pt", metadata({"w": b"2"}))
    commit = linked.commit("second")
    assert record(hooked, commit) == oids(b"2")
    own = Path(linked.git("rev-parse", "--absolute-git-dir"))
    assert own != hooked.git_directory
    assert json.loads((own / "theta" / "commits" / commit).read_text()) == {"oids": oids(b"2")}


def test_a_repository_with_sha256_names(hooked: Repository) -> None:
    path = hooked.path.parent / "sha256"
    repository = Repository.init(path, hooked.environment, "--object-format=sha256")
    repository.write("a.pt", metadata({"w": b"1"}))
    commit = repository.commit("first")
    repository.git("theta", "post-commit")
    assert len(commit) == 64
    assert record(repository, commit) == oids(b"1")


def test_a_repository_without_a_commit_has_no_record(repository: Repository) -> None:
    error = repository.git_fails("theta", "post-commit")
    assert error.startswith("git-theta: error: ")
    assert not (repository.git_directory / "theta" / "commits").exists()


@pytest.mark.needs_git_theta
def test_git_theta_reads_the_record(hooked: Repository) -> None:
    hooked.write("a.pt", metadata({"w": b"1"}, layout=b"layout"))
    commit = hooked.commit("first")
    program = (
        "import git; from git_theta import theta; "
        f"print(*sorted(theta.ThetaCommits(git.Repo('.')).get_commit_oids_ranges(('0' * 40, {commit!r}))))"
    )
    done = hooked.run(str(PEER / "bin" / "python"), "-c", program)
    assert done.returncode == 0, done.stderr
    assert done.stdout.decode().split() == oids(b"1", b"layout")
