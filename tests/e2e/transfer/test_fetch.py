"""Objects come from a file:// remote, with real git and git-lfs, into every kind of repository."""

from __future__ import annotations

import hashlib
import random
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from tests.support.repository import Repository
from theta_daemon import settings
from theta_daemon.errors import ThetaError
from theta_daemon.metadata.entries import ObjectRef
from theta_daemon.store.fetch import Fetcher
from theta_daemon.store.objects import ObjectStore

pytestmark = pytest.mark.needs_git_lfs

DATA = [random.Random(number).randbytes(10_000 + number) for number in range(250)]
REFS = [ObjectRef(hashlib.sha256(data).hexdigest(), len(data)) for data in DATA]
ABSENT = [ObjectRef(f"{number:064x}", 5) for number in range(20)]


@pytest.fixture
def source(new_repository: Callable[[str], Repository], bare: Path) -> Repository:
    """Return a repository whose remote holds a commit, and all objects."""
    made = new_repository("source")
    for ref, data in zip(REFS, DATA, strict=True):
        put(made.path / ".git" / "lfs" / "objects", ref, data)
    made.write("file", b"")
    made.commit("one")
    made.git("remote", "add", "origin", bare.as_uri())
    made.git("push", "--quiet", "origin", "main")
    made.git("lfs", "push", "--object-id", "origin", "--stdin", stdin="\n".join(ref.oid for ref in REFS).encode())
    return made


@pytest.fixture
def clone(source: Repository, bare: Path) -> Repository:
    """Return a clone without any object."""
    return cloned(source, bare)


def cloned(source: Repository, bare: Path, *options: str) -> Repository:
    path = source.path.parent / "clone"
    source.git("clone", "--quiet", *options, bare.as_uri(), str(path))
    return source.at(path)


def place(objects: Path, ref: ObjectRef) -> Path:
    return objects / ref.oid[:2] / ref.oid[2:4] / ref.oid


def put(objects: Path, ref: ObjectRef, data: bytes) -> None:
    place(objects, ref).parent.mkdir(parents=True, exist_ok=True)
    place(objects, ref).write_bytes(data)


def fetch(
    repository: Repository, refs: list[ObjectRef] = REFS, remote: str | None = None
) -> tuple[ObjectStore, Mapping[ObjectRef, ThetaError]]:
    """Fetch objects; return the store, and what failed."""
    found = settings.load(repository.environment, repository.path).replace(transfer_retries=1, transfer_timeout=10)
    store = ObjectStore(found.lfs_objects, found.theta_dir / "objects", found.temporary, alternates=found.alternates)
    fetcher = Fetcher(found, store, remote=remote)
    batches = [fetcher.want(refs[start : start + 100]) for start in range(0, len(refs), 100)]
    for batch in batches:
        fetcher.wait([batch])
    fetcher.close()
    return store, {ref: error for batch in batches for ref, error in batch.failed.items()}


def check(repository: Repository) -> None:
    """Fail unless all objects come, and are kept in our store."""
    store, failed = fetch(repository)
    assert failed == {}
    for ref, data in zip(REFS, DATA, strict=True):
        assert place(store.theta_objects, ref).read_bytes() == data


def test_a_clone(clone: Repository) -> None:
    check(clone)


def test_nothing_else_of_the_repository_changes(clone: Repository) -> None:
    """But for what git-lfs marks every repository with."""
    before = state(clone)
    check(clone)
    after = state(clone)
    marked = b"[lfs]\n\trepositoryformatversion = 0\n"
    assert after.pop("config") == before.pop("config") + marked
    assert after == before


def state(repository: Repository) -> dict[str, bytes]:
    """Return all files below .git but for objects of both kinds, and git-lfs's empty folders."""
    folder = repository.git_directory
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {
        name: path.read_bytes()
        for name, path in files.items()
        if not name.startswith(("objects/", "lfs/objects/", "theta/objects/"))
    }


def test_a_bare_repository(source: Repository, bare: Path) -> None:
    check(cloned(source, bare, "--bare"))


def test_a_linked_worktree(clone: Repository) -> None:
    linked = clone.path.parent / "linked"
    clone.git("worktree", "add", "--quiet", str(linked), "-b", "other")
    check(clone.at(linked))
    assert place(clone.path / ".git" / "theta" / "objects", REFS[0]).exists()


def test_a_detached_head(clone: Repository) -> None:
    clone.git("checkout", "--quiet", "--detach")
    check(clone)


def test_a_repository_that_git_names_by_variables(clone: Repository, tmp_path: Path) -> None:
    """As it does for a filter in `git clone`."""
    here = clone.in_environment(GIT_DIR=str(clone.path / ".git"), GIT_WORK_TREE=str(clone.path))
    check(here.at(tmp_path))


