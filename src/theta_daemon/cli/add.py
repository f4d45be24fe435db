"""`git theta add`: `git add`, and updates: of a type that is asked for, or from a file of their own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from theta_daemon import gitcmd
from theta_daemon.cli.verb import Place, Verb
from theta_daemon.errors import UnsupportedError, UsageError
from theta_daemon.settings import UPDATE_TYPES

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

_TYPE = "--update-type"
_PATHS = ("--update-path", "--update-data")  # ours, and git-theta's
_TYPE_VARIABLE, _PATH_VARIABLE = "GIT_THETA_UPDATE_TYPE", "GIT_THETA_UPDATE_DATA_PATH"  # git-theta's
_OF_GIT_THETA = ("--checkpoint-type",)


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for: the type of updates, the file that they come from, and what is left for git add."""

    update_type: str | None = None
    updates: str | None = None
    left: tuple[str, ...] = ()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what is ours, and what is handed to git add."""
    parser.add_argument(_TYPE, choices=UPDATE_TYPES, help="how changed parameter groups are stored")
    parser.add_argument(*_PATHS, metavar="UPDATES", help="the updates: a checkpoint, or a PEFT adapter")
    parser.add_argument("arguments", nargs="*", metavar="ARGUMENT", help="anything that git add takes")


def run(arguments: argparse.Namespace, place: Place) -> int:
    """Run `git add`, with updates as the options ask for them."""
    options = parsed(arguments.arguments)
    if not options.left:
        raise UsageError("takes the files to add", hint="git theta add FILE... does what git add FILE... does")
    updates = options.updates or place.environment.get(_PATH_VARIABLE)
    if updates:
        from theta_daemon.cli.side_load import side_load  # and with it everything that clean needs

        update_type = options.update_type or place.environment.get(_TYPE_VARIABLE)
        return side_load(place, options.left, updates, update_type)
    chosen = [] if options.update_type is None else ["-c", f"theta.updateType={options.update_type}"]
    return gitcmd.hand_over([*chosen, "add", *options.left], place.environment, place.directory)


def parsed(arguments: Sequence[str]) -> Options:
    """Return the options among `arguments`; all else is git's. Raises UsageError, UnsupportedError."""
    options, left = Options(), list(arguments)
    while left:
        argument = left.pop(0)
        if argument == "--":
            return replace(options, left=(*options.left, argument, *left))
        name, equals, value = argument.partition("=")
        if name in _OF_GIT_THETA:
            raise UnsupportedError(f"{name} is not needed: the format of a checkpoint is found by itself")
        if name != _TYPE and name not in _PATHS:
            options = replace(options, left=(*options.left, argument))
            continue
        if not equals:
            if not left:
                raise UsageError(f"{name} takes a value")
            value = left.pop(0)
        if name in _PATHS:
            options = replace(options, updates=value)
        elif value in UPDATE_TYPES:
            options = replace(options, update_type=value)
        else:
            raise UsageError(f"there is no update type {value!r}", hint=f"use one of {', '.join(UPDATE_TYPES)}")
    return options


VERB = Verb(
    name="add",
    summary="the same as git add, and updates from a file of their own",
    description=(
        "Run git add with the same arguments. With --update-type, changed parameter groups are stored as updates of "
        "what HEAD holds, where that gives exactly their bits. With --update-path, the files named (a model, or its "
        "shards) get the updates that UPDATES holds (a checkpoint with names such as NAME/R and NAME/C, or a PEFT "
        "adapter with its adapter_config.json), in the work tree and in the index."
    ),
    run=run,
    add_arguments=add_arguments,
    raw=True,
)
