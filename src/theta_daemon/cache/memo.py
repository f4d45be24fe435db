"""The memo: facts about content that took long to find out, kept on disk between processes.

A fact says that something named by its content (a key, see `key`) decodes to bytes of a certain BLAKE3 digest. It can
be looked up or found out again, never be wrong, so deleting the file, at any time, changes no result; and no fault of
the disk (no space, no permission, a file full of garbage) ever fails a command: it only makes it slower.

On disk: lines of text, one fact each, appended with a single write.

    <key: 64 hex> <digest: 64 hex> <check: 16 hex>

`check` is the start of the BLAKE3 of what stands before it in the line (and of the name of this format). A line that
does not check - torn by a crash, a full disk, or another program - is passed over. Of several lines with one key the
last counts. Every write begins with a line break, so that it never continues a torn line.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from typing import TYPE_CHECKING

from blake3 import blake3

from theta_daemon import durable

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

LIMIT = 32 << 20  # bytes on disk, some 230 000 facts; then the older half goes
PENDING = 256  # facts held back to be written together

_FORMAT = b"theta-daemon memo 1\n"
_HEX = re.compile(r"[0-9a-f]{64}")
_FACT = 64 + 1 + 64
_LINE = _FACT + 1 + 16


def key(*facts: str) -> str:
    """Return the key that stands for `facts`, in their order: 64 hexadecimal digits."""
    hasher = blake3(_FORMAT)
    for fact in facts:
        text = fact.encode("utf-8", "surrogateescape")
        hasher.update(len(text).to_bytes(8, "little") + text)
    return hasher.hexdigest()


class Memo:
    """The facts in the file `path`, which need not exist. May be used from any thread, and by many processes.

    `mode` are the permission bits of the file where it is made; None leaves them to the umask.
    """

    def __init__(self, path: Path, limit: int = LIMIT, mode: int | None = None) -> None:
        self._path = path
        self._mode = mode
        self._limit = limit
        self._lock = threading.Lock()
        self._lines: dict[bytes, bytes] | None = None  # key -> whole line, checked when it is asked for
        self._pending: list[bytes] = []

    def digest_of(self, key: str) -> str | None:
        """Return the digest that is remembered for `key`, None where there is none."""
        with self._lock:
            line = self._loaded().get(key.encode("ascii", "replace"))
        return line[65:_FACT].decode("ascii") if line is not None and _checks(line) else None

    def remember(self, key: str, digest: str) -> None:
        """Keep the fact that `key` has `digest`; it is on disk after `flush`, if at all.

        Raises ValueError where either is not 64 hexadecimal digits.
        """
        if not _HEX.fullmatch(key) or not _HEX.fullmatch(digest):
            raise ValueError("a fact is two times 64 hexadecimal digits")
        line = _line(f"{key} {digest}".encode("ascii"))
        with self._lock:
            lines = self._loaded()
            if lines.get(line[:64]) == line:
                return
            lines[line[:64]] = line
            self._pending.append(line)
            if len(self._pending) >= PENDING:
                self._write()

    def flush(self) -> None:
        """Write what is held back; call it at the end."""
        with self._lock:
            self._write()

    def _loaded(self) -> dict[bytes, bytes]:
        if self._lines is None:
            self._lines = {}
            with contextlib.suppress(OSError):
                self._lines = _by_key(_tail(self._path, self._limit))
        return self._lines

    def _write(self) -> None:
        pending, self._pending = self._pending, []
        if not pending:
            return
        with contextlib.suppress(OSError):
            durable.make_directories(self._path.parent, mode=self._mode)
            if _append(self._path, b"\n" + b"\n".join(pending) + b"\n", self._mode) > self._limit:
                durable.sweep(self._path.parent)
                newest = _by_key(_tail(self._path, self._limit // 2))
                whole = [line for line in newest.values() if _checks(line)]
                durable.write(self._path, [b"\n".join(whole) + b"\n"], temporary=self._path.parent, mode=self._mode)


def _line(fact: bytes) -> bytes:
    return fact + b" " + blake3(_FORMAT + fact).hexdigest(length=8).encode("ascii")


def _checks(line: bytes) -> bool:
    return line == _line(line[:_FACT])


def _by_key(lines: Iterable[bytes]) -> dict[bytes, bytes]:
    return {line[:64]: line for line in lines if len(line) == _LINE}


def _tail(path: Path, limit: int) -> list[bytes]:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - limit))
        return file.read(limit).split(b"\n")


def _append(path: Path, data: bytes, mode: int | None) -> int:
    """Append `data` with one write, and return the size of the file."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        if mode is not None and not os.fstat(descriptor).st_size:
            os.fchmod(descriptor, mode)  # ours, or about to be: it holds nothing yet
        os.write(descriptor, data)
        return os.fstat(descriptor).st_size
    finally:
        os.close(descriptor)