def test_inside_git_clone(source: Repository, bare: Path, tmp_path: Path) -> None:
    """A filter that fetches an object while `git clone` runs."""
    program = tmp_path / "filter.py"
    program.write_text(
        "import os, sys\n"
        "from pathlib import Path\n"
        "from theta_daemon import settings\n"
        "from theta_daemon.metadata.entries import ObjectRef\n"
        "from theta_daemon.store.fetch import Fetcher\n"
        "from theta_daemon.store.objects import ObjectStore\n"
        "found = settings.load(os.environ, Path.cwd())\n"
        "store = ObjectStore(found.lfs_objects, found.theta_dir / 'objects', found.temporary)\n"
        "fetcher = Fetcher(found, store)\n"
        f"ref = ObjectRef({REFS[0].oid!r}, {REFS[0].size})\n"
        "batch = fetcher.want([ref])\n"
        "fetcher.wait([batch])\n"
        "fetcher.close()\n"
        "sys.stdout.buffer.write(bytes(store.open(ref)))\n"
    )
    source.git("config", "--global", "filter.test.smudge", shlex.join([sys.executable, str(program)]))
    source.git("config", "--global", "filter.test.required", "true")
    source.write(".gitattributes", b"file filter=test\n")
    source.git("-c", "filter.test.clean=cat", "commit", "--quiet", "--allow-empty", "--message=two")
    source.git("-c", "filter.test.clean=true", "add", ".gitattributes")
    source.write("file", b"x")
    source.git("-c", "filter.test.clean=cat", "add", "file")
    source.git("-c", "filter.test.clean=cat", "commit", "--quiet", "--message=three")
    source.git("push", "--quiet", "origin", "main")
    assert cloned(source, bare).read("file") == DATA[0]


def test_objects_of_an_alternate_are_here(source: Repository, bare: Path) -> None:
    lent = cloned(source, bare, "--reference", str(source.path))
    lent.git("remote", "set-url", "origin", "file:///nowhere")
    store, failed = fetch(lent)
    assert failed == {}
    assert not store.theta_objects.exists()


def test_another_store(clone: Repository, tmp_path: Path) -> None:
    clone.git("config", "lfs.storage", str(tmp_path / "elsewhere"))
    check(clone)
    assert place(tmp_path / "elsewhere" / "objects", REFS[0]).exists()


@pytest.mark.parametrize(
    "variables",
    [{"GIT_LFS_SKIP_SMUDGE": "1"}, {"GIT_LFS_SKIP_DOWNLOAD_ERRORS": "1"}, {"GIT_LFS_PROGRESS": "relative"}],
    ids=lambda variables: next(iter(variables)),
)
def test_variables_that_are_not_meant_for_us(clone: Repository, variables: dict[str, str]) -> None:
    check(clone.in_environment(**variables))


@pytest.mark.parametrize("is_committed", [True, False], ids=["lfsconfig", "config"])
@pytest.mark.parametrize("key", ["fetchexclude", "fetchinclude"])
def test_filters_that_are_not_meant_for_us(clone: Repository, key: str, is_committed: bool) -> None:
    where = ["--file", str(clone.path / ".lfsconfig")] if is_committed else []
    clone.git("config", *where, f"lfs.{key}", "*" if key == "fetchexclude" else "nothing")
    check(clone)


def test_the_remote_can_be_named(clone: Repository, bare: Path) -> None:
    """Whatever the branch follows, and however both are called."""
    clone.git("checkout", "--quiet", "-b", "a=b", "--track", "origin/main")
    clone.git("remote", "set-url", "origin", "file:///nowhere")
    clone.git("remote", "add", "oth-er", bare.as_uri())
    _, failed = fetch(clone, REFS[:3])
    assert len(failed) == 3
    assert fetch(clone, REFS[:3], "oth-er")[1] == {}
    assert fetch(clone, REFS[3:6], bare.as_uri())[1] == {}


def test_an_object_that_the_remote_lacks_is_named(clone: Repository) -> None:
    refs = [*ABSENT[:2], *REFS, *ABSENT[2:]]
    _, failed = fetch(clone, refs)
    assert set(failed) == set(ABSENT)
    for ref, error in failed.items():
        assert f"object {ref.oid} (5 bytes) is missing and cannot be fetched: git-lfs could not get it" in str(error)
        assert "from origin: [0] remote missing object" in str(error)
        assert "push it again" in str(error)


def test_a_remote_that_is_gone(clone: Repository) -> None:
    clone.git("config", "lfs.url", "http://somebody:secret@127.0.0.1:9/models?token=secret")
    _, failed = fetch(clone, REFS[:3])
    assert set(failed) == set(REFS[:3])
    for error in failed.values():
        assert "connection refused" in str(error)
        assert "secret" not in str(error)


def test_without_a_remote(new_repository: Callable[[str], Repository]) -> None:
    _, failed = fetch(new_repository("lonely"), REFS[:2])
    assert all("no remote is configured; add the remote" in str(error) for error in failed.values())
    assert len(failed) == 2


@pytest.mark.parametrize("size", [0, 1, 77, REFS[0].size - 1, REFS[0].size + 1, 1 << 60])
def test_a_size_that_lies(clone: Repository, size: int) -> None:
    """And nobody loses an object for it."""
    lie = ObjectRef(REFS[0].oid, size)
    _, failed = fetch(clone, [lie])
    assert set(failed) == {lie}
    store, failed = fetch(clone, [REFS[0]])
    assert failed == {}
    place(store.theta_objects, REFS[0]).unlink()
    _, failed = fetch(clone, [lie])
    assert f"has {REFS[0].size} bytes, and metadata says {size}" in str(failed[lie])
    assert place(store.lfs_objects, REFS[0]).read_bytes() == DATA[0]


def test_an_object_that_was_cut_off_here_is_fetched_again(clone: Repository) -> None:
    put(clone.path / ".git" / "lfs" / "objects", REFS[0], DATA[0][:10])
    check(clone)


def test_an_object_that_is_damaged_on_the_remote(clone: Repository, bare: Path) -> None:
    put(bare / "lfs" / "objects", REFS[0], DATA[0][:-1] + bytes([DATA[0][-1] ^ 1]))
    store, failed = fetch(clone, REFS[:3])
    assert set(failed) == {REFS[0]}
    assert not store.contains(REFS[0].oid, REFS[0].size)
