"""Networks and servers on a bad day, between real git, git-lfs and server: every byte is right, or there is an error.

Whatever happens: no file of the work tree holds a wrong byte or a part of its bytes, nothing waits beyond the timeouts,
and once the fault is gone the next command completes everything.
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping

import pytest

from tests.support.checkouts import SHORTLY, Ended, run_in_session
from tests.support.fault_proxy import Answer, Corrupt, Drop, Fault, FaultProxy, Late, Stall, Truncated
from tests.support.lfs_server import Kind
from tests.support.repository import Repository
from tests.support.transfers import Published, wrong_files
from theta_daemon.metadata import objects, text
from theta_daemon.metadata.entries import Metadata

pytestmark = [pytest.mark.needs_git_lfs, pytest.mark.needs_lfs_server]

# Nothing waits long. What a command may take for all its attempts, on a slow machine, is far below a stall.
IMPATIENT = {
    "theta.transferTimeout": "2",
    "theta.transferRetries": "1",
    "lfs.activitytimeout": "1",
    "lfs.transfer.maxretries": "1",
    "lfs.transfer.maxretrydelay": "1",
}
STALL = 60.0
BOUND = 25.0

CONFIGURED = [part for name, value in IMPATIENT.items() for part in ("--config", f"{name}={value}")]

FAULTS: dict[str, Fault] = {
    "drop": Drop(),
    "drop-in-body": Drop(after=100),
    "404": Answer(404),
    "422": Answer(422),
    "429": Answer(429, retry_after=1),
    "500": Answer(500),
    "503": Answer(503),
    "truncated": Truncated(100),
    "truncated-chunked": Truncated(100, chunked=True),
    "corrupt": Corrupt(),
    "stall": Stall(STALL),
    "stall-in-body": Stall(STALL, after=100),
}
PASSING = {name: fault for name, fault in FAULTS.items() if name not in {"404", "422"}}
# Each of these takes its timeouts: `make test` runs one of them.
SLOW = [pytest.mark.heavy]


def clone(published: Published, *arguments: str) -> tuple[Repository, Ended]:
    """Run `git clone` in a session of its own; fail where it, or something it started, waits beyond the bound."""
    target, command = published.command(*CONFIGURED, *arguments)
    return target, bounded(published.source, *command)


def bounded(repository: Repository, *command: str) -> Ended:
    """Run a command in a session of its own; fail where it, or something that it started, waits beyond the bound."""
    begun = time.monotonic()
    ended = run_in_session(repository, *command, timeout=BOUND)
    assert time.monotonic() - begun < BOUND
    assert ended.left == []
    assert "Traceback" not in ended.said
    return ended


def complaint(ended: Ended) -> str:
    """Return the one line that says why it failed."""
    assert ended.code != 0
    errors = [line for line in ended.said.splitlines() if line.startswith("theta-daemon: error: ")]
    assert len(errors) == 1, ended.said
    return errors[0]


def check_what_is_there(repository: Repository, files: Mapping[str, bytes]) -> None:
    """Fail where a file of the work tree is neither missing nor right, or a part of one lies about."""
    assert set(wrong_files(repository, files).values()) <= {"missing"}
    # A failing filter ends git before it has written its index, so all that is there is new to it.
    assert set(repository.git("ls-files", "--others").split()) <= {*files, ".gitattributes"}


def check_everything(repository: Repository, files: Mapping[str, bytes]) -> None:
    """Fail unless every file is right, and git sees it so."""
    assert wrong_files(repository, files) == {}
    assert repository.git("status", "--porcelain") == ""


def complete(repository: Repository, files: Mapping[str, bytes]) -> None:
    """Fail unless the next checkout brings everything that is missing."""
    repository.git("checkout", "--quiet", "--force", "HEAD")
    check_everything(repository, files)


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        pytest.param(
            kind,
            fault,
            id=f"{kind.value}-{name}",
            marks=SLOW if isinstance(fault, Stall) and (kind, name) != (Kind.BATCH, "stall") else [],
        )
        for kind in (Kind.BATCH, Kind.DOWNLOAD)
        for name, fault in FAULTS.items()
    ],
)
def test_a_clone_with_a_fault_that_stays(published: Published, proxy: FaultProxy, kind: Kind, fault: Fault) -> None:
    proxy.inject(fault, kind)
    repository, ended = clone(published.through(proxy.url))
    assert proxy.suffered() > 0
    assert any(f": {path}: " in complaint(ended) for path in published.tip), ended.said
    check_what_is_there(repository, published.tip)
    proxy.heal()
    complete(repository, published.tip)


def test_git_lfs_may_panic(published: Published, proxy: FaultProxy) -> None:
    """git-lfs does (3.3) where a server asks to come later and does not say when."""
    proxy.inject(Answer(429), Kind.DOWNLOAD)
    repository, ended = clone(published.through(proxy.url))
    assert any(f": {path}: " in complaint(ended) for path in published.tip), ended.said
    check_what_is_there(repository, published.tip)
    proxy.heal()
    complete(repository, published.tip)


@pytest.mark.parametrize("fault", PASSING.values(), ids=PASSING)
@pytest.mark.parametrize("kind", [Kind.BATCH, Kind.DOWNLOAD], ids=["batch", "download"])
def test_a_clone_with_a_fault_that_passes(published: Published, proxy: FaultProxy, kind: Kind, fault: Fault) -> None:
    proxy.inject(fault, kind, times=1)
    repository, ended = clone(published.through(proxy.url))
    assert proxy.suffered() == 1
    assert ended.code == 0, ended.said
    check_everything(repository, published.tip)


def test_an_answer_that_is_late_is_waited_for(published: Published, proxy: FaultProxy) -> None:
    proxy.inject(Late(0.5))
    repository, ended = clone(published.through(proxy.url))
    assert ended.code == 0, ended.said
    check_everything(repository, published.tip)
    assert proxy.suffered() > 10


HARMS: dict[str, Callable[[bytes], bytes | None]] = {
    "lost": lambda _: None,
    "shorter": lambda data: data[:-1],
    "longer": lambda data: data + b"x",
    "of-other-bytes": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
}


@pytest.mark.parametrize("harm", HARMS.values(), ids=HARMS)
def test_an_object_that_the_server_spoiled(published: Published, harm: Callable[[bytes], bytes | None]) -> None:
    """The file that needs it is named, with the object; all others come."""
    oid = object_of(published, "model.safetensors")
    file = published.hosted.folder / oid
    well = file.read_bytes()
    spoiled = harm(well)
    if spoiled is None:
        file.unlink()
    else:
        file.write_bytes(spoiled)
    repository, ended = clone(published)
    assert ": model.safetensors: " in complaint(ended)
    assert oid in complaint(ended)
    assert set(wrong_files(repository, published.tip)) == {"model.safetensors"}
    check_what_is_there(repository, published.tip)
    file.write_bytes(well)
    complete(repository, published.tip)


def object_of(published: Published, path: str) -> str:
    """Return an object that only this path needs."""
    named = {path: objects_of(text.parse(published.source.blob(path, "v1"))) for path in published.tip}
    others = set().union(*(oids for other, oids in named.items() if other != path))
    return min(named[path] - others)


def objects_of(metadata: Metadata) -> set[str]:
    """Return the ids of all objects that metadata names."""
    return {named.oid for named in objects.of(metadata)}


@pytest.mark.parametrize(
    "fault",
    [pytest.param(Stall(STALL), id="stall", marks=SLOW), pytest.param(Corrupt(), id="corrupt"),
     pytest.param(Answer(404), id="404")],
)  # fmt: skip
def test_a_switch_of_commits_with_a_fault(published: Published, proxy: FaultProxy, fault: Fault) -> None:
    repository, ended = clone(published.through(proxy.url))
    assert ended.code == 0, ended.said
    proxy.inject(fault, Kind.DOWNLOAD)
    ended = bounded(repository, "git", "checkout", "--quiet", "v0")
    assert any(f": {path}: " in complaint(ended) for path in published.tip), ended.said
    for path, file in ((path, repository.path / path) for path in published.tip):
        if file.exists():
            assert file.read_bytes() in [version[path] for version in published.versions]
    proxy.heal()
    repository.git("checkout", "--quiet", "--force", "v0")
    check_everything(repository, published.versions[0])


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_git_ends_in_the_middle_of_a_transfer(published: Published, proxy: FaultProxy, end: signal.Signals) -> None:
    """Ctrl-C reaches everybody, other signals git alone: nobody goes on, and the next checkout completes everything."""
    proxy.inject(Stall(STALL, after=100), Kind.DOWNLOAD)
    repository, command = published.through(proxy.url).command()
    git = published.source.run(*command, "--no-checkout")
    assert git.returncode == 0
    with subprocess.Popen(
        ["git", "checkout", "--quiet", "main"],
        cwd=repository.path,
        env=dict(repository.environment),
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        proxy.wait_for_a_fault()
        if end is signal.SIGINT:
            os.killpg(process.pid, end)
        else:
            process.send_signal(end)
        process.wait(SHORTLY)
        patience = time.monotonic() + SHORTLY
        while is_any_left(process.pid):
            assert time.monotonic() < patience
    check_what_is_there(repository, published.tip)
    proxy.heal()
    (repository.git_directory / "index.lock").unlink(missing_ok=True)  # git leaves it where it is killed
    complete(repository, published.tip)


def is_any_left(group: int) -> bool:
    """Tell whether a process of a group still runs."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


