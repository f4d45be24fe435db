from __future__ import annotations

import pytest

from tests.e2e.cli.written import metadata, packs, partial_clone, without_filter
from tests.support.repository import Repository


@pytest.fixture
def with_files(repository: Repository) -> Repository:
    """Return a repository with a file in every state."""
    without_filter(repository)
    repository.write(".gitattributes", b"*.pt filter=theta\n")
    repository.write("a.pt", metadata({"w": b"1234", "b": b"12", "again": b"12"}, layout=b"123", opaque=(b"12345",)))
    repository.write("sub/raw.pt", b"raw bytes")
    repository.write("sub/x y\n.pt", metadata({}))
    repository.write("broken.pt", b'{"w": {"lfs_metadata": {}}}')
    markers = b"<<<<<<< HEAD\n=======\n>>>>>>> b\n"
    repository.write("marked.pt", metadata({"w": b"1"}).replace(b"{\n", b"{\n" + markers, 1))
    repository.write("other.py", b"text")
    (repository.path / "link.pt").symlink_to("a.pt")
    repository.git("add", "--all")
    return repository


def test_states_groups_and_bytes(with_files: Repository) -> None:
    assert with_files.git("theta", "ls-files").splitlines() == [
        "metadata\t3\t14\ta.pt",
        "damaged\t-\t-\tbroken.pt",
        "conflict\t-\t-\tmarked.pt",
        "raw\t-\t9\tsub/raw.pt",
        'metadata\t0\t0\t"sub/x y\\n.pt"',
    ]


def test_names_for_scripts(with_files: Repository) -> None:
    assert with_files.git_bytes("theta", "ls-files", "-z", "--name-only").split(b"\0") == [
        *(b"a.pt", b"broken.pt", b"marked.pt", b"sub/raw.pt", b"sub/x y\n.pt"),
        b"",
    ]


def test_paths_are_those_of_the_current_directory(with_files: Repository) -> None:
    below = with_files.path / "sub"
    assert with_files.git("theta", "ls-files", "-n", "raw*", cwd=below) == "raw.pt"
    assert with_files.git("theta", "ls-files", "-n", "--", ":/a.pt", cwd=below) == "../a.pt"


def test_stages_of_a_merge_are_a_conflict(repository: Repository) -> None:
    repository.write(".gitattributes", b"*.pt filter=theta\n")
    blobs = [repository.git("hash-object", "-w", "--stdin", stdin=metadata({"w": bytes([i])})) for i in range(3)]
    lines = "".join(f"100644 {blob} {stage}\ta.pt\n" for stage, blob in enumerate(blobs, 1))
    repository.git("update-index", "--index-info", stdin=lines.encode())
    assert repository.git("theta", "ls-files") == "conflict\t-\t-\ta.pt"


def test_pathspecs_mean_what_git_is_told_they_mean(with_files: Repository) -> None:
    with_files.write("[a].pt", b"raw")
    with_files.git("add", "--all")
    assert with_files.git("theta", "ls-files", "-n", "[a].pt").splitlines() == ["[a].pt", "a.pt"]
    assert with_files.git("--literal-pathspecs", "theta", "ls-files", "-n", "[a].pt") == "[a].pt"


def test_a_raw_checkpoint_is_told_by_its_first_bytes(with_files: Repository) -> None:
    with_files.write("large.pt", b"PK\3\4" + bytes(5 << 20))
    with_files.write("text.pt", b"{" + bytes(2 << 20))
    with_files.git("add", "--all")
    said = with_files.git("theta", "ls-files", "a.pt", "large.pt", "text.pt").splitlines()
    assert said == ["metadata\t3\t14\ta.pt", f"raw\t-\t{4 + (5 << 20)}\tlarge.pt", f"raw\t-\t{1 + (2 << 20)}\ttext.pt"]


def test_a_partial_clone_is_never_filled(with_files: Repository) -> None:
    with_files.commit("first")
    clone = partial_clone(with_files, ".gitattributes", "broken.pt")
    before = packs(clone)
    said = clone.git("theta", "ls-files", "a.pt", "broken.pt").splitlines()
    assert said == ["raw\t-\t-\ta.pt", "damaged\t-\t-\tbroken.pt"]
    assert packs(clone) == before


def test_nothing_tracked_is_no_error(repository: Repository) -> None:
    assert repository.git_bytes("theta", "ls-files") == b""


def test_outside_of_a_repository_git_speaks(repository: Repository) -> None:
    error = repository.at(repository.path.parent).git_fails("theta", "ls-files")
    assert error.startswith("git-theta: error: not a git repository")


def test_a_reader_that_has_seen_enough_is_no_error(with_files: Repository) -> None:
    done = with_files.run("sh", "-c", "{ git theta ls-files; echo $? >&2; } | true")
    assert b"Traceback" not in done.stderr
    assert b"Error" not in done.stderr
