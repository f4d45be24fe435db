"""A disk that takes no more: an error that says so, no partial object, and what was there still works."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from theta_daemon.errors import RepositoryError
from theta_daemon.store.objects import ObjectStore

# The limit on the size of a file stands for a full disk: the kernel itself cuts the write short.
LIMITED = """
import resource, sys
from pathlib import Path
from theta_daemon.errors import RepositoryError
from theta_daemon.store.objects import ObjectStore

root = Path(sys.argv[1])
store = ObjectStore(root / "lfs/objects", root / "theta/objects", root / "theta/tmp")
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
small = store.write([b"small"])
try:
    store.write([b"large" * 10_000, b"larger" * 20_000])
except RepositoryError as error:
    print(error)
assert bytes(store.open(small)) == b"small"
"""


def files(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if path.is_file()]


def test_the_kernel_cuts_a_write_short(tmp_path: Path) -> None:
    child = subprocess.run([sys.executable, "-c", LIMITED, str(tmp_path)], capture_output=True, text=True, check=True)
    assert "cannot write object" in child.stdout
    assert "File too large" in child.stdout
    assert len({path.name for path in files(tmp_path)}) == 1


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("call", ["writev", "open", "mkdir", "link"])
def test_calls_that_fail(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, code: int) -> None:
    store = ObjectStore(tmp_path / "lfs" / "objects", tmp_path / "theta" / "objects", tmp_path / "theta" / "tmp")
    before = store.write([b"before"])

    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        if call == "link":  # then the names are given by renaming and copying
            patch.setattr(os, "replace", fail)
        with pytest.raises(RepositoryError, match=os.strerror(code)):
            store.write([b"after"])
    assert files(store.temporary) == []
    assert bytes(store.open(before)) == b"before"
    assert len({path.name for path in files(tmp_path)}) == 1
    store.write([b"after"])
    assert len({path.name for path in files(tmp_path)}) == 2


@pytest.mark.parametrize("code", [errno.EXDEV, errno.EPERM, errno.EMLINK])
def test_without_links_both_stores_have_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    store = ObjectStore(tmp_path / "lfs" / "objects", tmp_path / "theta" / "objects", tmp_path / "theta" / "tmp")

    def fail(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "link", fail)
    ref = store.write([b"data"])
    lfs, theta = files(store.lfs_objects), files(store.theta_objects)
    assert [path.read_bytes() for path in lfs + theta] == [b"data", b"data"]
    assert not lfs[0].samefile(theta[0])
    lfs[0].unlink()
    assert bytes(store.open(ref)) == b"data"
    assert lfs[0].read_bytes() == b"data"
    assert files(store.temporary) + files(store.lfs_objects.parent / "tmp") == []
