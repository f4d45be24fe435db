"""`git theta uninstall`: take back what `git theta install` wrote."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from theta_daemon.cli import configuration, lfs
from theta_daemon.cli.configuration import REQUIRED, SETTINGS, Scope
from theta_daemon.cli.terminal import note, say, shown, warn
from theta_daemon.cli.verb import Place, Verb
from theta_daemon.errors import RepositoryError
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
    """Take our lines out of the pre-push hook of the repository. What they did for Git LFS is still done."""
    path = hooks.look(git.environment, git.directory).path
    name = shown(os.fsencode(path))
    try:
        present = path.read_bytes()
    except OSError:
        return
    sends_lfs = _is_lfs_used(git)
    left = hooks.without(present, sends_lfs=sends_lfs)
    if left == present:
        return
    if path.is_symlink():
        warn(f"our lines are still in the pre-push hook, which is a symbolic link: {name}")
        return
    if left is not None:
        hooks.write(hooks.Hook(path, left, None))
    else:
        path.unlink()
    say(f"the pre-push hook sends no objects of checkpoints any more: {name}")
    if left is None and sends_lfs:
        with suppress(RepositoryError):
            git.output("lfs", "update")  # its hook would be there, had ours not been in its place
        if not path.exists():
            hooks.write(hooks.Hook(path, hooks.LFS_ALONE, None))
        say("it sends the objects of Git LFS as before")


def _is_lfs_used(git: Git) -> bool:
    is_set = any(git.answer("config", "--get", f"filter.lfs.{key}") is not None for key in ("process", "clean"))
    return is_set and lfs.version() is not None


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
