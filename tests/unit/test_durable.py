"""Files appear whole or not at all, and what killed writers leave is found again."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from theta_daemon import durable


@pytest.fixture
def temporary(tmp_path: Path) -> Path:
    return tmp_path / "tmp"


@pytest.fixture
def usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture(params=["without a name", "under a temporary name"])
def is_named(request: pytest.FixtureRequest, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the file that is written has a name already; a file that replaces another always has."""
    temporary.mkdir()
    if request.param == "without a name":
        return False
    monkeypatch.setattr(durable, "_UNNAMED", os.O_RDWR)  # as where there is no O_TMPFILE
    return True


def dead_pid() -> int:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def age(path: Path, seconds: float) -> None:
    then = time.time() - seconds
    os.utime(path, (then, then))


def test_writes_all_pieces(tmp_path: Path, temporary: Path) -> None:
    target = tmp_path / "deep" / "down" / "file"
    pieces: list[bytes | memoryview] = [b"ab", memoryview(b"cd"), b"", memoryview(b"\x01\0\0\0").cast("I")]
    durable.write(target, iter(pieces), temporary=temporary)
    assert target.read_bytes() == b"abcd\x01\0\0\0"
    assert list(temporary.iterdir()) == []


def test_replaces_what_is_there(tmp_path: Path, temporary: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    durable.write(target, [b"new"], temporary=temporary)
    assert target.read_bytes() == b"new"


def test_keeps_what_is_there_if_asked_to(tmp_path: Path, temporary: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"old")
    inode = target.stat().st_ino
    durable.write(target, [b"new"], temporary=temporary, replace=False)
    assert target.read_bytes() == b"old"
    assert target.stat().st_ino == inode
    assert list(temporary.iterdir()) == []


def test_what_it_writes_has_a_name_only_where_it_must(tmp_path: Path, temporary: Path, is_named: bool) -> None:
    names: list[Path] = []

    def pieces() -> Iterator[bytes]:
        yield b"some"
        names.extend(temporary.iterdir())

    durable.write(tmp_path / "a" / "b" / "file", pieces(), temporary=temporary, replace=False)
    assert len(names) == is_named
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"some"
    for replace, fsync in ((True, False), (False, True)):
        names.clear()
        durable.write(tmp_path / "file", pieces(), temporary=temporary, replace=replace, fsync=fsync)
        assert len(names) == 1
    assert list(temporary.iterdir()) == []


@pytest.mark.usefixtures("is_named")
@pytest.mark.parametrize(
    "sizes", [[], [0], [0, 0], [1] * 1000, [70_000, 1, 70_000], [1, 70_000] * 3, [30_000] * 5, [3 << 20]], ids=str
)
def test_pieces_of_every_size(tmp_path: Path, temporary: Path, sizes: list[int]) -> None:
    pieces = [bytes([number % 256]) * size for number, size in enumerate(sizes)]
    durable.write(tmp_path / "file", pieces, temporary=temporary, replace=False)
    assert (tmp_path / "file").read_bytes() == b"".join(pieces)
    assert list(temporary.iterdir()) == []


@pytest.mark.usefixtures("is_named")
def test_paths_may_be_strings_and_relative(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for target in ("file", "new/file"):
        durable.write(target, [b"x"], temporary="tmp", replace=False)
        durable.link(target, f"{target}.second", temporary="tmp")
        assert (tmp_path / f"{target}.second").read_bytes() == b"x"


def fails_with(code: int) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    return fail


@pytest.mark.parametrize("code", [errno.ENOENT, errno.EXDEV, errno.EPERM, errno.EACCES])
def test_a_file_that_cannot_be_named_is_copied(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    temporary.mkdir()
    real = os.link

    def link(source: str, target: str, **options: object) -> None:
        if options:  # there is no /proc, or a policy against it
            fails_with(code)()
        real(source, target)

    monkeypatch.setattr(os, "link", link)
    content = os.urandom(durable.COPY_BYTES + 5)
    durable.write(tmp_path / "new" / "file", iter([content]), temporary=temporary, replace=False)
    assert (tmp_path / "new" / "file").read_bytes() == content
    assert list(temporary.iterdir()) == []


def test_directories_that_others_remove(tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    temporary.mkdir()
    real = os.mkdir
    left = 3

    def mkdir(path: str) -> None:
        nonlocal left
        real(path)
        if left:
            left -= 1
            os.rmdir(path)

    monkeypatch.setattr(os, "mkdir", mkdir)
    target = tmp_path / "a" / "b" / "file"
    with pytest.raises(FileNotFoundError):
        durable.write(target, [b"x"], temporary=temporary, replace=False)
    assert list(temporary.iterdir()) == []
    durable.write(target, [b"x"], temporary=temporary, replace=False)
    assert target.read_bytes() == b"x"


def test_a_directory_that_leads_nowhere(tmp_path: Path, temporary: Path) -> None:
    temporary.mkdir()
    (tmp_path / "gone").symlink_to(tmp_path / "unmounted")
    with pytest.raises(FileNotFoundError):
        durable.write(tmp_path / "gone" / "ab" / "file", [b"x"], temporary=temporary, replace=False)
    (tmp_path / "plain").write_bytes(b"")
    with pytest.raises(NotADirectoryError):
        durable.write(tmp_path / "plain" / "ab" / "file", [b"x"], temporary=temporary, replace=False)
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "full"), KeyboardInterrupt()])
@pytest.mark.parametrize("replace", [False, True])
def test_a_failure_leaves_nothing(tmp_path: Path, temporary: Path, failure: BaseException, replace: bool) -> None:
    temporary.mkdir()

    def pieces() -> Iterator[bytes]:
        yield b"some"
        raise failure

    with pytest.raises(type(failure)):
        durable.write(tmp_path / "file", pieces(), temporary=temporary, replace=replace)
    assert not (tmp_path / "file").exists()
    assert list(temporary.iterdir()) == []


# Network file systems tell at close what failed.
@pytest.mark.parametrize(
    ("step", "fsync"), [("writev", True), ("fsync", True), ("close", True), ("writev", False), ("close", False)]
)
def test_a_failing_step_leaves_nothing(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch, step: str, fsync: bool
) -> None:
    temporary.mkdir()
    real_close = os.close
    calls = []

    def fail_once(descriptor: int, *_: object) -> None:
        calls.append(descriptor)
        if step == "close":
            real_close(descriptor)
        if len(calls) == 1:
            raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, step, fail_once)
    with pytest.raises(OSError, match="broken"):
        durable.write(tmp_path / "file", [b"data"], temporary=temporary, replace=fsync, fsync=fsync)
    monkeypatch.undo()
    assert not (tmp_path / "file").exists()
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP])
def test_without_hard_links_it_renames(
    tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", fail)
    durable.write(tmp_path / "new" / "file", [b"data"], temporary=temporary, replace=False)
    assert (tmp_path / "new" / "file").read_bytes() == b"data"
    assert list(temporary.iterdir()) == []


def test_short_writes_are_continued(tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    pieces = [b"0123456789", b"", b"abc", b"defg"]
    for first in range(18):

        def writev(descriptor: int, views: list[memoryview], first: int = first) -> int:
            return real(descriptor, b"".join(views)[:first])

        monkeypatch.setattr(os, "writev", writev)
        monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, bytes(data[:3])))
        durable.write(tmp_path / "file", pieces, temporary=temporary)
        monkeypatch.undo()
        assert (tmp_path / "file").read_bytes() == b"".join(pieces)


