"""`git theta track`: give a pattern the attributes that send its files through the filter."""

from __future__ import annotations

import os
import posixpath
from typing import TYPE_CHECKING

from theta_daemon import settings
from theta_daemon.cli import attributes, configuration, tracking
from theta_daemon.cli.configuration import Scope
from theta_daemon.cli.install import install, install_hook
from theta_daemon.cli.terminal import count, emit, note, quoted, say, shown
from theta_daemon.cli.verb import Place, Verb
from theta_daemon.errors import RepositoryError, UsageError, printable
from theta_daemon.history import index
from theta_daemon.metadata import text
from theta_daemon.metadata.text import Kind

if TYPE_CHECKING:
    import argparse

    from theta_daemon.cli.git import Git
    from theta_daemon.settings import Settings

_SHOWN = 5
_HINT_LIMIT = 16 << 20  # bytes: what is larger counts as a checkpoint here, unread; metadata this large is rare


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the patterns."""
    parser.add_argument("patterns", nargs="*", metavar="PATTERN", help="a gitattributes pattern, or a file's path")


def run(arguments: argparse.Namespace, place: Place) -> int:
    """Track the patterns, or list what is tracked."""
    if not arguments.patterns:
        return show_tracked(place.git.at_top())
    prefix = place.git.line("rev-parse", "--show-prefix")
    git = place.git.at_top()
    patterns = [from_top(os.fsencode(pattern), prefix, os.fsencode(git.directory)) for pattern in arguments.patterns]
    path = git.directory / ".gitattributes"
    refuse_unready(git)
    here = settings.load(place.environment, git.directory)
    staged = {file.path: file.blob for file in index.files(here) if file.blob is not None}
    present = [*staged, *git.items("ls-files", "-z", "--others", "--exclude-standard")]
    data, mode = tracking.read(path)
    _refuse_conflicts(git, data, patterns, present)
    if not configuration.is_ours(configuration.read(git)):
        note("git does not run theta-daemon here yet")
        install(git, Scope.LOCAL)
    install_hook(git)
    before = data
    for pattern in patterns:
        old = data
        data, line = attributes.track(data, pattern)
        say(f"{'already tracked' if data == old else 'tracked'}: {printable(line)}")
    if data != before:
        tracking.write(path, data, mode)
        git.stage(attributes.NAME)
        say(".gitattributes is written and staged.")
    _show_unconverted(here, git, prefix, patterns, staged)
    return 0


def show_tracked(git: Git) -> int:
    """List every pattern with our filter, and the line where it stands."""
    for name in tracking.attribute_files(git):
        for number, line in enumerate(tracking.read_lines(git.directory, name), 1):
            if line.pattern is not None and line.get(b"filter") == b"filter=theta":
                emit(quoted(line.pattern) + b"\t" + quoted(name) + b":%d\n" % number)
    return 0


def from_top(typed: bytes, prefix: bytes, top: bytes) -> bytes:
    """Return the pattern of the top-level .gitattributes for what was typed in `prefix`.

    Raises UsageError for what no pattern of that file can say.
    """
    is_file = os.path.lexists(typed)
    if os.path.isdir(typed) and not os.path.islink(typed):
        raise UsageError(
            "a pattern for a directory matches none of the files in it",
            path=typed,
            hint=f"track {shown(typed.rstrip(b'/') + b'/**')}",
        )
    if not typed or typed.endswith(b"/"):
        raise UsageError("is not a pattern for files", path=typed)
    pattern = attributes.literal(typed) if is_file or typed.startswith(b"!") else typed
    if typed.startswith(b"/"):
        real = os.path.join(os.path.realpath(os.path.dirname(typed)), os.path.basename(typed))
        if real.startswith(os.path.join(top, b"")):
            pattern, prefix = real.removeprefix(os.path.join(top, b"")), b""
            pattern = attributes.literal(pattern) if is_file else pattern
        elif is_file:
            raise UsageError("is outside of this work tree", path=typed)
        elif not prefix:
            return typed  # gitattributes' own spelling: at the top only
    joined = posixpath.normpath(attributes.literal(prefix) + pattern.lstrip(b"/"))
    if joined.split(b"/")[0] in {b"..", b"."}:
        raise UsageError("is outside of this work tree", path=typed)
    if joined.startswith(b"[attr]"):
        raise UsageError("begins with [attr], which git reads as a macro", path=typed)
    return joined


def refuse_unready(git: Git) -> None:
    """Raise RepositoryError where writing .gitattributes, at the top, would lose something."""
    entries = git.items("ls-files", "-z", "--stage", "--", attributes.NAME)
    if len(entries) > 1:
        raise RepositoryError("has conflicts", path=attributes.NAME, hint="resolve them first")
    if entries and not os.path.lexists(git.directory / ".gitattributes"):
        raise RepositoryError(
            "is in the index but not in the work tree",
            path=attributes.NAME,
            hint="bring it back with `git checkout -- .gitattributes`",
        )


def _refuse_conflicts(git: Git, data: bytes, patterns: list[bytes], present: list[bytes]) -> None:
    """Raise where a file of these patterns has another filter, or is .gitattributes itself."""
    hint = "change that line first (for git-lfs: git lfs untrack)"
    for pattern in patterns:
        number = attributes.other_filter(data, pattern)
        if number is not None:
            where = f"{os.fsdecode(attributes.NAME)}:{number}"
            raise RepositoryError(f"{where} sets another filter for this pattern", path=pattern, hint=hint)
    examples = [tracking.example(pattern) for pattern in patterns]
    asked = list(dict.fromkeys([*examples, attributes.NAME, *present]))
    found = tracking.matches(git, patterns, asked)
    affected = [path for path in asked if found[path]]
    for path in affected:
        if posixpath.basename(path) == attributes.NAME:
            raise UsageError(
                f"also matches {printable(path)}, which git could then not read",
                path=patterns[found[path][0]],
                hint="use a narrower pattern, such as '*.safetensors'",
            )
    conflict = tracking.conflict(git, affected)
    if conflict is not None:
        path, origin = conflict
        raise RepositoryError(
            f"{origin} ({printable(origin.line.raw.strip())}) sets another filter for it", path=path, hint=hint
        )


def _show_unconverted(here: Settings, git: Git, prefix: bytes, patterns: list[bytes], staged: dict[bytes, str]) -> None:
    """Name the files that git holds raw: they are not converted until they are added again."""
    found = tracking.matches(git, patterns, list(staged))
    tracked = {path: staged[path] for path, indices in found.items() if indices}
    looks = index.looks(here, tracked.values(), _HINT_LIMIT)
    converted = {look.id for look in looks if look.data is not None and text.kind(look.data) is Kind.METADATA}
    raw = sorted(path for path, blob in tracked.items() if blob not in converted)
    if raw:
        names = " ".join(shown(posixpath.relpath(path, prefix or b".")) for path in raw[:_SHOWN])
        rest = f" (and {count(len(raw) - _SHOWN, 'more file')})" if len(raw) > _SHOWN else ""
        say(f"In git as they stand until they are added again: git add --renormalize -- {names}{rest}")


VERB = Verb(
    name="track",
    summary="version files of a pattern by their parameter groups",
    description=(
        "Give each PATTERN the attributes filter=theta merge=theta diff=theta -text in the top-level .gitattributes, "
        "and stage that file. Without a PATTERN, list what is tracked. A PATTERN is relative to the current directory "
        "and follows gitattributes(5): '*.pt' typed at the top matches at every depth, typed in models/ it becomes "
        "models/*.pt and matches there only; models/**/*.pt matches below it too. The path of a file that exists is "
        "taken literally. A pattern whose files have another filter is refused, as far as the files that exist (and "
        "one made-up name) show it."
    ),
    run=run,
    add_arguments=add_arguments,
)
