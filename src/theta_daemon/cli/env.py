"""`git theta env`: what a report of a problem should hold."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from typing import TYPE_CHECKING

from theta_daemon import __version__
from theta_daemon.cli import configuration, lfs
from theta_daemon.cli.terminal import count, say, shown, warn
from theta_daemon.cli.verb import Place, Verb
from theta_daemon.errors import RepositoryError, printable
from theta_daemon.pipelines import hooks

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from theta_daemon.settings import Settings

_PACKAGES = ("blake3", "blosc", "isal", "ml_dtypes", "numpy", "zstandard", "numba", "torch", "safetensors")
_VARIABLES = ("GIT_THETA_", "THETA_", "GIT_LFS_SKIP_SMUDGE")
_CONFIGURATION = r"^(theta\..*|(filter|merge|diff)\.theta\..*|lfs\.(storage|url)|core\.fsync)$"

# People paste what this prints.
_CREDENTIALS = re.compile(r"://[^/@\s]+@")


def run(arguments: argparse.Namespace, place: Place) -> int:
    """Print versions, configuration, and, in a repository, its stores."""
    _show_versions(place)
    _show_configuration(place)
    try:
        here = place.settings()
    except RepositoryError as error:
        say(f"Repository: none ({error})")
        return 0
    _show_repository(here)
    _show_hook(place)
    return 0


def _show_versions(place: Place) -> None:
    from importlib import metadata  # slow to import, and every verb imports this module

    found = lfs.version()
    say(f"theta-daemon {__version__}")
    say(printable(place.git.line("version")))
    say(found[0] if found is not None else "git-lfs: not installed")
    say(f"Python {platform.python_version()} ({sys.executable}), {platform.platform()}")
    for package in _PACKAGES:
        try:
            say(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            say(f"{package}: not installed")
    for program in ("theta-daemon", "git-theta"):
        say(f"{program} on PATH: {shutil.which(program) or 'no'}")


def _show_configuration(place: Place) -> None:
    present = configuration.read(place.git)
    state = "no" if not configuration.is_ours(present) else "yes"
    say(f"Installed: {state}")
    rows = place.git.answer("config", "-z", "--show-origin", "--get-regexp", _CONFIGURATION) or b""
    fields = rows.split(b"\0")[:-1]
    for origin, entry in zip(fields[::2], fields[1::2], strict=True):
        key, _, value = entry.partition(b"\n")
        say(f"{printable(key)}={_CREDENTIALS.sub('://***@', printable(value))} ({printable(origin)})")
    for name, setting in sorted(place.environment.items()):
        if name.startswith(_VARIABLES):
            say(f"{name}={printable(os.fsencode(setting))}")


def _show_repository(here: Settings) -> None:
    say(f"Work tree: {here.work_tree if here.work_tree is not None else 'none (bare)'}")
    say(f"Git directory: {here.git_dir}")
    if here.common_dir != here.git_dir:
        say(f"Shared git directory: {here.common_dir}")
    say(f"Compatible with git-theta: {here.compatible}")
    chains = f"at most {here.max_chain} on one another, missing commits are fetched: {here.fetch_history}"
    say(f"Updates: {here.update_type}, {chains}")
    memory = f"memory limit: {here.memory_limit} bytes, of these at most {here.cache_size} for the cache"
    say(f"Workers: {here.workers}, {memory}, flushed to disk: {here.fsync}")
    for name, store in (("LFS objects", here.lfs_objects), ("Kept objects", here.theta_dir / "objects")):
        say(f"{name}: {_contents(store)}")
    for store in here.alternates:
        say(f"Borrowed objects: {_contents(store)}")


def _show_hook(place: Place) -> None:
    """Tell whether a push sends objects; warn where it does not, and there are files whose objects it should."""
    found = hooks.look(place.environment, place.git.directory)
    name = shown(os.fsencode(found.path))
    if found.is_ours:
        say(f"Pre-push hook: {name} sends objects")
        return
    say(f"Pre-push hook: {name} does not send objects")
    if place.git.answer("ls-files", "-z", "--cached", "--", ":(top,attr:filter=theta)"):
        what = "run `git theta install` here" if found.advice is None else found.advice
        warn(f"pushes leave the objects of checkpoints behind: {name}: {what}")


def _contents(store: Path) -> str:
    sizes = [path.stat().st_size for path in store.glob("??/??/*") if path.is_file()]
    return f"{store} ({count(len(sizes), 'object')}, {sum(sizes)} bytes)"


VERB = Verb(
    name="env",
    summary="show versions, configuration and stores",
    description="Print what a report of a problem should hold. Works outside of a repository too.",
    run=run,
)
