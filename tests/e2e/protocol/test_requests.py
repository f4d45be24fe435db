"""R3: what git tells with its requests, command by command; whatever it is, the file is right."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from tests.e2e.protocol.conftest import NAMES, Request, Traced, assert_files, written
from tests.support.repository import Repository


@pytest.fixture
def two(traced: Traced) -> tuple[Traced, str, str]:
    """Return a repository with two commits on main, whose checkpoints all differ."""
    repository = traced.repository
    first = repository.git("rev-parse", "HEAD")
    for name in NAMES:
        repository.write(name, written(name, 1))
    return traced, first, repository.commit("second")


Two = tuple[Traced, str, str]


def expected(repository: Repository, revision: str, *, ref: str | None, treeish: str | None) -> list[Request]:
    """Return the requests that smudge all checkpoints of `revision`."""
    blobs = {name: repository.git("rev-parse", f"{revision}:{name}") for name in NAMES}
    return [Request("smudge", name, ref, treeish, blobs[name]) for name in NAMES]


def test_R3_checkout_of_a_branch(two: Two) -> None:
    traced, first, second = two
    repository = traced.repository
    repository.git("branch", "side", first)
    traced.git("checkout", "--quiet", "side")
    assert traced.smudges() == expected(repository, first, ref="refs/heads/side", treeish=first)
    assert_files(repository)
    traced.git("switch", "--quiet", "main")
    assert traced.smudges() == expected(repository, second, ref="refs/heads/main", treeish=second)
    assert_files(repository, 1)


def test_R3_checkout_of_a_commit(two: Two) -> None:
    traced, first, _ = two
    traced.git("checkout", "--quiet", "--detach", first)
    assert traced.smudges() == expected(traced.repository, first, ref=None, treeish=first)
    assert_files(traced.repository)


@pytest.mark.parametrize("command", [("checkout", "--", "."), ("checkout", "HEAD", "--", "."), ("restore", ".")])
def test_R3_checkout_of_paths(two: Two, command: tuple[str, ...]) -> None:
    traced, _, _ = two
    repository = traced.repository
    for name in NAMES:
        (repository.path / name).unlink()
    traced.git(*command)
    # The commit, where one is named, comes with newer versions of git alone.
    assert [(asked.pathname, asked.blob) for asked in traced.smudges()] == [
        (asked.pathname, asked.blob) for asked in expected(repository, "HEAD", ref=None, treeish=None)
    ]
    assert_files(repository, 1)


def test_R3_checkout_index(two: Two) -> None:
    traced, _, _ = two
    repository = traced.repository
    for name in NAMES:
        repository.write(name, b"in the way")
    traced.git("checkout-index", "--all", "--force")
    assert traced.smudges() == expected(repository, "HEAD", ref=None, treeish=None)
    assert_files(repository, 1)
    traced.git("checkout-index", "--all", "--prefix=out/")
    assert_files(repository.at(repository.path / "out"), 1)


def test_R3_reset(two: Two) -> None:
    traced, first, second = two
    repository = traced.repository
    traced.git("reset", "--quiet", "--hard", first)
    assert traced.smudges() == expected(repository, first, ref=None, treeish=first)
    assert_files(repository)
    repository.git("branch", "side", second)
    traced.git("reset", "--quiet", "--hard", "side")
    assert traced.smudges() == expected(repository, second, ref="refs/heads/side", treeish=second)
    assert_files(repository, 1)


def test_R3_merge_and_rebase(two: Two) -> None:
    traced, first, second = two
    repository = traced.repository
    repository.git("checkout", "--quiet", "-b", "side", first)
    traced.git("merge", "--quiet", "--ff-only", "main")
    assert traced.smudges() == expected(repository, second, ref=None, treeish=second)
    assert_files(repository, 1)
    repository.git("reset", "--quiet", "--hard", first)
    repository.write("notes.txt", b"other notes\n")
    side = repository.commit("notes")
    traced.git("merge", "--quiet", "--no-edit", "main")
    assert traced.smudges() == expected(repository, second, ref=None, treeish=None)  # of no commit there is yet
    assert_files(repository, 1)
    repository.git("reset", "--quiet", "--hard", side)
    assert_files(repository)
    traced.git("rebase", "--quiet", "main")
    assert [(asked.pathname, asked.treeish, asked.blob) for asked in traced.smudges()] == [
        (asked.pathname, second, asked.blob) for asked in expected(repository, second, ref=None, treeish=None)
    ]
    assert_files(repository, 1)


def test_R3_clone(two: Two, tmp_path: Path) -> None:
    traced, _, second = two
    origin = traced.repository
    origin.git("theta", "install", "--global")
    clone = origin.at(tmp_path / "clone")
    # An alternate, so that the objects are found.
    traced.git("clone", "--quiet", "--shared", str(origin.path), str(clone.path))
    assert traced.smudges() == expected(origin, "main", ref="refs/heads/main", treeish=second)
    assert_files(clone, 1)


def test_R3_archive(two: Two) -> None:
    traced, first, second = two
    repository = traced.repository
    tree = repository.git("rev-parse", f"{first}^{{tree}}")
    archives = {"main": ("refs/heads/main", second, 1), first: (None, first, 0), tree: (None, tree, 0)}
    for named, (ref, treeish, seed) in archives.items():
        output = repository.path.parent / "archive.tar"
        traced.git("archive", f"--output={output}", named)
        assert traced.smudges() == expected(repository, named, ref=ref, treeish=treeish)
        with tarfile.open(output) as archive:
            for name in NAMES:
                member = archive.extractfile(name)
                assert member is not None
                assert member.read() == written(name, seed)


def test_R3_cat_file(two: Two) -> None:
    traced, first, _ = two
    repository = traced.repository
    for revision, seed in ((first, 0), ("main", 1)):
        for name in NAMES:
            assert repository.git_bytes("cat-file", "--filters", f"{revision}:{name}") == written(name, seed)
        blob = repository.git("rev-parse", f"{revision}:a.pt")
        assert repository.git_bytes("cat-file", "--filters", "--path=a.pt", blob) == written("a.pt", seed)


@pytest.mark.parametrize(
    "command", [("add", "--all"), ("commit", "--quiet", "--all", "--message", "x"), ("diff", "--stat")]
)
def test_R3_clean_is_told_nothing(two: Two, command: tuple[str, ...]) -> None:
    traced, _, _ = two
    for name in NAMES:
        traced.repository.write(name, written(name, 2))
    traced.git(*command)
    assert {*traced.requests()} == {Request("clean", name) for name in NAMES}


def test_R4_empty_files(traced: Traced) -> None:
    """T21 'clean empty file', 'smudge empty file'."""
    repository = traced.repository
    for name in NAMES:
        repository.write(name, b"")
    traced.git("add", "--all")
    assert [repository.blob(name) for name in NAMES] == [b"", b"", b""]
    for name in NAMES:
        (repository.path / name).unlink()
    traced.git("checkout", "--", ".")
    assert [repository.read(name) for name in NAMES] == [b"", b"", b""]
    assert repository.status() == "M  a.pt\nM  b.safetensors\nM  c.pt"


def test_R5_the_file_is_not_there_or_another(two: Two) -> None:
    traced, first, _ = two
    repository = traced.repository
    blob = repository.git("rev-parse", f"{first}:a.pt")
    repository.write("a.pt", b"another")
    assert repository.git("hash-object", "--stdin", "--path", "a.pt", stdin=written("a.pt")) == blob
    (repository.path / "a.pt").unlink()
    os.mkfifo(repository.path / "a.pt")  # whoever opens it waits for ever
    assert repository.git("hash-object", "--stdin", "--path", "a.pt", stdin=written("a.pt")) == blob
    assert repository.git_bytes("cat-file", "--filters", f"{first}:a.pt") == written("a.pt")


def test_what_is_shown_is_the_metadata_and_no_smudge_is_asked_for(two: Two) -> None:
    traced, first, second = two
    for command in (
        ("show", second),
        ("log", "-p"),
        ("diff", first, second),
        ("diff", "--cached", first),
        ("show", f"{second}:a.pt"),
        ("format-patch", "--stdout", "-1"),
    ):
        shown = traced.git(*command)
        assert traced.requests() == [], command
        assert '"layers.1.weight": {' in shown, command
        assert '"digest": "blake3:' in shown, command
        assert "Binary files" not in shown, command
    traced.repository.write("a.pt", written("a.pt", 2))
    shown = traced.git("diff", "a.pt")
    assert {asked.command for asked in traced.requests()} == {"clean"}
    assert '+            "digest": "blake3:' in shown


def test_an_archive_on_standard_output_is_nothing_but_the_archive(two: Two) -> None:
    traced, _, _ = two
    data = traced.repository.git_bytes("archive", "--format=tar", "main")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        assert {*NAMES} < {*archive.getnames()}
