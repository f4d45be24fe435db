"""The record: what the repository says a path's metadata is, or lately was.

Clean compares a checkpoint with it (DESIGN: the record). Candidates come in a fixed order - the index, stage 0 and then
2, 3, 1 (ours, theirs, base: `git merge` cleans all three); HEAD; the heads of what is under way - each blob once,
each read only when it is asked for. The index is the one that git uses now: GIT_INDEX_FILE where it is set, and
as it is at the time of the question.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Protocol

from theta_daemon import gitcmd
from theta_daemon.frozen import Frozen
from theta_daemon.history.catfile import CatFile, local_environment

if TYPE_CHECKING:
    from collections.abc import Iterator

    from theta_daemon.settings import Settings

STAGES = {0: "index", 2: "index stage 2", 3: "index stage 3", 1: "index stage 1"}
HEADS = ("HEAD", "MERGE_HEAD", "CHERRY_PICK_HEAD", "REBASE_HEAD", "ORIG_HEAD")

# `git cat-file` tries to read a whole line as a revision before it looks for "<revision>:<path>". These paths it could
# misread: "x-gabc123" is describe's name of commit abc123, "~" and "^" go to parents, "@{" to the reflog, and a
# carriage return before the line break is dropped.
_MISREAD = re.compile(rb"[\n~^]|@\{|\r\Z|-g[0-9a-fA-F]+\Z")

_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class Candidate(Frozen):
    """One version of a path's metadata.

    `origin` says where it stands, for messages ("index", "index stage 2", "HEAD", "MERGE_HEAD", ...); `blob` is the
    id of the git blob in hexadecimal, `data` its bytes, which begin like JSON but are otherwise unchecked.
    """

    origin: str
    blob: str
    data: bytes


class Record(Protocol):
    """Where candidates come from."""

    def candidates(self, path: bytes) -> Iterator[Candidate]:
        """Yield the versions of `path` (as git names it: from the top of the work tree), the first to try first.

        What does not exist, is no blob, or cannot be metadata is left out. Raises RepositoryError when git fails.
        """

    def version(self, commit: str, path: bytes) -> Candidate | None:
        """Return `path` as `commit` (a full hexadecimal id) holds it, None where it does not, or is not here."""

    def blob(self, commit: str, path: bytes) -> str | None:
        """Return the id of what `version` returns, without reading it; None where that is nothing, or not here."""

    def head(self, path: bytes) -> Candidate | None:
        """Return `path` as the commit at HEAD holds it; `origin` is that commit's id."""

    def is_here(self, commit: str) -> bool:
        """Whether the repository holds `commit`, a full hexadecimal id; nothing is fetched."""

    def promised(self, commit: str, path: bytes) -> bytes | None:
        """Return what `version` returns the data of, and fetch what a partial clone lacks of it."""


