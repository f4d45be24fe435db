"""Why git-lfs did not bring an object, by what it says: in one line, with what to do, and whether to try again."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Final

from theta_daemon.errors import printable
from theta_daemon.frozen import Frozen
from theta_daemon.history.fetch import remotes

if TYPE_CHECKING:
    from theta_daemon.settings import Settings

_NOT_INSTALLED: Final = re.compile(r"'lfs' is not a git command|git-lfs: (command )?not found")
_NO_REMOTE: Final = re.compile(r"missing protocol|no valid remotes|could not find any remote|unable to find any remote")
_NOT_THERE: Final = re.compile(r"\b(404|410|422)\b|[Nn]ot [Ff]ound|does not exist|remote missing object")
_NOT_ALLOWED: Final = re.compile(r"\b(401|403)\b|[Aa]uthentication required|[Cc]redentials|Permission denied")

# git-lfs's line about an object: its name and id stand before the reason, and perhaps the id again.
_REASON: Final = re.compile(r"Error downloading \S+ \([0-9a-f]{64}\): (?:error transferring \"[0-9a-f]{64}\": )?(.*)")
_BROKE_DOWN: Final = re.compile(r"^((?:panic|fatal error): .*)", re.MULTILINE)
_NOISE: Final = re.compile(r"Downloading |Errors logged to |Use `git lfs logs last`|goroutine \d|\s")

_CREDENTIALS: Final = re.compile(r"://[^/@\s]+@")
_QUERY: Final = re.compile(r"(://[^\s\"'?]+)\?[^\s\"']*")  # a signed URL: whoever has it needs no password


class Failure(Frozen):
    """What to tell of objects that did not come; `is_final` where to try again is of no use."""

    message: str
    hint: str
    is_final: bool


def failure(settings: Settings, said: bytes, otherwise: str = "", remote: str | None = None) -> Failure:
    """Return what the words of git-lfs mean; `otherwise` is what to tell where it did not say anything."""
    text = said.decode("utf-8", "backslashreplace")
    name = remote or next(remotes(settings), None)
    where = f" from {_hidden(printable(os.fsencode(name)))}" if name else ""
    if _NOT_INSTALLED.search(text):
        hint = "install git-lfs (https://git-lfs.com, or your system's packages) and run the command again"
        return Failure(f"git-lfs, which fetches objects{where}, is not installed", hint, True)
    why = _last(text) or otherwise
    if _NO_REMOTE.search(why) or not (why or where):
        hint = "add the remote that has it (git remote add), or copy it into lfs/objects from a clone that has it"
        return Failure("no remote is configured", hint, True)
    message = f"git-lfs could not get it{where}: {why or 'it did not say why'}"
    if _NOT_THERE.search(why):
        hint = "push it again from a clone that has it (git theta push --all)"
        if remote is None and len(list(remotes(settings))) > 1:
            hint += ", or get it from another remote (git theta fetch --remote REMOTE REVISION)"
        return Failure(message, hint, True)
    if _NOT_ALLOWED.search(why):
        return Failure(message, "look at the credentials for this remote, and run the command again", True)
    return Failure(message, "look at the network and the server, and run the command again", False)


def _last(text: str) -> str:
    """Return the last reason that git-lfs gave, without credentials."""
    lines = [line for line in text.split("\n") if line and not _NOISE.match(line)]
    reasons = _REASON.findall(text) or _BROKE_DOWN.findall(text) or lines or [""]
    return _hidden(printable(reasons[-1].strip().encode("utf-8", "backslashreplace")))


def _hidden(text: str) -> str:
    return _QUERY.sub(r"\1?***", _CREDENTIALS.sub("://***@", text))
