"""Pushes through the hook that git-theta left behind, to a bare repository whose LFS store is a folder."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from tests.e2e.cli.written import entry, metadata, packs, partial_clone, reference, store, without_filter
from tests.support.repository import Repository
from theta_daemon.metadata import text
from theta_daemon.metadata.entries import Metadata

HOOK = '#!/bin/sh\ngit theta pre-push "$@"\n'  # as git-theta leaves it


@pytest.fixture
def remote(repository: Repository) -> Repository:
    path = repository.path.parent / "remote.git"
    return Repository.init(path, repository.environment, "--bare")


@pytest.fixture
def local(repository: Repository, remote: Repository) -> Repository:
    """Return a repository with git-theta's hook and a remote named `my-remote.x`."""
    without_filter(repository)
    hook = repository.git_directory / "hooks" / "pre-push"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(HOOK)
    hook.chmod(0o755)
    repository.git("remote", "add", "my-remote.x", remote.path.as_uri())
    repository.write(".gitattributes", b"*.pt filter=theta merge=theta diff=theta -text\n")
    return repository


def commit(repository: Repository, groups: dict[str, bytes], *, layout: bytes | None = None, name: str = "a.pt") -> str:
    """Commit a checkpoint whose objects are in the LFS store."""
    contents = [*groups.values(), *([layout] if layout else [])]
    store(repository, *contents)
    repository.write(name, metadata(groups, layout=layout))
    return repository.commit("a checkpoint")


def sent(remote: Repository) -> set[bytes]:
    return {path.read_bytes() for path in (remote.path / "lfs" / "objects").glob("??/??/*")}


@pytest.mark.needs_git_lfs
def test_a_push_sends_all_that_the_commits_name(local: Repository, remote: Repository) -> None:
    commit(local, {"w": b"1", "b": b"2"}, layout=b"layout")
    commit(local, {"w": b"3", "b": b"2"}, layout=b"layout")  # the first commit's object is needed too
    store(local, b"base", b"step", b"opaque")
    local.write("c.pt", text.serialize(Metadata({("w",): entry(b"step", b"base")}, None)))
    local.write("sub/d.pt", metadata({}, layout=b"layout", opaque=(b"opaque",)))
    store(local, b"of nobody")
    local.commit("more")
    local.git("push", "--quiet", "my-remote.x", "main")
    assert sent(remote) == {b"1", b"2", b"3", b"layout", b"base", b"step", b"opaque"}
    assert remote.git("rev-parse", "main") == local.git("rev-parse", "main")


@pytest.mark.needs_git_lfs
def test_the_next_push_sends_what_is_new(local: Repository, remote: Repository) -> None:
    commit(local, {"w": b"1"})
    local.git("push", "--quiet", "my-remote.x", "main")
    commit(local, {"w": b"2"})
    # As if only the newest objects were here: what the remote has need not be sent again.
    local.git("config", "lfs.storage", "elsewhere")
    store(local, b"2", place=local.git_directory / "elsewhere" / "objects")
    local.git("push", "--quiet", "my-remote.x", "main", "main:refs/heads/two")
    assert sent(remote) == {b"1", b"2"}


@pytest.mark.needs_git_lfs
def test_a_push_repairs_what_an_earlier_one_left_out(local: Repository, remote: Repository) -> None:
    commit(local, {"w": b"1", "b": b"2"})
    local.git("push", "--quiet", "--no-verify", "my-remote.x", "main")
    assert sent(remote) == set()
    commit(local, {"w": b"3", "b": b"2"})
    local.git("push", "--quiet", "my-remote.x", "main")
    assert sent(remote) == {b"2", b"3"}


@pytest.mark.needs_git_lfs
def test_new_branches_tags_and_deletions(local: Repository, remote: Repository) -> None:
    commit(local, {"w": b"1"})
    local.git("push", "--quiet", "my-remote.x", "main", "main:old")
    local.git("checkout", "--quiet", "--orphan", "other")
    commit(local, {"w": b"2"})
    local.git("tag", "--annotate", "--message", "tagged", "v1")
    commit(local, {"w": b"3"})
    local.git("push", "--quiet", "my-remote.x", "v1")
    assert sent(remote) == {b"1", b"2"}
    local.git("push", "--quiet", "my-remote.x", "other", ":old", "v1")
    assert sent(remote) == {b"1", b"2", b"3"}


