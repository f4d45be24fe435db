"""The Git LFS server and the proxy before it do what tests rely on: shown with git-lfs alone, and with plain HTTP."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import lfs_server, ssh_server
from tests.support.fault_proxy import Answer, Corrupt, Drop, Fault, FaultProxy, Stall, Truncated
from tests.support.lfs_server import Hosted, Kind
from tests.support.repository import Repository

pytestmark = [pytest.mark.needs_git_lfs, pytest.mark.needs_lfs_server]

DATA = bytes(range(256)) * 100
OID = hashlib.sha256(DATA).hexdigest()


def test_objects_travel_to_the_server_and_back(raw: Repository, hosted: Hosted, bare: Path) -> None:
    raw.git("config", "lfs.url", hosted.url)
    raw.git("push", "--quiet", "origin", "main")
    assert set(hosted.objects()) == raw.objects()
    assert set(hosted.objects().values()) == {100_000}
    assert hosted.received() == 600_000
    assert hosted.sent() == 0
    for oid in hosted.objects():
        assert hashlib.sha256((hosted.folder / oid).read_bytes()).hexdigest() == oid

    raw.git("clone", "--quiet", "--config", f"lfs.url={hosted.url}", "--no-checkout", str(bare), "../clone")
    clone = raw.at(raw.path.parent / "clone")
    clone.git("lfs", "install", "--local")
    clone.git("checkout", "--quiet", "main")
    assert clone.read("a.bin") == raw.read("a.bin")
    assert hosted.sent() == 300_000  # of the tip alone
    assert {request.status for request in hosted.requests(Kind.DOWNLOAD)} == {200}
    assert len(hosted.requests(Kind.DOWNLOAD)) == 3


def test_what_a_repository_holds_is_its_own(raw: Repository, hosted: Hosted) -> None:
    raw.git("config", "lfs.url", hosted.url)
    raw.git("push", "--quiet", "origin", "main")
    other = hosted.server.repository("models-of-nobody")
    assert other.objects() == {}
    assert other.requests() == []
    hosted.remove()
    assert hosted.objects() == {}


def test_a_private_repository_wants_its_token(raw: Repository, hosted: Hosted, tmp_path: Path) -> None:
    private = hosted.server.repository(hosted.name, organisation="private")
    raw.git("config", "lfs.url", private.url)
    raw.git_fails("push", "--quiet", "origin", "main")
    assert private.objects() == {}
    (tmp_path / "helper").write_text(f"#!/bin/sh\necho username=_jwt\necho password={hosted.server.token}\n")
    (tmp_path / "helper").chmod(0o755)
    raw.git("config", "credential.helper", str(tmp_path / "helper"))
    raw.git("push", "--quiet", "origin", "main")
    assert set(private.objects()) == raw.objects()


@pytest.mark.needs_sshd
def test_a_remote_over_ssh_names_the_server(
    raw: Repository, hosted: Hosted, tmp_path: Path, git_environment: dict[str, str]
) -> None:
    private = hosted.server.repository(hosted.name, organisation="private")
    server = ssh_server.made(tmp_path / "sshd", git_environment)
    answer = {"href": private.url, "header": {"Authorization": f"Bearer {hosted.server.token}"}}
    server.install("git-lfs-authenticate", f"#!/bin/sh\necho \"$@\" >> {tmp_path}/asked\necho '{json.dumps(answer)}'\n")
    raw.git("remote", "set-url", "origin", server.url(tmp_path / "remote.git"))
    raw.in_environment(**server.client).git("push", "--quiet", "origin", "main")
    assert set(private.objects()) == raw.objects()
    assert f"{tmp_path}/remote.git upload" in (tmp_path / "asked").read_text()


_LEAVES = """
import os, pathlib, sys
from tests.support import lfs_server
with lfs_server.running(pathlib.Path(sys.argv[1])) as server:
    print(server.port, flush=True)
    os._exit(9)
