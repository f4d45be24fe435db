"""`git theta post-commit`: write git-theta's record of the objects that a commit brought.

The record is `<git directory>/theta/commits/<commit>`: JSON, `{"oids": [...]}`. Nothing of ours reads it; git-theta's
pre-push hook refuses to push a commit that has none. It holds at least what git-theta 0.2.0 would put there.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from theta_daemon import durable
from theta_daemon.cli.terminal import warn
from theta_daemon.cli.verb import Place, Verb
from theta_daemon.errors import MetadataError
from theta_daemon.history.commits import Commits
from theta_daemon.metadata import objects, text
from theta_daemon.metadata.text import Kind

if TYPE_CHECKING:
    import argparse

    from theta_daemon.history.catfile import Blob
    from theta_daemon.metadata.entries import Metadata


def run(arguments: argparse.Namespace, place: Place) -> int:
    """Write the record of HEAD."""
    here = place.settings()
    commits = Commits(here)
    commit = commits.commit("HEAD")
    record = json.dumps({"oids": sorted(brought_by(commits, commit))}, indent=4).encode("ascii")
    # git-theta looks below the git directory of its work tree; a commit made in one is often pushed from another.
    for git_directory in dict.fromkeys((here.git_dir, here.common_dir)):
        directory = git_directory / "theta" / "commits"
        # The same bytes for the same commit: writing again repairs a record that was cut off.
        durable.write(directory / commit, [record], temporary=directory, mode=here.file_mode)
    return 0


def brought_by(commits: Commits, commit: str) -> set[str]:
    """Return the objects that the metadata of `commit` names and that of its first parent does not, path by path."""
    oids: set[str] = set()
    for change in commits.changed(commit):
        old = _parsed(change.old) if change.old is not None else None
        oids |= _added(old, _parsed(change.new))
    return oids


def _added(old: Metadata | None, new: Metadata | None) -> set[str]:
    """Return the objects of the parameter groups that are new or have another object, and of the file itself."""
    if new is None:
        return set()
    known = old.entries if old is not None else {}
    oids = {found.oid for found in objects.of_file(new)}
    oids -= {found.oid for found in objects.of_file(old)} if old is not None else set()
    for name, entry in new.entries.items():
        before = known.get(name)
        if before is None or (before.oid, before.size, before.version) != (entry.oid, entry.size, entry.version):
            oids |= {found.oid for found in objects.of_entry(name, entry)}
    return oids


def _parsed(blob: Blob) -> Metadata | None:
    try:
        return text.parse(blob.data)
    except MetadataError as error:
        if text.kind(blob.data) is Kind.METADATA:
            warn(f"blob {blob.id} is left out of the record: {error}")
        return None


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
