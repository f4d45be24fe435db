"""What a verb of `git theta` is: a name, what its help says, its arguments, and what it does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from theta_daemon import settings
from theta_daemon.cli.git import Git

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from theta_daemon.settings import Settings


@dataclass(frozen=True, slots=True)
class Place:
    """Where a command was called: its environment and its directory."""

    environment: Mapping[str, str]
    directory: Path

    @property
    def git(self) -> Git:
        """git in this place, inside or outside of a repository."""
        return Git(settings.for_children(self.environment), self.directory)

    def settings(self) -> Settings:
        """Return the settings of the repository. Raises RepositoryError where there is none."""
        return settings.load(self.environment, self.directory)


def _no_arguments(parser: argparse.ArgumentParser) -> None:
    """Take none."""


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb; `run` returns the exit status, or raises a ThetaError that says why not.

    `raw` verbs take every argument as it is typed, options included: they hand them on, or git calls them
    with paths that may begin with a dash.
    """

    name: str
    summary: str
    description: str
    run: Callable[[argparse.Namespace, Place], int]
    add_arguments: Callable[[argparse.ArgumentParser], None] = _no_arguments
    raw: bool = False
    for_hooks: bool = False
