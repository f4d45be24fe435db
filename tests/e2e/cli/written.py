"""Metadata and objects as clean would have written them, without a checkpoint behind them: the verbs see no more."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tests.support.repository import Repository
from theta_daemon.metadata import text
from theta_daemon.metadata.entries import LFS_VERSION, NO_HASH, Entry, FileEntry, Metadata, ObjectRef, Update


def reference(content: bytes) -> ObjectRef:
    """Return the name of the object with this content."""
    return ObjectRef(hashlib.sha256(content).hexdigest(), len(content))


def entry(content: bytes, *replay: bytes) -> Entry:
    """Return the entry of a parameter group whose object is `content`, after the objects in `replay`."""
    own = reference(content)
    before = tuple(Update("dense", base.oid, base.size) for base in map(reference, replay))
    return Entry(
        shape=(2,),
        dtype="float32",
        hash=NO_HASH,
        version=LFS_VERSION,
        oid=own.oid,
        size=own.size,
        update_type="sparse" if replay else "dense",
        last_commit=None,
        digest="0" * 64,
        replay=before,
    )


def metadata(groups: dict[str, bytes], *, layout: bytes | None = None, opaque: tuple[bytes, ...] = ()) -> bytes:
    """Return a metadata file with one dense group for each item, and a layout if one is given."""
    file = None
    if layout is not None:
        file = FileEntry("safetensors", reference(layout), tuple(map(reference, opaque)))
    return text.serialize(Metadata({(name,): entry(content) for name, content in groups.items()}, file))


def store(repository: Repository, *contents: bytes, place: Path | None = None) -> list[str]:
    """Put objects into the LFS store (or another one) and return their ids."""
    objects = place if place is not None else repository.git_directory / "lfs" / "objects"
    oids = []
    for content in contents:
        oid = reference(content).oid
        path = objects / oid[:2] / oid[2:4] / oid
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        oids.append(oid)
    return oids


def partial_clone(repository: Repository, *names: str) -> Repository:
    """Return a clone that has, of all files, these of the newest commit only."""
    repository.git("config", "uploadpack.allowFilter", "true")
    clone = repository.at(repository.path.parent / "partial")
    options = ("--quiet", "--filter=blob:none", "--no-checkout", "-c", "maintenance.auto=false", "-c", "gc.auto=0")
    repository.git("clone", *options, repository.path.as_uri(), str(clone.path), cwd=repository.path.parent)
    clone.git("sparse-checkout", "set", "--no-cone", *(f"/{name}" for name in names))
    clone.git("checkout", "--quiet", "main")
    return clone


def packs(repository: Repository) -> list[Path]:
    """Return the packs of a repository; whatever is fetched brings another."""
    return sorted((repository.git_directory / "objects" / "pack").glob("*.pack"))


def without_filter(repository: Repository) -> None:
    """Let git store tracked files as they stand, so that a test can commit metadata that it wrote itself."""
    for key in ("clean", "smudge"):
        repository.git("config", f"filter.theta.{key}", "cat")
    repository.git("config", "--unset", "filter.theta.process")
