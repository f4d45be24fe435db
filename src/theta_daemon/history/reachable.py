"""What the repository may still need, and what a part of it holds: walks that leave nothing out.

`Reachable.everything` is for who deletes what nobody needs. It begins wherever git keeps the id of an object: all refs
and their reflogs, the HEAD and the index of every linked worktree (all stages), refs that one worktree alone has
(bisect), and whatever ids stand in files such as FETCH_HEAD, MERGE_HEAD or those of an unfinished rebase. Replaced
objects count, and so do those that replace them. A ref or an index that cannot be read stops it: git itself then says
which. What a walk comes to and is not here (a partial clone, a damaged repository) is counted, never fetched.

While one walks others work, and may move a commit from where has not been looked yet to where has been looked already
(git stash). `Reachable.state` is equal before and after a walk where nobody did.
"""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
import re
import stat
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from theta_daemon import gitcmd
from theta_daemon.errors import RepositoryError, reason
from theta_daemon.frozen import Frozen
from theta_daemon.history import catfile
from theta_daemon.history.catfile import FOUND, LIMIT, local_environment
from theta_daemon.history.record import HEADS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from theta_daemon.settings import Settings

_AT_ONCE = 10_000  # blobs for one child that reads
_EVERYTHING = ("--all", "--reflog", "--indexed-objects")

# Abbreviated ids too, as a rebase's list of commits has them. Whatever is no id of an object here is dropped.
_WORDS = re.compile(rb"\b(?:[0-9a-f]{40}|[0-9a-f]{64}|[0-9a-f]{7,39})\b")
_PSEUDO_REF = re.compile(r"[A-Z][A-Z_]*")
_UNFINISHED = ("rebase-merge", "rebase-apply", "sequencer")
_KINDS = (b"commit", b"tree", b"blob", b"tag")
_OWN_HEADS = (*HEADS, "REVERT_HEAD", "BISECT_HEAD", "AUTO_MERGE", "FETCH_HEAD")
_BEGINNINGS = (b"{", b"<<<<<<<", b"version ")  # of metadata, of metadata in conflict, of a pointer of Git LFS


class Content(Frozen):
    """A blob that may be metadata, or a pointer of Git LFS. `path` is one that has it: a line break cuts it off."""

    path: bytes
    blob: str
    data: bytes


class Roots(Frozen):
    """Ids of objects that exist, where a walk begins, and all that tells whether they have changed since."""

    ids: tuple[str, ...]
    state: tuple[object, ...]


