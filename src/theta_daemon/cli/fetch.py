"""`git theta fetch`: get the objects of commits, so that they can be checked out without a network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from theta_daemon.cli.terminal import count, fail, say, warn
from theta_daemon.cli.verb import Place, Verb
from theta_daemon.errors import MetadataError, UnsupportedError, UsageError
from theta_daemon.history.commits import Commits
from theta_daemon.history.trees import metadata
from theta_daemon.metadata import objects, packs, text
from theta_daemon.metadata.entries import ObjectRef

if TYPE_CHECKING:
    import argparse
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from theta_daemon.errors import ThetaError
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

    if arguments.all and arguments.revisions:
        raise UsageError("--all and revisions exclude one another")
    here = place.settings()
    store = open_store(here)
    named: dict[ObjectRef, None] = {}
    packed: dict[ObjectRef, Pack] = {}
    passed_over: list[bytes] = []
    revisions = arguments.revisions or ["HEAD"]
    for found in _everything(place, here, passed_over) if arguments.all else _tips(here, revisions, passed_over):
        named.update((ObjectRef(each.oid, each.size), None) for each in objects.of(found))
        packed.update((pack.ref, pack) for pack in packs.of(found))
    wanted = [ref for ref in named if not store.contains(ref.oid, ref.size)]
    size = sum(ref.size for ref in wanted)
    if arguments.dry_run:
        say(f"{count(len(wanted), 'object')} would be fetched, {count(size, 'byte')}")
        return 1 if passed_over else 0
    worthwhile = packs.worthwhile(packed.values(), set(wanted))
    failed = get(here, wanted, worthwhile, remote=arguments.remote, shown=here.progress and not arguments.quiet)
    for error in failed.values():
        fail(str(error))
    size -= sum(ref.size for ref in failed)
    say(f"{count(len(wanted) - len(failed), 'object')} fetched, {count(size, 'byte')}")
    return 1 if failed or passed_over else 0


def get(
    here: Settings,
    wanted: Collection[ObjectRef],
    worthwhile: Iterable[Pack] = (),
    *,
    remote: str | None = None,
    shown: bool,
) -> Mapping[ObjectRef, ThetaError]:
    """Fetch objects from a remote, None for git-lfs's choice; return those that did not come, and why.

    `worthwhile` are packs to take some of them from.
    """
    from theta_daemon.pipelines.services import open_store
    from theta_daemon.store.fetch import Fetcher

    fetcher = Fetcher(here, open_store(here), remote=remote)
    try:
        batch = fetcher.want(wanted, worthwhile)
        with fetcher.shown(shown=shown):
            while not batch.is_settled:
                fetcher.wait([batch])
    finally:
        fetcher.close()
    return batch.failed


def _tips(here: Settings, revisions: list[str], passed_over: list[bytes]) -> Iterator[Metadata]:
    commits = Commits(here)
    for revision in revisions:
        for found in metadata(here, commits.commit(revision)):
            yield from _parsed(found.data, found.path, passed_over)


def _everything(place: Place, here: Settings, passed_over: list[bytes]) -> Iterator[Metadata]:
    rows = place.git.output("for-each-ref", "--format=%(objectname)", "refs/heads/", "refs/tags/", "refs/remotes/")
    tips = [row.decode("ascii") for row in dict.fromkeys(rows.splitlines())]
    for found in Commits(here).in_range(tips, []):
        yield from _parsed(found.data, found.path, passed_over)


def _parsed(data: bytes, path: bytes, passed_over: list[bytes]) -> Iterator[Metadata]:
    """Yield the metadata; where it is newer than this program, note the path in `passed_over`: it may be fine."""
    try:
        yield text.parse(data)
    except (MetadataError, UnsupportedError) as error:
        if text.kind(data) is not text.Kind.OTHER:
            warn(f"nothing is fetched for it: {error.at(path=path)}")
        if isinstance(error, UnsupportedError):
            passed_over.append(path)


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
