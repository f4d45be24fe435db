"""`git theta fetch`: get the objects of commits, so that they can be checked out without a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from theta_daemon.cli.terminal import count, fail, say, warn
from theta_daemon.cli.verb import Place, Verb
from theta_daemon.errors import MetadataError, UsageError
from theta_daemon.history.commits import Commits
from theta_daemon.history.trees import metadata
from theta_daemon.metadata import objects, packs, text
from theta_daemon.metadata.entries import ObjectRef

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from theta_daemon.metadata.entries import Metadata
    from theta_daemon.metadata.packs import Pack
    from theta_daemon.settings import Settings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what to get, and from where."""
    parser.add_argument("revisions", nargs="*", metavar="REVISION", help="branches, tags, commits (default: HEAD)")
    parser.add_argument("--all", action="store_true", help="what any commit of any branch or tag needs")
    parser.add_argument("--remote", metavar="REMOTE", help="the name of the remote (default: as git-lfs chooses)")
    parser.add_argument("-n", "--dry-run", action="store_true", help="get nothing, tell what would be")
    parser.add_argument("-q", "--quiet", action="store_true", help="show no progress")


def run(arguments: argparse.Namespace, place: Place) -> int:
    """Get them; the exit status tells whether all have come."""
    from theta_daemon.pipelines.services import open_store
    from theta_daemon.store.fetch import Fetcher

    if arguments.all and arguments.revisions:
        raise UsageError("--all and revisions exclude one another")
    here = place.settings()
    store = open_store(here)
    named: dict[ObjectRef, None] = {}
    packed: dict[ObjectRef, Pack] = {}
    for found in _everything(place, here) if arguments.all else _tips(here, arguments.revisions or ["HEAD"]):
        named.update((ObjectRef(each.oid, each.size), None) for each in objects.of(found))
        packed.update((pack.ref, pack) for pack in packs.of(found))
    wanted = [ref for ref in named if not store.contains(ref.oid, ref.size)]
    size = sum(ref.size for ref in wanted)
    if arguments.dry_run:
        say(f"{count(len(wanted), 'object')} would be fetched, {count(size, 'byte')}")
        return 0
    fetcher = Fetcher(here, store, remote=arguments.remote)
    try:
        batch = fetcher.want(wanted, packs.worthwhile(packed.values(), set(wanted)))
        with fetcher.shown(shown=here.progress and not arguments.quiet):
            while not batch.is_settled:
                fetcher.wait([batch])
    finally:
        fetcher.close()
    for error in batch.failed.values():
        fail(str(error))
    size -= sum(ref.size for ref in batch.failed)
    say(f"{count(len(wanted) - len(batch.failed), 'object')} fetched, {count(size, 'byte')}")
    return 1 if batch.failed else 0


def _tips(here: Settings, revisions: list[str]) -> Iterator[Metadata]:
    commits = Commits(here)
    for revision in revisions:
        for found in metadata(here, commits.commit(revision)):
            yield from _parsed(found.data, found.path)


def _everything(place: Place, here: Settings) -> Iterator[Metadata]:
    rows = place.git.output("for-each-ref", "--format=%(objectname)", "refs/heads/", "refs/tags/", "refs/remotes/")
    tips = [row.decode("ascii") for row in dict.fromkeys(rows.splitlines())]
    for found in Commits(here).in_range(tips, []):
        yield from _parsed(found.data, found.path)


def _parsed(data: bytes, path: bytes) -> Iterator[Metadata]:
    try:
        yield text.parse(data)
    except MetadataError as error:
        if text.kind(data) is not text.Kind.OTHER:
            warn(f"nothing is fetched for it: {error.at(path=path)}")


VERB = Verb(
    name="fetch",
    summary="get the objects of commits from a remote",
    description=(
        "Get the objects that the files of REVISIONs need and that are not here, through git-lfs. With --all those of "
        "every commit, as a backup or a mirror needs them. Nothing in the work tree changes: see git theta pull."
    ),
    run=run,
    add_arguments=add_arguments,
)
