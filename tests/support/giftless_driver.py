"""giftless, a Git LFS server, on a free loopback port: run by the Python of .venv-giftless.

It says in one line of JSON where it listens, writes one line for every request it answers to a log, and ends when its
standard input does: whoever started it need not live to stop it. Repositories are open to everybody, but for those of
the organisation `private`: these need the token.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
from giftless.app import init_app
from giftless.auth import allow_anon
from waitress.server import create_server

KEY, KEY_ID = "a key of tests alone, for tokens that open nothing", "tests"
PIECE = 1 << 18


def main() -> None:
    """Serve until the end of the input."""
    parser = argparse.ArgumentParser()
    parser.add_argument("storage", type=Path)
    parser.add_argument("log", type=Path)
    parser.add_argument("--latency", type=float, default=0.0)
    options = parser.parse_args()
    with options.log.open("ab", buffering=0) as log:
        app = Recorded(configured(options.storage), log, options.latency)
        server = create_server(app, host="127.0.0.1", port=0, threads=32, recv_bytes=PIECE)
        threading.Thread(target=_leave_with_parent, daemon=True).start()
        print(json.dumps({"port": int(server.effective_port), "token": token()}), flush=True)  # noqa: T201
        server.run()


def configured(storage: Path) -> Any:
    """Return giftless as a WSGI application that keeps its objects below `storage`."""
    settings = {
        "LEGACY_ENDPOINTS": False,
        "AUTH_PROVIDERS": ["__main__:open_repositories"],
        # Without one, giftless answers 403 to the upload that it has just told an anonymous user to make.
        "PRE_AUTHORIZED_ACTION_PROVIDER": {"options": {"private_key": KEY, "key_id": KEY_ID}},
        "TRANSFER_ADAPTERS": {"basic": {"options": {"storage_options": {"path": str(storage)}}}},
    }
    return init_app(additional_config=settings)


def open_repositories(request: Any) -> Any:
    """Let everybody read and write what is not private."""
    return None if request.path.startswith("/private/") else allow_anon.read_write(request)


def token() -> str:
    """Return what opens the private repositories: a bearer token, or the password of the user `_jwt`."""
    until = datetime.now(UTC) + timedelta(days=1)
    claims = {"sub": "tester", "scopes": "obj:private/*/*", "exp": until}
    return str(jwt.encode(claims, KEY, algorithm="HS256", headers={"kid": KEY_ID}))


class Recorded:
    """A WSGI application that logs each request before it is answered, and sends files in large pieces."""

    def __init__(self, app: Any, log: io.RawIOBase, latency: float) -> None:
        self._app, self._log, self._latency = app, log, latency

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        """Answer one request."""
        time.sleep(self._latency)
        status: list[str] = []

        def started(line: str, *rest: Any) -> Any:
            status[:] = [line]
            return start_response(line, *rest)

        result = self._app(environ, started)
        if isinstance(result, io.BufferedReader):  # an object: WSGI would iterate over its "lines"
            size = os.fstat(result.fileno()).st_size
            result = environ["wsgi.file_wrapper"](result, PIECE)
        else:
            body = b"".join(result)
            result.close()
            size, result = len(body), [body]
        line = [environ["REQUEST_METHOD"], environ["PATH_INFO"], int(status[0].split()[0]),
                int(environ.get("CONTENT_LENGTH") or 0), size]  # fmt: skip
        self._log.write(json.dumps(line).encode() + b"\n")
        return result  # type: ignore[no-any-return]


def _leave_with_parent() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()
