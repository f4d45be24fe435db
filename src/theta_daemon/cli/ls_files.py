"""`git theta ls-files`: what is tracked, and how it lies in the index."""

from __future__ import annotations

import enum
import os
from typing import TYPE_CHECKING

from theta_daemon.cli import git, named_objects
from theta_daemon.cli.terminal import emit, quoted
from theta_daemon.cli.verb import Place, Verb
from theta_daemon.errors import MetadataError
from theta_daemon.metadata import text
from theta_daemon.metadata.text import Kind

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator


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
    entries = dict(_tracked([os.fsencode(spec) for spec in arguments.pathspecs]))
    facts: dict[str, bytes] = {}
    if not arguments.name_only:
        facts = _facts([blob for blob in entries.values() if blob is not None])
    for path, blob in entries.items():
        if not arguments.name_only:
            emit(_row(State.CONFLICT) if blob is None else facts.get(blob, _row(State.RAW)))
        emit(path + b"\0" if arguments.zero else quoted(path) + b"\n")
    return 0


def _tracked(pathspecs: list[bytes]) -> Iterator[tuple[bytes, str | None]]:
    """Yield the tracked paths in git's order, with their blob, None where the index holds several stages."""
    entries: dict[bytes, str | None] = {}
    for row in git.items("ls-files", "-z", "--stage", "--", *pathspecs):
        where, _, path = row.partition(b"\t")
        mode, blob, stage = where.split()
        if mode.startswith(b"100"):
            entries[path] = blob.decode("ascii") if stage == b"0" else None
    stdin = b"".join(path + b"\0" for path in entries)
    answers = git.items("check-attr", "-z", "--stdin", "filter", stdin=stdin)
    for path, value in zip(answers[::3], answers[2::3], strict=True):
        if value == b"theta":
            yield path, entries[path]


def _facts(blobs: list[str]) -> dict[str, bytes]:
    """Return the columns before the path, by blob."""
    facts = {blob: _row(State.RAW, size=size) for blob, _, size in git.kinds(dict.fromkeys(blobs))}
    facts.update((blob, _described(content)) for blob, content in named_objects.contents(blobs))
    return facts


def _described(content: bytes) -> bytes:
    kind = text.kind(content)
    if kind is Kind.OTHER:
        return _row(State.RAW, size=len(content))
    if kind is Kind.CONFLICT:
        return _row(State.CONFLICT)
    try:
        metadata = text.parse(content)
    except MetadataError:
        return _row(State.DAMAGED)
    sizes = {found.oid: found.size for found in named_objects.of(metadata)}
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
