"""`git theta prune`: delete the objects of ours that nothing needs any more."""

from __future__ import annotations

import time
from contextlib import nullcontext
from typing import TYPE_CHECKING

from theta_daemon.cli import lfs
from theta_daemon.cli.terminal import count, note, say
from theta_daemon.cli.verb import Place, Verb
from theta_daemon.errors import RepositoryError, UsageError
from theta_daemon.progress import meter

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from theta_daemon.settings import Settings
    from theta_daemon.store.removal import Removal, Stored

_DEFAULT = "2.weeks.ago"  # git's own for what it deletes
_NANOSECONDS = 10**9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what is to go, and how much is told."""
    parser.add_argument("-n", "--dry-run", action="store_true", help="delete nothing, tell what would be")
    parser.add_argument("-v", "--verbose", action="store_true", help="name every object: bytes, id")
    parser.add_argument("-q", "--quiet", action="store_true", help="show no progress")
    parser.add_argument(
        "--expire", metavar="TIME", help="only what is older (default: gc.pruneExpire, or two weeks), as in git prune"
    )
    parser.add_argument(
        "--pushed",
        metavar="REMOTE",
        help="also what this remote has and is not in use here; git-lfs makes sure first that the remote has it",
    )
    parser.add_argument(
        "--shared-storage",
        action="store_true",
        help="also from an lfs.storage outside of the repository, which no other repository may use",
    )


def run(arguments: argparse.Namespace, place: Place) -> int:
    """Delete, and say what that freed."""
    from theta_daemon.pipelines.unneeded import look, look_again, only_on_remote
    from theta_daemon.store.removal import Removal

    here = place.settings()
    if place.git.line("config", "--type=bool", "--default", "false", "extensions.preciousObjects") == b"true":
        raise RepositoryError(
            "objects are precious in this repository (extensions.preciousObjects)",
            hint="as with git prune, nothing is deleted while that is set: others may borrow objects from here",
        )
    expires = _expires(place, arguments.expire)
    if arguments.pushed is not None and arguments.pushed not in _remotes(place):
        raise UsageError(f"there is no remote {arguments.pushed!r}", hint="git remote lists them")
    own = here.lfs_storage.resolve().is_relative_to(here.common_dir)
    removal = Removal(here.theta_dir, here.lfs_objects if own or arguments.shared_storage else None)
    if not own and not arguments.shared_storage:
        note(f"{here.lfs_objects} is outside of the repository and left alone (see --shared-storage)")
    with removal if not arguments.dry_run else nullcontext():
        now = time.time_ns() if arguments.dry_run else removal.now()
        with meter("Reading metadata", 0, 0, shown=here.progress and not arguments.quiet) as shown:
            old = look(here, min(expires * _NANOSECONDS, now), shown)
            pushed: Mapping[str, Stored] = {}
            if arguments.pushed is not None:
                pushed = only_on_remote(here, arguments.pushed, old.ours, shown)
        if pushed and not arguments.dry_run:
            _make_sure(here, arguments.pushed, pushed, shown=here.progress and not arguments.quiet)
            look_again(here, old)
        _remove(removal, {**old.unneeded, **pushed}, arguments, shown=here.progress and not arguments.quiet)
    return 0


def _remove(removal: Removal, objects: Mapping[str, Stored], arguments: argparse.Namespace, *, shown: bool) -> None:
    removed = freed = 0
    what = "Looking at objects" if arguments.dry_run else "Deleting objects"
    with meter(what, len(objects), 0, shown=shown and not arguments.verbose) as told:
        for stored in objects.values():
            size = removal.frees(stored) if arguments.dry_run else removal.remove(stored)
            told.advance(items=1)
            if size is None:
                continue
            removed, freed = removed + 1, freed + size
            if arguments.verbose:
                say(f"{stored.size}\t{stored.oid}")
    done = "would be deleted" if arguments.dry_run else "deleted"
    say(f"{count(removed, 'object')} {done}, {count(freed, 'byte')} freed")


def _make_sure(here: Settings, remote: str, objects: Mapping[str, Stored], *, shown: bool) -> None:
    """Make sure that a remote has objects: git-lfs asks for each whether it is there, and sends it if not."""
    from theta_daemon.metadata.entries import ObjectRef
    from theta_daemon.pipelines.services import open_store

    store = open_store(here.replace(alternates=()))
    with meter("Checking objects", len(objects), sum(each.size for each in objects.values()), shown=shown) as told:
        for stored in objects.values():
            ref = ObjectRef(stored.oid, stored.size)
            # git-lfs looks into its own store alone: `open` heals that.
            store.verify(ref, store.open(ref), forgetting=True)
            told.advance(items=1, size=stored.size)
    lfs.push(here.child_environment, remote, sorted(objects), shown=shown)


def _expires(place: Place, given: str | None) -> int:
    """Return the time, in seconds, before which objects are old. Raises UsageError, RepositoryError."""
    kind = ("config", "--type=expiry-date")
    if given is None:
        return int(place.git.line(*kind, "--default", _DEFAULT, "gc.pruneExpire"))
    try:
        return int(place.git.line("-c", f"theta.expire={given}", *kind, "theta.expire"))
    except RepositoryError:
        raise UsageError(f"{given!r} is no time", hint="try --expire=3.days.ago, now, or never") from None


def _remotes(place: Place) -> list[str]:
    return place.git.output("remote").decode("utf-8", "surrogateescape").splitlines()


VERB = Verb(
    name="prune",
    summary="delete the objects that nothing needs any more",
    description=(
        "Delete objects of parameter groups that no ref, index, stash, reflog or worktree needs, and that are older "
        "than two weeks. Objects of Git LFS's own files are not touched. Says how many objects that were, and how "
        "many bytes are free now."
    ),
    run=run,
    add_arguments=add_arguments,
)