@pytest.mark.needs_git_lfs
@pytest.mark.parametrize("kind", ["url", "path", "relative"])
def test_a_remote_without_a_name(local: Repository, remote: Repository, kind: str) -> None:
    commit(local, {"w": b"1"})
    target = {"url": remote.path.as_uri(), "path": str(remote.path), "relative": "../remote.git"}[kind]
    local.git("push", "--quiet", target, "main")
    assert sent(remote) == {b"1"}
    assert remote.git("rev-parse", "main") == local.git("rev-parse", "main")


@pytest.mark.needs_git_lfs
def test_a_rewritten_branch_whose_old_commit_is_not_here(local: Repository, remote: Repository) -> None:
    commit(local, {"w": b"1"})
    local.git("push", "--quiet", "my-remote.x", "main")
    other = local.at(local.path.parent / "other")
    local.git("clone", "--quiet", remote.path.as_uri(), str(other.path), cwd=local.path.parent)
    other.write("x", b"x")
    other.commit("unknown to us")
    other.git("push", "--quiet", "--no-verify", "origin", "main")
    commit(local, {"w": b"2"})
    local.git("push", "--quiet", "--force", "my-remote.x", "main")
    assert sent(remote) == {b"1", b"2"}


@pytest.mark.needs_git_lfs
def test_objects_in_the_stores_beside_it_are_sent(local: Repository, remote: Repository) -> None:
    # `git lfs prune` deletes objects that no pointer names; ours lie beside it, and a shared clone borrows.
    local.write("a.pt", metadata({"w": b"1", "b": b"2"}))
    local.commit("first")
    [oid] = store(local, b"1", place=local.git_directory / "theta" / "objects")
    cut_off = local.git_directory / "lfs" / "objects" / oid[:2] / oid[2:4] / oid
    cut_off.parent.mkdir(parents=True)
    cut_off.write_bytes(b"")
    lender = Repository.init(local.path.parent / "lender", local.environment)
    store(lender, b"2")
    info = local.git_directory / "objects" / "info"
    info.mkdir(exist_ok=True)
    (info / "alternates").write_text(f"{lender.git_directory}/objects\n")
    local.git("push", "--quiet", "my-remote.x", "main")
    assert sent(remote) == {b"1", b"2"}


def test_a_missing_object_stops_the_push(local: Repository, remote: Repository) -> None:
    commit(local, {"w": b"1"})
    local.write("sub/b.pt", metadata({"gone": b"2", "too": b"3"}))
    local.commit("second")
    error = local.git_fails("push", "my-remote.x", "main")
    first = min(reference(b"2").oid, reference(b"3").oid)
    assert f"git-theta: error: sub/b.pt: commit {local.git('rev-parse', 'HEAD')}: parameter" in error
    assert f"object {first} and 1 other is not in this repository" in error
    assert remote.git("for-each-ref") == ""
    assert sent(remote) == set()


@pytest.mark.needs_git_lfs
def test_a_missing_object_that_the_remote_has_is_no_trouble(local: Repository, remote: Repository) -> None:
    commit(local, {"w": b"1", "b": b"2"})
    local.git("push", "--quiet", "my-remote.x", "main")
    oid = reference(b"2").oid
    (local.git_directory / "lfs" / "objects" / oid[:2] / oid[2:4] / oid).unlink()
    commit(local, {"w": b"3"}, name="c.pt")
    local.write("a.pt", metadata({"w": b"3", "b": b"2"}))
    local.commit("uses an object that is not here")
    local.git("push", "--quiet", "my-remote.x", "main")
    assert sent(remote) == {b"1", b"2", b"3"}


