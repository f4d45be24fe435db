"""git-lfs as a program: its version, and sending objects by id."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING

from theta_daemon.errors import ObjectError, RepositoryError

if TYPE_CHECKING:
    from collections.abc import Sequence

_WITH_STDIN = (3, 3)  # git-lfs 3.3.0 added `push --object-id --stdin`
_BATCH = 100  # ids on the command line of an older one: git-lfs's own batch size


def version() -> tuple[str, tuple[int, ...]] | None:
    """Return git-lfs's line about itself and the numbers in it, or None where there is no git-lfs."""
    done = subprocess.run(["git", "lfs", "version"], capture_output=True, check=False)
    found = re.match(rb"git-lfs/(\d+(?:\.\d+)*)", done.stdout)
    if done.returncode != 0 or found is None:
        return None
    line = done.stdout.decode("utf-8", "replace").strip()
    return line, tuple(int(part) for part in found[1].split(b"."))


def push(remote: str, oids: Sequence[str]) -> None:
    """Send objects, each 64 hex digits, to a remote.

    Raises RepositoryError where there is no git-lfs, ObjectError where it fails; it has said why by then.
    """
    found = version()
    if found is None:
        raise RepositoryError("git-lfs is needed to send objects and is not installed", hint="install git-lfs")
    command = ["git", "lfs", "push", "--object-id", remote]
    if found[1] >= _WITH_STDIN:
        _run([*command, "--stdin"], "".join(f"{oid}\n" for oid in oids))
        return
    for start in range(0, len(oids), _BATCH):
        _run([*command, *oids[start : start + _BATCH]], "")


def _run(command: list[str], stdin: str) -> None:
    # Its progress is for people: it goes where ours goes.
    code = subprocess.run(command, input=stdin.encode("ascii"), stdout=sys.stderr, check=False).returncode
    if code != 0:
        raise ObjectError(f"git lfs push exited {code}: not every object was sent", hint="nothing has been pushed")
