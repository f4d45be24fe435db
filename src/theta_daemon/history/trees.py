"""Metadata in a tree: what a whole commit holds, whether it is checked out or not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from theta_daemon import gitcmd
from theta_daemon.errors import RepositoryError
from theta_daemon.frozen import Frozen
from theta_daemon.history import catfile
from theta_daemon.history.catfile import LIMIT, local_environment
from theta_daemon.history.index import REGULAR

if TYPE_CHECKING:
    from collections.abc import Iterator

    from theta_daemon.settings import Settings

_MARK = b'"lfs_metadata"'


class Found(Frozen):
    """A path of the tree, and the blob there, which may be metadata."""

    path: bytes
    blob: str
    data: bytes


def metadata(settings: Settings, treeish: str) -> Iterator[Found]:
    """Yield the metadata in a tree, or in that of a commit, by path; nothing is fetched into a partial clone.

    Raises RepositoryError where there is no such tree.
    """
    if treeish.startswith("-"):
        raise RepositoryError(f"{treeish!r:.80} is no tree")
    environment = local_environment(settings)
    out = gitcmd.output(["ls-tree", "-r", "-z", "-l", "--full-tree", treeish], environment, settings.directory)
    files = []
    for row in out.split(b"\0")[:-1]:
        facts, _, path = row.partition(b"\t")
        mode, _, name, size = facts.split()
        if mode.startswith(REGULAR) and size.isdigit() and int(size) <= LIMIT:  # "-": a partial clone lacks it
            files.append((path, name.decode("ascii")))
    looks = catfile.looks(settings, [blob for _, blob in files])
    for (path, blob), look in zip(files, looks, strict=True):
        if look is not None and look.data is not None and _MARK in look.data:
            yield Found(path, blob, look.data)