def test_an_object_of_the_wrong_size_stops_the_push(local: Repository, remote: Repository) -> None:
    commit(local, {"w": b"whole"})
    oid = reference(b"whole").oid
    (local.git_directory / "lfs" / "objects" / oid[:2] / oid[2:4] / oid).write_bytes(b"who")
    error = local.git_fails("push", "my-remote.x", "main")
    assert f": parameter 'w': object {oid} has 3 bytes and should have 5" in error
    assert f"a.pt: commit {local.git('rev-parse', 'HEAD')}: " in error
    assert remote.git("for-each-ref") == ""


@pytest.mark.needs_git_lfs
def test_the_push_fails_when_git_lfs_fails(local: Repository, remote: Repository) -> None:
    commit(local, {"w": b"1"})
    (remote.path / "lfs").write_text("no directory")
    error = local.git_fails("push", "my-remote.x", "main")
    assert "git-theta: error: git lfs push exited" in error
    assert remote.git("for-each-ref") == ""


@pytest.mark.needs_git_lfs
def test_pushing_from_a_linked_work_tree(local: Repository, remote: Repository) -> None:
    commit(local, {"w": b"1"})
    local.git("worktree", "add", "--quiet", "../linked")
    linked = local.at(local.path.parent / "linked")
    commit(linked, {"w": b"2"})
    linked.git("push", "--quiet", "my-remote.x", "linked")
    assert sent(remote) == {b"1", b"2"}


