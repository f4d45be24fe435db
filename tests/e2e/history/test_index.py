"""The index as a list, in real repositories."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.history.conftest import metadata, settings_of
from tests.support.repository import Repository
from theta_daemon.history import index
from theta_daemon.history.catfile import Look
from theta_daemon.history.index import File


def add(repository: Repository, **files: int) -> None:
    for name, value in files.items():
        repository.write(name.replace("_", "."), metadata(value))
    repository.git("add", "--all")


def paths(repository: Repository, *pathspecs: bytes, **environment: str) -> list[bytes]:
    return [file.path for file in index.files(settings_of(repository), pathspecs, environment)]


def test_files_and_their_blobs(stored: Repository) -> None:
    assert list(index.files(settings_of(stored))) == []
    add(stored, b_pt=1, a_pt=2)
    (stored.path / "link").symlink_to("a.pt")
    stored.git("add", "link")
    stored.git("update-index", "--chmod=+x", "a.pt")
    expected = [File(name.encode(), stored.git("rev-parse", f":{name}")) for name in ("a.pt", "b.pt")]
    assert list(index.files(settings_of(stored))) == expected


def test_an_unfinished_merge_is_one_file_without_a_blob(stored: Repository) -> None:
    blobs = [stored.git("hash-object", "-w", "--stdin", stdin=metadata(value)) for value in range(3)]
    lines = [f"100644 {blob} {stage}\ta.pt\n" for stage, blob in enumerate(blobs, 1)]
    lines += [f"120000 {blobs[0]} 2\tb.pt\n", f"100644 {blobs[1]} 3\tb.pt\n", f"100644 {blobs[2]} 0\tc.pt\n"]
    stored.git("update-index", "--index-info", stdin="".join(lines).encode())
    expected = [File(b"a.pt", None), File(b"b.pt", None), File(b"c.pt", blobs[2])]
    assert list(index.files(settings_of(stored))) == expected


@pytest.mark.parametrize("path", ["line\nbreak\r", "tab\there", ":(top)x", "-dash", "x-gabcdef", " ", "\udcff"])
def test_paths_of_any_bytes(repository: Repository, path: str) -> None:
    add(repository, **{path: 1})
    assert [file.path for file in index.files(settings_of(repository))] == [path.encode("utf-8", "surrogateescape")]


def test_paths_and_pathspecs_start_from_the_directory(repository: Repository) -> None:
    add(repository, **{"a_pt": 1, "d/b_pt": 2, "d/*_pt": 3})
    below = repository.at(repository.path / "d")
    assert paths(below) == [b"*.pt", b"b.pt"]
    assert paths(below, b":/") == [b"../a.pt", b"*.pt", b"b.pt"]
    assert paths(below, b"*.pt") == [b"*.pt", b"b.pt"]
    assert paths(below, b"*.pt", GIT_LITERAL_PATHSPECS="1") == [b"*.pt"]


def test_looks(stored: Repository) -> None:
    add(stored, a_pt=1, b_pt=1, c_pt=2)
    stored.write("raw", b"PK\3\4" + bytes(3 << 20))
    stored.write("empty", b"")
    stored.git("add", "--all")
    here = settings_of(stored)
    blob = {file.path: file.blob or "" for file in index.files(here)}
    assert list(index.looks(here, blob.values())) == [
        Look(blob[b"a.pt"], len(metadata(1)), metadata(1)),
        Look(blob[b"c.pt"], len(metadata(2)), metadata(2)),
        Look(blob[b"empty"], 0, None),
        Look(blob[b"raw"], 4 + (3 << 20), None),
    ]
    assert [look.data for look in index.looks(here, [blob[b"a.pt"]], limit=10)] == [None]
    assert list(index.looks(here, [])) == []


@pytest.mark.parametrize("kept", ["blob:none", "tree:0"])
@pytest.mark.parametrize("kind", ["--no-sparse-index", "--sparse-index"])
def test_a_partial_clone_is_never_filled(repository: Repository, tmp_path: Path, kept: str, kind: str) -> None:
    add(repository, **{"in/a_pt": 1, "out/b_pt": 2, "out/c_pt": 3})
    repository.commit("first")
    repository.git("config", "uploadpack.allowFilter", "true")
    quiet = ("--quiet", "--no-checkout", "-c", "maintenance.auto=false", "-c", "gc.auto=0")
    repository.git("clone", *quiet, f"--filter={kept}", f"file://{repository.path}", str(tmp_path / "partial"))
    partial = repository.at(tmp_path / "partial")
    partial.git("sparse-checkout", "set", "--cone", kind, "in")
    partial.git("checkout", "--quiet", "main")
    packs = sorted(partial.path.glob(".git/objects/pack/*.pack"))
    here = settings_of(partial)
    files = list(index.files(here))
    assert [file.path for file in files] == [b"in/a.pt", b"out/b.pt", b"out/c.pt"]
    assert [look.data for look in index.looks(here, [file.blob or "" for file in files])] == [metadata(1)]
    assert sorted(partial.path.glob(".git/objects/pack/*.pack")) == packs