@pytest.mark.usefixtures("usual_umask", "is_named")
def test_modes(tmp_path: Path, temporary: Path) -> None:
    durable.write(tmp_path / "a" / "file", [b""], temporary=temporary, replace=False)
    durable.write(tmp_path / "b" / "file", [b""], temporary=temporary, replace=False, mode=0o660)

    def mode(path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    assert (mode(tmp_path / "a" / "file"), mode(tmp_path / "a")) == (0o644, 0o755)
    assert (mode(tmp_path / "b" / "file"), mode(tmp_path / "b")) == (0o660, 0o2770)  # the group's, as git's


def test_fsync_flushes_file_then_directory(tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed = []
    target = tmp_path / "new" / "file"

    def fsync(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").resolve()
        flushed.append(("file" if path.parent == temporary else str(path.relative_to(tmp_path)), target.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    durable.write(target, [b"x"], temporary=temporary, fsync=True)
    assert flushed == [("file", False), (".", False), ("new", True)]
    flushed.clear()
    durable.write(target, [b"x"], temporary=temporary)
    assert flushed == []


def test_links(tmp_path: Path, temporary: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "far" / "target"
    source.write_bytes(b"content")
    durable.link(source, target, temporary=temporary)
    assert target.samefile(source)
    assert not temporary.exists()


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.EMLINK])
def test_copies_where_links_fail(tmp_path: Path, temporary: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    source, target = tmp_path / "source", tmp_path / "far" / "target"
    content = os.urandom(durable.COPY_BYTES + 5)
    source.write_bytes(content)

    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", fail)
    durable.link(source, target, temporary=temporary)
    assert target.read_bytes() == content
    assert not target.samefile(source)
    assert list(temporary.iterdir()) == []


def test_link_leaves_or_replaces_its_target(tmp_path: Path, temporary: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"source")
    target.write_bytes(b"target")
    durable.link(source, target, temporary=temporary)
    assert target.read_bytes() == b"target"
    durable.link(source, target, temporary=temporary, replace=True)
    assert target.samefile(source)


def test_link_without_a_source(tmp_path: Path, temporary: Path) -> None:
    with pytest.raises(FileNotFoundError):
        durable.link(tmp_path / "none", tmp_path / "a" / "target", temporary=temporary)


def test_many_writers_of_one_file(tmp_path: Path, temporary: Path) -> None:
    target = tmp_path / "file"
    start = threading.Barrier(8)
    failures: list[BaseException] = []

    def write() -> None:
        start.wait()
        try:
            for _ in range(20):
                durable.write(target, [b"same" * 1000], temporary=temporary, replace=False)
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert target.read_bytes() == b"same" * 1000
    assert list(temporary.iterdir()) == []


def test_sweep_removes_what_dead_writers_left(tmp_path: Path) -> None:
    left = tmp_path / f"theta-{dead_pid()}-0123456789abcdef.tmp"
    left.write_bytes(b"part")
    assert durable.sweep(tmp_path) == 1
    assert not left.exists()


def test_sweep_spares_a_live_writer_however_old(tmp_path: Path) -> None:
    stalled = tmp_path / f"theta-{dead_pid()}-0123456789abcdef.tmp"  # as another container would see its number
    with stalled.open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        age(stalled, 100 * durable.STALE_SECONDS)
        assert durable.sweep(tmp_path) == 0
    assert durable.sweep(tmp_path) == 1


def test_sweep_spares_a_young_file_of_a_live_process(tmp_path: Path) -> None:
    reused = tmp_path / f"theta-{os.getpid()}-0123456789abcdef.tmp"  # created, not yet locked; or a reused number
    reused.write_bytes(b"")
    assert durable.sweep(tmp_path) == 0
    age(reused, durable.STALE_SECONDS + 1)
    assert durable.sweep(tmp_path) == 1


def test_sweep_goes_by_age_without_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = tmp_path / f"theta-{dead_pid()}-0123456789abcdef.tmp"
    left.write_bytes(b"")

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    assert durable.sweep(tmp_path) == 0
    age(left, durable.STALE_SECONDS + 1)
    assert durable.sweep(tmp_path) == 1


def test_sweep_touches_nothing_else(tmp_path: Path) -> None:
    names = ["theta-1-0123456789abcdef.tmp.keep", "theta-x-0123456789abcdef.tmp", "git-lfs-123", "theta-9.tmp"]
    for name in names:
        (tmp_path / name).write_bytes(b"")
        age(tmp_path / name, 100 * durable.STALE_SECONDS)
    (tmp_path / f"theta-{dead_pid()}-0123456789abcdef.tmp").mkdir()
    (tmp_path / f"theta-{dead_pid()}-0123456789abcde0.tmp").symlink_to(tmp_path / "git-lfs-123")
    os.mkfifo(tmp_path / f"theta-{dead_pid()}-0123456789abcde1.tmp")
    assert durable.sweep(tmp_path) == 0
    assert len(list(tmp_path.iterdir())) == len(names) + 3
    assert durable.sweep(tmp_path / "none") == 0


def test_a_writer_holds_its_lock_until_the_file_has_its_name(tmp_path: Path, temporary: Path) -> None:
    swept = []

    def pieces() -> Iterator[bytes]:
        yield b"x"
        for path in temporary.iterdir():
            age(path, 100 * durable.STALE_SECONDS)
        swept.append(durable.sweep(temporary))

    durable.write(tmp_path / "file", pieces(), temporary=temporary)
    assert swept == [0]
    assert (tmp_path / "file").read_bytes() == b"x"
