"""Repositories with a history: several commits of the same files, each of which can be checked out again and again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from bench.cases import CHECKOUT, OURS
from bench.contenders import Contender, contenders
from bench.data import Built, DataSet, digest
from bench.measure import Run, WorkTree, new_work_tree
from theta_daemon.metadata import text
from theta_daemon.metadata.entries import Entry, Metadata


@dataclass(frozen=True, slots=True)
class Place:
    """Where a case keeps its repositories and files, with what it was asked for."""

    scratch: Path
    tools: Path
    runs: int
    with_peer: bool = True

    def contender(self, name: str) -> Contender:
        """Return who takes part under this name."""
        return contenders(self.tools)[name]

    def repository(self, name: str, built: Built, **configuration: str) -> WorkTree:
        """Make a repository of ours below `name`, with the files of `built` in place; `configuration` is theta's."""
        ours = replace(
            self.contender(OURS),
            configuration={f"theta.{key}": value for key, value in configuration.items()},
        )
        folder = self.scratch / name
        folder.mkdir()
        return new_work_tree(ours, built, folder, self.tools)


def commit(tree: WorkTree) -> str:
    """Commit what the work tree holds and return the commit."""
    tree.git("add", "--all")
    tree.git("commit", "--quiet", "--message", "version")
    return tree.git("rev-parse", "HEAD").strip()


def checkout(tree: WorkTree, built: Built, revision: str, *, same_bytes: bool = True) -> None:
    """Check out the files of `built` as `revision` has them, into a work tree without them, and compare."""
    tree = replace(tree, built=built)
    tree.git("read-tree", revision)
    for name in built.digests:
        (tree.path / name).unlink(missing_ok=True)
    tree.timed(CHECKOUT, "checkout", "--", ".")
    (built.same_bytes if same_bytes else built.same_values)(tree.path)


def version(data: DataSet, folder: Path) -> Built:
    """Return the files that lie in `folder` as a data set on disk."""
    return Built(data, folder, folder, {file.name: digest(file) for file in sorted(folder.glob(f"*{data.suffix}"))})


def fork(tree: WorkTree, folder: Path) -> WorkTree:
    """Copy a repository with its history into `folder`, without its work tree's files; objects are shared on disk."""
    folder.mkdir()
    copy = replace(tree, path=folder / "repository", done=Run())
    shutil.copytree(tree.path / ".git", copy.path / ".git", copy_function=_link_or_copy)
    shutil.copy(tree.path / ".gitattributes", copy.path)
    return copy


def forget(tree: WorkTree) -> None:
    """Delete what earlier commands of ours found out about contents."""
    (tree.path / ".git" / "theta" / "memo").unlink(missing_ok=True)


def _link_or_copy(source: str, target: str) -> None:
    if "/objects/" in source:
        os.link(source, target)  # nothing writes into an object
    else:
        shutil.copy2(source, target)


def entries(tree: WorkTree, names: Mapping[str, str], revision: str = "HEAD") -> Iterator[Entry]:
    """Yield every entry of the metadata of the files."""
    for name in names:
        metadata = text.read(tree.git("cat-file", "blob", f"{revision}:{name}").encode("ascii"))
        assert isinstance(metadata, Metadata), f"{name} is no metadata"
        yield from metadata.entries.values()


def types(tree: WorkTree, names: Mapping[str, str], revision: str = "HEAD") -> set[str]:
    """Return the update types of all parameter groups of the files."""
    return {entry.update_type for entry in entries(tree, names, revision)}


def stored(tree: WorkTree) -> int:
    """Return the bytes of all objects that the repository holds."""
    store = tree.path / ".git" / "lfs" / "objects"
    return sum(file.stat().st_size for file in store.rglob("*") if file.is_file())
