"""Objects lie under their SHA-256 in Git LFS's store and in ours, and each store makes up for the other."""

from __future__ import annotations

import hashlib
import os
import resource
import stat
import subprocess
import threading
import tracemalloc
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from theta_daemon.errors import CorruptObject, MissingObject, RepositoryError
from theta_daemon.metadata.entries import ObjectRef
from theta_daemon.store import objects
from theta_daemon.store.objects import ObjectStore

LARGE = objects.MAPPED_FROM


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return ObjectStore(tmp_path / "lfs" / "objects", tmp_path / "theta" / "objects", tmp_path / "theta" / "tmp")


def ref_of(data: bytes) -> ObjectRef:
    return ObjectRef(hashlib.sha256(data).hexdigest(), len(data))


def place(directory: Path, ref: ObjectRef) -> Path:
    return directory / ref.oid[:2] / ref.oid[2:4] / ref.oid


def put(directory: Path, ref: ObjectRef, data: bytes) -> Path:
    path = place(directory, ref)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if not path.is_dir()]


@pytest.mark.parametrize("data", [b"", b"small", bytes(LARGE), os.urandom(LARGE + 1)], ids=len)
def test_round_trip(store: ObjectStore, data: bytes) -> None:
    ref = store.write([data[:3], memoryview(data)[3:]])
    assert ref == ref_of(data)
    view = store.open(ref)
    assert view.readonly
    assert view == data
    store.verify(ref, view)
    assert store.contains(ref.oid, ref.size)


def test_one_file_with_two_names(store: ObjectStore) -> None:
    ref = store.write([b"data"])
    lfs, theta = place(store.lfs_objects, ref), place(store.theta_objects, ref)
    assert lfs.samefile(theta)
    assert files(store.temporary) == []
    assert files(store.lfs_objects.parent) == [lfs]


def test_modes(store: ObjectStore, tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        ref = store.write([b"data"])
        shared = ObjectStore(tmp_path / "l" / "objects", tmp_path / "t" / "objects", tmp_path / "t" / "tmp", mode=0o660)
        shared.write([b"data"])
    finally:
        os.umask(before)
    lfs = place(store.lfs_objects, ref)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (lfs, lfs.parent)] == [0o644, 0o755]
    lfs = place(shared.lfs_objects, ref)
    assert [stat.S_IMODE(path.stat().st_mode) for path in (lfs, lfs.parent)] == [0o660, 0o2770]


def test_writing_again_writes_nothing(store: ObjectStore) -> None:
    ref = store.write([b"data"])
    before = [place(directory, ref).stat() for directory in (store.lfs_objects, store.theta_objects)]
    assert store.write([b"da", b"ta"]) == ref
    assert [place(directory, ref).stat() for directory in (store.lfs_objects, store.theta_objects)] == before


@pytest.mark.parametrize("gone", ["lfs_objects", "theta_objects"])
def test_writing_again_restores_the_other_name(store: ObjectStore, gone: str) -> None:
    ref = store.write([b"data"])
    place(getattr(store, gone), ref).unlink()
    store.write([b"data"])
    assert place(store.lfs_objects, ref).samefile(place(store.theta_objects, ref))


@pytest.mark.parametrize("short", [("lfs_objects",), ("theta_objects",), ("lfs_objects", "theta_objects")])
def test_writing_replaces_files_of_another_size(store: ObjectStore, short: tuple[str, ...]) -> None:
    ref = store.write([b"data"])
    for name in short:
        place(getattr(store, name), ref).unlink()
        put(getattr(store, name), ref, b"dat")
    store.write([b"data"])
    for directory in (store.lfs_objects, store.theta_objects):
        assert place(directory, ref).read_bytes() == b"data"


def test_an_object_of_git_lfs_gets_our_name_when_written(store: ObjectStore) -> None:
    ref = ref_of(b"data")
    lfs = put(store.lfs_objects, ref, b"data")
    store.write([b"data"])
    assert place(store.theta_objects, ref).samefile(lfs)


