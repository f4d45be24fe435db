"""Repositories to clone from and to push to: git's part in a bare repository, the objects on a real Git LFS server."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bench.cases import OURS
from bench.contenders import Contender, environment
from bench.data import Built
from bench.measure import WorkTree, configuration, warm
from bench.updates.repository import Place
from tests.support import lfs_server
from tests.support.lfs_server import Hosted, LfsServer

CLONE = "clone"


@dataclass(frozen=True, slots=True)
class Origin:
    """What a contender clones; the global configuration of `environment` knows its filter and the server."""

    built: Built
    bare: Path
    hosted: Hosted
    environment: Mapping[str, str]
    peak: Path


def missing() -> dict[str, str]:
    """Return what is not installed and needed for objects to travel, with what to do."""
    found = {}
    if not shutil.which("git-lfs"):
        found["git-lfs"] = "git-lfs is not installed"
    if not lfs_server.is_installed():
        found["giftless"] = "scripts/setup giftless .venv-giftless"
    return found


@contextmanager
def server(place: Place, latency: float = 0.0) -> Iterator[LfsServer]:
    """Run a server that answers each request `latency` seconds late, with its storage in the case's folder."""
    with lfs_server.running(place.scratch / "server", latency) as running:
        yield running


def publish(contender: Contender, tree: WorkTree, hosted: Hosted, place: Place) -> Origin:
    """Send everything that `tree` has committed, and return where it can be cloned from."""
    bare = new_bare(tree, hosted, tree.path.parent / "origin.git")
    if contender.name == OURS:
        tree.git("theta", "push", "--quiet", "origin", "HEAD")  # packs too
    else:
        send(tree, objects(tree))
    tree.git("push", "--quiet", "origin", "HEAD:refs/heads/main")
    assert hosted.objects().keys() == set(objects(tree)), "the server has not what was sent"
    home, peak = tree.path.parent / "clones-home", tree.path.parent / "clones-peak"
    home.mkdir()
    own = {**tree.environment, **environment(contender, home, ""), "GIT_CONFIG_GLOBAL": str(home / ".gitconfig")}
    origin = Origin(tree.built, bare, hosted, own, peak)
    alone = replace(tree, environment=own)
    for key, value in {**configuration(contender, tree.built, place.tools, peak), **_of_server(hosted)}.items():
        alone.git("config", "--global", key, value)
    return origin


def new_bare(tree: WorkTree, hosted: Hosted, bare: Path) -> Path:
    """Make an empty repository at `bare`, and it and the server's the ones that `tree` pushes to, as `origin`."""
    tree.git("init", "--quiet", "--bare", "--initial-branch=main", str(bare))
    for key, value in {**_of_server(hosted), "remote.origin.url": bare.as_uri()}.items():
        tree.git("config", key, value)
    return bare


def clone(origin: Origin, place: Place, *options: str) -> WorkTree:
    """Clone from a quiet, warm state, into a folder of its own, and compare what came."""
    folder = Path(tempfile.mkdtemp(prefix="clone-", dir=place.scratch))
    tree = WorkTree(folder, origin.built, origin.environment, origin.peak)
    warm(origin.bare)
    warm(origin.hosted.folder)
    # By its URL: git would give the files of a path beside it further names.
    tree.timed(CLONE, "clone", "--quiet", *options, origin.bare.as_uri(), "repository", fetches=True)
    origin.built.same_bytes(folder / "repository")
    return tree


def objects(tree: WorkTree) -> list[str]:
    """Return the ids of all objects that the repository holds, sorted."""
    return sorted(file.name for file in (tree.path / ".git" / "lfs" / "objects").glob("??/??/*"))


def send(tree: WorkTree, oids: list[str]) -> None:
    """Have git-lfs send objects to `origin`."""
    tree.git(*SEND, stdin=lines(oids))


SEND = ("lfs", "push", "--object-id", "origin", "--stdin")


def lines(oids: list[str]) -> str:
    """Return what `SEND` reads."""
    return "".join(f"{oid}\n" for oid in oids)


def _of_server(hosted: Hosted) -> dict[str, str]:
    return {"lfs.url": hosted.url, "lfs.locksverify": "false"}
