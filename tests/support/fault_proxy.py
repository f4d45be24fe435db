"""A proxy between git-lfs and a Git LFS server that does what networks and servers do on a bad day.

    with fault_proxy.running(server.port) as proxy:
        proxy.inject(Corrupt(), Kind.DOWNLOAD, times=1)
        ... git-lfs with `lfs.url` = proxy.url + hosted.path ...
        assert proxy.suffered() == 1
        proxy.heal()

It passes the Host header on, from which the server makes the addresses in its answers: so uploads and downloads come
through the proxy as well. All it waits for ends with `heal`, with the proxy, or after the time it is given.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import socket
import string
import sys
import threading
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NoReturn

from tests.support.lfs_server import Kind, kind_of

_PIECE = 1 << 18
_PATIENCE = 60.0  # seconds, for a peer that says nothing
# Headers that speak of one connection, or of a body that is passed on otherwise.
_OF_ONE_CONNECTION = {"connection", "keep-alive", "expect", "transfer-encoding", "content-length", "server", "date"}


@dataclass(frozen=True, slots=True)
class Late:
    """The answer is as it should be, but comes `seconds` late."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Answer:
    """The server is not asked: this status is the answer. `retry_after`: the header of that name, in seconds."""

    status: int
    retry_after: int | None = None


@dataclass(frozen=True, slots=True)
class Drop:
    """The connection ends: before the answer, or after so many bytes of the body (of an upload: of its own)."""

    after: int | None = None


@dataclass(frozen=True, slots=True)
class Stall:
    """No answer, or no more than so many bytes of the body, for `seconds`; then the connection ends."""

    seconds: float
    after: int | None = None


@dataclass(frozen=True, slots=True)
class Truncated:
    """The body ends early, and its framing says that this is all of it: a Content-Length, or the last chunk."""

    keep: int
    chunked: bool = False


@dataclass(frozen=True, slots=True)
class Corrupt:
    """One byte in the middle of the body is another."""


Fault = Late | Answer | Drop | Stall | Truncated | Corrupt


@dataclass(slots=True)
class Rule:
    """Which requests a fault befalls: `skip` of those that match go well, then `times` do not (None: all)."""

    fault: Fault
    kind: Kind | None
    oid: str | None
    skip: int
    times: int | None

    def takes(self, kind: Kind, oid: str | None) -> bool:
        """Tell whether this request is one of them, and count it."""
        if self.kind not in (None, kind) or self.oid not in (None, oid):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        if self.times is not None:
            self.times -= 1
            return self.times >= 0
        return True


@dataclass(frozen=True, slots=True)
class Seen:
    """One request that came, and what befell it."""

    kind: Kind
    oid: str | None
    fault: Fault | None


@dataclass(slots=True)
class FaultProxy:
    """What a test says to the proxy, and asks of it. Safe to use while requests are under way."""

    port: int
    _rules: list[Rule] = field(default_factory=list)
    _seen: list[Seen] = field(default_factory=list)
    _healed: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Condition = field(default_factory=threading.Condition)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def inject(
        self, fault: Fault, kind: Kind | None = None, *, oid: str | None = None, skip: int = 0, times: int | None = None
    ) -> None:
        """Let `fault` befall requests from now on; of several rules that match, the first one counts."""
        with self._lock:
            self._rules.append(Rule(fault, kind, oid, skip, times))

    def heal(self) -> None:
        """Let every request go well from now on, and end those that stall."""
        with self._lock:
            self._rules.clear()
            self._healed.set()
            self._healed = threading.Event()

    def seen(self, kind: Kind | None = None) -> list[Seen]:
        """Return what came so far, of one kind or of all."""
        with self._lock:
            return [seen for seen in self._seen if kind in (None, seen.kind)]

    def suffered(self) -> int:
        """Return how many requests a fault befell so far."""
        return sum(seen.fault is not None for seen in self.seen())

    def wait_for_a_fault(self) -> None:
        """Wait until a fault befalls a request. Fails where none does in a minute."""
        with self._lock:
            assert self._lock.wait_for(lambda: any(seen.fault for seen in self._seen), _PATIENCE)

    def next_fault(self, kind: Kind, oid: str | None) -> tuple[Fault | None, threading.Event]:
        """Count a request; return what befalls it, and what ends a wait."""
        with self._lock:
            fault = next((rule.fault for rule in self._rules if rule.takes(kind, oid)), None)
            self._seen.append(Seen(kind, oid, fault))
            self._lock.notify_all()
            return fault, self._healed


@contextlib.contextmanager
def running(upstream: int) -> Iterator[FaultProxy]:
    """Run a proxy before the server on that loopback port. Raises what went wrong inside it, other than its faults."""
    server = _Server(upstream)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, name="fault-proxy")
    thread.start()
    try:
        yield server.proxy
    finally:
        server.shutdown()
        thread.join()
        server.cut()
        server.server_close()  # joins the threads of the requests
    if server.wrong:
        raise server.wrong[0]