PUSHES: dict[str, Fault] = {
    "drop": Drop(),
    "404": Answer(404),
    "422": Answer(422),
    "429": Answer(429, retry_after=1),
    "500": Answer(500),
    "503": Answer(503),
    "stall": Stall(STALL),
}
UPLOADS: dict[str, Fault] = {
    "drop-in-body": Drop(after=100),
    "truncated": Truncated(100),
    "stall-in-body": Stall(STALL, after=100),
}


def pusher(published: Published, proxy: FaultProxy) -> Repository:
    """Return a repository with everything, and a remote that has nothing: not the commits, and not the objects."""
    published.hosted.remove()
    source = published.source
    remote = Repository.init(source.path.parent / "empty.git", source.environment, "--bare")
    source.git("remote", "add", "origin", str(remote.path))
    hook = source.git_directory / "hooks" / "pre-push"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text('#!/bin/sh\nexec git theta pre-push "$@"\n')
    hook.chmod(0o755)
    for name, value in IMPATIENT.items():
        source.git("config", name, value)
    source.git("config", "lfs.url", proxy.url + published.hosted.path)
    return source


def has_everything(published: Published) -> bool:
    """Tell whether the server holds every object of every commit, and each as it should be."""
    held = published.hosted.objects()
    return set(held) == published.source.objects() and all(
        hashlib.sha256((published.hosted.folder / oid).read_bytes()).hexdigest() == oid for oid in held
    )


