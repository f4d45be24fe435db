"""The record beside libgit2, which reads the same repositories with code of its own.

libgit2 has no part in the program (docs/how-it-works.md says why); here it is the oracle.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pygit2
import pytest
from pygit2.enums import ObjectType

from tests.e2e.history.conftest import Open, metadata
from tests.support.repository import Repository

PATHS = ("a.pt", "dir/b.pt", "dir/deep/c d.pt", "x-gabcdef.pt", "é.pt")
STAGES = {0: "index", 2: "index stage 2", 3: "index stage 3", 1: "index stage 1"}
ROUNDS = 8


def oracle(place: Path, path: str) -> Iterator[tuple[str, str, bytes]]:
    """Yield origin, id and bytes of the versions of `path` in the index, HEAD and MERGE_HEAD, each blob once."""
    repository = pygit2.Repository(str(place))
    found = [(STAGES[stage], blob) for stage, blob in staged(repository, path)]
    found += [(head, blob) for head in ("HEAD", "MERGE_HEAD") for blob in committed(repository, head, path)]
    seen = set()
    for origin, blob in found:
        if blob not in seen:
            seen.add(blob)
            yield origin, str(blob), repository[blob].read_raw()


def staged(repository: pygit2.Repository, path: str) -> Iterator[tuple[int, pygit2.Oid]]:
    index = repository.index
    for base, ours, theirs in index.conflicts or []:
        sides = [(2, ours), (3, theirs), (1, base)]
        if path in {entry.path for _, entry in sides if entry is not None}:
            yield from ((stage, entry.id) for stage, entry in sides if entry is not None)
            return
    if path in index:
        yield 0, index[path].id


def committed(repository: pygit2.Repository, head: str, path: str) -> Iterator[pygit2.Oid]:
    reference = repository.references.get(head)
    if reference is not None:
        tree = reference.peel(pygit2.Commit).tree
        if path in tree and tree[path].type == ObjectType.BLOB:
            yield tree[path].id


def story(repository: Repository, choice: random.Random) -> Iterator[None]:
    """Let branches diverge and merge again and again, at random; yield at every moment that may be looked at."""
    for path in PATHS[:3]:
        repository.write(path, metadata(0))
    repository.commit("first")
    for branch in ("one", "two"):
        repository.git("branch", branch)
    for _ in range(ROUNDS):
        ours, theirs = choice.sample(("main", "one", "two"), 2)
        for branch in (theirs, ours):
            repository.git("checkout", "--quiet", "--force", branch)
            change(repository, choice)
            yield
            repository.run("git", "commit", "--quiet", "--all", "--message", "x")
        repository.run("git", "merge", "--quiet", "--no-commit", "--no-ff", theirs)
        yield
        change(repository, choice)  # resolves some of the conflicts, if there are any
        yield
        repository.git("add", "--all")
        if choice.random() < 0.8:
            yield
            repository.run("git", "commit", "--quiet", "--message", "merged")
        else:
            repository.git("reset", "--quiet", "--hard")
        yield


def change(repository: Repository, choice: random.Random) -> None:
    """Add or remove a few files; a few values only, so that blobs come back."""
    for path in choice.sample(PATHS, choice.randrange(1, 4)):
        if choice.random() < 0.2:
            repository.git("rm", "--quiet", "--force", "--ignore-unmatch", "--", path)
        else:
            repository.write(path, metadata(choice.randrange(6)))
            repository.git("add", "--", path)


@pytest.mark.parametrize("seed", range(4))
def test_the_record_is_what_libgit2_reads(repository: Repository, open_record: Open, seed: int) -> None:
    record = open_record(repository)
    origins: set[str] = set()
    for _ in story(repository, random.Random(seed)):
        for path in PATHS:
            expected = list(oracle(repository.path, path))
            candidates = record.candidates(path.encode())
            assert [(it.origin, it.blob, it.data) for it in candidates if it.origin != "ORIG_HEAD"] == expected
            origins.update(origin for origin, _, _ in expected)
    # The story is worth something: merges stopped, and were resolved.
    assert origins == {*STAGES.values(), "HEAD", "MERGE_HEAD"}
