"""The error tree: one class per way to be wrong, split by who is to blame.

    ThetaError
    |-- CheckpointError      the checkpoint file is damaged, hostile, or no checkpoint at all
    |   `-- TruncatedError   ... it ends too early
    |-- MetadataError        the metadata in git is damaged or hostile
    |   `-- ConflictError    ... it holds conflict markers
    |-- LayoutError          the layout object is damaged or hostile
    |-- ObjectError          an object in the stores
    |   |-- MissingObject
    |   `-- CorruptObject
    |-- UnsupportedError     valid, but of a kind this version cannot handle
    |-- RepositoryError      git, its configuration or its directories
    |-- ProtocolError        the other side of the pipe broke the protocol
    `-- UsageError           the command line

Every error renders as one line: what is wrong, where, and what to do.
Raisers give what they know; callers that know more add it with `at`.
"""

from __future__ import annotations

import os
from typing import Self


def printable(path: bytes) -> str:
    """Return `path` for people: UTF-8 where it is, escapes where not, never a control character."""
    text = path.decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def reason(error: OSError) -> str:
    """Return why the system refused, and for which files where it says so."""
    files = [
        printable(os.fsencode(file)) for file in (error.filename, error.filename2) if isinstance(file, str | bytes)
    ]
    why = error.strerror or str(error)
    return f"{why}: {' -> '.join(files)}" if files else why


class ThetaError(Exception):
    """Something went wrong that a person can act on.

    `message` says what; `path` (raw bytes, as git names it), `parameter` and `commit` say where;
    `hint` says what to do, as a clause that follows a semicolon.
    """

    exit_code = 1

    def __init__(
        self,
        message: str,
        *,
        path: bytes | None = None,
        parameter: str | None = None,
        commit: str | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.path = path
        self.parameter = parameter
        self.commit = commit
        self.hint = hint

    def at(
        self,
        *,
        path: bytes | None = None,
        parameter: str | None = None,
        commit: str | None = None,
        hint: str | None = None,
    ) -> Self:
        """Add what the raiser did not know; what is set already stays."""
        self.path = self.path if self.path is not None else path
        self.parameter = self.parameter if self.parameter is not None else parameter
        self.commit = self.commit if self.commit is not None else commit
        self.hint = self.hint if self.hint is not None else hint
        return self

    def __str__(self) -> str:
        where = []
        if self.path is not None:
            where.append(printable(self.path))
        if self.commit is not None:
            where.append(f"commit {self.commit}")
        if self.parameter is not None:
            where.append(f"parameter {self.parameter!r}")
        text = ": ".join([*where, self.message])
        if self.hint:
            text = f"{text}; {self.hint}"
        return " ".join(text.split())


class CheckpointError(ThetaError):
    """The checkpoint file is damaged, hostile, or no checkpoint at all."""


class TruncatedError(CheckpointError):
    """The checkpoint file ends before its own headers say it does."""


class MetadataError(ThetaError):
    """The metadata file in git is damaged or hostile."""


class ConflictError(MetadataError):
    """The metadata file holds conflict markers."""


class LayoutError(ThetaError):
    """The layout object is damaged, hostile, or does not fit its parameter groups."""


class ObjectError(ThetaError):
    """An object in the stores cannot be used."""


class MissingObject(ObjectError):
    """No store holds the object."""


class CorruptObject(ObjectError):
    """The object's bytes are not what its name promises."""


class UnsupportedError(ThetaError):
    """Valid, but of a kind this version cannot handle."""


class RepositoryError(ThetaError):
    """git, its configuration, or its directories are not as needed."""


class ProtocolError(ThetaError):
    """The other side of the pipe broke the protocol."""


class UsageError(ThetaError):
    """The command line is wrong."""

    exit_code = 2
