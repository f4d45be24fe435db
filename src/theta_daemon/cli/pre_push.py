"""`git theta pre-push REMOTE URL`: send the objects that the pushed commits name, or stop the push.

Works from the commits themselves: every metadata blob that the remote does not have yet, as far as its
remote-tracking refs and the refs being updated tell. All objects such a blob names are offered, unchanged ones too:
git-lfs asks the server which it lacks. That the remote has a commit does not prove that it has its objects (a push with
--no-verify, or from a clone without a hook), so a push repairs what an earlier one left out. What is offered in vain
costs one request for each hundred objects.

git-lfs stops, having sent nothing, when one object is missing in the store of this repository (tried, 3.3), wherever
else it may lie. So objects that lie in our own store beside it or in an alternate are linked in first, and those that
metadata on the remote names already need not be here.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from theta_daemon import durable
from theta_daemon.cli import lfs
from theta_daemon.cli.terminal import count, note, shown, warn
from theta_daemon.cli.verb import Place, Verb
from theta_daemon.errors import (
    CorruptObject,
    MetadataError,
    MissingObject,
    ObjectError,
    ProtocolError,
    RepositoryError,
    UnsupportedError,
)
from theta_daemon.history import trees
from theta_daemon.history.commits import Commits
from theta_daemon.metadata import objects, packs, text
from theta_daemon.metadata.entries import ObjectRef
from theta_daemon.metadata.text import Kind
from theta_daemon.pipelines.services import open_store
from theta_daemon.store.packs import write

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

    from theta_daemon.cli.git import Git
    from theta_daemon.metadata.objects import NamedObject
    from theta_daemon.metadata.packs import Pack
    from theta_daemon.settings import Settings


_TOLD = 5  # damaged files by name


@dataclass(frozen=True, slots=True)
class RefUpdate:
    """One ref that git is about to push: the new commit, the one it replaces (None: a new ref), its name there."""

    local: str
    remote: str | None
    name: str


@dataclass(frozen=True, slots=True)
class Wanted:
    """An object, and a metadata file that names it: its path, and its blob."""

    named: NamedObject
    path: bytes
    blob: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what git passes to the hook."""
    parser.add_argument("remote", metavar="REMOTE", help="the remote's name, or its URL where it has none")
    parser.add_argument("url", metavar="URL", help="the URL that git pushes to")


def run(arguments: argparse.Namespace, place: Place) -> int:
    """Send the objects; an exit status other than 0 stops git's push."""
    updates = list(ref_updates(sys.stdin.buffer))
    if not updates:
        return 0
    here = place.settings()
    on_remote = _on_remote(place, Commits(here), arguments.remote, arguments.url, updates)
    send(place, here, arguments.remote, arguments.url, [update.local for update in updates], on_remote)
    return 0


def _on_remote(place: Place, commits: Commits, remote: str, url: str, updates: list[RefUpdate]) -> list[str]:
    """Return commits that the remote has, as git told of the refs that it pushes, and as the remote-tracking refs tell.

    These may be those of another repository: the URL was changed, pushes go elsewhere than fetches, the server was set
    up anew. So they count where they agree with what git told; where they do not, the remote is asked.
    """
    replaced = [update.remote for update in updates if update.remote is not None]
    tracked = commits.tracked(remote)
    known = [(update.remote, tracked.get(os.fsencode(update.name.removeprefix("refs/heads/")))) for update in updates]
    is_same = any(told is not None and told == found for told, found in known)
    is_gone = any(told is None and found is not None for told, found in known)
    if tracked and (is_gone or (not is_same and _fetches_elsewhere(place, remote, url))):
        try:
            return [*replaced, *commits.advertised(url)]
        except RepositoryError as error:
            warn(f"what {remote} has already is not known, so all is offered: {error}")
            return replaced
    return [*replaced, *tracked.values()]


def _fetches_elsewhere(place: Place, remote: str, url: str) -> bool:
    """Tell whether git fetches from another URL than it pushes to."""
    found = place.git.answer("ls-remote", "--get-url", remote)
    return found is None or os.fsdecode(found.removesuffix(b"\n")) != url


