"""The `git-theta` program, which git finds for `git theta`: reads the command line and calls one verb.

The only module of cli/ that touches the process: its arguments, environment, directory and exit status.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from theta_daemon import __version__
from theta_daemon.cli import (
    add,
    compact,
    env,
    fetch,
    fsck,
    install,
    ls_files,
    merge_driver,
    post_commit,
    pre_push,
    prune,
    pull,
    push,
    status,
    terminal,
    track,
    uninstall,
    untrack,
)
from theta_daemon.cli.verb import Place, Verb
from theta_daemon.errors import ThetaError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

VERBS: tuple[Verb, ...] = tuple(
    module.VERB
    for module in (
        *(install, uninstall, track, untrack, ls_files, env, add, compact, pull, status),
        *(push, fetch, prune, fsck),
        *(merge_driver, post_commit, pre_push),
    )
)

_INSTEAD = {
    "clean": "theta-daemon clean PATH",
    "smudge": "theta-daemon smudge PATH",
    "filter-process": "theta-daemon",
    "commit": "git commit",
    "checkout": "git checkout",
    "diff": "git diff",
    "merge": "git merge",
    "list": "git theta ls-files",
    "update": "git theta install",
}

_PLACES = frozenset({"GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR"})


class _Parser(argparse.ArgumentParser):
    """Reports a wrong command line as this program reports every error."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        terminal.fail(message)
        raise SystemExit(UsageError.exit_code)


def run() -> NoReturn:
    """Be the program."""
    _fill_descriptors()
    raise SystemExit(main())


def _fill_descriptors() -> None:
    """Open what was closed from the start, as git does: a file opened later would be taken for stdout or stderr."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    # Python has no stream where there was no descriptor.
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status."""
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    # Relative to the directory of the call; verbs run git at the top of the work tree.
    for name in _PLACES.intersection(os.environ):
        os.environ[name] = os.path.abspath(os.environ[name])
    try:
        code = _dispatch(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
    except ThetaError as error:
        terminal.fail(str(error))
        return error.exit_code
    except BrokenPipeError:
        # Whoever read our output has seen enough. Python would complain once more at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        name = "" if error.filename is None else f": {terminal.shown(os.fsencode(error.filename))}"
        terminal.fail(f"{error.strerror or error}{name}")
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return code


def _dispatch(arguments: list[str]) -> int:
    parser, parsers = _parsers()
    name = arguments[0] if arguments else "help"
    verbs = {verb.name: verb for verb in VERBS}
    if name in {"help", "-h", "--help"}:
        wanted = arguments[1] if len(arguments) > 1 and name == "help" else None
        if wanted is not None and wanted not in verbs:
            raise _unknown(wanted)
        (parser if wanted is None else parsers[wanted]).print_help()
        return 0 if arguments else UsageError.exit_code
    if name in {"version", "--version"}:
        terminal.say(f"git-theta (theta-daemon) {__version__}")
        return 0
    if not name.startswith("-") and name not in verbs:
        raise _unknown(name)
    if name in verbs and verbs[name].raw and arguments[1:] not in (["-h"], ["--help"]):
        parsed = argparse.Namespace(arguments=arguments[1:])
    else:
        parsed = parser.parse_args(arguments)
    return verbs[name].run(parsed, Place(os.environ, Path.cwd()))


def _parsers() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    width = max(len(verb.name) for verb in VERBS)
    listed = "\n".join(f"  {verb.name:<{width}}  {verb.summary}" for verb in VERBS if not verb.for_hooks)
    called = "\n".join(f"  {verb.name:<{width}}  {verb.summary}" for verb in VERBS if verb.for_hooks)
    parser = _Parser(
        prog="git theta",
        usage="git theta VERB [ARGUMENT...]",
        description="Version machine-learning checkpoints in git by their parameter groups.",
        epilog=f"verbs:\n{listed}\n  {'help':<{width}}  show this, or what a verb does: git theta help VERB\n"
        f"  {'version':<{width}}  show the version\n\ncalled by git and its hooks:\n{called}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    choices = parser.add_subparsers(dest="verb", required=True, metavar="VERB", help=argparse.SUPPRESS)
    parsers: dict[str, argparse.ArgumentParser] = {}
    for verb in VERBS:
        parsers[verb.name] = choices.add_parser(
            verb.name, prog=f"git theta {verb.name}", description=verb.description, allow_abbrev=False
        )
        verb.add_arguments(parsers[verb.name])
    return parser, parsers


def _unknown(name: str) -> UsageError:
    instead = _INSTEAD.get(name)
    hint = f"use {instead}" if instead is not None else "`git theta help` lists the verbs"
    return UsageError(f"there is no verb {name!r}", hint=hint)