"""


def test_a_server_ends_with_whoever_started_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _LEAVES, str(tmp_path / "server")]
    done = subprocess.run(command, cwd=lfs_server.ROOT, capture_output=True, check=False, timeout=60)
    assert done.returncode == 9  # its output is at its end: the server, which holds none of it, or has gone
    patience = time.monotonic() + 30
    while True:  # until nobody listens
        try:
            socket.create_connection(("127.0.0.1", int(done.stdout)), timeout=5).close()
        except ConnectionRefusedError:
            break
        except ConnectionResetError:  # while it ends
            continue
        assert time.monotonic() < patience


def test_a_server_may_be_slow(tmp_path: Path) -> None:
    with lfs_server.running(tmp_path / "server", latency=0.3) as server:
        begun = time.monotonic()
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)) as connection:
            connection.request("GET", "/open/models.git/info/lfs/objects/batch")
            connection.getresponse().read()
        assert time.monotonic() - begun >= 0.3


@dataclass(frozen=True, slots=True)
class Client:
    """Plain HTTP through the proxy, and an object to ask for."""

    hosted: Hosted
    connection: http.client.HTTPConnection

    def get(self) -> http.client.HTTPResponse:
        """Ask for the object, whose content is DATA."""
        headers = {"Authorization": f"Bearer {self.hosted.server.token}"}
        self.connection.request("GET", f"{self.hosted.path}/objects/storage/{OID}", headers=headers)
        return self.connection.getresponse()


@pytest.fixture
def client(proxy: FaultProxy, hosted: Hosted) -> Iterator[Client]:
    private = hosted.server.repository(hosted.name, organisation="private")
    private.folder.mkdir(parents=True)
    (private.folder / OID).write_bytes(DATA)
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", proxy.port, timeout=20)) as connection:
        yield Client(private, connection)


def test_without_a_fault_every_byte_passes(client: Client, proxy: FaultProxy) -> None:
    for _ in range(3):  # through one connection
        assert client.get().read() == DATA
    assert [seen.kind for seen in proxy.seen()] == [Kind.DOWNLOAD] * 3
    assert proxy.suffered() == 0


def test_a_dropped_connection_gives_no_answer(client: Client, proxy: FaultProxy) -> None:
    proxy.inject(Drop())
    with pytest.raises(ConnectionError):
        client.get()


def test_a_connection_drops_in_the_middle_of_the_body(client: Client, proxy: FaultProxy) -> None:
    proxy.inject(Drop(after=1000))
    with pytest.raises(http.client.IncompleteRead) as caught:
        client.get().read()
    assert caught.value.partial == DATA[:1000]


def test_a_body_may_be_cut_and_say_that_it_is_whole(client: Client, proxy: FaultProxy) -> None:
    proxy.inject(Truncated(1000), times=1)
    proxy.inject(Truncated(2000, chunked=True), times=1)
    assert client.get().read() == DATA[:1000]
    response = client.get()
    assert response.getheader("Transfer-Encoding") == "chunked"
    assert response.read() == DATA[:2000]


def test_one_byte_of_a_body_is_another(client: Client, proxy: FaultProxy) -> None:
    proxy.inject(Corrupt())
    got = client.get().read()
    assert len(got) == len(DATA)
    assert sum(a != b for a, b in zip(got, DATA, strict=True)) == 1


def test_a_server_may_refuse(client: Client, proxy: FaultProxy) -> None:
    proxy.inject(Answer(429, retry_after=7))
    response = client.get()
    assert (response.status, response.getheader("Retry-After")) == (429, "7")
    assert "injected" in json.loads(response.read())["message"]
    assert client.hosted.requests() == []


@pytest.mark.parametrize("fault", [Stall(0.2), Stall(0.2, after=1000)])
def test_a_stall_ends_after_its_time(client: Client, proxy: FaultProxy, fault: Fault) -> None:
    proxy.inject(fault)
    begun = time.monotonic()
    with pytest.raises((ConnectionError, http.client.IncompleteRead)):
        client.get().read()
    assert time.monotonic() - begun >= 0.2


def test_which_requests_a_fault_befalls(client: Client, proxy: FaultProxy) -> None:
    proxy.inject(Answer(500), Kind.UPLOAD)
    proxy.inject(Answer(500), oid="0" * 64)
    proxy.inject(Answer(503), Kind.DOWNLOAD, oid=OID, skip=1, times=2)
    statuses = []
    for _ in range(5):
        response = client.get()
        response.read()
        statuses.append(response.status)
    assert statuses == [200, 503, 503, 200, 200]
    assert proxy.suffered() == 2


# Each fault where it befalls every request of a kind: git-lfs does not get through.
FAULTS: dict[str, Fault] = {
    "drop": Drop(),
    "drop-in-body": Drop(after=100),
    "answer-404": Answer(404),
    "answer-422": Answer(422),
    "answer-500": Answer(500),
    "truncated": Truncated(100),
    "stall-in-body": Stall(30, after=100),
    "corrupt": Corrupt(),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
def test_git_lfs_meets_the_faults_of_a_download(
    raw: Repository, hosted: Hosted, proxy: FaultProxy, bare: Path, fault: Fault
) -> None:
    raw.git("config", "lfs.url", proxy.url + hosted.path)
    raw.git("push", "--quiet", "origin", "main")
    assert set(hosted.objects()) == raw.objects()
    taken = raw.git_directory / "lfs" / "objects"
    kept = {file.name: file.read_bytes() for file in taken.glob("??/??/*")}
    shutil.rmtree(taken)

    proxy.inject(fault, Kind.DOWNLOAD)
    raw.git_fails("lfs", "fetch", "origin", "main")
    assert proxy.suffered() > 0
    assert not any(taken.glob("??/??/*"))
    proxy.heal()
    raw.git("lfs", "fetch", "--all", "origin")
    assert {file.name: file.read_bytes() for file in taken.glob("??/??/*")} == kept


@pytest.mark.parametrize("fault", [Drop(), Answer(500)], ids=["drop", "answer-500"])
@pytest.mark.parametrize("kind", [Kind.BATCH, Kind.UPLOAD, Kind.VERIFY])
def test_git_lfs_meets_the_faults_of_a_push(
    raw: Repository, hosted: Hosted, proxy: FaultProxy, kind: Kind, fault: Fault
) -> None:
    raw.git("config", "lfs.url", proxy.url + hosted.path)
    proxy.inject(fault, kind)
    raw.git_fails("push", "--quiet", "origin", "main")
    assert proxy.suffered() > 0
    proxy.heal()
    raw.git("push", "--quiet", "origin", "main")
    assert set(hosted.objects()) == raw.objects()
