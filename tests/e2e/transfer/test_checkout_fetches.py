"""A checkout brings the objects that it needs, with real git and git-lfs, from a file:// remote."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import models
from tests.support.repository import Repository

pytestmark = pytest.mark.needs_git_lfs

FILES = {f"model-{seed}.safetensors": models.safetensors_bytes(models.state_dict(seed)) for seed in range(4)}


@pytest.fixture
def source(repository: Repository, tmp_path: Path) -> Repository:
    """Return a repository whose commits and objects are all on its remote, `server`."""
    # Without packs: what is taken from the server here is then nowhere else (packs: test_packs.py).
    repository.git("config", "theta.packs", "false")
    repository.git("theta", "track", "*.safetensors")
    for name, data in FILES.items():
        repository.write(name, data)
    repository.commit("models")
    server = Repository.init(tmp_path / "server", repository.environment, "--bare")
    repository.git("remote", "add", "origin", server.path.as_uri())
    repository.git("push", "--quiet", "origin", "main")
    return repository


@pytest.fixture
def clone(source: Repository, tmp_path: Path) -> Callable[..., Repository]:
    """Return a function that clones the server; the arguments are those of git clone, and variables."""

    def make(*arguments: str, **variables: str) -> Repository:
        at = tmp_path / "clone"
        here = source.in_environment(**variables)
        here.git("config", "--global", "include.path", str(source.path / ".git" / "config.filter"))
        filters = source.git("config", "--local", "--get-regexp", r"^filter\.theta\.").splitlines()
        for line in filters:
            key, _, value = line.partition(" ")
            source.git("config", "--file", str(source.path / ".git" / "config.filter"), key, value)
        here.git("clone", "--quiet", *arguments, (tmp_path / "server").as_uri(), str(at))
        return source.at(at)

    return make


def contents(repository: Repository) -> dict[str, bytes]:
    return {name: repository.read(name) for name in FILES}


def stored(repository: Repository) -> int:
    return len(list((repository.path / ".git" / "lfs" / "objects").glob("??/??/*")))


def test_a_clone_is_whole_and_clean(clone: Callable[..., Repository]) -> None:
    made = clone()
    assert contents(made) == FILES
    assert made.git("status", "--short") == ""


def test_what_was_fetched_is_kept_in_both_stores(clone: Callable[..., Repository]) -> None:
    made = clone()
    kept = {path.name for path in (made.path / ".git" / "theta" / "objects").glob("??/??/*")}
    assert kept == {path.name for path in (made.path / ".git" / "lfs" / "objects").glob("??/??/*")}


def test_git_lfs_leaves_no_hooks_behind(clone: Callable[..., Repository]) -> None:
    made = clone()
    hooks = {path.name for path in (made.path / ".git" / "hooks").iterdir()}
    assert not {"post-checkout", "post-commit", "post-merge"} & hooks


@pytest.mark.parametrize("variable", ["GIT_THETA_SKIP_SMUDGE", "GIT_LFS_SKIP_SMUDGE"])
def test_a_clone_of_metadata_alone_fetches_nothing(clone: Callable[..., Repository], variable: str) -> None:
    made = clone(**{variable: "1"})
    assert all(data.startswith(b"{") for data in contents(made).values())
    assert stored(made) == 0
    assert made.git("status", "--short") == ""
    for name in FILES:
        (made.path / name).unlink()
    made.git("checkout", "--", ".")
    assert contents(made) == FILES


def test_a_setting_leaves_some_files_as_metadata(clone: Callable[..., Repository]) -> None:
    made = clone("--config", "theta.fetchExclude=model-[01].*")
    filled = {name for name, data in contents(made).items() if data == FILES[name]}
    assert filled == {"model-2.safetensors", "model-3.safetensors"}
    assert made.git("status", "--short") == ""


@pytest.mark.parametrize("setting", ["lfs.fetchexclude=*", "lfs.fetchinclude=none", "lfs.skipdownloaderrors=true"])
def test_what_git_lfs_is_told_to_leave_out_does_not_concern_us(clone: Callable[..., Repository], setting: str) -> None:
    assert contents(clone("--config", setting)) == FILES


def test_a_lfsconfig_cannot_make_git_lfs_answer_with_pointers(
    source: Repository, clone: Callable[..., Repository]
) -> None:
    source.write(".lfsconfig", b"[lfs]\n\tfetchexclude = *\n")
    source.commit("exclude all")
    source.git("push", "--no-verify", "--quiet", "origin", "main")
    assert contents(clone()) == FILES


def test_an_archive_brings_all_its_files_with_one_conversation(
    source: Repository, clone: Callable[..., Repository], tmp_path: Path
) -> None:
    made = clone("--no-checkout")
    trace = tmp_path / "trace"
    made = made.in_environment(GIT_TRACE=str(trace))
    made.git("archive", "--output", str(tmp_path / "archive.tar"), "HEAD")
    unpacked = tmp_path / "unpacked"
    shutil.unpack_archive(tmp_path / "archive.tar", unpacked)
    assert {name: (unpacked / name).read_bytes() for name in FILES} == FILES
    started = [line for line in trace.read_text().splitlines() if "run_command: git-lfs filter-process" in line]
    assert len(started) == 1


def test_one_file_brings_its_own_objects_alone(clone: Callable[..., Repository]) -> None:
    made = clone("--no-checkout")
    made.git("checkout", "HEAD", "--", "model-1.safetensors", ".gitattributes")
    assert made.read("model-1.safetensors") == FILES["model-1.safetensors"]
    few = stored(made)
    made.git("checkout", "HEAD", "--", ".")
    assert 0 < few < stored(made)


def test_the_one_shot_filter_fetches_too(clone: Callable[..., Repository]) -> None:
    made = clone("--no-checkout")
    metadata = made.git_bytes("cat-file", "blob", "HEAD:model-2.safetensors")
    done = made.run("theta-daemon", "smudge", "model-2.safetensors", stdin=metadata)
    assert (done.returncode, done.stdout) == (0, FILES["model-2.safetensors"]), done.stderr


def test_an_object_that_the_remote_lacks_is_named_and_other_files_are_written(
    source: Repository, clone: Callable[..., Repository], tmp_path: Path
) -> None:
    made = clone("--no-checkout")
    # Of the first file's parameters one that no other file has.
    listed = source.git("cat-file", "blob", "HEAD:model-0.safetensors").split('"oid": "')[1:]
    oid = listed[-1][:64]
    place = Path("lfs", "objects", oid[:2], oid[2:4], oid)
    (tmp_path / "server" / place).unlink()
    said = made.in_environment(GIT_CONFIG_COUNT="1", GIT_CONFIG_KEY_0="theta.transferRetries", GIT_CONFIG_VALUE_0="0")
    complaint = said.git_fails("checkout", "HEAD", "--", ".")
    assert oid in complaint
    assert "model-0.safetensors" in complaint
    assert not (made.path / "model-0.safetensors").exists()
    assert {name for name in FILES if (made.path / name).exists()} == set(FILES) - {"model-0.safetensors"}
    shutil.copy(source.path / ".git" / place, tmp_path / "server" / place)
    made.git("checkout", "HEAD", "--", ".")
    assert contents(made) == FILES


def test_a_linked_worktree_fetches(clone: Callable[..., Repository], tmp_path: Path) -> None:
    made = clone("--no-checkout")
    made.git("worktree", "add", "--quiet", "--detach", str(tmp_path / "linked"), "HEAD")
    assert contents(made.at(tmp_path / "linked")) == FILES


def test_a_bare_repository_fetches(clone: Callable[..., Repository], tmp_path: Path) -> None:
    made = clone("--bare")
    made.git("archive", "--output", str(tmp_path / "archive.tar"), "HEAD")
    shutil.unpack_archive(tmp_path / "archive.tar", tmp_path / "unpacked")
    assert (tmp_path / "unpacked" / "model-3.safetensors").read_bytes() == FILES["model-3.safetensors"]


def test_an_object_that_is_damaged_on_the_remote_gives_no_wrong_byte(
    source: Repository, clone: Callable[..., Repository]
) -> None:
    made = clone("--no-checkout")
    objects = sorted(
        (source.path.parent / "server" / "lfs" / "objects").glob("??/??/*"), key=lambda path: path.stat().st_size
    )
    good = objects[-1].read_bytes()
    objects[-1].chmod(0o644)
    objects[-1].write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    made.git("config", "theta.transferRetries", "0")
    assert objects[-1].name in made.git_fails("checkout", "--force", "HEAD")
    found = {name: made.read(name) for name in FILES if (made.path / name).exists()}
    assert len(found) < len(FILES)
    assert all(FILES[name] == data for name, data in found.items())
    objects[-1].write_bytes(good)
    made.git("checkout", "--force", "HEAD")
    assert contents(made) == FILES
