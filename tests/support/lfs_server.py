"""A real Git LFS server (giftless) over loopback, what it holds, and what it was asked: for tests and for bench.

with lfs_server.running(folder) as server:
    hosted = server.repository("models")
    git("config", "lfs.url", hosted.url) ...
    assert hosted.sent() < 1000
"""

from __future__ import annotations

import contextlib
import enum
import json
import re
import selectors
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = ROOT / ".venv-giftless"
DRIVER = Path(__file__).with_name("giftless_driver.py")

# What a server has for its start and its end; both take about a second.
_PATIENCE = 60.0


class Kind(enum.Enum):
    """What a request to a Git LFS server is about."""

    BATCH = "batch"
    DOWNLOAD = "download"
    UPLOAD = "upload"
    VERIFY = "verify"
    OTHER = "other"  # locks, above all


def is_installed() -> bool:
    """Tell whether giftless stands in its own environment."""
    return (ENVIRONMENT / ".ready").exists()


def kind_of(method: str, path: str) -> tuple[Kind, str | None]:
    """Return what a request is about, and the object that its path names."""
    if path.endswith("/objects/batch"):
        return Kind.BATCH, None
    if path.endswith("/objects/storage/verify"):
        return Kind.VERIFY, None
    found = re.search(r"/objects/storage/([0-9a-f]{64})$", path)
    if found is not None:
        return (Kind.UPLOAD if method == "PUT" else Kind.DOWNLOAD), found[1]
    return Kind.OTHER, None


@dataclass(frozen=True, slots=True)
class Request:
    """One request that the server answered; sizes are those of the bodies, in bytes."""

    kind: Kind
    oid: str | None
    status: int
    received: int
    sent: int


@dataclass(frozen=True, slots=True)
class Hosted:
    """A repository's objects on the server."""

    server: LfsServer
    organisation: str
    name: str

    @property
    def path(self) -> str:
        """The path of `url`."""
        return f"/{self.organisation}/{self.name}.git/info/lfs"

    @property
    def url(self) -> str:
        """What goes into `lfs.url`."""
        return self.server.url + self.path

    @property
    def folder(self) -> Path:
        """Where the server keeps the objects, each under its id."""
        return self.server.storage / self.organisation / self.name

    def objects(self) -> dict[str, int]:
        """Return the ids of the objects it holds, and their sizes in bytes."""
        if not self.folder.exists():
            return {}
        return {file.name: file.stat().st_size for file in self.folder.iterdir()}

    def requests(self, kind: Kind | None = None) -> list[Request]:
        """Return what was asked so far, of one kind or of all."""
        found = []
        for line in self.server.log.read_bytes().splitlines():
            method, path, status, received, sent = json.loads(line)
            if path.startswith(self.path + "/"):
                of_path, oid = kind_of(method, path)
                if kind is None or kind is of_path:
                    found.append(Request(of_path, oid, status, received, sent))
        return found

    def sent(self) -> int:
        """Return how many bytes of objects went out so far."""
        return sum(request.sent for request in self.requests(Kind.DOWNLOAD) if request.status == 200)

    def received(self) -> int:
        """Return how many bytes of objects came in so far."""
        return sum(request.received for request in self.requests(Kind.UPLOAD) if request.status == 200)

    def remove(self) -> None:
        """Forget every object."""
        shutil.rmtree(self.folder, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class LfsServer:
    """A server that runs; `token` opens its organisation `private` (as password of the user `_jwt`, or as bearer)."""

    port: int
    token: str
    storage: Path
    log: Path

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def repository(self, name: str, organisation: str = "open") -> Hosted:
        """Return the repository of that name; it comes to be with its first object."""
        return Hosted(self, organisation, name)


@contextlib.contextmanager
def running(folder: Path, latency: float = 0.0) -> Iterator[LfsServer]:
    """Run a server that keeps everything below `folder`, and answers each request `latency` seconds late."""
    storage, log, errors = folder / "storage", folder / "requests.log", folder / "errors.log"
    folder.mkdir(parents=True, exist_ok=True)
    log.touch()
    command = [str(ENVIRONMENT / "bin" / "python"), str(DRIVER), str(storage), str(log), f"--latency={latency}"]
    pipe = subprocess.PIPE
    with errors.open("wb") as stderr:
        process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=stderr, cwd=folder)
    try:
        line = _first_line(process)
        if not line:
            raise RuntimeError(f"the Git LFS server did not start: {errors.read_text()[-2000:]}")
        said = json.loads(line)
        yield LfsServer(said["port"], said["token"], storage, log)
    finally:
        _end(process)


def _first_line(process: subprocess.Popen[bytes]) -> bytes:
    """Return the first line the process writes, empty where none came in time."""
    assert process.stdout is not None
    with selectors.DefaultSelector() as selector:
        selector.register(process.stdout, selectors.EVENT_READ)
        return process.stdout.readline() if selector.select(_PATIENCE) else b""


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process: it leaves at the end of its input; who does not is killed."""
    try:
        process.communicate(timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
