"""Metadata in the history: what a commit changed, and what a range of commits brought.

Asked by the hooks: after a commit and before a push. git walks, as it alone can read every repository (partial and
shallow clones, SHA-256, reftable). Nothing is fetched; what a partial clone does not hold came from its remote.
"""

from __future__ import annotations

import itertools
import os
import tempfile
from typing import IO, TYPE_CHECKING, cast

from theta_daemon import gitcmd
from theta_daemon.errors import RepositoryError
from theta_daemon.frozen import Frozen
from theta_daemon.history import catfile
from theta_daemon.history.catfile import FOUND, LIMIT, Blob, local_environment
from theta_daemon.history.index import REGULAR

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from theta_daemon.history.catfile import Look
    from theta_daemon.settings import Settings

_MARKS = (b'"lfs_metadata"', b'"theta_daemon"')
_AT_ONCE = 10_000  # blobs for one child that reads


class Change(Frozen):
    """A path whose metadata a commit added or changed; `old` is None where there was none before."""

    path: bytes
    old: Blob | None
    new: Blob


class Found(Frozen):
    """Metadata in a range of commits. `path` is one path that has it, for messages: a line break cuts it off."""

    path: bytes
    blob: str
    data: bytes


class Commits:
    """Reads the history of one repository. May be used from any thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def commit(self, revision: str) -> str:
        """Return the id of the commit that `revision` names. Raises RepositoryError where there is none."""
        [found] = self._objects([f"{revision}^{{commit}}"])
        if found is None:
            raise RepositoryError(f"there is no commit {revision!r} in this repository")
        return found

    def known(self, ids: Iterable[str]) -> list[str]:
        """Return those of `ids` (full ids of objects) that are here, each once."""
        return [found for found in self._objects(list(dict.fromkeys(ids))) if found is not None]

    def tracked(self, remote: str) -> dict[bytes, str]:
        """Return what the remote-tracking refs of `remote` hold, by their names below it; none for a URL.

        The ids may be missing here. Refs of another remote whose name begins with this one's are not among them.
        """
        # Asked for by no pattern: a URL or a path may hold what is a wildcard there.
        rows = self._git(["for-each-ref", "--format=%(objectname) %(refname)", "refs/remotes/"]).splitlines()
        below = os.fsencode(f"refs/remotes/{remote}/")
        pairs = [
            (name.removeprefix(below), found)
            for found, name in (row.split(b" ", 1) for row in rows)
            if name.startswith(below)
        ]
        if not pairs:
            return {}
        inside = os.fsencode(f"{remote}/")
        remotes = self._git(["remote"]).splitlines()
        others = tuple(name.removeprefix(inside) + b"/" for name in remotes if name.startswith(inside))
        return {name: found.decode("ascii") for name, found in pairs if not name.startswith(others)}

    def advertised(self, url: str) -> list[str]:
        """Return the ids that the refs of the repository at `url` hold now.

        Raises RepositoryError where git cannot tell.
        """
        rows = gitcmd.output(["ls-remote", "--", url], self._settings.child_environment, self._settings.directory)
        return [row.split(b"\t", 1)[0].decode("ascii") for row in rows.splitlines()]

    def changed(self, commit: str) -> Iterator[Change]:
        """Yield the metadata that `commit` (any revision) added or changed against its first parent, by path.

        Only regular files count.

        Raises RepositoryError where there is no such commit.
        """
        new = self.commit(commit)
        [parent] = self._objects([f"{new}^1"])
        trees = ["--root", new] if parent is None else [parent, new]
        out = self._git(["diff-tree", "-r", "-z", "--no-renames", "--no-commit-id", "--diff-filter=AMT", *trees])
        fields = out.split(b"\0")
        rows = [(path, *_blobs_of(facts)) for facts, path in zip(fields[0:-1:2], fields[1::2], strict=True)]
        looks = catfile.looks(self._settings, [side for _, *sides in rows for side in sides if side is not None])
        for path, *sides in rows:
            before, after = (None if side is None else _metadata(next(looks)) for side in sides)
            if after is not None:
                yield Change(path, before, after)

    def in_range(self, include: Sequence[str], exclude: Sequence[str]) -> Iterator[Found]:
        """Yield every metadata blob, once, of commits reachable from `include` but not from `exclude`, merges too.

        Revisions in `exclude` that do not exist here are ignored. What an excluded commit holds may be yielded
        again where it came back later. Raises RepositoryError where a revision of `include` does not exist.
        """
        wanted, unwanted = self._objects(include), self._objects(exclude)
        for revision, found in zip(include, wanted, strict=True):
            if found is None:
                raise RepositoryError(f"there is no {revision!r} in this repository")
        walk = self._blobs([*filter(None, wanted), *(f"^{found}" for found in unwanted if found)])
        while some := list(itertools.islice(walk, _AT_ONCE)):
            looks = catfile.looks(self._settings, [blob for _, blob in some])
            for (path, _), look in zip(some, looks, strict=True):
                metadata = _metadata(look)
                if metadata is not None:
                    yield Found(path, metadata.id, metadata.data)

    def brought(self, blob: str, include: Sequence[str], exclude: Sequence[str]) -> str | None:
        """Return the first commit of a range that brought a blob; None where a merge did. Slow: for messages."""
        revisions = "".join([*(f"{found}\n" for found in include), *(f"^{found}\n" for found in exclude)])
        command = [
            "log",
            "--no-show-signature",
            "--format=%H",
            f"--find-object={blob}",
            "--diff-filter=AMT",
            "--stdin",
            "--",
        ]
        commits = self._git(command, revisions.encode("ascii")).split()
        return commits[-1].decode("ascii") if commits else None

    def _git(self, arguments: list[str], given: bytes = b"") -> bytes:
        return gitcmd.output(arguments, local_environment(self._settings), self._settings.directory, given)

    def _objects(self, revisions: Sequence[str]) -> list[str | None]:
        """Return the id of the object that each of `revisions` names, None where there is none."""
        for revision in revisions:
            if not revision or "\n" in revision or "\r" in revision:  # git drops a carriage return
                raise RepositoryError(f"{revision!r} is no revision")
        if not revisions:
            return []
        given = "".join(f"{revision}\n" for revision in revisions)
        answers = self._git(["cat-file", "--batch-check"], os.fsencode(given)).splitlines(keepends=True)
        found = [FOUND.fullmatch(answer) for answer in answers]
        return [match and match[1].decode("ascii") for match in found]

    def _blobs(self, revisions: Sequence[str]) -> Iterator[tuple[bytes, str]]:
        """Yield path and id of every blob that a walk from `revisions` (`^` excludes) finds here, LIMIT bytes at most.

        Two processes, one feeding the other: git rev-list walks, git cat-file tells blobs from trees.
        """
        environment, directory = local_environment(self._settings), self._settings.directory
        with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as said:
            given.write("".join(f"{revision}\n" for revision in revisions).encode("ascii"))
            given.seek(0)
            walk = ["rev-list", "--objects", "--missing=allow-promisor", "--stdin"]
            tell = ["cat-file", "--batch-check=%(objecttype) %(objectsize) %(objectname) %(rest)", "--buffer"]
            walking = gitcmd.start(walk, environment, directory, stdin=given, stderr=said)
            with walking, cast("IO[bytes]", walking.stdout) as objects:
                telling = gitcmd.start(tell, environment, directory, stdin=objects, stderr=said)
                objects.close()  # so that an end of the second is the end of the first
                with telling, cast("IO[bytes]", telling.stdout) as lines:
                    for line in lines:
                        kind, size, blob, path = line.removesuffix(b"\n").split(b" ", 3)
                        if kind == b"blob" and int(size) <= LIMIT:
                            yield path, blob.decode("ascii")
            for child, name in ((walking, "git rev-list"), (telling, "git cat-file")):
                if child.returncode != 0:
                    said.seek(0)
                    raise gitcmd.failure(name, child.returncode, said.read(1 << 16))


def _blobs_of(facts: bytes) -> tuple[str | None, str | None]:
    """Return the ids of the old and the new blob of a line of `git diff-tree`, None where there is no regular file."""
    old_mode, new_mode, old, new, _ = facts.removeprefix(b":").split(b" ")
    return (
        old.decode("ascii") if old_mode.startswith(REGULAR) else None,
        new.decode("ascii") if new_mode.startswith(REGULAR) else None,
    )


def _metadata(look: Look | None) -> Blob | None:
    """Return the blob that was looked at where it may be metadata of ours."""
    if look is None or look.data is None or not any(mark in look.data for mark in _MARKS):
        return None
    return Blob(look.id, look.data)
