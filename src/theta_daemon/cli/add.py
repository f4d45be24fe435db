"""`git theta add`: git-theta's spelling of `git add`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from theta_daemon import gitcmd
from theta_daemon.cli.verb import Place, Verb
from theta_daemon.errors import UnsupportedError, UsageError

if TYPE_CHECKING:
    import argparse

_OF_GIT_THETA = ("--update-type", "--update-data", "--update-path", "--checkpoint-type")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what is handed to git add."""
    parser.add_argument("arguments", nargs="*", metavar="ARGUMENT", help="anything that git add takes")


def run(arguments: argparse.Namespace, place: Place) -> int:
    """Run `git add` with the same arguments. Raises UnsupportedError for updates loaded from another file."""
    if not arguments.arguments:
        raise UsageError("takes the files to add", hint="git theta add FILE... does what git add FILE... does")
    for argument in arguments.arguments:
        if argument == "--":
            break
        option = argument.partition("=")[0]
        if option in _OF_GIT_THETA:
            raise UnsupportedError(
                f"git theta add {option} is not supported yet",
                hint="save the whole checkpoint and use plain `git add`: the format and what changed are found by "
                "themselves",
            )
    return gitcmd.hand_over(["add", *arguments.arguments], place.environment, place.directory)


VERB = Verb(
    name="add",
    summary="the same as git add",
    description="Run git add with the same arguments. git-theta's --update-type and --update-data do not work yet.",
    run=run,
    add_arguments=add_arguments,
    raw=True,
)
