"""A `theta-daemon` with toy handlers, run as a script: what happens to a file is chosen by the end of its path.

The rest of the process is the real one. `TOY_MARK` in the environment names a file that exists while the handlers do.
Files below `later/` are delayed, whether git can wait or not, and all listed at once.
"""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from theta_daemon.daemon.entry import run
from theta_daemon.errors import CheckpointError, RepositoryError
from theta_daemon.formats.source import Readable


def read_all(content: Readable) -> bytes:
    buffer = memoryview(bytearray(100_000))
    whole = bytearray()
    while count := content.readinto(buffer):
        whole += buffer[:count]
    return bytes(whole)


class Toy:
    def __init__(self) -> None:
        self._waiting: dict[bytes, bytes] = {}
        self._offered: dict[bytes, bytes] = {}
        self._mark = os.environ.get("TOY_MARK")
        if self._mark:
            Path(self._mark).touch()
        print("a stray print while the handlers are made")  # noqa: T201 - the daemon must stand it

    def clean(self, path: bytes, content: Readable) -> Iterator[bytes | memoryview]:
        behaviour = path.rpartition(b".")[2]
        if behaviour == b"unread":
            raise CheckpointError("not worth reading")
        if behaviour == b"skip":
            return
        if behaviour == b"lazy":
            yield b"too early"
        whole = read_all(content)
        match behaviour:
            case b"error":
                raise CheckpointError("it is damaged\nin two lines", hint="write it again")
            case b"bug":
                raise ValueError("what a bug says")
            case b"memory":
                raise MemoryError
            case b"late":
                yield b"x" * 100_000
                raise CheckpointError("late")
            case b"latebug":
                yield b"x"
                raise KeyError("late bug")
            case b"print":
                print("a stray print")  # noqa: T201
                sys.stdout.flush()
                os.write(1, b"a stray write\n")
                subprocess.run(
                    [sys.executable, "-c", "import sys; print('a child', repr(sys.stdin.read()))"], check=True
                )
            case b"buffer":
                buffer = bytearray(10_000)
                for letter in b"abc":
                    buffer[:] = bytes([letter]) * len(buffer)
                    yield memoryview(buffer)
                    buffer[:] = bytes([letter]) * len(buffer)
                    yield memoryview(buffer)[:10]
                buffer[:] = b"z" * len(buffer)
            case b"many":
                for number in range(10_000):
                    yield b"%d\n" % number
            case b"endless":
                while True:
                    yield b"y" * 1_000_000
            case b"hang":
                os.write(2, b"hanging\n")
                while True:
                    signal.pause()
            case b"empty":
                yield b""
            case b"nothing":
                return
        yield whole

    def smudge(
        self,
        path: bytes,
        content: Readable,
        *,
        ref: str | None,
        treeish: str | None,
        blob: str | None,
        can_delay: bool,
    ) -> Iterator[bytes | memoryview] | None:
        if path in self._offered:
            return self.clean(path, io.BytesIO(self._offered.pop(path)))
        if path.startswith(b"later/"):
            self._waiting[path] = b"" if path.endswith(b".forgets") else read_all(content)
            return None
        if path.endswith(b".meta"):
            read_all(content)
            return iter([repr((ref, treeish, blob, can_delay)).encode()])
        return self.clean(path, content)

    def available(self) -> list[bytes]:
        for path in self._waiting:
            match path.rpartition(b".")[2]:
                case b"listbug":
                    raise ValueError("what a bug in the list says")
                case b"hanglist":
                    os.write(2, b"hanging\n")
                    while True:
                        signal.pause()
        self._offered |= self._waiting
        self._waiting = {}
        return sorted(self._offered)

    def close(self) -> None:
        if self._mark:
            Path(self._mark).unlink()


made = 0


def make(command: str) -> Toy:
    """Make the handlers; the first time fails if the environment says so."""
    global made
    made += 1
    if made == 1 and os.environ.get("TOY_FAIL_FIRST"):
        raise RepositoryError("no repository yet")
    return Toy()


if __name__ == "__main__":
    run(make)
