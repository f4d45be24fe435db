"""A missing commit from a remote, with real git, in every kind of clone, and nothing else touched."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType

import pytest

from tests.support.pipelines import plain_settings
from tests.support.repository import Repository
from theta_daemon import settings
from theta_daemon.history.fetch import fetch_commit
from theta_daemon.history.record import GitRecord

ABSENT = "0123456789abcdef" * 2 + "01234567"
FILE = b'{"number": %d}\n'


@pytest.fixture
def git_environment(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which git sees no configuration but the test's own."""
    home = tmp_path / "home"
    home.mkdir()
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": str(home / ".gitconfig"),
        "GIT_AUTHOR_NAME": "A Tester",
        "GIT_AUTHOR_EMAIL": "tester@example.invalid",
        "GIT_COMMITTER_NAME": "A Tester",
        "GIT_COMMITTER_EMAIL": "tester@example.invalid",
    }


@pytest.fixture
def remote(tmp_path: Path, git_environment: dict[str, str]) -> Repository:
    """Return a repository with three commits of `model` on `main`, and one more of them on `side`."""
    made = Repository.init(tmp_path / "remote", git_environment)
    fill(made)
    return made


def fill(made: Repository) -> None:
    for number in range(3):
        made.write("model", FILE % number)
        made.commit(f"commit {number}")
    made.git("tag", "a-tag")
    made.git("checkout", "--quiet", "-b", "side", "HEAD~1")
    made.write("model", FILE % 7)
    made.commit("on the side")
    made.git("checkout", "--quiet", "main")


def clone(remote: Repository, *options: str) -> Repository:
    path = remote.path.parent / "clone"
    remote.git("clone", "--quiet", *options, remote.path.as_uri(), str(path), cwd=remote.path.parent)
    return remote.at(path)


def fetched(repository: Repository, commit: str, directory: Path | None = None) -> str | None:
    """Fetch, and see that nothing but objects (and git's list of shallow commits) changed."""
    before = state(repository)
    found = fetch_commit(settings.load(repository.environment, directory or repository.path), commit)
    assert state(repository) == before
    return found


def state(repository: Repository) -> object:
    git_dir = repository.git_directory
    files = (*git_dir.glob("worktrees/*/*"), *git_dir.glob("*"))
    kept = {path: path.read_bytes() for path in files if path.is_file() and path.name != "shallow"}
    return kept, repository.git("for-each-ref"), repository.git("rev-parse", "HEAD"), repository.git("reflog")


def is_shallow(repository: Repository) -> bool:
    return repository.git("rev-parse", "--is-shallow-repository") == "true"


def old_protocol(repository: Repository) -> Repository:
    """Return the repository with git's protocol of before 2.26, in which a server may refuse ids (allow*InWant)."""
    repository.git("config", "protocol.version", "0")
    return repository


@pytest.mark.parametrize("object_format", ["sha1", "sha256"])
def test_a_shallow_clone_gets_one_commit(tmp_path: Path, git_environment: dict[str, str], object_format: str) -> None:
    remote = Repository.init(tmp_path / "remote", git_environment, f"--object-format={object_format}")
    fill(remote)
    first, second = remote.git("rev-parse", "main~2"), remote.git("rev-parse", "main~1")
    shallow = clone(remote, "--depth=1")
    record = GitRecord(settings.load(shallow.environment, shallow.path))
    assert record.version(second, b"model") is None  # its child runs from here on
    assert fetched(shallow, second) is None
    found = record.version(second, b"model")
    assert found is not None
    assert found.data == FILE % 1
    assert record.version(first, b"model") is None
    record.close()
    assert shallow.git("log", "--format=%s") == "commit 2"
    assert shallow.git("fsck") == f"dangling commit {second}"
    shallow.git("fetch", "--quiet", "--unshallow")
    assert len(shallow.git("log", "--format=%s").splitlines()) == 3


def test_what_is_here_is_not_fetched(remote: Repository) -> None:
    full = clone(remote)
    remote.path.rename(remote.path.with_name("gone"))
    assert fetched(full, full.git("rev-parse", "HEAD~2")) is None
    assert not is_shallow(full)


def test_a_full_clone_gets_a_commit_that_no_branch_has_and_stays_full(remote: Repository) -> None:
    lost = remote.git("rev-parse", "main")
    remote.git("tag", "--delete", "a-tag")
    remote.write("model", FILE % 9)
    remote.git("commit", "--quiet", "--all", "--amend", "--message", "amended")
    full = clone(remote)
    assert fetched(full, lost) is None
    assert full.blob("model", lost) == FILE % 2
    assert not is_shallow(full)
    assert full.git("fsck", "--connectivity-only") == f"dangling commit {lost}"


def test_a_clone_of_one_branch_gets_a_commit_of_another(remote: Repository) -> None:
    side = remote.git("rev-parse", "side")
    single = clone(remote, "--single-branch", "--branch=main", "--no-tags")
    single.git("config", "fetch.prune", "true")
    single.git("config", "remote.origin.fetch", "+refs/heads/*:refs/remotes/origin/*")
    single.git("update-ref", "refs/remotes/origin/gone", "HEAD")  # what a prune would take
    assert fetched(single, side) is None
    assert single.blob("model", side) == FILE % 7


