"""git, called as a program: arguments and output are bytes, no shell, NUL-terminated lists.

Runs in the current directory and environment of the command, as git itself does. Where git fails, its own words
are the error.
"""

from __future__ import annotations

import subprocess
import tempfile
from typing import TYPE_CHECKING

from theta_daemon.errors import RepositoryError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

Argument = str | bytes

# Writing the index cleans files whose times are too close to tell whether they changed; ours must not run then.
_NO_FILTER = tuple(
    part
    for setting in ("process=", "clean=", "smudge=", "required=false")
    for part in ("-c", f"filter.theta.{setting}")
)
_NO = 1  # how git's queries say "there is none"


def output(*arguments: Argument, stdin: bytes = b"", directory: bytes | None = None) -> bytes:
    """Return what `git ARGUMENTS` prints. Raises RepositoryError with git's words."""
    done = _run(arguments, stdin, directory)
    if done.returncode != 0:
        raise _error(arguments, done)
    return done.stdout


def answer(*arguments: Argument, stdin: bytes = b"", directory: bytes | None = None) -> bytes | None:
    """Like `output`, or None where git exits 1, which its queries do for "no such thing"."""
    done = _run(arguments, stdin, directory)
    if done.returncode == _NO:
        return None
    if done.returncode != 0:
        raise _error(arguments, done)
    return done.stdout


def line(*arguments: Argument, directory: bytes | None = None) -> bytes:
    """Return git's output without its last newline: a path may hold newlines of its own."""
    return output(*arguments, directory=directory).removesuffix(b"\n")


def items(*arguments: Argument, stdin: bytes = b"", directory: bytes | None = None) -> list[bytes]:
    """Return the NUL-terminated items that git prints."""
    return output(*arguments, stdin=stdin, directory=directory).split(b"\0")[:-1]


def stage(path: bytes, directory: bytes) -> None:
    """Add one file that has no filter to the index, starting none for other files."""
    output(*_NO_FILTER, "add", "--", path, directory=directory)


def succeeds(*arguments: Argument) -> bool:
    """Tell whether git exits 0, whatever it says."""
    return _run(arguments, b"", None).returncode == 0


def hand_over(*arguments: Argument) -> int:
    """Run git on the user's own terminal and return its exit status."""
    return subprocess.run(["git", *arguments], check=False).returncode


def blobs(identities: Sequence[str], limit: int) -> Iterator[tuple[str, bytes]]:
    """Yield (id, content) of the blobs of at most `limit` bytes among `identities`; skip all else, missing ones too."""
    wanted = [found for found, kind, size in kinds(identities) if kind == "blob" and size <= limit]
    if not wanted:
        return
    # From a file, so that neither side of a pipe ever waits for the other.
    with tempfile.TemporaryFile() as names:
        names.write("".join(f"{identity}\n" for identity in wanted).encode("ascii"))
        names.seek(0)
        with subprocess.Popen(["git", "cat-file", "--batch"], stdin=names, stdout=subprocess.PIPE) as process:
            answers = process.stdout
            if answers is None:  # pragma: no cover - asked for above
                raise RepositoryError("git cat-file has no output")
            for _ in wanted:
                identity, _, size = answers.readline().decode("ascii").split()
                content = answers.read(int(size))
                if len(content) != int(size) or answers.read(1) != b"\n":
                    raise RepositoryError(f"git cat-file broke off inside blob {identity}")
                yield identity, content


def kinds(identities: Iterable[str]) -> Iterator[tuple[str, str, int]]:
    """Yield (id, type, size in bytes) of the objects that git has among `identities`."""
    names = "".join(f"{identity}\n" for identity in identities).encode("ascii")
    if not names:
        return
    for row in output("cat-file", "--batch-check", stdin=names).decode("ascii").splitlines():
        match row.split():
            case [identity, kind, size] if kind != "missing":
                yield identity, kind, int(size)
            case _:
                continue


def _run(arguments: Sequence[Argument], stdin: bytes, directory: bytes | None) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(["git", *arguments], input=stdin, capture_output=True, cwd=directory, check=False)
    except FileNotFoundError as error:
        raise RepositoryError("git is not on PATH", hint="install git") from error


def _error(arguments: Sequence[Argument], done: subprocess.CompletedProcess[bytes]) -> RepositoryError:
    words = done.stderr.decode("utf-8", "replace").strip()
    for prefix in ("fatal: ", "error: "):
        words = words.removeprefix(prefix)
    verb = next((str(a) for a in arguments if isinstance(a, str) and not a.startswith("-")), "")
    return RepositoryError(words or f"git {verb} exited {done.returncode}")
