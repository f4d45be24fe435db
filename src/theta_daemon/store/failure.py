"""Why git-lfs did not bring an object, by what it says: in one line, with what to do, and whether to try again."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from theta_daemon.errors import printable
from theta_daemon.frozen import Frozen
from theta_daemon.history.fetch import remotes

if TYPE_CHECKING:
    from theta_daemon.settings import Settings

_NOT_INSTALLED: Final = re.compile(r"'lfs' is not a git command|git-lfs: (command )?not found")
_NO_REMOTE: Final = re.compile(r"missing protocol|no valid remotes|could not find any remote|unable to find any remote")
_NOT_THERE: Final = re.compile(r"\b(404|410|422)\b|[Nn]ot [Ff]ound|does not exist")
_NOT_ALLOWED: Final = re.compile(r"\b(401|403)\b|[Aa]uthentication required|credentials|Permission denied")
_REASON: Final = re.compile(r"Error downloading [^\n]*?\([0-9a-f]{64}\): ([^\n]*)")
_CREDENTIALS: Final = re.compile(r"://[^/@\s]+@")


class Failure(Frozen):
    """What to tell of objects that did not come; `is_final` where to try again is of no use."""

    message: str
    hint: str
    is_final: bool


def failure(settings: Settings, said: str) -> Failure:
    """Return what the words of git-lfs mean; "" is a failure without any."""
    names = [_CREDENTIALS.sub("://***@", name) for name in remotes(settings)]
    where = f" from {names[0]}" if names else ""
    if _NOT_INSTALLED.search(said):
        hint = "install git-lfs (https://git-lfs.com, or your system's packages) and run the command again"
        return Failure(f"git-lfs, which would fetch it{where}, is not installed", hint, True)
    lines = _REASON.findall(said) or [line for line in said.splitlines() if line.strip()] or [""]
    said = _CREDENTIALS.sub("://***@", printable(lines[-1].strip().encode("utf-8", "surrogateescape")))
    if _NO_REMOTE.search(said) or (not said and not names):
        hint = "add the remote that has it (git remote add), or copy it into lfs/objects from a clone that has it"
        return Failure("no remote is configured", hint, True)
    message = f"git-lfs could not get it{where}: {said or 'it did not say why'}"
    if _NOT_THERE.search(said):
        return Failure(message, "push it again from a clone that has it (git theta push --all)", True)
    if _NOT_ALLOWED.search(said):
        return Failure(message, "look at the credentials for this remote, and run the command again", True)
    return Failure(message, "look at the network and the server, and run the command again", False)
