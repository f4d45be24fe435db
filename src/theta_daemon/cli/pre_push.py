"""`git theta pre-push REMOTE URL`: send the objects that the pushed commits name, or stop the push.

Works from the commits themselves: every metadata blob that the remote does not have yet, as far as its
remote-tracking refs and the refs being updated tell. All objects such a blob names are offered, unchanged ones too;
git-lfs asks the server which it lacks, so a push repairs what an earlier one left out.

git-lfs stops, having sent nothing, when one object is missing in the store of this repository (tried, 3.3), wherever
else it may lie. So objects that lie in our own store beside it or in an alternate are linked in first, and those that
metadata on the remote names already need not be here.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from theta_daemon import durable
from theta_daemon.cli import lfs
from theta_daemon.cli.terminal import count, note, shown, warn
from theta_daemon.cli.verb import Place, Verb
from theta_daemon.errors import CorruptObject, MetadataError, MissingObject, ObjectError, ProtocolError
from theta_daemon.history.commits import Commits
from theta_daemon.metadata import objects, packs, text
from theta_daemon.metadata.text import Kind
from theta_daemon.store.objects import ObjectStore
from theta_daemon.store.packs import write

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

    from theta_daemon.metadata.entries import ObjectRef
    from theta_daemon.metadata.objects import NamedObject
    from theta_daemon.metadata.packs import Pack
    from theta_daemon.settings import Settings


@dataclass(frozen=True, slots=True)
class RefUpdate:
    """One ref that git is about to push: the new commit, and the one it replaces (None: a new ref)."""

    local: str
    remote: str | None


@dataclass(frozen=True, slots=True)
class Wanted:
    """An object, and the path of a metadata file that names it."""

    named: NamedObject
    path: bytes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what git passes to the hook."""
    parser.add_argument("remote", metavar="REMOTE", help="the remote's name, or its URL where it has none")
    parser.add_argument("url", metavar="URL", help="the URL that git pushes to")


def run(arguments: argparse.Namespace, place: Place) -> int:
    """Send the objects; an exit status other than 0 stops git's push."""
    updates = list(ref_updates(sys.stdin.buffer))
    if not updates:
        return 0
    replaced = [update.remote for update in updates if update.remote is not None]
    send(place, arguments.remote, arguments.url, [update.local for update in updates], replaced)
    return 0


def send(place: Place, remote: str, url: str, tips: list[str], replaced: list[str], *, everything: bool = False) -> int:
    """Send the objects that commits named in `tips` brought; return how many were offered.

    `replaced` are commits that the remote had there before. What the remote's commits name already is not offered
    again, unless `everything` is asked for.

    Raises MissingObject and CorruptObject for objects that cannot be sent, ObjectError where git-lfs fails.
    """
    here = place.settings()
    commits = Commits(here)
    on_remote = [] if everything else commits.known([*replaced, *commits.tracked(remote)])
    packed: dict[ObjectRef, Pack] = {}
    wanted = named_in(commits, tips, on_remote, packed)
    missing = {oid: it for oid, it in wanted.items() if not _bring_in(here, it)}
    if missing:
        for oid in named_in(commits, on_remote, []):
            missing.pop(oid, None)
    if missing:
        raise _missing(missing)
    found = [*wanted, *(pack.ref.oid for pack in packed.values() if _pack(here, pack))]
    oids = sorted(oid for oid in found if _place(here.lfs_objects, oid).is_file())
    if oids:
        note(f"sending {count(len(oids), 'object')} to {remote}")
        lfs.push(place.environment, _lfs_name(remote, url), oids)
    return len(oids)


def ref_updates(lines: Iterable[bytes]) -> Iterator[RefUpdate]:
    """Read githooks(5)'s `<local ref> <local id> <remote ref> <remote id>`; deletions push nothing."""
    for line in lines:
        match line.decode("utf-8", "surrogateescape").split():
            case [_, local, _, remote] if _is_id(local) and _is_id(remote):
                if local.strip("0"):
                    yield RefUpdate(local, remote if remote.strip("0") else None)
            case _:
                raise ProtocolError(f"pre-push got a line that is not git's: {line[:200]!r}")