class Reachable:
    """Walks through one repository. `absent` counts what the walks so far came to and is not here."""

    def __init__(self, settings: Settings) -> None:
        self._given = settings
        environment = {name: value for name, value in settings.child_environment.items() if name != "GIT_INDEX_FILE"}
        self._settings = settings.replace(child_environment={**environment, "GIT_NO_REPLACE_OBJECTS": "1"})
        self.absent = 0

    def roots(self) -> Roots:
        """Return where a walk begins beside what git's own --all, --reflog and --indexed-objects mean.

        Raises RepositoryError for refs that cannot be read.
        """
        ids: dict[str, None] = {}
        state: list[object] = [_state_of(self._given.index_file)]
        for directory in self._git_directories():
            environment = self._environment(directory)
            refs = self._refs(environment)
            logs = () if directory == self._settings.common_dir else ("logs",)  # of which --reflog tells
            words = [*_OWN_HEADS, *sorted(_words_below(directory, (*_UNFINISHED, *logs)))]
            found = self._objects(words, environment)
            state += [refs, found, _state_of(directory / "index")]
            ids |= dict.fromkeys([row.split(b" ", 1)[0].decode("ascii") for row in refs.splitlines()])
            ids |= dict.fromkeys(found)
        return Roots(tuple(ids), tuple(state))

    def everything(self, roots: Roots) -> Iterator[Content]:
        """Yield what may be metadata or a pointer, of all that the repository may need, each blob once or more.

        Raises RepositoryError where the history is broken.
        """
        yield from self._contents(self._settings, _EVERYTHING, roots.ids)
        yield from self._other_indexes()

    def behind(self, commits: Iterable[str]) -> Iterator[Content]:
        """Yield the same of `commits`, full ids that metadata names, as far as `everything` does not come to it.

        Raises RepositoryError where one of them is not here.
        """
        wanted = list(dict.fromkeys(commits))
        known = set(self._objects(wanted, local_environment(self._settings)))
        for commit in wanted:
            if commit not in known:
                raise RepositoryError(
                    "metadata names a commit for the objects that it needs, and that is not here",
                    commit=commit,
                    hint="fetch it (git fetch --unshallow), or store the file dense (git theta compact)",
                )
        if wanted:
            yield from self._contents(self._settings, (), wanted, ("--not", *_EVERYTHING))

    def kept_beside(self, remote: str) -> Iterator[Content]:
        """Yield the same of what is in use, or was not pushed, as the remote-tracking refs of `remote` tell.

        That is: all local branches, the HEADs and indexes of all worktrees, and every commit, wherever git keeps it,
        that these refs do not reach; with all files that they hold.
        """
        ids = self.roots().ids
        out = self._rev_list((*_EVERYTHING, "--stdin", "--not", f"--remotes={_literal(remote)}/*"), ids)
        tips = self._output(["for-each-ref", "--format=%(objectname)", "refs/heads/", "refs/stash"])
        used = [
            *(line.decode("ascii") for line in (*out.splitlines(), *tips.splitlines())),
            *(id for at in self._git_directories() for id in self._objects(HEADS, self._environment(at))),
            # What is tagged without a commit was never in one that could have been pushed.
            *self._objects(ids, local_environment(self._settings), (b"tree", b"blob")),
        ]
        yield from self._contents(self._settings, ("--no-walk=unsorted", "--indexed-objects"), used)
        yield from self._other_indexes()

    def refs_and_index(self) -> Iterator[Content]:
        """Yield the same of all refs, HEADs and indexes, as a checkout sees them: with replaced objects."""
        yield from self._contents(self._given, ("--all", "--indexed-objects"), ())

    def trees(self, commits: Sequence[str]) -> Iterator[Content]:
        """Yield the same of what `commits`, full ids, hold."""
        if commits:
            yield from self._contents(self._given, ("--no-walk=unsorted",), commits)

    def ranges(self, revisions: Sequence[str]) -> Iterator[Content]:
        """Yield the same of what commits in ranges (`a..b`, as git rev-list takes them) brought.

        Raises RepositoryError where one is no range.
        """
        if revisions:
            yield from self._contents(self._given, ("--end-of-options", *revisions), None)

    def _other_indexes(self) -> Iterator[Content]:
        """Yield the same of the indexes that git's own --indexed-objects may leave out.

        It skips a linked worktree whose file `gitdir` is gone, or empty, as for a moment in `git worktree move`.
        """
        for directory in self._git_directories()[1:]:
            there = self._settings.replace(child_environment=self._environment(directory))
            yield from self._contents(there, ("--indexed-objects",), ())
        if "GIT_INDEX_FILE" in self._given.child_environment:
            yield from self._contents(self._given, ("--indexed-objects",), ())

    def _contents(
        self, settings: Settings, options: Sequence[str], ids: Sequence[str] | None, more: Sequence[str] = ()
    ) -> Iterator[Content]:
        walk = self._blobs(settings, options, ids, more)
        while some := list(itertools.islice(walk, _AT_ONCE)):
            looks = catfile.looks(settings, [blob for _, blob in some], LIMIT, _begins_well)
            for (path, blob), look in zip(some, looks, strict=True):
                if look is None:
                    raise RepositoryError(f"blob {blob} cannot be read", path=path, hint="see git fsck")
                if look.data is not None:
                    yield Content(path, blob, look.data)

    def _blobs(
        self, settings: Settings, options: Sequence[str], ids: Sequence[str] | None, more: Sequence[str]
    ) -> Iterator[tuple[bytes, str]]:
        """Yield path and id of every blob that a walk finds here, LIMIT bytes at most.

        Two processes, one feeding the other: git rev-list walks, git cat-file tells blobs from trees.
        """
        environment, directory = local_environment(settings), settings.directory
        with catfile.scratch() as given, catfile.scratch() as said:
            stdin = ("--stdin",) if ids else ()
            given.write("".join(f"{id}\n" for id in ids or ()).encode("ascii"))
            given.seek(0)
            walk = ["rev-list", "--objects", "--missing=print", *options, *stdin, *more]
            tell = ["cat-file", "--batch-check=%(objecttype) %(objectsize) %(objectname) %(rest)", "--buffer"]
            walking = gitcmd.start(walk, environment, directory, stdin=given, stderr=said)
            with walking, cast("IO[bytes]", walking.stdout) as objects:
                telling = gitcmd.start(tell, environment, directory, stdin=objects, stderr=said)
                objects.close()  # so that an end of the second is the end of the first
                with telling, cast("IO[bytes]", telling.stdout) as lines:
                    for line in lines:
                        if line.startswith(b"?") or line.endswith(b" missing\n"):
                            self.absent += 1
                            continue
                        kind, size, blob, path = line.removesuffix(b"\n").split(b" ", 3)
                        if kind == b"blob" and int(size) <= LIMIT:
                            yield path, blob.decode("ascii")
            for child, name in ((walking, "git rev-list"), (telling, "git cat-file")):
                if child.returncode != 0:
                    said.seek(0)
                    raise gitcmd.failure(name, child.returncode, said.read(1 << 16))

    def _rev_list(self, options: Sequence[str], ids: Sequence[str]) -> bytes:
        given = "".join(f"{id}\n" for id in ids).encode("ascii")
        return self._output(["rev-list", *options], given)

    def _output(self, arguments: Sequence[str], given: bytes = b"") -> bytes:
        return gitcmd.output(arguments, local_environment(self._settings), self._settings.directory, given)

    def _git_directories(self) -> list[Path]:
        """Return the git directories of all worktrees, the main one first."""
        common = self._settings.common_dir
        try:
            linked = sorted(entry for entry in (common / "worktrees").iterdir() if entry.is_dir())
        except FileNotFoundError:
            linked = []
        except OSError as error:
            raise RepositoryError(f"the linked worktrees cannot be listed: {reason(error)}") from error
        return list(dict.fromkeys([common, *linked, self._settings.git_dir]))

    def _environment(self, directory: Path) -> dict[str, str]:
        """Return the environment in which git works in one of the worktrees."""
        base = local_environment(self._settings)
        without = {name: base[name] for name in base if name not in {"GIT_WORK_TREE", "GIT_COMMON_DIR"}}
        return {**without, "GIT_DIR": str(directory)}

    def _refs(self, environment: Mapping[str, str]) -> bytes:
        arguments = ["for-each-ref", "--format=%(objectname) %(refname)"]
        code, out, err = gitcmd.collect(gitcmd.start(arguments, environment, self._settings.directory))
        broken = b"ignoring broken ref" in err
        if code != 0 or broken:
            raise (
                gitcmd.failure("git for-each-ref", code, err)
                if code
                else RepositoryError(f"a ref is broken: {gitcmd.complaint(err)}", hint="see git fsck")
            )
        return out

    def _objects(
        self, names: Sequence[str], environment: Mapping[str, str], kinds: Sequence[bytes] = _KINDS
    ) -> list[str]:
        """Return the ids of the objects that `names` mean; those that mean none, or no such object, are left out."""
        if not names:
            return []
        given = "".join(f"{name}\n" for name in names).encode("ascii")
        child = gitcmd.start(["cat-file", "--batch-check"], environment, self._settings.directory, stdin=gitcmd.PIPE)
        code, out, err = gitcmd.collect(child, given)
        if code != 0:
            raise gitcmd.failure("git cat-file", code, err)
        answers = (FOUND.fullmatch(line) for line in out.splitlines(keepends=True))
        return [found[1].decode("ascii") for found in answers if found and found[2] in kinds]