def send(
    place: Place,
    here: Settings,
    remote: str,
    url: str,
    tips: list[str],
    on_remote: list[str],
    *,
    is_by_hand: bool = False,
    is_quiet: bool = False,
) -> int:
    """Send the objects that commits named in `tips` brought; return how many were offered.

    What is new since the commits `on_remote`, which may be missing here, is offered. Where it `is_by_hand`, so is what
    the tips hold, whoever has them: a push without a hook moved the refs that tell of the remote. And then what is
    missing here does not keep the rest from being sent. Where it `is_quiet`, nothing is said but what is wrong.

    Raises MissingObject and CorruptObject for objects that cannot be sent, ObjectError where git-lfs fails.
    """
    commits = Commits(here)
    on_remote = commits.known(on_remote)
    packed: dict[ObjectRef, Pack] = {}
    wanted = named_in(commits, tips, on_remote, packed)
    if is_by_hand and on_remote:  # else all is in the range
        held = (found for tip in tips for found in trees.metadata(here, tip))
        wanted = {**_named(held, packed), **wanted}
    missing = {}
    for oid, it in wanted.items():
        try:
            if not _bring_in(here, it):
                missing[oid] = it
        except CorruptObject as error:
            raise error.at(commit=commits.brought(it.blob, tips, on_remote)) from error
    if missing:
        missing = _brought_in(here, commits, url, missing, on_remote, shown=here.progress and not is_quiet)
    if missing and not is_by_hand:
        raise _missing(missing, commits, tips, on_remote)
    found = [*wanted, *(pack.ref.oid for pack in packed.values() if _pack(here, pack))]
    oids = sorted(oid for oid in found if _place(here.lfs_objects, oid).is_file())
    unseen = len(wanted.keys() - set(oids) - missing.keys())
    if unseen and is_by_hand and not is_quiet:
        known = f"{remote} has commits that name them, whether it has them is not known"
        note(f"{count(unseen, 'object')} are not here; {known}")
    if oids:
        if not is_quiet:
            note(f"sending {count(len(oids), 'object')} to {remote}")
        lfs.push(place.environment, _lfs_name(place.git, remote, url), oids, shown=here.progress and not is_quiet)
    if missing:
        raise _missing(missing, commits, tips, on_remote)
    return len(oids)


def _brought_in(
    here: Settings, commits: Commits, url: str, missing: dict[str, Wanted], on_remote: list[str], *, shown: bool
) -> dict[str, Wanted]:
    """Return what of `missing` the remote has not, as far as its commits tell, and what could not be fetched either."""
    names = named_in(commits, on_remote, [], told=False)
    if not missing.keys() <= names.keys():
        with suppress(RepositoryError):  # it cannot be asked
            names |= named_in(commits, commits.known(commits.advertised(url)), [], told=False)
    missing = {oid: it for oid, it in missing.items() if oid not in names}
    if not missing:
        return missing
    from theta_daemon.cli.fetch import get

    # A clone has the objects of what was checked out alone; the others are where that came from.
    refs_of = {ObjectRef(it.named.oid, it.named.size): oid for oid, it in missing.items()}
    failed = get(here, list(refs_of), shown=shown)
    return {oid: missing[oid] for ref, oid in refs_of.items() if ref in failed or not _bring_in(here, missing[oid])}


def ref_updates(lines: Iterable[bytes]) -> Iterator[RefUpdate]:
    """Read githooks(5)'s `<local ref> <local id> <remote ref> <remote id>`; deletions push nothing.

    So does an empty line: a hook that keeps the list in a variable of the shell makes one of an empty list.
    """
    for line in lines:
        match line.decode("utf-8", "surrogateescape").split():
            case []:
                pass
            case [_, local, name, remote] if _is_id(local) and _is_id(remote):
                if local.strip("0"):
                    yield RefUpdate(local, remote if remote.strip("0") else None, name)
            case _:
                raise ProtocolError(f"pre-push got a line that is not git's: {line[:200]!r}")


