"""`git theta post-commit`: write git-theta's record of the objects that a commit brought.

The record is `<git directory>/theta/commits/<commit>`: JSON, `{"oids": [...]}`. Nothing of ours reads it; git-theta's
pre-push hook refuses to push a commit that has none. It holds at least what git-theta 0.2.0 would put there.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from theta_daemon import durable
from theta_daemon.cli import git, named_objects
from theta_daemon.cli.terminal import warn
from theta_daemon.cli.verb import Place, Verb
from theta_daemon.errors import MetadataError
from theta_daemon.metadata import text
from theta_daemon.metadata.text import Kind

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from theta_daemon.metadata.entries import Metadata


def run(arguments: argparse.Namespace, place: Place) -> int:
    """Write the record of HEAD."""
    commit = git.line("rev-parse", "--verify", "HEAD^{commit}").decode("ascii")
    record = json.dumps({"oids": sorted(brought_by(commit))}, indent=4).encode("ascii")
    for directory in _directories():
        # The same bytes for the same commit: writing again repairs a record that was cut off.
        durable.write(directory / commit, [record], temporary=directory)
    return 0


def brought_by(commit: str) -> set[str]:
    """Return the objects that the metadata of `commit` names and that of its first parent does not, path by path."""
    changed = list(_changed(commit))
    blobs = [blob for pair in changed for blob in pair if blob is not None]
    found = {blob: _parsed(blob, content) for blob, content in named_objects.contents(blobs)}
    oids: set[str] = set()
    for old, new in changed:
        oids |= _added(found.get(old) if old else None, found.get(new) if new else None)
    return oids


def _added(old: Metadata | None, new: Metadata | None) -> set[str]:
    """Return the objects of the parameter groups that are new or have another object, and of the file itself."""
    if new is None:
        return set()
    known = old.entries if old is not None else {}
    oids = {found.oid for found in named_objects.of_file(new)}
    oids -= {found.oid for found in named_objects.of_file(old)} if old is not None else set()
    for name, entry in new.entries.items():
        before = known.get(name)
        if before is None or (before.oid, before.size, before.version) != (entry.oid, entry.size, entry.version):
            oids |= {found.oid for found in named_objects.of_entry(name, entry)}
    return oids


def _parsed(blob: str, content: bytes) -> Metadata | None:
    if text.kind(content) is not Kind.METADATA:
        return None
    try:
        return text.parse(content)
    except MetadataError as error:
        warn(f"blob {blob} is left out of the record: {error}")
        return None


def _changed(commit: str) -> Iterator[tuple[str | None, str | None]]:
    """Yield (old blob, new blob) of each regular file that differs from the first parent; None where there is none."""
    parent = git.answer("rev-parse", "--quiet", "--verify", f"{commit}^1")
    sides = [commit] if parent is None else [parent.decode("ascii").strip(), commit]
    rows = git.items(
        "diff-tree", "-r", "-z", "--root", "--no-commit-id", "--no-renames", "--raw", "--no-abbrev", *sides
    )
    for row in rows[::2]:
        old_mode, new_mode, old, new, _ = row.removeprefix(b":").decode("ascii").split()
        yield (
            old if old_mode.startswith("100") else None,
            new if new_mode.startswith("100") else None,
        )


def _directories() -> list[Path]:
    """Return where git-theta may look: in the directory of this work tree, and in the one that all of them share.

    git-theta writes and reads below the work tree's own; a commit made in one work tree is often pushed from another.
    """
    own, shared = (git.line("rev-parse", option) for option in ("--git-dir", "--git-common-dir"))
    found = dict.fromkeys(os.path.abspath(os.fsdecode(directory)) for directory in (own, shared))
    return [Path(directory, "theta", "commits") for directory in found]


VERB = Verb(
    name="post-commit",
    summary="write git-theta's record of the objects that HEAD brought",
    description=(
        "Called by the post-commit hook that git-theta left in a repository. Writes the record that git-theta's own "
        "pre-push needs; theta-daemon needs neither the hook nor the record."
    ),
    run=run,
    for_hooks=True,
)
