"""Small objects travel together, with real git and git-lfs over a file:// remote."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import save

from tests.support.repository import Repository
from theta_daemon.metadata import packs, text
from theta_daemon.metadata.entries import Metadata, ObjectRef
from theta_daemon.metadata.packs import Pack

pytestmark = pytest.mark.needs_git_lfs

NAME = "model.safetensors"


def model(changed: int | None = None, *, large: int = 1) -> bytes:
    """Return a checkpoint with 40 small groups, one of them `changed`, and `large` others."""
    random = numpy.random.default_rng(0)
    arrays = {f"bias.{number:02}": random.standard_normal(1000 + number, numpy.float32) for number in range(40)}
    if changed is not None:
        arrays[f"bias.{changed:02}"] += 1
    arrays |= {f"weight.{number}": numpy.arange(100_000, dtype=numpy.float32) + number for number in range(large)}
    return save(arrays)


def metadata(repository: Repository, revision: str = "HEAD") -> Metadata:
    return text.parse(repository.git_bytes("cat-file", "blob", f"{revision}:{NAME}"))


def only_pack(repository: Repository, revision: str = "HEAD") -> Pack:
    (found,) = packs.of(metadata(repository, revision))
    return found


def place(store: Path, ref: ObjectRef) -> Path:
    return store / "lfs" / "objects" / ref.oid[:2] / ref.oid[2:4] / ref.oid


def names(store: Path) -> set[str]:
    return {path.name for path in (store / "objects").glob("??/??/*")}


@pytest.fixture
def source(repository: Repository, tmp_path: Path) -> Repository:
    """Return a repository that has pushed a checkpoint to its remote, `server`."""
    repository.git("theta", "track", "*.safetensors")
    repository.write(NAME, model())
    repository.commit("model")
    server = Repository.init(tmp_path / "server", repository.environment, "--bare")
    repository.git("remote", "add", "origin", server.path.as_uri())
    repository.git("push", "--quiet", "origin", "main")
    return repository


@pytest.fixture
def server(source: Repository, tmp_path: Path) -> Path:
    return tmp_path / "server"


@pytest.fixture
def clone(source: Repository, server: Path, tmp_path: Path) -> Callable[[], Repository]:
    """Return a function that clones the server."""

    def make() -> Repository:
        at = tmp_path / "clone"
        shutil.rmtree(at, ignore_errors=True)
        options = []
        for line in source.git("config", "--local", "--get-regexp", r"^filter\.theta\.").splitlines():
            key, _, value = line.partition(" ")
            options += ["--config", f"{key}={value}"]
        source.git("clone", "--quiet", *options, server.as_uri(), str(at))
        return source.at(at)

    return make


def test_a_clone_needs_the_packs_alone(source: Repository, server: Path, clone: Callable[[], Repository]) -> None:
    pack = only_pack(source)
    assert len(pack.members) == 40
    for ref in pack.members:
        place(server, ref).unlink()
    made = clone()
    assert made.read(NAME) == model()
    assert made.git("status", "--short") == ""
    kept = names(made.path / ".git" / "theta")
    assert kept == names(made.path / ".git" / "lfs")
    assert {ref.oid for ref in pack.members} < kept
    assert pack.ref.oid not in kept


def test_a_clone_needs_no_packs(source: Repository, server: Path, clone: Callable[[], Repository]) -> None:
    """A server to which git-theta pushed has none."""
    place(server, only_pack(source).ref).unlink()
    made = clone()
    assert made.read(NAME) == model()
    assert made.git("status", "--short") == ""


def test_the_objects_themselves_are_pushed_too(source: Repository, server: Path) -> None:
    """git-theta asks for those."""
    pack = only_pack(source)
    assert all(place(server, ref).exists() for ref in (*pack.members, pack.ref))


def test_adding_keeps_no_packs(source: Repository) -> None:
    assert only_pack(source).ref.oid not in names(source.path / ".git" / "theta")


def test_the_metadata_is_the_same_wherever_it_is_made(
    source: Repository, server: Path, clone: Callable[[], Repository]
) -> None:
    blob = source.git("rev-parse", f"HEAD:{NAME}")
    source.git("rm", "--quiet", "--cached", NAME)
    source.git("commit", "--quiet", "-m", "gone")
    source.git("reset", "--quiet", "--soft", "HEAD~")
    source.git("add", NAME)
    assert source.git("rev-parse", f":{NAME}") == blob
    source.git("add", "--renormalize", NAME)
    assert source.git("rev-parse", f":{NAME}") == blob
    assert source.git("status", "--short") == ""
    made = clone()
    made.write(NAME, model(changed=3))
    made.git("add", NAME)
    source.write(NAME, model(changed=3))
    source.git("add", NAME)
    assert made.git("rev-parse", f":{NAME}") == source.git("rev-parse", f":{NAME}")


def test_a_change_of_a_large_group_changes_no_pack(source: Repository) -> None:
    source.write(NAME, model(large=2))
    source.commit("one more")
    assert only_pack(source) == only_pack(source, "HEAD~")


def test_a_change_of_a_small_group_changes_its_pack(source: Repository, clone: Callable[[], Repository]) -> None:
    source.write(NAME, model(changed=7))
    source.commit("changed")
    assert only_pack(source).ref != only_pack(source, "HEAD~").ref
    source.git("push", "--quiet", "origin", "main")
    made = clone()
    assert made.read(NAME) == model(changed=7)
    made.git("checkout", "--quiet", "HEAD~")
    assert made.read(NAME) == model()


def test_an_update_changes_no_pack(source: Repository) -> None:
    random = numpy.random.default_rng(1)
    arrays = {f"bias.{number}": random.standard_normal(50_000, numpy.float32) for number in range(8)}
    source.write(NAME, save(arrays))
    source.commit("before")
    source.git("config", "theta.updateType", "auto")
    arrays["bias.3"][7] += 1
    source.write(NAME, save(arrays))
    source.commit("changed a little")
    assert metadata(source).entries[("bias.3",)].replay
    assert len(only_pack(source).members) == 8
    assert only_pack(source) == only_pack(source, "HEAD~")


def test_a_change_where_only_metadata_is_here(
    source: Repository, server: Path, clone: Callable[[], Repository]
) -> None:
    at = server.parent / "metadata-only"
    source.in_environment(GIT_THETA_SKIP_SMUDGE="1").git("clone", "--quiet", server.as_uri(), str(at))
    made = source.at(at)
    for line in source.git("config", "--local", "--get-regexp", r"^filter\.theta\.").splitlines():
        key, _, value = line.partition(" ")
        made.git("config", key, value)
    for repository in (made, source):
        repository.write(NAME, model(changed=7))
        repository.commit("changed")
        assert repository.git("status", "--short") == ""
    assert only_pack(made) == only_pack(source)
    made.git("push", "--quiet", "origin", "HEAD:main")
    assert clone().read(NAME) == model(changed=7)


def test_packs_can_be_switched_off(source: Repository, server: Path) -> None:
    source.git("config", "theta.packs", "false")
    assert source.git("status", "--short") == ""
    source.write(NAME, model(changed=7))
    source.commit("changed")
    assert not list(packs.of(metadata(source)))
    before = names(server / "lfs")
    source.git("push", "--quiet", "origin", "main")
    assert len(names(server / "lfs") - before) == 1


def test_git_lfs_prune_takes_packs_and_the_next_push_makes_them_again(source: Repository, server: Path) -> None:
    pack = only_pack(source)
    place(source.path / ".git", pack.ref).unlink()
    shutil.rmtree(server / "lfs")
    source.git("push", "--quiet", "origin", "main:again")
    source.git("theta", "push", "--all", "origin")
    assert place(server, pack.ref).exists()


def test_fetch_uses_packs(source: Repository, server: Path, clone: Callable[[], Repository]) -> None:
    pack = only_pack(source)
    for ref in pack.members:
        place(server, ref).unlink()
    made = source.in_environment(GIT_THETA_SKIP_SMUDGE="1")
    at = server.parent / "bare-clone"
    made.git("clone", "--quiet", "--bare", server.as_uri(), str(at))
    source.at(at).git("theta", "fetch", "--quiet")
    assert all(place(at, ref).exists() for ref in pack.members)


def test_pull_uses_packs(source: Repository, server: Path) -> None:
    for ref in only_pack(source).members:
        place(server, ref).unlink()
    at = server.parent / "pulled"
    source.in_environment(GIT_THETA_SKIP_SMUDGE="1").git("clone", "--quiet", server.as_uri(), str(at))
    made = source.at(at)
    made.git("theta", "pull", "--quiet")
    assert made.read(NAME) == model()


def test_fsck_and_prune_do_not_miss_packs(source: Repository, server: Path, clone: Callable[[], Repository]) -> None:
    made = clone()
    made.git("theta", "fsck")
    made.git("theta", "prune", "--expire=now")
    assert made.git("status", "--short") == ""
    made.git("theta", "fsck")
