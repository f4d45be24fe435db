"""Settings in real repositories: places and values as git itself sees them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.e2e.history.conftest import settings_of
from tests.support.repository import Repository
from theta_daemon import settings
from theta_daemon.errors import RepositoryError
from theta_daemon.settings import Settings


def places(found: Settings) -> tuple[Path, Path, Path | None, Path]:
    index = Path(os.path.normpath(found.index_file))
    return found.git_dir, found.common_dir, found.work_tree, index


def test_a_repository(stored: Repository) -> None:
    git_dir = stored.path / ".git"
    found = settings_of(stored)
    assert places(found) == (git_dir, git_dir, stored.path, git_dir / "index")
    assert (found.theta_dir, found.lfs_objects) == (git_dir / "theta", git_dir / "lfs" / "objects")


def test_below_its_top(repository: Repository) -> None:
    deep = repository.path / "a" / "b"
    deep.mkdir(parents=True)
    git_dir = repository.path / ".git"
    assert places(settings_of(repository.at(deep))) == (git_dir, git_dir, repository.path, git_dir / "index")


def test_a_path_of_any_bytes(tmp_path: Path, git_environment: dict[str, str]) -> None:
    path = tmp_path / os.fsdecode(b"sp ace\xff'\"")
    found = settings_of(Repository.init(path, git_environment))
    assert found.work_tree == path


def test_a_path_with_a_line_break(tmp_path: Path, git_environment: dict[str, str]) -> None:
    made = Repository.init(tmp_path / "line\nbreak", git_environment)
    with pytest.raises(RepositoryError, match="its path holds a line break"):
        settings_of(made)


def test_inside_the_git_directory(repository: Repository) -> None:
    git_dir = repository.path / ".git"
    assert places(settings_of(repository.at(git_dir))) == (git_dir, git_dir, None, git_dir / "index")


def test_a_bare_repository(tmp_path: Path, git_environment: dict[str, str]) -> None:
    bare = Repository.init(tmp_path / "bare", git_environment, "--bare")
    assert places(settings_of(bare)) == (bare.path, bare.path, None, bare.path / "index")


def test_a_linked_worktree(repository: Repository, tmp_path: Path) -> None:
    repository.git("commit", "--quiet", "--allow-empty", "--message", "x")
    repository.git("worktree", "add", "--quiet", str(tmp_path / "linked"))
    repository.git("config", "lfs.storage", "st")
    common = repository.path / ".git"
    own = common / "worktrees" / "linked"
    found = settings_of(repository.at(tmp_path / "linked"))
    assert places(found) == (own, common, tmp_path / "linked", own / "index")
    assert found.lfs_storage == common / "st"


def test_a_submodule(repository: Repository, tmp_path: Path) -> None:
    inner = Repository.init(tmp_path / "inner", repository.environment)
    inner.git("commit", "--quiet", "--allow-empty", "--message", "x")
    repository.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(inner.path), "sub")
    git_dir = repository.path / ".git" / "modules" / "sub"
    top = repository.path / "sub"
    assert places(settings_of(repository.at(top))) == (git_dir, git_dir, top, git_dir / "index")


def test_git_dir_and_work_tree_apart(repository: Repository, tmp_path: Path) -> None:
    top = tmp_path / "top"
    top.mkdir()
    apart = repository.at(tmp_path).in_environment(GIT_DIR="repository/.git", GIT_WORK_TREE="top")
    git_dir = repository.path / ".git"
    assert places(settings_of(apart)) == (git_dir, git_dir, top, git_dir / "index")


def test_an_index_of_the_callers_own(repository: Repository, tmp_path: Path) -> None:
    absolute = repository.in_environment(GIT_INDEX_FILE=str(tmp_path / "i"))
    assert settings_of(absolute).index_file == tmp_path / "i"
    relative = repository.in_environment(GIT_INDEX_FILE="i")
    assert settings_of(relative).index_file == repository.path / "i"


@pytest.fixture
def probe(tmp_path: Path) -> str:
    """Return a filter command that notes its directory and environment, for `as_filter`."""
    script = tmp_path / "probe"
    script.write_text(f'#!/bin/sh\nprintf "%s\\0" "$PWD" > "{tmp_path}/seen"; env -0 >> "{tmp_path}/seen"; cat\n')
    script.chmod(0o755)
    return str(script)


def as_filter(tmp_path: Path) -> Settings:
    """Return the settings as a filter finds them that git started where `probe` was started."""
    directory, *environment = (tmp_path / "seen").read_text().split("\0")[:-1]
    return settings.load(dict(it.split("=", 1) for it in environment), Path(directory))


def test_started_as_a_filter(repository: Repository, tmp_path: Path, probe: str) -> None:
    repository.write(".gitattributes", b"*.pt filter=f\n")
    repository.write("d/m.pt", b"{}")
    below = repository.at(repository.path / "d").in_environment(GIT_INDEX_FILE=str(tmp_path / "i"))
    below.git("-c", f"filter.f.clean={probe}", "-c", "theta.workers=7", "add", "m.pt")
    found, git_dir = as_filter(tmp_path), repository.path / ".git"
    assert places(found) == (git_dir, git_dir, repository.path, tmp_path / "i")
    assert found.workers == 7


def test_started_as_a_filter_below_a_superproject(repository: Repository, tmp_path: Path, probe: str) -> None:
    inner = Repository.init(tmp_path / "inner", repository.environment)
    inner.write(".gitattributes", b"*.pt filter=f\n")
    inner.write("m.pt", b"1")
    first = inner.commit("1")
    inner.write("m.pt", b"2")
    inner.commit("2")
    repository.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(inner.path), "sub")
    repository.commit("2")
    repository.git("-C", "sub", "checkout", "--quiet", first)
    repository.commit("1")
    repository.git("-c", f"filter.f.smudge={probe}", "checkout", "--quiet", "--recurse-submodules", "HEAD~1")
    git_dir = repository.path / ".git" / "modules" / "sub"
    assert places(as_filter(tmp_path)) == (git_dir, git_dir, repository.path / "sub", git_dir / "index")


def test_no_repository(tmp_path: Path, git_environment: dict[str, str]) -> None:
    with pytest.raises(RepositoryError, match=r"^not a git repository \(or any"):
        settings.load({**git_environment, "GIT_CEILING_DIRECTORIES": str(tmp_path)}, tmp_path)


def test_a_git_dir_that_is_none(repository: Repository) -> None:
    with pytest.raises(RepositoryError, match=r"^not a git repository: '?/nowhere"):
        settings_of(repository.in_environment(GIT_DIR="/nowhere"))


def test_a_broken_configuration(repository: Repository) -> None:
    (repository.path / ".git" / "config").write_text("[core\n")
    with pytest.raises(RepositoryError, match=r"^bad config line 1 in file"):
        settings_of(repository)


def test_a_repository_of_somebody_else(repository: Repository) -> None:
    # What git's own tests use to stand for another owner; on some systems only the superuser could make one.
    with pytest.raises(RepositoryError, match=r"^(detected dubious ownership in|unsafe) repository"):
        settings_of(repository.in_environment(GIT_TEST_ASSUME_DIFFERENT_OWNER="1"))


def test_where_a_value_is_set_is_told(repository: Repository, git_environment: dict[str, str]) -> None:
    repository.git("config", "--global", "theta.workers", "none")
    with pytest.raises(RepositoryError) as caught:
        settings_of(repository)
    place = f"file:{git_environment['GIT_CONFIG_GLOBAL']}"
    assert f"theta.workers is 'none' ({place})" in str(caught.value)


def test_values_of_the_command_line_and_of_included_files(repository: Repository, tmp_path: Path) -> None:
    (tmp_path / "more").write_text("[theta]\n\tworkers = 7\n\tcompatible = on\n")
    repository.git("config", "include.path", str(tmp_path / "more"))
    of_git = repository.in_environment(GIT_CONFIG_PARAMETERS="'theta.compatible=auto'")
    found = settings_of(of_git)
    assert (found.workers, found.compatible) == (7, "auto")


def test_lfsconfig_is_not_read(repository: Repository) -> None:
    repository.write(".lfsconfig", b"[lfs]\n\tstorage = /committed/by/anyone\n[theta]\n\tworkers = 7\n")
    assert settings_of(repository).lfs_storage == repository.path / ".git" / "lfs"


@pytest.mark.needs_git_lfs
@pytest.mark.parametrize("storage", ["lfs", "st", "./st/../x", "../st", "/srv/st", "~/st", "a b", "", "st/"])
def test_lfs_storage_is_where_git_lfs_has_it(repository: Repository, storage: str) -> None:
    repository.git("config", "lfs.storage", storage)
    told = repository.git("lfs", "env").splitlines()
    assert f"LocalMediaDir={settings_of(repository).lfs_objects}" in told


def test_lfs_objects_of_alternates(repository: Repository, tmp_path: Path) -> None:
    repository.git("commit", "--quiet", "--allow-empty", "--message", "x")
    repository.git("clone", "--quiet", "--shared", ".", str(tmp_path / "b"))
    repository.at(tmp_path / "b").git("clone", "--quiet", "--shared", ".", str(tmp_path / "c"))
    Repository.init(tmp_path / "other", repository.environment)
    last = repository.at(tmp_path / "c").in_environment(
        GIT_ALTERNATE_OBJECT_DIRECTORIES=str(tmp_path / "other" / ".git" / "objects")
    )
    assert settings_of(last).alternates == ()  # none has LFS objects
    stores = [tmp_path / name / ".git" / "lfs" / "objects" for name in ("other", "b", "repository")]
    for store in stores:
        store.mkdir(parents=True)
    assert settings_of(last).alternates == tuple(stores)


def test_alternates_are_those_that_git_counts(repository: Repository, tmp_path: Path) -> None:
    for name in ("a", "b", 'q"uo te', "c", "env:x"):
        git_dir = Repository.init(tmp_path / name, repository.environment).path / ".git"
        (git_dir / "lfs" / "objects").mkdir(parents=True)
    info = repository.path / ".git" / "objects" / "info"
    relative = os.path.relpath(tmp_path / "b" / ".git" / "objects", info.parent)
    quoted = str(tmp_path / 'q"uo te' / ".git" / "objects").replace('"', '\\"')
    (info / "alternates").write_text(
        f'# {tmp_path}/c/.git/objects\n{tmp_path}/a/.git/objects\n\n{relative}\n"{quoted}"\n'
    )
    lender = repository.in_environment(GIT_ALTERNATE_OBJECT_DIRECTORIES=f'"{tmp_path}/env:x/.git/objects":')
    counted = [
        line.removeprefix("alternate: ").strip('"').replace('\\"', '"')
        for line in lender.git("count-objects", "-v").splitlines()
        if line.startswith("alternate: ")
    ]
    found = settings_of(lender).alternates
    assert sorted(str(it.parent.parent / "objects") for it in found) == sorted(counted)
    assert len(found) == 4


def test_loading_starts_two_processes(repository: Repository, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    settings_of(repository.in_environment(GIT_TRACE=str(trace)))
    assert trace.read_text().count("trace: built-in:") == 2


def test_a_git_trace_on_standard_error_disturbs_nothing(repository: Repository) -> None:
    assert settings_of(repository.in_environment(GIT_TRACE="1")).work_tree == repository.path


def test_begin_and_result(repository: Repository) -> None:
    assert settings.begin(repository.environment, repository.path).result() == settings_of(repository)