class _Dropped(Exception):
    """The connection is to end here."""


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = False
    block_on_close = True
    request_queue_size = 128

    def __init__(self, upstream: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream
        self.proxy = FaultProxy(self.server_address[1])
        self.wrong: list[BaseException] = []
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()

    def keep(self, connection: socket.socket) -> None:
        with self._lock:
            self._open.add(connection)

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._open.discard(request)
        super().shutdown_request(request)

    def cut(self) -> None:
        """End every wait and every connection."""
        self.proxy.heal()
        with self._lock:
            for connection in self._open:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Keep what went wrong; a client that left, or was cut off, is none of it."""
        error = sys.exception()
        if error is not None and not isinstance(error, (ConnectionError, TimeoutError)):
            self.wrong.append(error)


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = _PATIENCE

    def setup(self) -> None:
        super().setup()
        self.server.keep(self.connection)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def relay(self) -> None:
        """Pass one request on, or let its fault befall it."""
        kind, oid = kind_of(self.command, urllib.parse.urlsplit(self.path).path)
        fault, healed = self.server.proxy.next_fault(kind, oid)
        if isinstance(fault, Late):
            healed.wait(fault.seconds)
        try:
            if isinstance(fault, Answer):
                self._answer(fault)
            elif isinstance(fault, Drop | Stall) and fault.after is None:
                _end(fault, healed)
            else:
                self._forward(kind, fault, healed)
        except _Dropped:
            self.close_connection = True

    do_GET = do_POST = do_PUT = relay

    def _answer(self, fault: Answer) -> None:
        for _ in self._request_body():
            pass
        body = json.dumps({"message": "injected by the fault proxy"}).encode()
        self.send_response(fault.status)
        self.send_header("Content-Type", "application/vnd.git-lfs+json")
        self.send_header("Content-Length", str(len(body)))
        if fault.retry_after is not None:
            self.send_header("Retry-After", str(fault.retry_after))
        self.end_headers()
        self.wfile.write(body)

    def _forward(self, kind: Kind, fault: Fault | None, healed: threading.Event) -> None:
        """Ask the server; of an upload the request's body is spoiled, of all else the answer's."""
        of_request, of_answer = (fault, None) if kind is Kind.UPLOAD else (None, fault)
        upstream = http.client.HTTPConnection("127.0.0.1", self.server.upstream, timeout=_PATIENCE)
        try:
            self._pass_request(upstream, of_request, healed)
            with upstream.getresponse() as response:
                self._pass_answer(response, of_answer, healed)
        finally:
            upstream.close()

    def _pass_request(self, upstream: http.client.HTTPConnection, fault: Fault | None, healed: threading.Event) -> None:
        size = self._request_size()
        # What a corrupt answer makes of an address need not be ASCII.
        path = urllib.parse.quote(self.path, safe=string.printable, encoding="latin-1")
        upstream.putrequest(self.command, path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            if name.lower() not in _OF_ONE_CONNECTION:
                upstream.putheader(name, value)
        if "Content-Length" in self.headers:
            upstream.putheader("Content-Length", str(fault.keep if isinstance(fault, Truncated) else size))
        upstream.endheaders()
        pieces = self._request_body()
        for piece in _spoiled(pieces, size, fault, healed):
            upstream.send(piece)
        for _ in pieces:  # what a truncated body leaves
            pass

    def _pass_answer(self, response: http.client.HTTPResponse, fault: Fault | None, healed: threading.Event) -> None:
        size = response.length
        if size is None:
            raise ValueError("the server answered without a Content-Length")
        self.send_response(response.status)
        for name, value in response.getheaders():
            if name.lower() not in _OF_ONE_CONNECTION:
                self.send_header(name, value)
        chunked = isinstance(fault, Truncated) and fault.chunked
        if chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.send_header("Content-Length", str(fault.keep if isinstance(fault, Truncated) else size))
        self.end_headers()
        for piece in _spoiled(iter(lambda: response.read(_PIECE), b""), size, fault, healed):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    def _request_size(self) -> int:
        if "Transfer-Encoding" in self.headers:
            raise ValueError("a request without a Content-Length")
        return int(self.headers.get("Content-Length", "0"))

    def _request_body(self) -> Iterator[bytes]:
        left = self._request_size()
        while left:
            piece = self.rfile.read(min(left, _PIECE))
            if not piece:
                raise _Dropped
            left -= len(piece)
            yield piece


def _spoiled(pieces: Iterator[bytes], size: int, fault: Fault | None, healed: threading.Event) -> Iterator[bytes]:
    """Yield a body of `size` bytes as `fault` leaves it. Raises _Dropped where the connection ends in the middle."""
    end = fault.keep if isinstance(fault, Truncated) else fault.after if isinstance(fault, Drop | Stall) else None
    if end is not None and end >= size:
        raise ValueError(f"{fault} is to befall a body of {size} bytes")
    position = 0
    for piece in pieces:
        if end is not None and position + len(piece) > end:
            if position < end:
                yield piece[: end - position]
            if isinstance(fault, Drop | Stall):
                _end(fault, healed)
            return
        middle = size // 2 - position
        if isinstance(fault, Corrupt) and 0 <= middle < len(piece):
            yield piece[:middle] + bytes([piece[middle] ^ 0xFF]) + piece[middle + 1 :]
        else:
            yield piece
        position += len(piece)


def _end(fault: Drop | Stall, healed: threading.Event) -> NoReturn:
    if isinstance(fault, Stall):
        healed.wait(fault.seconds)
    raise _Dropped