@pytest.mark.parametrize("filtered", ["blob:none", "tree:0"])
@pytest.mark.parametrize("depth", [(), ("--depth=1",)], ids=["full", "shallow"])
def test_a_partial_clone(remote: Repository, filtered: str, depth: tuple[str, ...]) -> None:
    remote.git("config", "uploadpack.allowFilter", "true")
    side = remote.git("rev-parse", "side")
    partial = clone(remote, f"--filter={filtered}", "--single-branch", *depth)
    assert fetched(partial, side) is None
    assert partial.blob("model", side) == FILE % 7  # which git fetches now
    assert is_shallow(partial) == bool(depth)


def test_a_linked_work_tree(remote: Repository) -> None:
    first = remote.git("rev-parse", "main~2")
    shallow = clone(remote, "--depth=1")
    linked = shallow.path.with_name("linked")
    shallow.git("worktree", "add", "--quiet", str(linked))
    assert fetched(shallow.at(linked), first, linked) is None
    assert shallow.blob("model", first) == FILE % 0


def test_a_remote_that_gives_only_what_it_shows(remote: Repository) -> None:
    second, tip = remote.git("rev-parse", "main~1"), remote.git("rev-parse", "side")
    shallow = old_protocol(clone(remote, "--depth=1"))
    assert fetched(shallow, second) == f"origin: Server does not allow request for unadvertised object {second}"
    assert fetched(shallow, tip) is None
    remote.git("config", "uploadpack.allowAnySHA1InWant", "true")
    assert fetched(shallow, second) is None


def test_a_commit_that_no_remote_has(remote: Repository) -> None:
    for version in ("2", "0"):
        full = clone(remote)
        full.git("config", "protocol.version", version)
        assert ABSENT in (fetched(full, ABSENT) or "")
        full.path.rename(full.path.with_name(f"clone {version}"))


def test_an_object_that_is_no_commit(remote: Repository) -> None:
    blob = remote.git("rev-parse", "side:model")
    assert fetched(clone(remote, "--single-branch"), blob) is not None


def test_no_remote(remote: Repository) -> None:
    assert fetched(remote, ABSENT) == "the repository has no remote"


def test_remotes_in_order(remote: Repository, git_environment: dict[str, str]) -> None:
    first = remote.git("rev-parse", "main~2")
    full = clone(remote, "--depth=1")
    full.git("remote", "rename", "origin", "works")
    for name in ("b", "-x", "origin", "up"):
        full.git("config", f"remote.{name}.url", f"/nowhere/{name}")
    full.git("config", "branch.main.remote", "up")
    said = fetched(full, ABSENT) or ""
    places = [said.index(f"{name}: ") for name in ("up", "origin", "-x", "b", "works")]
    assert places == sorted(places)
    assert "-x: '/nowhere/-x' does not appear to be a git repository" in said
    assert said.count("up: ") == said.count("origin: ") == 1
    assert fetched(full, first) is None
    assert full.git_bytes("cat-file", "-t", first) == b"commit\n"


@pytest.mark.parametrize("upstream", [".", "url"])
def test_a_branch_that_follows_no_named_remote(remote: Repository, upstream: str) -> None:
    first = remote.git("rev-parse", "main~2")
    shallow = clone(remote, "--depth=1")
    shallow.git("remote", "remove", "origin")
    shallow.git("config", "branch.main.remote", remote.path.as_uri() if upstream == "url" else ".")
    if upstream == ".":
        assert fetched(shallow, first) == "the repository has no remote"
    else:
        assert fetched(shallow, first) is None


def test_a_detached_head(remote: Repository) -> None:
    first = remote.git("rev-parse", "main~2")
    shallow = clone(remote, "--depth=1")
    shallow.git("checkout", "--quiet", "--detach")
    assert fetched(shallow, first) is None


# A filter that answers with what the commit named in the file holds of it.
FILTER = f"""
import os, sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from theta_daemon import settings
from theta_daemon.history.fetch import fetch_commit
from theta_daemon.history.record import GitRecord
here = settings.load(os.environ, Path.cwd())
commit = sys.stdin.read().strip()
why = fetch_commit(here, commit)
record = GitRecord(here)
found = record.version(commit, b"model")
record.close()
print(why, found and found.data)
"""


@pytest.fixture
def filtered(tmp_path: Path, remote: Repository) -> tuple[Repository, tuple[str, ...], bytes]:
    """Return a remote whose file `pointer` names a commit, the options of a clone with the filter, and what it says."""
    program = tmp_path / "filter.py"
    program.write_text(FILTER)
    remote.write(".gitattributes", b"pointer filter=fetch\n")
    remote.write("pointer", remote.git("rev-parse", "side").encode() + b"\n")
    remote.commit("a pointer")
    options = ("-c", f"filter.fetch.smudge='{sys.executable}' '{program}'", "-c", "filter.fetch.required=true")
    return remote, options, b"None %r\n" % (FILE % 7)


