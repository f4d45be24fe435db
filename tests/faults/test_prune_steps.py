"""Removal of objects, killed before every call of the system, while somebody begins to need one before any of them.

A death is an exception that nothing catches: what is not done by the system stays undone, as after kill -9.
"""

from __future__ import annotations

import errno
import hashlib
import os
import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from theta_daemon.errors import RepositoryError, ThetaError
from theta_daemon.metadata.entries import ObjectRef
from theta_daemon.store.objects import ObjectStore
from theta_daemon.store.removal import Removal, stored_in

CONTENT = b"needed again" * 100
REF = ObjectRef(hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))
OLD = (1_000_000_000, 1_000_000_000)
CALLS = ("lstat", "rename", "link", "unlink", "open", "makedirs", "listdir", "replace", "utime", "stat")


class Death(BaseException):
    """kill -9."""


def store_in(root: Path) -> ObjectStore:
    return ObjectStore(root / "lfs" / "objects", root / "theta" / "objects", root / "theta" / "tmp")


def remove_all(root: Path) -> None:
    with Removal(root / "theta", root / "lfs" / "objects") as removal:
        assert removal.now() > OLD[0]
        for stored in list(stored_in(root / "theta")):
            if stored.modified <= OLD[0] * 10**9:
                removal.remove(stored)


@contextmanager
def before_calls(act: Callable[[int], None]) -> Iterator[None]:
    """Let `act` run before each call of the system, with its number; what it calls itself does not count."""
    count = 0
    inside = False

    def watched(function: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object, **options: object) -> object:
            nonlocal count, inside
            if not inside:
                count += 1
                inside = True
                try:
                    act(count)
                finally:
                    inside = False
            return function(*arguments, **options)

        return call

    with pytest.MonkeyPatch.context() as patch:
        for name in CALLS:
            patch.setattr(os, name, watched(getattr(os, name)))
        yield


def make(root: Path, *, links: bool) -> ObjectStore:
    """Return a store with one old object."""
    store = store_in(root)
    store.write([CONTENT])
    place = f"{REF.oid[:2]}/{REF.oid[2:4]}/{REF.oid}"
    if not links:
        (store.lfs_objects / place).unlink()
        (store.lfs_objects / place).write_bytes(CONTENT)
    for directory in (store.lfs_objects, store.theta_objects):
        os.utime(directory / place, OLD)
    return store


def number_of_calls(root: Path, *, links: bool) -> int:
    make(root, links=links)
    last = 0

    def note(number: int) -> None:
        nonlocal last
        last = number

    with before_calls(note):
        remove_all(root)
    assert list(stored_in(root / "theta")) == []
    assert last > 5
    return last


def assert_there(root: Path) -> None:
    store = store_in(root)
    store.verify(REF, store.open(REF))
    assert [stored.oid for stored in stored_in(root / "theta")] == [REF.oid]


@pytest.mark.parametrize("links", [True, False])
def test_needed_again_before_any_call(tmp_path: Path, links: bool) -> None:
    for at in range(1, number_of_calls(tmp_path / "counted", links=links) + 1):
        root = tmp_path / str(at)
        store = make(root, links=links)

        def need(number: int, at: int = at, store: ObjectStore = store) -> None:
            if number == at:
                store.write([CONTENT])

        with before_calls(need):
            remove_all(root)
        assert_there(root)


@pytest.mark.parametrize("links", [True, False])
def test_needed_again_and_then_killed(tmp_path: Path, links: bool) -> None:
    calls = number_of_calls(tmp_path / "counted", links=links)
    for at in range(1, calls + 1):
        for end in range(at, calls + 2):
            root = tmp_path / f"{at}-{end}"
            store = make(root, links=links)

            def need(number: int, at: int = at, end: int = end, store: ObjectStore = store) -> None:
                if number == at:
                    store.write([CONTENT])
                if number == end:
                    raise Death

            with before_calls(need):
                try:
                    remove_all(root)
                except Death:
                    # Whatever it left, the object can be read, and the next removal brings all of it back.
                    with Removal(root / "theta", root / "lfs" / "objects"):
                        pass
            assert_there(root)
            assert list((root / "theta" / "objects").glob("removed-*")) == []


