"""git-lfs as a program: its version, and sending objects by id."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING, TextIO

from theta_daemon.errors import ObjectError, RepositoryError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_WITH_STDIN = (3, 3)  # git-lfs 3.3.0 added `push --object-id --stdin`
# It would send less than it is told to, and call that success.
_OVERRIDES = ("-c", "lfs.allowincompletepush=false")
_BATCH = 100  # ids on the command line of an older one: git-lfs's own batch size


def version() -> tuple[str, tuple[int, ...]] | None:
    """Return git-lfs's line about itself and the numbers in it, or None where there is no git-lfs."""
    done = subprocess.run(["git", "lfs", "version"], capture_output=True, check=False)
    found = re.match(rb"git-lfs/(\d+(?:\.\d+)*)", done.stdout)
    if done.returncode != 0 or found is None:
        return None
    line = done.stdout.decode("utf-8", "replace").strip()
    return line, tuple(int(part) for part in found[1].split(b"."))


def push(environment: Mapping[str, str], remote: str, oids: Sequence[str], *, shown: bool = True) -> None:
    """Send objects, each 64 hex digits, to a remote, in the current directory's repository.

    git-lfs shows how far it has come, unless `shown` is false. Where a transfer agent of the user's stands in for the
    server, nobody can be asked what has arrived: the agent tells, and git-lfs's exit status.

    Raises RepositoryError where there is no git-lfs, ObjectError where it fails; it has said why by then.
    """
    found = version()
    if found is None:
        raise RepositoryError("git-lfs is needed to send objects and is not installed", hint="install git-lfs")
    with tempfile.TemporaryDirectory() as folder:
        log = os.path.join(folder, "progress")
        # Not with a log at once: it flushes that to the disk after each line, which takes longer than asking again.
        _push(environment, remote, oids, found[1], None, shown=shown)
        if _has_agent(environment, remote):
            return
        # It exits with 0 where the server refuses an upload (tried, 3.3: 422), and so it is asked a second time: then
        # it finds nothing to upload, and writes no line of progress, or the server does not have it all.
        _push(environment, remote, oids, found[1], log)
        if os.path.exists(log) and os.path.getsize(log):
            os.unlink(log)
            _push(environment, remote, oids, found[1], log)
        if os.path.exists(log) and os.path.getsize(log):
            raise ObjectError(
                "git lfs push reported success, but the server does not have every object",
                hint="nothing has been pushed; look at the server, and push again",
            )


def _has_agent(environment: Mapping[str, str], remote: str) -> bool:
    """Whether a standalone transfer agent may be what sends objects to `remote`, a remote's name or URL.

    git-lfs-config(5): lfs.standalonetransferagent, for all URLs or for some (git-config(1), `--get-urlmatch`). Which
    URL of the remote git-lfs will take is its own business, so each counts.
    """
    if not _configured(environment, "--get-regexp", r"^lfs\.(.*\.)?standalonetransferagent$"):
        return False
    if _configured(environment, "--get", "lfs.standalonetransferagent"):
        return True  # also for what is no URL, as a path
    keys = ["lfs.url", "lfs.pushurl"]
    keys += [f"remote.{remote}.{key}" for key in ("lfsurl", "lfspushurl", "url", "pushurl")]
    urls = [remote, *(url for key in keys for url in _configured(environment, "--get-all", key))]
    return any(_configured(environment, "--get-urlmatch", "lfs.standalonetransferagent", url) for url in urls)


def _configured(environment: Mapping[str, str], *arguments: str) -> list[str]:
    done = subprocess.run(["git", "config", *arguments], env=environment, capture_output=True, check=False)
    return os.fsdecode(done.stdout).splitlines()


def _push(
    environment: Mapping[str, str],
    remote: str,
    oids: Sequence[str],
    version: tuple[int, ...],
    log: str | None,
    *,
    shown: bool = False,
) -> None:
    command = ["git", *_OVERRIDES, "lfs", "push", "--object-id", remote]
    # Its progress is for people: it goes where ours goes, and once is enough.
    own = {name: value for name, value in environment.items() if name != "GIT_LFS_PROGRESS"}
    if log is not None:
        own["GIT_LFS_PROGRESS"] = log
    output = sys.stderr if shown else subprocess.DEVNULL
    if version >= _WITH_STDIN:
        _run(own, [*command, "--stdin"], "".join(f"{oid}\n" for oid in oids), output)
        return
    for start in range(0, len(oids), _BATCH):
        _run(own, [*command, *oids[start : start + _BATCH]], "", output)


def _run(environment: Mapping[str, str], command: list[str], stdin: str, output: int | TextIO) -> None:
    done = subprocess.run(command, input=stdin.encode("ascii"), stdout=output, env=environment, check=False)
    if done.returncode != 0:
        raise ObjectError(
            f"git lfs push exited {done.returncode}: not every object was sent", hint="nothing has been pushed"
        )
