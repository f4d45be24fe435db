"""`git theta install`: tell git to run theta-daemon for paths with `filter=theta`."""

from __future__ import annotations

import os
import shlex
import shutil
from typing import TYPE_CHECKING

from theta_daemon.cli import configuration, lfs
from theta_daemon.cli.terminal import note, say, shown, warn
from theta_daemon.cli.verb import Place, Verb
from theta_daemon.errors import RepositoryError
from theta_daemon.pipelines import hooks

if TYPE_CHECKING:
    import argparse

    from theta_daemon.cli.configuration import Scope
    from theta_daemon.cli.git import Git

_DIFF = "diff.theta.command"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the scopes and --force."""
    configuration.add_scope_arguments(parser)
    parser.add_argument("--force", action="store_true", help="replace values that neither we nor git-theta wrote")


def run(arguments: argparse.Namespace, place: Place) -> int:
    """Write what is missing, and say what was replaced."""
    install(place.git, arguments.scope, force=arguments.force)
    install_hook(place.git)
    warn_of_what_is_missing(place.git)
    return 0


def install(git: Git, scope: Scope, *, force: bool = False) -> None:
    """Make our settings stand in `scope`. Raises RepositoryError where foreign values stand, unless `force`."""
    changes = configuration.changes(configuration.read(git, scope))
    foreign = [change for change in changes if change.is_foreign]
    if foreign and not force:
        first = foreign[0]
        raise RepositoryError(
            f"the {scope} configuration has {configuration.described(first.setting.key, first.old[-1])}, "
            f"which is neither ours nor git-theta's",
            hint="git theta install --force replaces it",
        )
    for change in changes:
        configuration.write(git, scope, change.setting)
        for old in change.old:
            if not change.setting.accepts(old):
                note(f"replaced {configuration.described(change.setting.key, old)}")
    say(f"git-theta is {'installed' if changes else 'already installed'} ({scope} configuration).")


def install_hook(git: Git) -> None:
    """Make pushes send objects, in the repository that we are in, if any; say what is to be done by hand."""
    try:
        found = hooks.look(git.environment, git.directory)
    except RepositoryError:
        return  # not in a repository: each gets its hook by `git theta track`, or by this command there
    name = shown(os.fsencode(found.path))
    try:
        hooks.write(found)
    except RepositoryError as error:
        warn(f"pushes do not send objects yet: {error}")
        return
    if found.content is not None:
        say(f"the pre-push hook sends objects: {name}")
    elif found.advice is not None:
        warn(f"pushes do not send objects yet: {name}: {found.advice}")


def warn_of_what_is_missing(git: Git) -> None:
    """Warn of what would keep the filter from running; none of it is an error of this command."""
    if shutil.which("theta-daemon") is None:
        warn("theta-daemon is not on PATH: git cannot start the filter; put its directory on PATH")
    if lfs.version() is None:
        warn("git-lfs is not installed: this works, but checkpoints cannot be fetched from or sent to a remote")
    effective = configuration.read(git)
    for change in configuration.changes({key: values[-1:] for key, values in effective.items()}):
        value = change.old[-1] if change.old else "(nothing)"
        warn(f"another configuration file overrides this one: {configuration.described(change.setting.key, value)}")
    _warn_of_broken_diff(effective.get(_DIFF, ("",))[-1])


def _warn_of_broken_diff(command: str) -> None:
    """Warn where `git diff` would fail: git-theta sets this key, and its program may be gone.

    The key stays as it is: where the program does exist, it reads our metadata of flat checkpoints too.
    """
    try:
        words = shlex.split(command)
    except ValueError:
        return
    if words and shutil.which(words[0]) is None:
        warn(
            f"{configuration.described(_DIFF, command)} names a program that is not on PATH, so `git diff` will fail; "
            f"git config --unset {_DIFF} (with --global, where it stands there) removes it"
        )


VERB = Verb(
    name="install",
    summary="tell git to run theta-daemon",
    description=(
        "Write filter.theta.* and merge.theta.* to a git configuration file, and, inside of a repository, a pre-push "
        "hook that sends objects, in front of what is there. Values that git-theta 0.2.0 wrote under these keys are "
        "replaced; hooks that cannot be chained are left alone, and what to add by hand is said. Running it again "
        "changes nothing."
    ),
    run=run,
    add_arguments=add_arguments,
)