@pytest.mark.parametrize(
    ("kind", "fault"),
    [
        pytest.param(
            kind,
            fault,
            id=f"{kind.value}-{name}",
            marks=SLOW if isinstance(fault, Stall) and (kind, name) != (Kind.UPLOAD, "stall") else [],
        )
        for kind in (Kind.BATCH, Kind.UPLOAD, Kind.VERIFY)
        for name, fault in {**PUSHES, **(UPLOADS if kind is Kind.UPLOAD else {})}.items()
    ],
)
def test_a_push_with_a_fault_that_stays(published: Published, proxy: FaultProxy, kind: Kind, fault: Fault) -> None:
    source = pusher(published, proxy)
    proxy.inject(fault, kind)
    ended = bounded(source, "git", "push", "--quiet", "origin", "main")
    assert proxy.suffered() > 0
    arrived = source.run("git", "ls-remote", "--exit-code", "origin", "main").returncode == 0
    assert arrived == (ended.code == 0)
    assert not arrived or has_everything(published)
    proxy.heal()
    source.git("push", "--quiet", "origin", "main")
    assert has_everything(published)


def test_a_push_without_a_fault_sends_everything(published: Published, proxy: FaultProxy) -> None:
    source = pusher(published, proxy)
    assert published.hosted.objects() == {}
    source.git("push", "--quiet", "origin", "main")
    assert has_everything(published)
    assert proxy.suffered() == 0
