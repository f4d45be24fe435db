"""`git theta uninstall`: take back what `git theta install` wrote."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from theta_daemon.cli import configuration
from theta_daemon.cli.configuration import REQUIRED, SETTINGS, Scope
from theta_daemon.cli.terminal import note, say, shown
from theta_daemon.cli.verb import Place, Verb
from theta_daemon.pipelines import hooks

if TYPE_CHECKING:
    import argparse

    from theta_daemon.cli.git import Git


def run(arguments: argparse.Namespace, place: Place) -> int:
    """Remove our values from one scope, and say which others stay."""
    uninstall(place.git, arguments.scope)
    if arguments.scope == Scope.LOCAL:
        _remove_hook(place.git)
    return 0


def _remove_hook(git: Git) -> None:
    """Take our lines out of the pre-push hook of the repository."""
    path = hooks.look(git.environment, git.directory).path
    try:
        present = path.read_bytes()
    except OSError:
        return
    left = hooks.without(present)
    if left is None:
        path.unlink()
    elif left != present:
        hooks.write(hooks.Hook(path, left, None))
    if left != present:
        say(f"the pre-push hook sends no objects any more: {shown(os.fsencode(path))}")


def uninstall(git: Git, scope: Scope) -> None:
    """Remove the values that are ours; `required` last, and not while another filter stands behind it."""
    present = configuration.read(git, scope)
    foreign = [
        (setting.key, value)
        for setting in SETTINGS
        for value in present.get(setting.key, ())
        if not setting.accepts(value)
    ]
    another_filter = any(key.startswith("filter.") and key != REQUIRED for key, _ in foreign)
    removed = False
    for setting in reversed(SETTINGS):
        if setting.key != REQUIRED or not another_filter:
            removed |= configuration.remove(git, scope, setting, present.get(setting.key, ()))
    for key, value in foreign:
        note(f"left as it is: {configuration.described(key, value)}")
    say(f"git-theta is {'uninstalled' if removed else 'not installed'} ({scope} configuration).")


VERB = Verb(
    name="uninstall",
    summary="take back what `install` wrote",
    description=(
        "Remove the values that `git theta install` wrote from a git configuration file, and with --local its lines "
        "from the pre-push hook. Other values stay, and so do .gitattributes, the objects and every commit."
    ),
    run=run,
    add_arguments=configuration.add_scope_arguments,
)