@pytest.mark.parametrize("links", [True, False])
def test_killed_before_any_call(tmp_path: Path, links: bool) -> None:
    for end in range(1, number_of_calls(tmp_path / "counted", links=links) + 1):
        root = tmp_path / str(end)
        store = make(root, links=links)

        def die(number: int, end: int = end) -> None:
            if number == end:
                raise Death

        with before_calls(die), pytest.raises(Death):
            remove_all(root)
        for path in (*store.lfs_objects.glob("??/??/*"), *store.theta_objects.glob("??/??/*")):
            assert path.read_bytes() == CONTENT
        remove_all(root)  # nobody needs it: the next one is through with it
        assert list(stored_in(root / "theta")) == []
        assert list(store.lfs_objects.glob("??/??/*")) == []
        assert list((root / "theta" / "objects").glob("removed-*")) == []


@pytest.mark.parametrize("store", ["lfs", "theta"])
def test_a_name_that_cannot_be_removed(tmp_path: Path, store: str) -> None:
    """The object has its name in our store again: else the next `git lfs prune` would take the only one it has."""
    made = make(tmp_path, links=True)
    unlink = os.unlink

    def refuse(path: str | Path) -> None:
        if (os.path.basename(path) == REF.oid) == (store == "lfs"):
            raise OSError(errno.EROFS, "Read-only file system")
        unlink(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "unlink", refuse)
        with pytest.raises(RepositoryError, match="Read-only file system"):
            remove_all(tmp_path)
    assert_there(tmp_path)
    assert made.contains(REF.oid, REF.size)


def kept(root: Path, oid: str) -> Iterator[bytes]:
    """Yield what lies in our store under `oid`; for a moment it may lie where `Removal` finds out about it."""
    ours = root / "theta" / "objects" / oid[:2] / oid[2:4] / oid
    for path in (ours, root / "theta" / "objects" / f"removed-{oid}", ours):
        with suppress(FileNotFoundError):
            yield path.read_bytes()


@pytest.mark.parametrize("pruned_too", [False, True])
def test_writers_beside_one_removal_after_the_other(tmp_path: Path, pruned_too: bool) -> None:
    """Who writes an object, new or not, finds it there until he needs it no more."""
    store = store_in(tmp_path)
    contents = [b"%d" % number * 50 for number in range(12)]
    needed: list[str] = []  # an id is in it as often as somebody needs the object
    done = threading.Event()
    failures: list[Exception] = []

    def remove() -> None:
        with Removal(tmp_path / "theta", store.lfs_objects) as removal:
            while not done.is_set():
                # What is being written when it begins is young to a real prune, whose `before` is long ago.
                young = set(needed)
                before = removal.now()
                listed = [stored for stored in stored_in(tmp_path / "theta") if stored.modified < before]
                for stored in listed:
                    if stored.oid not in young and stored.oid not in needed:
                        removal.remove(stored)

    def lose() -> None:
        while not done.is_set():  # as `git lfs prune` does
            for path in store.lfs_objects.glob("??/??/*"):
                path.unlink(missing_ok=True)

    def write(seed: int) -> None:
        points = random.Random(seed)
        try:
            for _ in range(400):
                content = points.choice(contents)
                oid = hashlib.sha256(content).hexdigest()
                needed.append(oid)
                ref = store.write([content])
                assert ref.oid == oid
                for _ in range(3):
                    assert content in kept(tmp_path, oid)
                needed.remove(oid)
        except (AssertionError, ThetaError) as error:
            failures.append(error)

    others = [threading.Thread(target=remove), *([threading.Thread(target=lose)] if pruned_too else [])]
    writers = [threading.Thread(target=write, args=(seed,)) for seed in range(3)]
    for thread in (*others, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    done.set()
    for thread in others:
        thread.join()
    if failures:
        raise failures[0]
