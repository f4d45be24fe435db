"""What git's configuration says, as values: the text of `git config --list --null --show-origin`, parsed.

Pure: text in, values out. The meanings are those of git-config(1): the last of several values counts, a key without
"=" is true, numbers take the suffixes k, m and g.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, TypeVar

from theta_daemon.errors import RepositoryError, printable
from theta_daemon.frozen import Frozen

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_TRUE = {"true", "yes", "on"}
_FALSE = {"false", "no", "off", ""}
_SCALE = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}


class Value(Frozen):
    """One value and where it stands; `text` is None for a key without "="."""

    text: str | None
    origin: str


class Config:
    """The last value of every key."""

    def __init__(self, listing: bytes) -> None:
        """Parse `listing`; raises RepositoryError where it is not what git prints."""
        fields = listing.split(b"\0")
        if len(fields) % 2 != 1 or fields[-1]:
            raise RepositoryError("git config printed something that cannot be read")
        self._values: dict[str, Value] = {}
        for origin, entry in zip(fields[0:-1:2], fields[1::2], strict=True):
            key, separator, text = entry.partition(b"\n")
            self._values[os.fsdecode(key)] = Value(os.fsdecode(text) if separator else None, printable(origin))

    def get(self, key: str) -> Value | None:
        """Return the value of `key` (as documented: `theta.memoryLimit`), None where it is not set."""
        section, _, name = key.rpartition(".")
        return self._values.get(f"{section.lower()}.{name.lower()}")  # we read no key with a subsection

    def text(self, key: str) -> str:
        """Return the text of `key`, "" where it is not set or has none."""
        found = self.get(key)
        return (found.text or "") if found else ""

    def parsed(self, key: str, parse: Callable[[str | None], T], default: Callable[[], T]) -> T:
        """Return what `parse` makes of the value of `key`, `default()` where it is not set.

        `parse` raises ValueError with what a value must be; here that becomes a RepositoryError that names the
        key, the value, and the place where it stands.
        """
        found = self.get(key)
        if found is None:
            return default()
        try:
            return parse(found.text)
        except ValueError as error:
            shown = "without a value" if found.text is None else repr(found.text)
            raise RepositoryError(f"{key} is {shown} ({found.origin})", hint=f"it must be {error}") from error


def boolean(text: str | None) -> bool:
    """Return the git boolean that `text` spells."""
    word = "true" if text is None else text.lower()
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    try:
        return number(word) != 0
    except ValueError:
        raise ValueError("true or false") from None


def number(text: str | None) -> int:
    """Return the number >= 0 that `text` spells, with git's suffixes k, m and g."""
    found = re.fullmatch(r"\s*([0-9]{1,18})([kmg]?)", (text or "").lower(), re.ASCII)
    if found is None:
        raise ValueError("a number, with k, m or g behind it if you like")
    return int(found[1]) * _SCALE[found[2]]


def shared_permissions(text: str | None, umask: int) -> int | None:
    """Return the permission bits of a new file for the core.sharedRepository that `text` spells.

    None where the umask alone decides. git-config(1): `group` and `all` add to what the umask leaves, an octal number
    takes its place.
    """
    word = "group" if text is None else text
    if re.fullmatch("[0-7]{0,6}", word, re.ASCII):
        bits = int(word or "0", 8)
        if bits > 2:
            if bits & 0o600 != 0o600:
                raise ValueError("an octal number that lets the owner read and write")
            return bits & 0o666
        word = ("umask", "group", "all")[bits]
    if word in {"all", "world", "everybody"}:
        return 0o666 & ~umask | 0o664
    if word == "group" or (word != "umask" and boolean(word)):
        return 0o666 & ~umask | 0o660
    return None


def flushes_loose_objects(config: Config) -> bool:
    """Tell whether git, from 2.36 on, flushes a loose object to disk (core.fsync, core.fsyncObjectFiles).

    git-config(1): the components start from the platform's default, here `committed,-loose-object`; `none` empties
    them; `-name` removes; names add, and what is added wins over what is removed. Unknown names are ignored. The
    deprecated core.fsyncObjectFiles turns loose objects on, whatever core.fsync says, and never off.
    """
    added = False  # the default does not hold loose-object, so that `none` and `-name` change nothing
    for component in config.text("core.fsync").split(","):
        added |= component.strip() in {"loose-object", "objects", "committed", "added", "all"}
    return added or config.parsed("core.fsyncObjectFiles", boolean, lambda: False)
