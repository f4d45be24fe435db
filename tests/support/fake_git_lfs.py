"""A `git-lfs filter-process` that misbehaves as `git-lfs` cannot be made to. The second argument says how.

serves        fetches what is in the folder of the third argument, as it should
nonsense      answers the greeting with something else
crashes       breaks down as the first object is asked for
crashes-late  has fetched the first of all objects when it breaks down
closes        closes its output, and goes on
stalls        says nothing more once an object is asked for; a child of its own waits with it
stubborn      the same, and does not end when it is told to
error, abort  refuses each object
pointers      answers each object with its pointer
forgets       never lists anything
repeats       lists, again and again, something that nobody asked for
talks         as `serves`, and says more on standard error than a pipe holds
half          fetches half of each object
prompt        fetches each object as it is asked for; `listed` has a line for each time that it was asked for a list
flows         fetches an object every 0.4 seconds once it is asked for a list, and lists them when all are here
copies        fetches each object into a folder below `tmp`, a little every 0.4 seconds, before it lists the first
eager         fetches each object as it is asked for, and takes no third question before there is a file `go`
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path


def read_lines() -> list[bytes] | None:
    lines: list[bytes] = []
    while True:
        head = sys.stdin.buffer.read(4)
        if not head:
            return None
        if head == b"0000":
            return lines
        lines.append(sys.stdin.buffer.read(int(head, 16) - 4))


def write(*texts: bytes) -> None:
    """Write a list of lines."""
    sys.stdout.buffer.write(b"".join(b"%04x%b\n" % (len(text) + 5, text) for text in texts) + b"0000")
    sys.stdout.buffer.flush()


def put(pointer: bytes, source: Path, part: int = 1) -> None:
    found = re.search(rb"sha256:([0-9a-f]{64})", pointer)
    assert found is not None
    oid = found[1].decode()
    if (source / oid).exists():
        data = (source / oid).read_bytes()
        target = Path(os.environ["FAKE_STORE"]) / oid[:2] / oid[2:4] / oid
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data[: len(data) // part])


def wait() -> None:
    subprocess.Popen(["sleep", "1000"])
    time.sleep(1000)


def trickle(how: str) -> None:
    """Write files that are not whole: one that grows for two seconds, or new ones for ever."""
    folder = Path(os.environ["FAKE_STORE"]).parent / "incomplete"
    folder.mkdir(parents=True, exist_ok=True)
    number = 0
    while how == "restarts" or number < 20:
        number += 1
        if how == "restarts":
            (folder / str(number - 1)).unlink(missing_ok=True)
            (folder / str(number)).write_bytes(b"x" * 10)
        else:
            with (folder / "part").open("ab") as part:
                part.write(b"x")
        time.sleep(0.1)


def main(how: str, source: Path) -> None:
    with (source / "started").open("a") as started:
        started.write(f"{os.getpid()}\n")
    if how == "stubborn":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if how == "nonsense":
        sys.stdout.write("Usage: git-lfs <command>\n" * 1000)
        return
    read_lines()
    write(b"git-filter-server", b"version=2")
    read_lines()
    write(b"capability=clean", b"capability=smudge", b"capability=delay")
    delayed: dict[bytes, bytes] = {}
    is_first = True
    while (header := read_lines()) is not None:
        if b"command=list_available_blobs\n" in header:
            with (source / "listed").open("a") as listed:
                listed.write("again\n")
            if how in {"restarts", "trickles"} and is_first:
                trickle(how)
            if how == "flows" and is_first:
                for pointer in delayed.values():
                    time.sleep(0.4)
                    put(pointer, source)
            if how == "copies" and is_first:
                folder = Path(os.environ["FAKE_STORE"]).parent / "tmp" / "lfs-standalone-file-1"
                folder.mkdir(parents=True)
                for _ in range(5):
                    time.sleep(0.4)
                    with (folder / "download").open("ab") as part:
                        part.write(b"x")
            if how == "crashes-late" and not is_first:
                sys.exit("panic: no more\n\ngoroutine 1 [running]:\nmain.main()")
            names = [b"nobody"] if how == "repeats" else [] if how == "forgets" else list(delayed)
            for name in names[:1] if how == "crashes-late" else names:
                if how != "repeats":
                    put(delayed.pop(name), source, 2 if how == "half" else 1)
                    write_names(name)
                    break
            else:
                write_names(*names)
            is_first = False
            continue
        content = b"".join(read_lines() or [])
        name = next(line for line in header if line.startswith(b"pathname=")).removeprefix(b"pathname=").rstrip(b"\n")
        answer(how, name, content, delayed, source)


def write_names(*names: bytes) -> None:
    write(*(b"pathname=" + name for name in names))
    write(b"status=success")


def answer(how: str, name: bytes, content: bytes, delayed: dict[bytes, bytes], source: Path) -> None:
    match how:
        case "crashes":
            sys.exit("panic: all is lost\n\ngoroutine 1 [running]:\nmain.main()")
        case "closes":
            os.close(1)
            wait()
        case "stalls" | "stubborn":
            wait()
        case "error" | "abort":
            write(b"status=" + how.encode())
        case _ if not content or how == "pointers":
            write(b"status=success")
            write(content or b"version")
            write()
        case _:
            with (source / "asked").open("ab") as asked:
                asked.write(name + b"\n")
            if how == "talks":
                sys.stderr.write("warning: so much to say\n" * 10_000)
                sys.stderr.flush()
            if how in {"eager", "prompt"}:
                put(content, source)
            if how == "eager":
                while len(delayed) == 2 and not (source / "go").exists():
                    time.sleep(0.01)
            delayed[name] = content
            write(b"status=delayed")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
