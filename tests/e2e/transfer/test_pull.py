"""`git theta pull` in a clone that holds metadata, with all objects there: no remote takes part."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.support import models
from tests.support.pulls import NO_FILTER, clean_without_reading, litter, to_metadata
from tests.support.repository import Repository

CONTENTS = {
    "a.pt": models.torch_bytes(models.state_dict(1)),
    "sub/deep/b.safetensors": models.safetensors_bytes(models.state_dict(2), {"format": "pt"}),
    "sub/training.pt": models.torch_bytes(models.training_checkpoint(3)),
    "z.pt": models.torch_bytes(models.state_dict(4)),
}


@pytest.fixture
def clone(repository: Repository) -> Repository:
    """Return a repository whose work tree holds metadata."""
    return metadata_of(repository, CONTENTS)


def metadata_of(repository: Repository, contents: dict[str, bytes]) -> Repository:
    repository.write(".gitattributes", b"*.pt filter=theta -text\n*.safetensors filter=theta -text\n")
    repository.write("other.txt", b"text\n")
    for name, content in contents.items():
        repository.write(name, content)
    repository.commit("all")
    to_metadata(repository)
    return repository


def files_are(repository: Repository, contents: dict[str, bytes]) -> bool:
    return all(repository.read(name) == content for name, content in contents.items())


def test_all_files_come_and_git_need_not_read_them(clone: Repository) -> None:
    assert clone.read("a.pt") == clone.blob("a.pt")
    done = clone.run("git", "theta", "pull")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"git-theta: 4 files written\n")
    assert files_are(clone, CONTENTS)
    assert clean_without_reading(clone)
    assert clone.status() == ""
    assert litter(clone) == []


def test_again_there_is_nothing_to_do(clone: Repository) -> None:
    clone.git("theta", "pull")
    before = os.stat(clone.path / "a.pt").st_ctime_ns
    done = clone.run("git", "theta", "pull")
    assert (done.returncode, done.stdout) == (0, b"")
    assert done.stderr == b"git-theta: nothing to do: no tracked file is metadata, or missing\n"
    assert os.stat(clone.path / "a.pt").st_ctime_ns == before


def test_quiet_says_nothing(clone: Repository) -> None:
    done = clone.run("git", "theta", "pull", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    assert files_are(clone, CONTENTS)


def test_patterns_are_pathspecs_from_the_current_directory(clone: Repository) -> None:
    clone.git("theta", "pull", "deep", ":/z*", cwd=clone.path / "sub")
    full = {name for name, content in CONTENTS.items() if clone.read(name) == content}
    assert full == {"sub/deep/b.safetensors", "z.pt"}
    assert clone.read("a.pt") == clone.blob("a.pt")
    assert clean_without_reading(clone) or clone.status() == ""


def test_without_patterns_it_is_the_whole_work_tree_from_anywhere(clone: Repository) -> None:
    clone.git("theta", "pull", cwd=clone.path / "sub")
    assert files_are(clone, CONTENTS)


def test_a_pattern_that_chooses_nothing_is_a_wrong_command_line(clone: Repository) -> None:
    done = clone.run("git", "theta", "pull", "nothing*")
    assert (done.returncode, done.stderr) == (
        2,
        b"git-theta: error: no file of the index is meant by these paths\n",
    )


def test_a_dry_run_lists_and_writes_nothing(clone: Repository) -> None:
    oid = min(clone.objects())
    size = remove_object(clone, oid)
    rows = [row.split("\t") for row in clone.git("theta", "pull", "--dry-run").splitlines()]
    assert [path for _, _, path in rows] == sorted(CONTENTS)
    assert [(count, bytes_) for count, bytes_, _ in rows if count != "0"] == [("1", str(size))]
    assert clone.read("a.pt") == clone.blob("a.pt")


def remove_object(repository: Repository, oid: str) -> int:
    sizes = []
    for store in ("lfs/objects", "theta/objects"):
        path = repository.git_directory / store / oid[:2] / oid[2:4] / oid
        sizes.append(path.stat().st_size)
        path.unlink()
    return sizes[0]


def test_modes_are_those_of_the_index_and_the_umask(clone: Repository) -> None:
    clone.git("update-index", "--chmod=+x", "z.pt")
    (clone.path / "a.pt").chmod(0o600)
    done = clone.run("sh", "-c", "umask 027 && git theta pull")
    assert done.returncode == 0
    modes = {name: stat.S_IMODE((clone.path / name).stat().st_mode) for name in ("a.pt", "z.pt")}
    assert modes == {"a.pt": 0o640, "z.pt": 0o750}


def test_what_was_deleted_is_brought_back(clone: Repository) -> None:
    (clone.path / "sub/deep/b.safetensors").unlink()
    (clone.path / "sub/deep").rmdir()
    (clone.path / "a.pt").unlink()
    clone.git("theta", "pull")
    assert files_are(clone, CONTENTS)
    assert clean_without_reading(clone)


def test_what_the_user_changed_stays(clone: Repository) -> None:
    edited = clone.read("a.pt").replace(b"float32", b"float64", 1)
    clone.write("a.pt", edited)
    clone.write("z.pt", b"my own bytes")
    done = clone.run("git", "theta", "pull")
    assert (done.returncode, done.stderr) == (0, b"git-theta: 2 files written\n")
    assert clone.read("a.pt") == edited
    assert clone.read("z.pt") == b"my own bytes"
    assert clone.read("sub/training.pt") == CONTENTS["sub/training.pt"]


def test_another_version_of_the_metadata_stays(clone: Repository) -> None:
    clone.write("a.pt", clone.read("z.pt"))
    clone.git("theta", "pull")
    assert clone.read("a.pt") == clone.blob("z.pt")


def test_a_change_right_after_it_is_seen(clone: Repository) -> None:
    clone.git("theta", "pull")
    name = "sub/deep/b.safetensors"
    with (clone.path / name).open("r+b") as file:  # the same inode and size, mostly in the same second
        file.seek(-1, os.SEEK_END)
        file.write(b"!")
    assert clone.git("diff", "--name-only") == name


def test_symbolic_links_are_not_followed(clone: Repository, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "a.pt").write_bytes(clone.read("a.pt"))
    (clone.path / "a.pt").unlink()
    (clone.path / "a.pt").symlink_to(outside / "a.pt")
    (clone.path / "sub").rename(outside / "sub")
    (clone.path / "sub").symlink_to(outside / "sub")
    done = clone.run("git", "theta", "pull")
    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == [
        *(
            f"git-theta: error: {name}: the file cannot be written: Not a directory"
            for name in ("sub/deep/b.safetensors", "sub/training.pt")
        ),
        "git-theta: 1 file written, 2 failed",
    ]
    assert (outside / "a.pt").read_bytes() == clone.blob("a.pt")
    assert (outside / "sub/training.pt").read_bytes() == clone.blob("sub/training.pt")
    assert clone.read("z.pt") == CONTENTS["z.pt"]


def test_a_damaged_object_stops_only_its_own_file(clone: Repository) -> None:
    entry = next(row for row in clone.blob("z.pt").decode().splitlines() if '"oid"' in row)
    oid = entry.split('"')[3].removeprefix("sha256:")
    path = clone.git_directory / "lfs/objects" / oid[:2] / oid[2:4] / oid
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.chmod(0o600)
    path.write_bytes(data)
    done = clone.run("git", "theta", "pull")
    errors = done.stderr.decode().splitlines()
    assert done.returncode == 1
    assert errors[0].startswith("git-theta: error: z.pt: parameter '")
    assert errors[1:] == ["git-theta: 3 files written, 1 failed"]
    assert clone.read("z.pt") == clone.blob("z.pt")
    assert files_are(clone, {name: content for name, content in CONTENTS.items() if name != "z.pt"})
    assert clone.status() == ""
    assert litter(clone) == []


def test_a_missing_object_without_a_remote(clone: Repository) -> None:
    entry = next(row for row in clone.blob("z.pt").decode().splitlines() if '"oid"' in row)
    oid = entry.split('"')[3].removeprefix("sha256:")
    remove_object(clone, oid)
    done = clone.run("git", "theta", "pull", "-q")
    assert done.returncode == 1
    assert done.stderr.decode().startswith("git-theta: error: z.pt: ")
    assert oid in done.stderr.decode()
    assert done.stderr.count(b"\n") == 1
    assert files_are(clone, {name: content for name, content in CONTENTS.items() if name != "z.pt"})


def test_a_locked_index_is_said_and_nothing_written(clone: Repository) -> None:
    lock = clone.git_directory / "index.lock"
    lock.write_bytes(b"")
    done = clone.run("git", "theta", "pull")
    assert done.returncode == 1
    assert done.stderr.decode().startswith(f"git-theta: error: the index is locked: {lock} exists; ")
    assert done.stderr.count(b"\n") == 1
    assert clone.read("a.pt") == clone.blob("a.pt")
    assert lock.exists()


def test_files_in_conflict_stay(clone: Repository) -> None:
    blob = clone.git("rev-parse", ":a.pt")
    rows = "".join(f"100644 {blob} {stage}\ta.pt\n" for stage in (1, 2, 3))
    clone.git("update-index", "--index-info", stdin=f"0 {'0' * 40}\ta.pt\n{rows}".encode())
    clone.git("theta", "pull")
    assert clone.read("a.pt") == clone.git_bytes("cat-file", "blob", blob)
    assert clone.read("z.pt") == CONTENTS["z.pt"]


def test_what_a_sparse_checkout_leaves_out_stays_out(clone: Repository) -> None:
    clone.git("sparse-checkout", "set", "--no-cone", "/*", "!/sub/")
    clone.git("theta", "pull")
    assert not (clone.path / "sub").exists()
    assert clone.read("z.pt") == CONTENTS["z.pt"]
    assert clone.status() == ""


def test_include_and_exclude_count_unless_a_file_is_named(clone: Repository) -> None:
    clone.git("config", "theta.fetchExclude", "/sub/")
    clone.git("theta", "pull")
    assert clone.read("a.pt") == CONTENTS["a.pt"]
    assert clone.read("sub/training.pt") == clone.blob("sub/training.pt")
    clone.in_environment(GIT_THETA_SKIP_SMUDGE="1").git("theta", "pull", "sub/training.pt")
    assert clone.read("sub/training.pt") == CONTENTS["sub/training.pt"]


@pytest.mark.parametrize(
    "settings",
    [
        {"index.version": "4"},
        {"index.version": "3"},
        {"core.untrackedCache": "true"},
        {"index.skipHash": "true"},
        {"core.checkStat": "minimal"},
        {"core.trustctime": "false"},
        {"index.sparse": "true", "core.sparseCheckout": "true", "core.sparseCheckoutCone": "true"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_kinds_of_indexes(repository: Repository, settings: dict[str, str]) -> None:
    for key, value in settings.items():
        repository.git("config", key, value)
    clone = metadata_of(repository, CONTENTS)
    clone.git("update-index", "--force-write-index")
    clone.git("theta", "pull")
    assert files_are(clone, CONTENTS)
    assert clean_without_reading(clone)
    clone.git("fsck", "--strict")


def test_ids_of_sha256(new_repository: Callable[[str], Repository], git_environment: dict[str, str]) -> None:
    path = new_repository("x").path.parent / "sha256"
    repository = Repository.init(path, git_environment, "--object-format=sha256")
    repository.git("theta", "install", "--local")
    clone = metadata_of(repository, CONTENTS)
    clone.git("theta", "pull")
    assert files_are(clone, CONTENTS)
    assert clean_without_reading(clone)


def test_a_split_index_is_left_to_git(clone: Repository) -> None:
    clone.git("update-index", "--split-index")
    clone.git("theta", "pull")
    assert files_are(clone, CONTENTS)
    assert clean_without_reading(clone)
    assert list(clone.git_directory.glob("sharedindex.*"))


def test_line_ends_that_git_converted_are_no_change(repository: Repository) -> None:
    repository.git("config", "core.autocrlf", "true")
    repository.write(".gitattributes", b"*.pt filter=theta\n")
    repository.write("a.pt", CONTENTS["a.pt"])
    repository.commit("all")
    to_metadata(repository)
    assert b"\r\n" in repository.read("a.pt")
    repository.git("theta", "pull")
    assert repository.read("a.pt") == CONTENTS["a.pt"]
    assert clean_without_reading(repository)


def test_another_index(clone: Repository, tmp_path: Path) -> None:
    other = tmp_path / "index"
    other.write_bytes((clone.git_directory / "index").read_bytes())
    there = clone.in_environment(GIT_INDEX_FILE=str(other))
    there.git("theta", "pull")
    assert files_are(clone, CONTENTS)
    assert clean_without_reading(there)


def test_a_linked_worktree(clone: Repository, tmp_path: Path) -> None:
    linked = clone.at(tmp_path / "linked")
    clone.in_environment(GIT_THETA_SKIP_SMUDGE="1").git("worktree", "add", "--quiet", str(linked.path), "-b", "other")
    assert linked.read("a.pt") == linked.blob("a.pt")
    linked.git("theta", "pull")
    assert files_are(linked, CONTENTS)
    assert clean_without_reading(linked)
    assert clone.read("a.pt") == clone.blob("a.pt")


def test_in_a_submodule(clone: Repository, new_repository: Callable[[str], Repository]) -> None:
    outer = new_repository("outer")
    allowed = ("-c", "protocol.file.allow=always")
    skipping = outer.in_environment(GIT_THETA_SKIP_SMUDGE="1")
    inner = outer.at(outer.path / "inner")
    skipping.git(*allowed, "submodule", "add", "--quiet", str(clone.path), "inner")
    inner.git("config", "lfs.storage", str(clone.git_directory.resolve() / "lfs"))
    inner.git("theta", "install", "--local")
    to_metadata(inner)
    inner.git("theta", "pull")
    assert files_are(inner, CONTENTS)
    assert clean_without_reading(inner)


def test_any_bytes_in_paths(repository: Repository) -> None:
    names = [
        os.fsdecode(name) for name in (b"new\nline.pt", b"\xff\xfe.pt", b"-q.pt", b":(top)x.pt", b"'\"$x`.pt", b" .pt")
    ]
    contents = {name: models.torch_bytes(models.state_dict(number)) for number, name in enumerate(names)}
    clone = metadata_of(repository, contents)
    clone.git("theta", "pull")
    assert files_are(clone, contents)
    assert clean_without_reading(clone)


def test_a_bare_repository_has_no_files(
    new_repository: Callable[[str], Repository], git_environment: dict[str, str]
) -> None:
    bare = Repository.init(new_repository("x").path.parent / "bare.git", git_environment, "--bare")
    assert bare.git_fails("theta", "pull") == (
        "git-theta: error: there is no work tree here; run it in a clone that is not bare\n"
    )


def test_raw_files_and_json_of_the_users_are_none_of_ours(clone: Repository) -> None:
    raw = {"raw.pt": b"raw bytes", "list.pt": b'{"a": [1, 2]}\n', "empty.pt": b""}
    for name, content in raw.items():
        clone.write(name, content)
    clone.git(*NO_FILTER, "add", "--all")
    (clone.path / "raw.pt").unlink()
    done = clone.run("git", "theta", "pull")
    assert (done.returncode, done.stderr) == (0, b"git-theta: 4 files written\n")
    assert not (clone.path / "raw.pt").exists()
    assert clone.read("list.pt") == raw["list.pt"]


@pytest.mark.parametrize("update_type", ["auto", "sparse"])
def test_updates_are_replayed(repository: Repository, update_type: str) -> None:
    tensors = models.state_dict(1, width=64)
    contents = {"a.pt": models.torch_bytes(tensors), "b.pt": models.torch_bytes(tensors)}
    repository.git("config", "theta.updateType", update_type)
    metadata_of(repository, contents)
    repository.git("theta", "pull")
    for step in range(2):
        tensors["layers.1.weight"][step, :4] += 1
        contents["a.pt"] = models.torch_bytes(tensors)
        repository.write("a.pt", contents["a.pt"])
        repository.commit(f"step {step}")
    assert b"replay" in repository.blob("a.pt")
    to_metadata(repository)
    repository.git("theta", "pull")
    assert files_are(repository, contents)
    assert clean_without_reading(repository)


def test_values_larger_than_memory_and_bytes_that_are_nobodys(repository: Repository) -> None:
    repository.git("config", "theta.memoryLimit", "64m")
    large = torch.arange(5 << 20).to(torch.float32)
    contents = {
        "large.pt": models.torch_bytes({"large": large, "turned": large.reshape(1024, -1).t(), "z": torch.ones(9)}),
        "large.safetensors": models.safetensors_bytes({"large": large, "z": torch.ones(9)}),
        "opaque.pt": models.torch_bytes({"z": torch.ones(9), "blob": bytes(range(256)) * (24 << 10)}),
    }
    clone = metadata_of(repository, contents)
    clone.git("theta", "pull")
    assert files_are(clone, contents)
    assert clean_without_reading(clone)


def test_more_files_than_are_open_at_a_time(repository: Repository) -> None:
    contents = {
        f"{number:03}.safetensors": models.safetensors_bytes({"t": torch.full((9,), number)}) for number in range(80)
    }
    clone = metadata_of(repository, contents)
    done = clone.run("sh", "-c", "ulimit -n 192 && git theta pull")
    assert (done.returncode, done.stderr) == (0, b"git-theta: 80 files written\n")
    assert files_are(clone, contents)
    assert clean_without_reading(clone)