def test_an_object_that_is_pruned_while_it_is_written(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = ref_of(b"data")
    lfs = put(store.lfs_objects, ref, b"data")

    def prune_first(*_: object) -> None:
        monkeypatch.undo()
        lfs.unlink()
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(os, "link", prune_first)
    place(store.theta_objects, ref).parent.mkdir(parents=True)
    store.write([b"data"])
    assert place(store.theta_objects, ref).read_bytes() == b"data"


def test_reading_restores_what_git_lfs_pruned(store: ObjectStore) -> None:
    ref = store.write([b"data"])
    lfs = place(store.lfs_objects, ref)
    lfs.unlink()
    lfs.parent.rmdir()
    assert bytes(store.open(ref)) == b"data"
    assert lfs.samefile(place(store.theta_objects, ref))


def test_reading_heals_a_truncated_file(store: ObjectStore) -> None:
    ref = store.write([b"data"])
    place(store.lfs_objects, ref).unlink()
    lfs = put(store.lfs_objects, ref, b"da")
    assert bytes(store.open(ref)) == b"data"
    assert lfs.read_bytes() == b"data"


def test_reading_from_an_alternate_changes_nothing(store: ObjectStore, tmp_path: Path) -> None:
    alternates = (tmp_path / "other", tmp_path / "third")
    store = ObjectStore(store.lfs_objects, store.theta_objects, store.temporary, alternates)
    ref = ref_of(b"data")
    put(alternates[0], ref, b"dat")
    put(alternates[1], ref, b"data")
    assert bytes(store.open(ref)) == b"data"
    assert store.contains(ref.oid, ref.size)
    assert not store.lfs_objects.exists()
    assert not store.theta_objects.exists()


def test_missing(store: ObjectStore) -> None:
    ref = ref_of(b"data")
    with pytest.raises(MissingObject) as caught:
        store.open(ref)
    assert ref.oid in str(caught.value)
    assert str(store.lfs_objects) in str(caught.value)
    assert str(store.theta_objects) in str(caught.value)
    assert not store.contains(ref.oid, ref.size)


@pytest.mark.parametrize("size", [4, 2 * LARGE])
@pytest.mark.parametrize("change", [-1, 1, LARGE])
def test_another_size_everywhere(store: ObjectStore, size: int, change: int) -> None:
    ref = ref_of(bytes(size))
    put(store.lfs_objects, ref, bytes(size + change))
    with pytest.raises(CorruptObject, match=f"{size + change} bytes instead of {size}"):
        store.open(ref)
    assert not store.contains(ref.oid, ref.size)


def test_unreadable(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = store.write([b"data"])

    def fail(path: Path, flags: int) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(RepositoryError, match="Permission denied"):
        store.open(ref)


def test_not_a_file(store: ObjectStore) -> None:
    ref = ref_of(b"")
    path = place(store.lfs_objects, ref)
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    with pytest.raises(CorruptObject):
        store.open(ref)


def rss_of_files() -> int:
    """Bytes of files that are mapped and count as memory of this process."""
    fields = dict(line.split(":") for line in Path("/proc/self/status").read_text().splitlines())
    return int(fields["RssFile"].split()[0]) << 10


def test_what_was_read_is_forgotten(store: ObjectStore) -> None:
    size = 32 << 20
    ref = store.write([bytes(range(256)) * (size // 256)])
    view = store.open(ref)
    before = rss_of_files()
    digest = hashlib.sha256(view).hexdigest()
    assert rss_of_files() > before + size * 3 // 4
    objects.forget(view, slice(1, size // 2 + 1))
    assert rss_of_files() < before + size * 3 // 4
    objects.forget(view, slice(None))
    assert rss_of_files() < before + size // 4
    assert hashlib.sha256(view).hexdigest() == digest


def test_an_object_may_be_verified_in_little_memory(store: ObjectStore) -> None:
    size = 64 << 20
    ref = store.write([bytes(size)])
    view = store.open(ref)
    before = rss_of_files()
    store.verify(ref, view, forgetting=True)
    assert rss_of_files() < before + size // 4
    store.verify(ref, view)
    assert rss_of_files() > before + size * 3 // 4
    put(store.lfs_objects, ref, bytes(size - 1) + b"\1")
    with pytest.raises(CorruptObject):
        store.verify(ref, store.open(ref), forgetting=True)


@pytest.mark.parametrize("part", [slice(None), slice(0, 0), slice(5, 3), slice(LARGE - 1, 9 * LARGE), slice(7, 8)])
@pytest.mark.parametrize("size", [0, 10, LARGE + 5])
def test_any_part_may_be_forgotten(store: ObjectStore, size: int, part: slice) -> None:
    data = os.urandom(size)
    view = store.open(store.write([data]))
    objects.forget(view, part)
    assert view == data


def test_a_slice_does_not_know_where_it_lies(store: ObjectStore) -> None:
    view = store.open(store.write([bytes(LARGE)]))
    with pytest.raises(ValueError, match="whole object"):
        objects.forget(view[1:], slice(None))


def test_a_small_object_costs_few_calls_of_the_system(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = store.write([b"first"])  # it makes the directories
    called: list[str] = []

    def counted(name: str, call: Callable[..., object]) -> Callable[..., object]:
        def wrapped(*arguments: object, **options: object) -> object:
            called.append(name)
            return call(*arguments, **options)

        return wrapped

    for name in (
        "open",
        "fstat",
        "stat",
        "read",
        "close",
        "link",
        "mkdir",
        "write",
        "writev",
        "dup",
        "unlink",
        "utime",
    ):
        monkeypatch.setattr(os, name, counted(name, getattr(os, name)))
    assert store.contains(ref.oid, ref.size)
    assert called == ["stat"]
    called.clear()
    store.open(ref)
    assert called == ["open", "fstat", "read", "close"]
    called.clear()
    store.write([b"fir", b"st"])
    assert called == ["stat", "stat", "utime", "stat"]
    called.clear()
    store.write([b"second", b"object"])
    in_new_directories = ["link", "mkdir", "mkdir", "mkdir", "link"]
    assert called == [
        *("stat", "stat", "open", "dup", "writev", "close", *in_new_directories, "close", *in_new_directories)
    ]


class Lazy(Sequence[bytes]):
    """Pieces that are made when they are asked for."""

    def __len__(self) -> int:
        return 20

    def __getitem__(self, at: Any) -> Any:
        if at >= len(self):
            raise IndexError(at)
        return bytes([at]) * (LARGE if at % 2 else 5)


def test_pieces_may_be_made_when_they_are_asked_for(store: ObjectStore) -> None:
    store.write([b"first"])
    tracemalloc.start()
    ref = store.write(Lazy())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * LARGE
    assert bytes(store.open(ref)) == b"".join(Lazy())


def test_flipped_bit(store: ObjectStore) -> None:
    ref = ref_of(b"data")
    put(store.lfs_objects, ref, b"dbta")
    view = store.open(ref)
    with pytest.raises(CorruptObject, match=ref.oid):
        store.verify(ref, view)
    with pytest.raises(CorruptObject):
        store.verify(ref, memoryview(b"data!"))


@pytest.mark.parametrize(
    "oid", ["", "ab", "../" * 20 + "abcd", "A" * 64, "g" * 64, "a" * 63 + "\n", "a" * 65, "/" + "a" * 63, "\0" * 64]
)
def test_ids_that_are_none(store: ObjectStore, oid: str) -> None:
    with pytest.raises(CorruptObject):
        store.open(ObjectRef(oid, 4))
    with pytest.raises(CorruptObject):
        store.contains(oid, 4)


def test_reading_in_a_repository_that_cannot_be_written(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = store.write([b"data"])
    lfs = place(store.lfs_objects, ref)
    lfs.unlink()

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    for name in ("link", "mkdir", "unlink", "replace"):
        monkeypatch.setattr(os, name, refuse)
    assert bytes(store.open(ref)) == b"data"
    assert not lfs.exists()


def test_ten_thousand_objects_do_not_exhaust_descriptors(store: ObjectStore) -> None:
    large = store.write([bytes(LARGE)])
    small = store.write([b"small"])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        views = [store.open(small) for _ in range(10_000)] + [store.open(large) for _ in range(300)]
        assert all(view[0] in b"s\0" for view in views)
        del views
        assert len(store._mapped) == 0
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_view_outlives_its_file(store: ObjectStore) -> None:
    data = bytes(range(256)) * (LARGE // 128)
    ref = store.write([data])
    view = store.open(ref)
    for directory in (store.lfs_objects, store.theta_objects):
        place(directory, ref).unlink()
    assert view == data


@pytest.mark.parametrize("name", ["lfs", "theta"])
@pytest.mark.parametrize("other_gone", [False, True])
def test_a_mapped_object_that_somebody_writes_to(store: ObjectStore, name: str, other_gone: bool) -> None:
    data = bytes(objects.MAPPED_FROM)
    ref = store.write([data])
    both = {"lfs": place(store.lfs_objects, ref), "theta": place(store.theta_objects, ref)}
    os.utime(both[name], ns=(1, 1))  # long before now
    view = store.open(ref)
    store.require_unchanged(view)
    if other_gone:
        both["theta" if name == "lfs" else "lfs"].unlink()
    both[name].chmod(0o600)
    with both[name].open("r+b") as file:
        file.write(b"x")
    with pytest.raises(CorruptObject, match=ref.oid):
        store.require_unchanged(view[100:])


def test_a_mapped_object_that_is_written_again_did_not_change(store: ObjectStore) -> None:
    data = bytes(objects.MAPPED_FROM)
    ref = store.write([data])
    os.utime(place(store.lfs_objects, ref), ns=(1, 1))
    view = store.open(ref)
    assert store.write([data]) == ref
    assert place(store.lfs_objects, ref).stat().st_mtime_ns != 1
    store.require_unchanged(view)


@pytest.mark.parametrize("left", [("lfs",), ("theta",), ("lfs", "theta")])
def test_what_is_written_again_is_young_under_all_names(store: ObjectStore, left: tuple[str, ...]) -> None:
    ref = store.write([b"data"])
    both = {"lfs": place(store.lfs_objects, ref), "theta": place(store.theta_objects, ref)}
    os.utime(both["lfs"], ns=(1, 1))
    for name in both.keys() - set(left):
        both[name].unlink()
    store.write([b"data"])
    assert all(path.stat().st_mtime_ns != 1 for path in both.values())


def test_what_cannot_be_made_young_is_there_all_the_same(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    ref = store.write([b"data"])
    monkeypatch.setattr(os, "utime", refuse)
    assert store.write([b"data"]) == ref


@pytest.mark.parametrize("left", [("lfs",), ("theta",), ("lfs", "theta")])
def test_what_another_user_wrote_is_written_anew(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, left: tuple[str, ...]
) -> None:
    """Else it stays old, and his `git theta prune` may take it in the middle of our `git add`."""
    ref = store.write([b"data"])
    both = {"lfs": place(store.lfs_objects, ref), "theta": place(store.theta_objects, ref)}
    his = both["lfs"].stat().st_ino
    os.utime(both["lfs"], ns=(1, 1))
    for name in both.keys() - set(left):
        both[name].unlink()
    make_young = os.utime

    def refuse(path: str) -> None:
        if os.stat(path).st_ino == his:
            raise PermissionError(1, "Operation not permitted")
        make_young(path)

    monkeypatch.setattr(os, "utime", refuse)
    assert store.write([b"data"]) == ref
    assert both["lfs"].samefile(both["theta"])
    assert both["lfs"].stat().st_mtime_ns != 1
    assert both["lfs"].read_bytes() == b"data"


def test_what_goes_while_it_is_made_young_is_written_anew(store: ObjectStore, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = store.write([b"data"])
    make_young = os.utime

    def too_late(path: str) -> None:
        make_young(path)
        for directory in (store.lfs_objects, store.theta_objects):
            place(directory, ref).unlink(missing_ok=True)

    monkeypatch.setattr(os, "utime", too_late)
    store.write([b"data"])
    assert place(store.theta_objects, ref).read_bytes() == b"data"


def test_a_mapped_object_that_is_replaced_did_not_change(store: ObjectStore) -> None:
    data = bytes(objects.MAPPED_FROM)
    ref = store.write([data])
    view = store.open(ref)
    for directory in (store.lfs_objects, store.theta_objects):
        file = place(directory, ref)
        other = file.with_suffix(".other")
        other.write_bytes(b"x" * len(data))
        other.rename(file)
    store.require_unchanged(view)
    assert view == data


def test_a_small_object_is_ours_once_it_is_read(store: ObjectStore) -> None:
    ref = store.write([b"small"])
    view = store.open(ref)
    file = place(store.lfs_objects, ref)
    file.chmod(0o600)
    file.write_bytes(b"other")
    store.require_unchanged(view)
    assert view == b"small"


def test_many_threads_write_the_same_objects(store: ObjectStore) -> None:
    contents = [b"%d" % number * 100 for number in range(20)]
    start = threading.Barrier(6)
    failures: list[BaseException] = []

    def work() -> None:
        start.wait()
        try:
            for data in contents:
                ref = store.write([data])
                store.verify(ref, store.open(ref))
        except (OSError, MissingObject, CorruptObject, RepositoryError) as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    for data in contents:
        ref = ref_of(data)
        assert place(store.lfs_objects, ref).samefile(place(store.theta_objects, ref))
    assert files(store.temporary) == []


def test_sweeps_both_places(store: ObjectStore) -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    for directory in (store.temporary, store.lfs_objects.parent / "tmp"):
        directory.mkdir(parents=True)
        (directory / f"theta-{child.pid}-0123456789abcdef.tmp").write_bytes(b"")
    assert store.sweep() == 2
    assert store.sweep() == 0


@pytest.fixture
def lfs_repository(tmp_path: Path) -> Path:
    root = tmp_path / "repository"
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    subprocess.run(["git", "-C", str(root), "lfs", "install", "--local"], check=True, capture_output=True)
    return root


@pytest.mark.needs_git_lfs
def test_git_lfs_reads_our_objects_and_we_read_its(lfs_repository: Path) -> None:
    lfs = lfs_repository / ".git" / "lfs"
    theta = lfs_repository / ".git" / "theta"
    store = ObjectStore(lfs / "objects", theta / "objects", theta / "tmp")
    git_lfs = ["git", "-C", str(lfs_repository), "lfs"]
    pointer = subprocess.run([*git_lfs, "clean"], input=b"theirs", capture_output=True, check=True).stdout
    assert bytes(store.open(ref_of(b"theirs"))) == b"theirs"
    ref = store.write([b"ours"])
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 4\n" % ref.oid.encode()
    assert subprocess.run([*git_lfs, "smudge"], input=pointer, capture_output=True, check=True).stdout == b"ours"