def commits_of(settings: Settings, blobs: Iterable[str], revisions: Sequence[str]) -> dict[str, str]:
    """Return, for those of `blobs` that a commit brought, the first such commit in the history of `revisions`.

    `revisions` are arguments of git rev-list. Goes through that history once.
    """
    wanted = {blob.encode("ascii") for blob in blobs}
    found: dict[bytes, bytes] = {}
    environment, directory = local_environment(settings), settings.directory
    with catfile.scratch() as said:
        walking = gitcmd.start(["rev-list", *revisions], environment, directory, stderr=said)
        with walking, cast("IO[bytes]", walking.stdout) as commits:
            tell = ["diff-tree", "--stdin", "-r", "-m", "--root", "--raw", "--no-renames", "--no-abbrev"]
            telling = gitcmd.start(tell, environment, directory, stdin=commits, stderr=said)
            commits.close()
            with telling, cast("IO[bytes]", telling.stdout) as lines:
                commit = b""
                for line in lines:
                    if not line.startswith(b":"):
                        commit = line.split(b" ", 1)[0].strip()
                    elif (blob := line.split(b" ", 4)[3]) in wanted:
                        found[blob] = commit  # newest first: what comes last is the first that had it
    # A history that is not all here ends the children early; a name is not worth more than that.
    return {blob.decode("ascii"): commit.decode("ascii") for blob, commit in found.items()}


def _begins_well(head: bytes) -> bool:
    return head.lstrip(b" \t\r\n").startswith(_BEGINNINGS)


def _words_below(directory: Path, folders: Iterable[str]) -> set[str]:
    """Return what may be ids in the files of a git directory that hold some, and in all those of `folders` in it."""
    words: set[str] = set()
    try:
        files = [directory / name for name in os.listdir(directory) if _PSEUDO_REF.fullmatch(name)]
        for name in folders:
            files += [Path(at, file) for at, _, found in os.walk(directory / name, onerror=_refuse) for file in found]
        for file in files:
            with contextlib.suppress(FileNotFoundError):  # gone since: what it named was in use until now
                words |= _words_of(file)
    except (OSError, ValueError) as error:
        raise RepositoryError(f"{directory} cannot be read: {error}", hint="see git fsck") from error
    return words


def _refuse(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error


def _words_of(file: Path) -> set[str]:
    status = file.stat()
    if not stat.S_ISREG(status.st_mode) or not status.st_size:
        return set()
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as text:
        return {found[0].decode("ascii") for found in _WORDS.finditer(text)}


def _state_of(file: Path) -> tuple[int, int, int] | None:
    try:
        status = file.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _literal(text: str) -> str:
    """Return a pattern of wildmatch that means `text` itself."""
    return re.sub(r"[*?\[\\]", r"\\\g<0>", text)