def named_in(
    commits: Commits, include: list[str], exclude: list[str], packed: dict[ObjectRef, Pack] | None = None
) -> dict[str, Wanted]:
    """Return the objects that metadata in a range of commits names, by object id; add its packs to `packed`."""
    wanted: dict[str, Wanted] = {}
    for found in commits.in_range(include, exclude):
        try:
            metadata = text.parse(found.data)
        except MetadataError as error:
            # Nobody can check it out, so nothing is lost; a broken commit of long ago must not stop every push.
            if text.kind(found.data) is not Kind.OTHER:
                warn(f"nothing is sent for blob {found.blob}: {error.at(path=found.path)}")
            continue
        for named in objects.of(metadata):
            wanted.setdefault(named.oid, Wanted(named, found.path))
        if packed is not None:
            packed.update((pack.ref, pack) for pack in packs.of(metadata) if pack.ref not in packed)
    return wanted


def _bring_in(here: Settings, wanted: Wanted) -> bool:
    """Make sure that git-lfs finds an object where it looks, and tell whether it does.

    Raises CorruptObject where only files of another size have its name: git-lfs would send one of those.
    """
    named = wanted.named
    target = _place(here.lfs_objects, named.oid)
    present = _size(target)
    if present == named.size:
        return True
    stores = (here.lfs_objects, here.theta_dir / "objects", *here.alternates)
    sizes = {store: _size(_place(store, named.oid)) for store in stores}
    for store, size in sizes.items():
        if size == named.size:
            durable.link(
                _place(store, named.oid), target, temporary=here.lfs_storage / "tmp", replace=present is not None
            )
            return True
    for store, size in sizes.items():
        if size is not None:
            raise CorruptObject(
                f"object {named.oid} has {size} bytes and should have {named.size}",
                path=wanted.path,
                parameter=named.parameter,
                hint=f"remove {_place(store, named.oid)} and restore it from a clone that has it",
            )
    return False


def _pack(here: Settings, pack: Pack) -> bool:
    """Make sure that git-lfs finds a pack; False where not all of it is here: nobody needs it."""
    store = ObjectStore(here.lfs_objects, here.theta_dir / "objects", here.temporary, here.alternates, here.fsync)
    try:
        write(store, pack)
    except ObjectError:
        return False
    return True


def _place(store: Path, oid: str) -> Path:
    return store / oid[:2] / oid[2:4] / oid


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _missing(missing: dict[str, Wanted]) -> MissingObject:
    oid, wanted = min(missing.items())
    others = f" and {count(len(missing) - 1, 'other')}" if len(missing) > 1 else ""
    return MissingObject(
        f"object {oid}{others} is not in this repository, and nothing tells that the remote has it",
        path=wanted.path,
        parameter=wanted.named.parameter,
        hint=f"check out the commits that you push where {shown(wanted.path)} can be fetched, or push with --no-verify "
        "if the remote has the objects",
    )


def _lfs_name(remote: str, url: str) -> str:
    """Return the remote as git-lfs takes it: it cannot send to a plain path (tried, 3.3), but to a file:// URL."""
    path = Path(url)
    return path.absolute().as_uri() if remote == url and path.is_dir() else remote


def _is_id(text: str) -> bool:
    return len(text) in {40, 64} and all(digit in "0123456789abcdef" for digit in text)


VERB = Verb(
    name="pre-push",
    summary="send the objects that the pushed commits name",
    description=(
        "Called by the pre-push hook that git-theta left in a repository, with git's list of refs on standard input. "
        "Sends what the remote lacks with git lfs push --object-id; the push fails when that fails."
    ),
    run=run,
    add_arguments=add_arguments,
    for_hooks=True,
)
