"""`git theta ls-files`: what is tracked, and how it lies in the index."""

from __future__ import annotations

import enum
import os
from typing import TYPE_CHECKING

from theta_daemon.cli.terminal import emit, quoted
from theta_daemon.cli.verb import Place, Verb
from theta_daemon.errors import MetadataError
from theta_daemon.history import index
from theta_daemon.metadata import objects, text
from theta_daemon.metadata.text import Kind

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from theta_daemon.history.catfile import Look
    from theta_daemon.history.index import File


class State(enum.StrEnum):
    """What git holds for a tracked path."""

    METADATA = "metadata"
    RAW = "raw"  # the file itself: it was added before it was tracked, or without the filter
    CONFLICT = "conflict"  # stages of an unfinished merge, or conflict markers inside metadata
    DAMAGED = "damaged"  # metadata that cannot be read


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the output options and git's pathspecs."""
    parser.add_argument("-z", dest="zero", action="store_true", help="end lines with NUL and do not quote paths")
    parser.add_argument("-n", "--name-only", action="store_true", help="print paths only")
    parser.add_argument("pathspecs", nargs="*", metavar="PATH", help="only these, as in git ls-files")


def run(arguments: argparse.Namespace, place: Place) -> int:
    """Print a line for each tracked path of the index."""
    here = place.settings()
    # What pathspecs mean is up to the user here: `git --literal-pathspecs theta ls-files '*.pt'`.
    meaning = {name: value for name, value in place.environment.items() if name.endswith("_PATHSPECS")}
    files = index.files(here, [os.fsencode(spec) for spec in arguments.pathspecs], meaning)
    tracked = list(_tracked(place, list(files)))
    facts: dict[str, bytes] = {}
    if not arguments.name_only:
        facts = {look.id: _described(look) for look in index.looks(here, filter(None, (it.blob for it in tracked)))}
    for file in tracked:
        if not arguments.name_only:
            emit(_row(State.CONFLICT) if file.blob is None else facts.get(file.blob, _row(State.RAW)))
        emit(file.path + b"\0" if arguments.zero else quoted(file.path) + b"\n")
    return 0


def _tracked(place: Place, files: list[File]) -> Iterator[File]:
    """Yield those of `files` that have our filter."""
    stdin = b"".join(file.path + b"\0" for file in files)
    answers = place.git.items("check-attr", "-z", "--stdin", "filter", stdin=stdin)
    for file, value in zip(files, answers[2::3], strict=True):
        if value == b"theta":
            yield file


def _described(look: Look) -> bytes:
    """Return the columns before the path."""
    kind = Kind.OTHER if look.data is None else text.kind(look.data)
    if look.data is None or kind is Kind.OTHER:
        return _row(State.RAW, size=look.size)
    if kind is Kind.CONFLICT:
        return _row(State.CONFLICT)
    try:
        metadata = text.parse(look.data)
    except MetadataError:
        return _row(State.DAMAGED)
    sizes = {found.oid: found.size for found in objects.of(metadata)}
    return _row(State.METADATA, groups=len(metadata.entries), size=sum(sizes.values()))


def _row(state: State, *, groups: int | None = None, size: int | None = None) -> bytes:
    columns = [str(state), *("-" if value is None else str(value) for value in (groups, size))]
    return "".join(f"{column}\t" for column in columns).encode("ascii")


VERB = Verb(
    name="ls-files",
    summary="list tracked files and how they lie in the index",
    description=(
        "Print, separated by tabs, for each file of the index with filter=theta: its state (metadata; raw: the file "
        "itself, not converted yet; conflict; damaged), the number of its parameter groups, the bytes of the objects "
        "it names (each once; for raw the size of the file), and its path. A dash stands where there is no number."
    ),
    run=run,
    add_arguments=add_arguments,
)
