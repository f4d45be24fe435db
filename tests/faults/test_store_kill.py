"""kill -9 and `git lfs prune` at any moment: every object that is there is whole, and writing again works."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from theta_daemon.errors import MissingObject
from theta_daemon.metadata.entries import ObjectRef
from theta_daemon.store.objects import ObjectStore

CONTENT = b"0123456789" * 100_000
REF = ObjectRef(hashlib.sha256(CONTENT).hexdigest(), len(CONTENT))

# Dies just before its Nth call of the operating system; says "done" if there are fewer.
DIES_AT_STEP = """
import os, signal, sys
from pathlib import Path
from theta_daemon.store.objects import ObjectStore

left = int(sys.argv[2])
def dying(call):
    def wrapped(*arguments, **options):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return call(*arguments, **options)
    return wrapped

root = Path(sys.argv[1])
store = ObjectStore(root / "lfs/objects", root / "theta/objects", root / "theta/tmp", fsync=sys.argv[3] == "True")
for name in ("open", "write", "writev", "fsync", "close", "dup", "link", "unlink", "mkdir", "stat"):
    setattr(os, name, dying(getattr(os, name)))
store.write([b"0123456789" * 50_000, b"0123456789" * 50_000])
print("done")
"""

WRITES_ON = """
import sys
from pathlib import Path
from theta_daemon.store.objects import ObjectStore

root = Path(sys.argv[1])
store = ObjectStore(root / "lfs/objects", root / "theta/objects", root / "theta/tmp")
number = int(sys.argv[2])
while True:
    number += 1
    print(store.write([b"%d," % number * 20_000]).oid, flush=True)
"""


def store_in(root: Path) -> ObjectStore:
    return ObjectStore(root / "lfs" / "objects", root / "theta" / "objects", root / "theta" / "tmp")


def files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def assert_whole(store: ObjectStore) -> None:
    for path in files(store.lfs_objects) + files(store.theta_objects):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == path.name


# With fsync the file has a temporary name, without it none: then nothing but whole objects is ever to be seen.
@pytest.mark.parametrize("fsync", [True, False])
def test_killed_at_every_step_of_a_write(tmp_path: Path, fsync: bool) -> None:
    seen = set()
    for step in range(1, 100):
        root = tmp_path / str(step)
        (root / "theta" / "tmp").mkdir(parents=True)
        child = subprocess.run(
            [sys.executable, "-c", DIES_AT_STEP, str(root), str(step), str(fsync)], capture_output=True, check=False
        )
        if child.returncode == 0:
            break
        assert child.returncode == -signal.SIGKILL, child.stderr.decode()
        store = store_in(root)
        assert_whole(store)
        try:
            store.verify(REF, store.open(REF))
            seen.add("object")
        except MissingObject:
            seen.add("nothing")
        seen.add("temporary" if files(store.temporary) else "clean")
        store.sweep()
        assert files(store.temporary) == []
        assert store.write([CONTENT]) == REF
        assert files(store.theta_objects)[0].samefile(files(store.lfs_objects)[0])
    else:
        pytest.fail("the write never ended")
    assert seen == {"object", "nothing", "clean"} | ({"temporary"} if fsync else set())


def test_killed_while_writing_one_object_after_another(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    points = random.Random(5)
    for number in range(0, 6000, 1000):
        command = [sys.executable, "-c", WRITES_ON, str(tmp_path), str(number)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            written = [child.stdout.readline().strip() for _ in range(points.randrange(1, 12))]
            child.kill()
        for oid in written:
            path = store.theta_objects / oid[:2] / oid[2:4] / oid
            assert store.open(ObjectRef(oid, path.stat().st_size))
        assert_whole(store)
    store.sweep()
    assert files(store.temporary) == []


def test_pruned_at_any_moment(tmp_path: Path) -> None:
    store = store_in(tmp_path)
    done = threading.Event()

    def prune() -> None:
        while not done.is_set():
            for path in files(store.lfs_objects):
                path.unlink(missing_ok=True)

    pruner = threading.Thread(target=prune)
    pruner.start()
    try:
        refs = [store.write([b"%d" % (number % 50) * 1000]) for number in range(300)]
        for ref in refs:
            store.verify(ref, store.open(ref))
            os.unlink(store.theta_objects / ref.oid[:2] / ref.oid[2:4] / ref.oid)
            store.write([b"%d" % (refs.index(ref)) * 1000])
    finally:
        done.set()
        pruner.join()
    assert_whole(store)