class GitRecord:
    """The record of a real repository. May be used from any thread; call `close` at the end."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._cat_file = CatFile(settings)
        self._index: tuple[int, int, int] | None = None
        # Without reftable every such head is a file, and a name without one could only be a branch or tag that is
        # named like it.
        self._heads_are_files = not (settings.common_dir / "reftable").exists()

    def candidates(self, path: bytes) -> Iterator[Candidate]:
        """Yield the versions of `path`: see Record."""
        seen: set[str] = set()
        for origin, name in self._names(path):
            blob = self._cat_file.metadata(name, seen)
            if blob is not None:
                yield Candidate(origin, blob.id, blob.data)

    def version(self, commit: str, path: bytes) -> Candidate | None:
        """Return `path` as `commit` holds it: see Record."""
        if _COMMIT.fullmatch(commit) is None:
            return None
        name = self._name_in(commit, path)
        blob = self._cat_file.metadata(name) if name is not None else None
        return Candidate(commit, blob.id, blob.data) if blob is not None else None

    def blob(self, commit: str, path: bytes) -> str | None:
        """Return the id of what `version` returns, without reading it: see Record."""
        name = self._name_in(commit, path) if _COMMIT.fullmatch(commit) else None
        return self._cat_file.identify(name) if name is not None else None

    def head(self, path: bytes) -> Candidate | None:
        """Return `path` as the commit at HEAD holds it; `origin` is that commit's id."""
        environment, directory = local_environment(self._settings), self._settings.directory
        code, out, err = gitcmd.collect(
            gitcmd.start(["rev-parse", "--verify", "--quiet", "HEAD^{commit}"], environment, directory)
        )
        if code not in (0, 1):  # 1: there is no commit yet
            raise gitcmd.failure("git rev-parse", code, err)
        return self.version(out.decode("ascii").strip(), path) if code == 0 else None

    def is_here(self, commit: str) -> bool:
        """Whether the repository holds `commit`, a full hexadecimal id; nothing is fetched."""
        environment, directory = local_environment(self._settings), self._settings.directory
        code, _, _ = gitcmd.collect(gitcmd.start(["cat-file", "-e", f"{commit}^{{commit}}"], environment, directory))
        return _COMMIT.fullmatch(commit) is not None and code == 0

    def promised(self, commit: str, path: bytes) -> bytes | None:
        """Return what `version` returns the data of, and fetch what a partial clone lacks of it.

        Raises RepositoryError, in git's words, where it cannot be fetched.
        """
        environment, directory = self._settings.child_environment, self._settings.directory
        pathspec = os.fsdecode(b":(literal)" + path)
        rows = gitcmd.output(["ls-tree", "--full-tree", "-z", commit, "--", pathspec], environment, directory)
        for row in rows.split(b"\0"):
            facts, _, name = row.partition(b"\t")
            if name == path and facts.split(b" ")[1] == b"blob":
                blob = facts.split(b" ")[2].decode("ascii")
                return gitcmd.output(["cat-file", "blob", blob], environment, directory)
        return None

    def close(self) -> None:
        """End the child process. The record can be used again."""
        self._cat_file.forget()

    def _names(self, path: bytes) -> Iterator[tuple[str, bytes]]:
        """Yield where a version of `path` may be, and a name of it that git reads in no other way."""
        if path.startswith((b"./", b"../")) or b"\0" in path:
            return  # no path in git; and to git "./" means the directory it runs in
        if _MISREAD.search(path):
            staged = self._listed(["ls-files", "--stage", "--full-name"], b":(top,literal)" + path, path)
        else:
            staged = {stage: b":%d:%b" % (stage, path) for stage in STAGES}
        for stage, origin in STAGES.items():
            if stage in staged:
                self._follow_index()
                yield origin, staged[stage]
        for head in HEADS:
            name = self._name_in(head, path) if self._may_exist(head) else None
            if name is not None:
                yield head, name

    def _name_in(self, commit: str, path: bytes) -> bytes | None:
        if not _MISREAD.search(path):
            return commit.encode() + b":" + path
        return self._listed(["ls-tree", "--full-tree", commit], b":(literal)" + path, path).get(0)

    def _listed(self, command: list[str], pathspec: bytes, path: bytes) -> dict[int, bytes]:
        """Return the blob ids of `path` by stage, as `git ls-files` or `git ls-tree` tells them."""
        code, out, err = gitcmd.collect(
            gitcmd.start(
                [*command, "-z", "--", os.fsdecode(pathspec)],
                local_environment(self._settings),
                self._settings.directory,
            )
        )
        if code != 0:
            # ls-tree fails where there is no such commit; both where a partial clone lacks a tree.
            if command[0] == "ls-files" and not gitcmd.lacks_what_was_promised(err):
                raise gitcmd.failure("git ls-files", code, err)
            return {}
        found: dict[int, bytes] = {}
        for line in out.split(b"\0"):
            facts, _, name = line.partition(b"\t")
            if name == path:
                _, second, third = facts.split(b" ")  # "mode id stage", or "mode type id"
                stage, blob = (int(third), second) if command[0] == "ls-files" else (0, third)
                found[stage] = blob
        return found

    def _follow_index(self) -> None:
        # git renames a new index into place, so a changed one is another file. The child may hold a newer one than
        # this notes, never an older one.
        try:
            status = self._settings.index_file.stat()
            index = (status.st_ino, status.st_mtime_ns, status.st_size)
        except OSError:
            index = None
        if index != self._index:
            self._cat_file.forget()
            self._index = index

    def _may_exist(self, head: str) -> bool:
        return head == "HEAD" or not self._heads_are_files or (self._settings.git_dir / head).exists()
