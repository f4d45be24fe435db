"""Objects in both stores of a repository, as clean leaves them, and metadata about them that a test wrote itself."""

from __future__ import annotations

import os
from pathlib import Path

from tests.e2e.cli import written
from tests.support.repository import Repository

OLD = 1_000_000_000
"""Seconds: long before two weeks ago."""


def keep(repository: Repository, *contents: bytes, age: int | None = OLD) -> list[str]:
    """Put objects into both stores, as old as `age` (None: as new as they are), and return their ids."""
    oids = written.store(repository, *contents)
    for oid in oids:
        lfs, theta = (place(repository, name, oid) for name in ("lfs", "theta"))
        theta.parent.mkdir(parents=True, exist_ok=True)
        theta.hardlink_to(lfs)
        if age is not None:
            os.utime(lfs, (age, age))
    return oids


def place(repository: Repository, store: str, oid: str) -> Path:
    """Return where an object lies in the store `lfs` or `theta`."""
    return repository.git_directory / store / "objects" / oid[:2] / oid[2:4] / oid


def stored(repository: Repository, store: str) -> set[bytes]:
    """Return the contents of all objects in a store."""
    return {path.read_bytes() for path in (repository.git_directory / store / "objects").glob("??/??/*")}


def commit(repository: Repository, name: str, *groups: bytes, message: str = "a checkpoint") -> str:
    """Commit metadata with a group for each object, which is kept, and return the commit's id."""
    for group in groups:
        if not place(repository, "lfs", written.reference(group).oid).exists():
            keep(repository, group)
    repository.write(name, written.metadata({f"w{number}": group for number, group in enumerate(groups)}))
    return repository.commit(message, ".gitattributes", name)


def set_up(repository: Repository) -> Repository:
    """Return `repository`, in which files are tracked and metadata that a test writes is stored as it stands."""
    written.without_filter(repository)
    repository.write(".gitattributes", b"*.pt filter=theta merge=theta diff=theta -text\n")
    return repository


def forget(repository: Repository, commit: str) -> None:
    """Go back to the commit before `commit`, and forget that it was ever there."""
    repository.git("reset", "--quiet", "--hard", f"{commit}~1")
    repository.git("update-ref", "-d", "ORIG_HEAD")
    repository.git("reflog", "expire", "--expire=now", "--expire-unreachable=now", "--all")
