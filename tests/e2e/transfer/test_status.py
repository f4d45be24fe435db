from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import models
from tests.support.pulls import NO_FILTER, to_metadata
from tests.support.repository import Repository

CONTENTS = {
    "a.pt": models.torch_bytes(models.state_dict(1)),
    "m.safetensors": models.safetensors_bytes(models.state_dict(2)),
    "sub/x y\n.pt": models.torch_bytes(models.state_dict(3)),
}


@pytest.fixture
def full(repository: Repository) -> Repository:
    repository.write(".gitattributes", b"*.pt filter=theta -text\n*.safetensors filter=theta -text\n")
    repository.write("other.txt", b"text\n")
    for name, content in CONTENTS.items():
        repository.write(name, content)
    repository.commit("all")
    return repository


def row(state: str, name: str, objects: int = 0, size: int = 0) -> str:
    return f"{state}\t{len(CONTENTS[name])}\t{objects}\t{size}\t"


def test_full_files(full: Repository) -> None:
    done = full.run("git", "theta", "status")
    assert done.stdout.decode().splitlines() == [
        row("full", "a.pt") + "a.pt",
        row("full", "m.safetensors") + "m.safetensors",
        row("full", "sub/x y\n.pt") + '"sub/x y\\n.pt"',
    ]
    assert done.stderr == b"git-theta: 3 files: 3 full\n"


def test_metadata_modified_and_missing(full: Repository) -> None:
    to_metadata(full)
    full.write("m.safetensors", CONTENTS["m.safetensors"] + b"!")
    (full.path / "sub/x y\n.pt").unlink()
    done = full.run("git", "theta", "status", "-z", cwd=full.path / "sub")
    size = len(CONTENTS["m.safetensors"]) + 1
    assert done.stdout.decode().split("\0")[:-1] == [
        row("metadata", "a.pt") + "../a.pt",
        f"modified\t{size}\t0\t0\t../m.safetensors",
        row("missing", "sub/x y\n.pt") + "x y\n.pt",
    ]
    assert done.stderr == b""


def test_objects_that_are_missing_are_counted_once(full: Repository) -> None:
    gone = 0
    for store in ("lfs/objects", "theta/objects"):
        for path in sorted((full.git_directory / store).glob("??/??/*")):
            gone += path.stat().st_size if store == "lfs/objects" else 0
            path.unlink()
    to_metadata(full)
    done = full.run("git", "theta", "status")
    rows = [line.split("\t") for line in done.stdout.decode().splitlines()]
    assert sum(int(row[2]) for row in rows) == 21  # six groups and a layout each
    assert sum(int(row[3]) for row in rows) >= gone
    values = 3 * (32 * 32 + 32) * 4
    assert [int(row[1]) for row in rows] == [values] * 3  # without the layout nothing is known of the rest
    assert b" bytes) not here; `git theta pull` writes the checkpoints\n" in done.stderr


def test_a_change_of_the_same_size_is_modified(full: Repository) -> None:
    full.status()
    with (full.path / "m.safetensors").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"!")
    assert full.git("theta", "status", "--porcelain", "m*").split("\t")[0] == "modified"


def test_it_is_quick_no_file_is_read(full: Repository) -> None:
    to_metadata(full, "a.pt")
    full.git("theta", "pull")
    index = (full.git_directory / "index").stat().st_mtime_ns
    for name in CONTENTS:  # as if they had been there for long
        path = full.path / name
        times = path.stat()
        assert times.st_mtime_ns // 10**9 <= index // 10**9
    full.git("add", "--renormalize", ".")
    to_metadata(full)
    full.git("theta", "pull")
    settings = ("-c", "filter.theta.process=false", "-c", "filter.theta.clean=false")
    assert full.git(*settings, "theta", "status", "--porcelain").count("full\t") == 3


def test_pathspecs_and_porcelain(full: Repository) -> None:
    done = full.run("git", "theta", "status", "--porcelain", "*.safetensors")
    assert done.stdout.decode() == row("full", "m.safetensors") + "m.safetensors\n"
    assert done.stderr == b""
    assert full.run("git", "theta", "status", "nothing").returncode == 2


def test_conflicts_and_what_a_sparse_checkout_leaves_out(full: Repository) -> None:
    blob = full.git("rev-parse", ":a.pt")
    rows = "".join(f"100644 {blob} {stage}\ta.pt\n" for stage in (1, 2, 3))
    full.git("update-index", "--index-info", stdin=f"0 {'0' * 40}\ta.pt\n{rows}".encode())
    full.git("update-index", "--skip-worktree", "m.safetensors")
    (full.path / "m.safetensors").unlink()
    assert [line.split("\t")[:2] for line in full.git("theta", "status", "--porcelain").splitlines()] == [
        ["conflict", "-"],
        ["sparse", str(len(CONTENTS["m.safetensors"]))],
        ["full", str(len(CONTENTS["sub/x y\n.pt"]))],
    ]


def test_a_raw_file_and_a_link(full: Repository, tmp_path: Path) -> None:
    full.write("raw.pt", b"raw bytes")
    full.git(*NO_FILTER, "add", "raw.pt")
    (full.path / "a.pt").unlink()
    (full.path / "a.pt").symlink_to(tmp_path)
    rows = full.git("theta", "status", "--porcelain", "raw.pt", "a.pt").splitlines()
    assert rows[0] == "modified\t-\t0\t0\ta.pt"
    assert rows[1].endswith("\t9\t0\t0\traw.pt")


def test_nothing_tracked(repository: Repository) -> None:
    done = repository.run("git", "theta", "status")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_a_bare_repository_has_no_files(full: Repository, tmp_path: Path) -> None:
    full.git("clone", "--quiet", "--bare", str(full.path), str(tmp_path / "bare.git"))
    error = full.at(tmp_path / "bare.git").git_fails("theta", "status")
    assert error == "git-theta: error: there is no work tree here; run it in a clone that is not bare\n"