def named_in(
    commits: Commits,
    include: list[str],
    exclude: list[str],
    packed: dict[ObjectRef, Pack] | None = None,
    *,
    told: bool = True,
) -> dict[str, Wanted]:
    """Return the objects that metadata in a range of commits names, by object id; add its packs to `packed`.

    Metadata that is damaged is passed over, with a warning if `told`: nobody can check it out, so nothing is lost, and
    a broken commit of long ago must not stop every push.

    Raises UnsupportedError for metadata of a newer version: nobody here knows what it needs.
    """
    wanted: dict[str, Wanted] = {}
    damaged = 0
    for found in commits.in_range(include, exclude):
        try:
            metadata = text.parse(found.data)
        except (MetadataError, UnsupportedError) as error:
            if not told or text.kind(found.data) is Kind.OTHER:
                continue
            damaged += 1
            if damaged <= _TOLD or isinstance(error, UnsupportedError):
                error.at(path=found.path, commit=commits.brought(found.blob, include, exclude))
            if isinstance(error, UnsupportedError):
                raise
            if damaged <= _TOLD:
                warn(f"nothing is sent for damaged metadata: {error}")
            continue
        for named in objects.of(metadata):
            wanted.setdefault(named.oid, Wanted(named, found.path, found.blob))
        if packed is not None:
            packed.update((pack.ref, pack) for pack in packs.of(metadata) if pack.ref not in packed)
    if damaged > _TOLD:
        warn(f"nothing is sent for {count(damaged - _TOLD, 'more file')} of damaged metadata")
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
                *(_place(store, named.oid), target),
                temporary=here.lfs_storage / "tmp",
                replace=present is not None,
                mode=here.file_mode,
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
    store = open_store(here)
    try:
        write(store, pack)
    except ObjectError:
        return False
    return True


def _place(store: Path, oid: str) -> Path:
    return store / oid[:2] / oid[2:4] / oid


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None


def _named(held: Iterable[trees.Found], packed: dict[ObjectRef, Pack]) -> dict[str, Wanted]:
    """Return the objects that the metadata in trees names, by object id; add its packs to `packed`.

    What is damaged is passed over: `named_in` has told, or the remote has it so. Raises UnsupportedError as it does.
    """
    wanted: dict[str, Wanted] = {}
    for found in held:
        try:
            parsed = text.parse(found.data)
        except MetadataError:
            continue
        except UnsupportedError as error:
            if text.kind(found.data) is Kind.OTHER:
                continue
            raise error.at(path=found.path) from error
        for named in objects.of(parsed):
            wanted.setdefault(named.oid, Wanted(named, found.path, found.blob))
        packed.update((pack.ref, pack) for pack in packs.of(parsed) if pack.ref not in packed)
    return wanted


def _missing(missing: dict[str, Wanted], commits: Commits, tips: list[str], on_remote: list[str]) -> MissingObject:
    wanted, others = min(missing.items())[1], len(missing) - 1
    more = f" and {count(others, 'other')}" if others else ""
    return MissingObject(
        f"object {wanted.named.oid}{more} is not in this repository, and nothing tells that the remote has it",
        path=wanted.path,
        parameter=wanted.named.parameter,
        commit=commits.brought(wanted.blob, tips, on_remote),
        hint=f"check out the commits that you push where {shown(wanted.path)} can be fetched, or push with --no-verify "
        "if the remote has the objects",
    )


def _lfs_name(git: Git, remote: str, url: str) -> str:
    """Return the remote as git-lfs takes it.

    It cannot send to a plain path (tried, 3.3), but to a file:// URL. Of a remote with several URLs it knows the last.
    """
    if remote != url:
        urls = git.answer("config", "--get-all", f"remote.{remote}.pushurl") or git.answer(
            "config", "--get-all", f"remote.{remote}.url"
        )
        own = [git.answer("config", "--get", f"remote.{remote}.{key}") for key in ("lfspushurl", "lfsurl")]
        if len((urls or b"").splitlines()) < 2 or any(own):
            return remote
    path = Path(url)
    return path.absolute().as_uri() if path.is_dir() else url


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
