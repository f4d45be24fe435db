"""The git configuration that makes git run theta-daemon: what it is, what is there, what must change.

`required` comes first when it is set and last when it is removed: at no moment can git take a checkpoint without
the filter and store it raw.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from theta_daemon.errors import printable

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from theta_daemon.cli.git import Git


class Scope(enum.StrEnum):
    """Which configuration file, by git's name for it."""

    GLOBAL = "global"
    LOCAL = "local"
    SYSTEM = "system"
    WORKTREE = "worktree"


@dataclass(frozen=True, slots=True)
class Setting:
    """A key, our value for it, and the values of git-theta 0.2.0 that we replace."""

    key: str
    value: str
    of_git_theta: str | None = None

    def accepts(self, value: str) -> bool:
        """Tell whether `value` means what ours does."""
        return value == self.value or (self.key == REQUIRED and value.lower() in {"true", "yes", "on", "1"})


REQUIRED = "filter.theta.required"
PROCESS = "filter.theta.process"

SETTINGS = (
    Setting(REQUIRED, "true", "true"),
    Setting("filter.theta.clean", "theta-daemon clean %f", "git-theta-filter clean %f"),
    Setting("filter.theta.smudge", "theta-daemon smudge %f", "git-theta-filter smudge %f"),
    Setting(PROCESS, "theta-daemon"),
    Setting("merge.theta.name", "Keep our side of a checkpoint and report a conflict", "Merge Models with Git-Theta"),
    Setting("merge.theta.driver", "git theta merge-driver %O %A %B %P", "git-theta-merge %O %A %B %P"),
    # A criss-cross merge first merges the merge bases. Were one side kept there, the outer merge would take that
    # side for the base and resolve a real conflict in silence; git's `binary` takes the bases' own ancestor.
    Setting("merge.theta.recursive", "binary"),
)


@dataclass(frozen=True, slots=True)
class Change:
    """A setting that has no value yet, or other values."""

    setting: Setting
    old: tuple[str, ...]

    @property
    def is_foreign(self) -> bool:
        """Tell whether a value stands there that neither we nor git-theta wrote."""
        return any(not self.setting.accepts(value) and value != self.setting.of_git_theta for value in self.old)


def add_scope_arguments(parser: argparse.ArgumentParser) -> None:
    """Add git-lfs's four scopes; global where none is given."""
    group = parser.add_mutually_exclusive_group()
    for scope, what in (
        (Scope.GLOBAL, "for every repository of this user (the default)"),
        (Scope.LOCAL, "for this repository only"),
        (Scope.SYSTEM, "for every user of this machine"),
        (Scope.WORKTREE, "for this work tree only"),
    ):
        group.add_argument(f"--{scope}", dest="scope", action="store_const", const=scope, help=what)
    parser.set_defaults(scope=Scope.GLOBAL)


def read(git: Git, scope: Scope | None = None) -> dict[str, tuple[str, ...]]:
    """Return the values of our keys in `scope` (None: those in effect, the last one last), in file order."""
    where = () if scope is None else (f"--{scope}",)
    rows = git.answer("config", *where, "-z", "--get-regexp", r"^(filter|merge|diff)\.theta\.")
    values: dict[str, tuple[str, ...]] = {}
    for row in (rows or b"").split(b"\0")[:-1]:
        key, separator, value = row.decode("utf-8", "surrogateescape").partition("\n")
        # A key without "=" is git's short form of true.
        values[key] = (*values.get(key, ()), value if separator else "true")
    return values


def changes(present: Mapping[str, tuple[str, ...]]) -> list[Change]:
    """Return what must change for our settings to stand alone, in the order in which to write it."""
    found = [Change(setting, present.get(setting.key, ())) for setting in SETTINGS]
    return [change for change in found if len(change.old) != 1 or not change.setting.accepts(change.old[0])]


def write(git: Git, scope: Scope, setting: Setting) -> None:
    """Make `setting` the only value of its key in `scope`."""
    git.output("config", f"--{scope}", "--replace-all", setting.key, setting.value)


def remove(git: Git, scope: Scope, setting: Setting, present: tuple[str, ...]) -> bool:
    """Remove our values among those of a key, and tell whether there were any.

    git removes a section that this leaves empty.
    """
    ours = {value for value in present if setting.accepts(value)}
    if ours and len(ours) == len(set(present)):
        git.output("config", f"--{scope}", "--unset-all", setting.key)
    else:
        for value in sorted(ours):
            git.output("config", f"--{scope}", "--fixed-value", "--unset-all", setting.key, value)
    return bool(ours)


def is_ours(values: Mapping[str, tuple[str, ...]]) -> bool:
    """Tell whether git would run theta-daemon, wherever it lies."""
    process = values.get(PROCESS, ("",))[-1].split()
    return bool(process) and process[0].rpartition("/")[2] == "theta-daemon"


def described(key: str, value: str) -> str:
    """Return `key = value` for a message."""
    return f"{key} = {printable(value.encode('utf-8', 'surrogateescape'))}"