CLONES = {
    "full": (),
    "one branch": ("--single-branch",),
    "shallow": ("--depth=1",),
    "bare of blobs": ("--filter=blob:none", "--single-branch"),
}


@pytest.mark.parametrize("kind", CLONES)
def test_in_a_filter_of_git_clone_and_git_checkout(
    filtered: tuple[Repository, tuple[str, ...], bytes], kind: str
) -> None:
    remote, options, said = filtered
    remote.git("config", "uploadpack.allowFilter", "true")
    if kind == "bare of blobs":
        said = b"None None\n"  # the commit is here; its blobs are not, and nothing but git fetches them
    made = clone(remote, *CLONES[kind], *options)
    assert made.read("pointer") == said
    assert not (made.git_directory / "FETCH_HEAD").exists()
    again = clone_without_checkout(remote, *CLONES[kind], *options)
    again.git("checkout", "--quiet", "main")
    assert again.read("pointer") == said
    assert not (again.git_directory / "FETCH_HEAD").exists()
    linked = again.path.with_name("linked")
    again.git("worktree", "add", "--quiet", str(linked))
    assert again.at(linked).read("pointer") == said


def clone_without_checkout(remote: Repository, *options: str) -> Repository:
    first = remote.path.with_name("clone")
    first.rename(first.with_name("first"))
    return clone(remote, "--no-checkout", *options)


Scripted = Callable[[str], settings.Settings]


@pytest.fixture
def scripted(tmp_path: Path) -> Scripted:
    """Return a function that makes settings whose git has one remote and runs a shell script for `git fetch`."""

    def scripted(script: str) -> settings.Settings:
        program = tmp_path / "git"
        program.write_text(
            f'#!/bin/sh\necho "$*" >> "{tmp_path}/calls"\n'
            f'case "$1" in remote) echo origin;; fetch) {script};; *) exit 1;; esac\n'
        )
        program.chmod(0o755)
        environment: Mapping[str, str] = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
        return plain_settings(tmp_path).replace(child_environment=environment)

    return scripted


@pytest.mark.parametrize(
    "commit",
    ["", "HEAD", "--upload-pack=x", "-" * 40, ABSENT[1:], ABSENT + "0", ABSENT.upper(), f"{ABSENT}\n", f"+{ABSENT}"],
)
def test_what_is_no_id_reaches_no_command_line(scripted: Scripted, tmp_path: Path, commit: str) -> None:
    found = fetch_commit(scripted("exit 0"), commit)
    assert found == f"{commit!r} is no id of a commit"
    assert not (tmp_path / "calls").exists()


def test_it_asks_no_questions(scripted: Scripted) -> None:
    assert fetch_commit(scripted('echo "prompt=$GIT_TERMINAL_PROMPT" >&2; [ -t 0 ]'), ABSENT) == "origin: prompt=0"


def test_what_ssh_says_is_the_reason(scripted: Scripted) -> None:
    generic = "fatal: Could not read from remote repository."
    said = f"{generic}\n\nPlease make sure you have the correct access rights\nand the repository exists."
    found = scripted(f"printf 'me@example.invalid: Permission denied (publickey).\\n{said}\\n' >&2; exit 128")
    assert fetch_commit(found, ABSENT) == "origin: me@example.invalid: Permission denied (publickey)."
    assert fetch_commit(scripted(f"echo '{said}' >&2; exit 128"), ABSENT) == f"origin: {generic.split(': ')[1]}"


def test_credentials_are_not_shown(remote: Repository) -> None:
    remote.git("config", "branch.main.remote", "nowhere://me:secret@example.invalid/x")
    said = fetched(remote, ABSENT) or ""
    assert said.startswith("nowhere://***@example.invalid/x: ")
    assert "secret" not in said


def test_a_silent_failure(scripted: Scripted) -> None:
    assert fetch_commit(scripted("exit 1"), ABSENT) == "origin: git fetch did not get it"


def test_what_it_leaves_running_is_not_waited_for(scripted: Scripted, tmp_path: Path) -> None:
    found = scripted(f"tail -f /dev/null > /dev/null & echo $! > '{tmp_path}/pid'; echo 'fatal: no' >&2; exit 128")
    try:
        assert fetch_commit(found, ABSENT) == "origin: no"
    finally:
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


class Stopped(BaseException):
    """What a signal raises in this test, as SIGTERM does in the daemon."""


def test_the_fetch_stops_when_we_are_stopped(scripted: Scripted, tmp_path: Path) -> None:
    def stop(_number: int, _frame: FrameType | None) -> None:
        raise Stopped

    before = signal.signal(signal.SIGUSR1, stop)
    try:
        # A signal before Popen has returned finds no child to stop; so this one waits until we wait for git.
        waiting = "until grep -q '^State:.S' /proc/$PPID/status; do sleep 0.01; done"
        found = scripted(f"echo $$ > '{tmp_path}/pid'; {waiting}; kill -USR1 $PPID; exec tail -f /dev/null")
        with pytest.raises(Stopped):
            fetch_commit(found, ABSENT)
    finally:
        signal.signal(signal.SIGUSR1, before)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