def fake_git_lfs(repository: Repository, version: str, *, code: int = 0) -> tuple[Repository, Path]:
    """Put a git-lfs on PATH that only writes down how it was called to send, and nothing of being asked again."""
    directory = repository.path.parent / "fake"
    directory.mkdir()
    log = directory / "log"
    script = directory / "git-lfs"
    script.write_text(
        "#!/bin/sh\n"
        f'if [ "$1" = version ]; then echo "git-lfs/{version} (GitHub; linux amd64)"; exit; fi\n'
        'if [ -n "$GIT_LFS_PROGRESS" ]; then cat >/dev/null; exit; fi\n'
        f'echo "$#: $*" >> {log}\ncase "$*" in *--stdin*) cat >> {log};; esac\nexit {code}\n'
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return repository.in_environment(PATH=f"{directory}:{repository.environment['PATH']}"), log


def test_ids_go_through_stdin(local: Repository) -> None:
    faked, log = fake_git_lfs(local, "3.3.0")
    commit(faked, {f"w{index}": b"%d" % index for index in range(250)})
    faked.git("push", "--quiet", "my-remote.x", "main")
    call, *oids = log.read_text().splitlines()
    assert call == "4: push --object-id my-remote.x --stdin"
    assert oids == sorted(reference(b"%d" % index).oid for index in range(250))


def test_an_old_git_lfs_gets_them_in_batches(local: Repository) -> None:
    faked, log = fake_git_lfs(local, "2.13.2")
    commit(faked, {f"w{index}": b"%d" % index for index in range(250)})
    faked.git("push", "--quiet", "my-remote.x", "main")
    calls = log.read_text().splitlines()
    assert [call.split(":")[0] for call in calls] == ["103", "103", "53"]
    assert all(call.split(": ")[1].startswith("push --object-id my-remote.x ") for call in calls)


def test_its_failure_is_ours(local: Repository, remote: Repository) -> None:
    faked, log = fake_git_lfs(local, "2.13.2", code=3)
    commit(faked, {"w": b"1"})
    assert "git lfs push exited 3" in faked.git_fails("push", "my-remote.x", "main")
    assert remote.git("for-each-ref") == ""
    assert log.exists()


def test_without_git_lfs_the_push_says_what_to_do(local: Repository, remote: Repository) -> None:
    faked, _ = fake_git_lfs(local, "none")
    commit(faked, {"w": b"1"})
    assert "git-lfs is needed to send objects and is not installed; install git-lfs" in faked.git_fails(
        "push", "my-remote.x", "main"
    )
    assert remote.git("for-each-ref") == ""


def test_without_checkpoints_git_lfs_is_not_asked(local: Repository, remote: Repository) -> None:
    faked, log = fake_git_lfs(local, "3.3.0", code=9)
    faked.write("a.json", b'{"lfs_metadata": 1}')
    faked.write("config.json", b'{"model": {"layers": 3}}')
    faked.write("conflict.txt", b"<<<<<<< a\n=======\n>>>>>>> b\n")
    faked.commit("nothing of ours")
    faked.git("push", "--quiet", "my-remote.x", "main")
    assert not log.exists()
    assert remote.git("rev-parse", "main") == faked.git("rev-parse", "main")


def test_damaged_metadata_of_long_ago_stops_no_push(local: Repository, remote: Repository) -> None:
    faked, log = fake_git_lfs(local, "3.3.0")
    faked.write("bad.pt", metadata({"w": b"1"}).replace(b"{\n", b"{\n<<<<<<< a\n=======\n>>>>>>> b\n", 1))
    faked.write("worse.pt", b'{"w": {"lfs_metadata": {"oid": "../../etc/passwd"}, "tensor_metadata": {}}}')
    faked.commit("made by git-theta's merge")
    commit(faked, {"w": b"2"})
    done = faked.run("git", "push", "my-remote.x", "main")
    assert done.returncode == 0
    assert b"warning: nothing is sent for damaged metadata: bad.pt: commit " in done.stderr
    assert log.read_text().splitlines()[1:] == [reference(b"2").oid]


@pytest.mark.parametrize("name", ["line\nbreak\r.pt", "x-gabcdef.pt", "--all", ":(top)x.pt", "\udcff.pt", " "])
def test_paths_of_any_bytes(local: Repository, name: str) -> None:
    faked, log = fake_git_lfs(local, "3.3.0")
    commit(faked, {"w": b"1"}, name=name)
    faked.git("push", "--quiet", "my-remote.x", "main")
    assert log.read_text().splitlines()[1:] == [reference(b"1").oid]


def test_raw_checkpoints_among_metadata(local: Repository) -> None:
    faked, log = fake_git_lfs(local, "3.3.0")
    for number in range(3):
        faked.write("raw.bin", bytes([number]) * (3 << 20))
        faked.write("small.bin", bytes([number]))
        commit(faked, {"w": b"%d" % number})
    faked.git("push", "--quiet", "my-remote.x", "main")
    assert log.read_text().splitlines()[1:] == sorted(reference(b"%d" % number).oid for number in range(3))


def test_a_partial_clone_is_never_filled(local: Repository, remote: Repository) -> None:
    faked, log = fake_git_lfs(local, "3.3.0")
    for number in range(3):
        commit(faked, {"w": b"%d" % number})
    faked.git("push", "--quiet", "--no-verify", "my-remote.x", "main")
    clone = partial_clone(remote.in_environment(PATH=faked.environment["PATH"]), "a.pt", ".gitattributes")
    without_filter_of(clone, faked)
    before = packs(clone)
    commit(clone, {"w": b"3"})
    clone.git("push", "--quiet", "origin", "main")
    assert log.read_text().splitlines()[1:] == [reference(b"3").oid]
    log.unlink()
    # Where no ref tells what the remote has, what is not here came from it.
    commit(clone, {"w": b"4"})
    clone.git("push", "--quiet", remote.path.as_uri(), "main:refs/heads/other")
    sent = sorted(reference(b"%d" % number).oid for number in (2, 3, 4))
    assert log.read_text().splitlines()[1:] == sent
    assert packs(clone) == before


def without_filter_of(clone: Repository, repository: Repository) -> None:
    """Set a clone up as `local` is: hook, objects and configuration."""
    clone.write(".git/hooks/pre-push", repository.read(".git/hooks/pre-push")).chmod(0o755)
    (clone.git_directory / "lfs").symlink_to(repository.git_directory / "lfs")


def test_nonsense_on_stdin_is_an_error(local: Repository) -> None:
    done = local.run("git", "theta", "pre-push", "my-remote.x", "url", stdin=b"one two\n")
    assert done.returncode == 1
    assert b"not git's" in done.stderr


def test_nothing_to_push_is_no_error(local: Repository) -> None:
    assert local.git("theta", "pre-push", "my-remote.x", "url") == ""
