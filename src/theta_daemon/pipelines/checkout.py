"""A checkout: files whose answers git lets us delay, planned together and written in git's order.

Git asks for every file first, and is told "delayed"; each becomes a plan at once, and the workers begin to load its
groups. Then git asks which files are ready, and takes those, one after the other in the byte order of their paths
(tried; whatever the order of the answer): while it takes one, and writes it to the disk, the next ones are loaded.

A file is ready when everything of it that fits into memory has been loaded and verified, so a damaged object is mostly
found before git asks for its file. A file that failed is offered after all others: git gives up at the first error, and
what can be written shall have been written by then.

Files are offered in the order in which git delayed them, since their groups are loaded in that order; those that are
ready together are offered together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from theta_daemon.pipelines import smudge

if TYPE_CHECKING:
    from collections.abc import Iterator

    from theta_daemon.formats.source import Readable
    from theta_daemon.pipelines.load import Loaded
    from theta_daemon.pipelines.services import Services
    from theta_daemon.workers.ahead import Stream


@dataclass(frozen=True, slots=True)
class _Started:
    """A file that is being loaded."""

    plan: smudge.Plan
    stream: Stream[Loaded]


class Checkout:
    """The files that were delayed and not answered yet."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._waiting: dict[bytes, _Started] = {}
        self._failed: dict[bytes, Exception] = {}
        self._offered: dict[bytes, _Started | Exception] = {}

    def delay(self, path: bytes, content: Readable) -> Iterator[smudge.Piece] | None:
        """Take a file to be asked for later; or return its pieces, where there is nothing to wait for.

        What is wrong with the file is kept, to be raised when it is asked for.
        """
        try:
            data = smudge.read(self._services, path, content)
            if not isinstance(data, bytes):
                return data
            plan = smudge.plan(self._services, path, data)
            self._forget(path)
            self._waiting[path] = _Started(plan, smudge.start(self._services, plan))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this file's, and its turn will come
            self._forget(path)
            self._failed[path] = error
        return None

    def available(self) -> list[bytes]:
        """Wait until a file is ready; return all that are, each once; empty at the end."""
        ready: dict[bytes, _Started] = {}
        for path, started in list(self._waiting.items()):
            if ready and not started.stream.is_settled:
                break
            error = started.stream.first_failure()
            del self._waiting[path]
            if error is None:
                ready[path] = started
            else:
                smudge.give_up(self._services, started.plan, started.stream)
                if not isinstance(error, Exception):
                    raise error
                self._failed[path] = error
        if ready:
            self._offered |= ready
            self._services.ahead.arrange([ready[path].stream for path in sorted(ready)])
            return sorted(ready)
        failed, self._failed = self._failed, {}
        self._offered |= failed
        return sorted(failed)

    def smudge(self, path: bytes, content: Readable) -> Iterator[smudge.Piece]:
        """Return the pieces of a file: one that was offered, else that of `content`. Raises what is wrong with it."""
        match self._offered.pop(path, None):
            case _Started(plan, stream):
                return smudge.write(self._services, plan, stream)
            case Exception() as error:
                raise error
        return smudge.smudge(self._services, path, content)

    def pause(self) -> None:
        """Give back the memory of everything that was loaded ahead; it is loaded again when it is asked for."""
        self._services.ahead.give_up()

    def _forget(self, path: bytes) -> None:
        # Git may delay a path a second time; the second is what counts.
        self._failed.pop(path, None)
        for started in (self._waiting.pop(path, None), self._offered.pop(path, None)):
            if isinstance(started, _Started):
                smudge.give_up(self._services, started.plan, started.stream)
