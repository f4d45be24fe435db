"""A checkout: files whose answers git lets us delay, planned together and written in git's order.

Git asks for every file first, and is told "delayed"; each becomes a plan at once, and the workers begin to load its
groups. Then git asks which files are ready, and takes those, one after the other in the byte order of their paths
(tried; whatever the order of the answer): while it takes one, and writes it to the disk, the next ones are loaded.

A file is ready when everything of it that fits into memory has been loaded and verified, so a damaged object is mostly
found before git asks for its file. A file that failed is offered after all others: git gives up at the first error, and
what can be written shall have been written by then.

Files are offered in the order in which git delayed them, since their groups are loaded in that order; those that are
ready together are offered together.

What is not here is asked for when git asks for the file, so all files' objects are on their way when the last file has
been delayed; a file is planned when its own have come, also while git takes another one, and offered while others are
still under way.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from theta_daemon.frozen import Frozen
from theta_daemon.pipelines import smudge
from theta_daemon.pipelines.arriving import Arriving
from theta_daemon.pipelines.prefetch import Prefetch
from theta_daemon.pipelines.smudge import Held

if TYPE_CHECKING:
    from collections.abc import Iterator

    from theta_daemon.formats.source import Readable
    from theta_daemon.pipelines.load import Loaded
    from theta_daemon.pipelines.services import Services
    from theta_daemon.workers.ahead import Stream


class _Started(Frozen):
    """A file that is being loaded."""

    plan: smudge.Plan
    stream: Stream[Loaded]


class Checkout:
    """The files that were delayed and not answered yet."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._prefetch = Prefetch(services)
        self._arriving = Arriving(services)
        self._waiting: dict[bytes, _Started] = {}
        self._failed: dict[bytes, Exception] = {}
        self._offered: dict[bytes, _Started | Exception] = {}
        self._is_replaying = False

    def delay(self, path: bytes, content: Readable) -> Iterator[smudge.Piece] | None:
        """Take a file to be asked for later; or return its pieces, where there is nothing to wait for.

        What is wrong with the file is kept, to be raised when it is asked for.
        """
        self._forget(path)  # git may delay a path a second time; the second is what counts
        try:
            held = smudge.read(self._services, path, smudge.source(self._services, content))
            if not isinstance(held, smudge.Held):
                return held
            plan = smudge.plan(self._services, path, held)
            if isinstance(plan, smudge.Lacking):
                self._arriving.add(plan)
            else:
                self._start(plan)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this file's, and its turn will come
            self._failed[path] = error
        return None

    def available(self) -> list[bytes]:
        """Wait until a file is ready; return all that are, each once; empty at the end."""
        while True:
            self._start_arrived()
            ready = self._ready()
            if ready or not self._arriving:
                break
            self._arriving.wait()
        if not ready:
            failed, self._failed = self._failed, {}
            self._offered |= failed
            return sorted(failed)
        self._offered |= ready
        self._services.ahead.arrange([ready[path].stream for path in sorted(ready)])
        return sorted(ready)

    def _start_arrived(self) -> None:
        for path, plan in self._arriving.come():
            if isinstance(plan, Exception):
                self._failed[path] = plan
            else:
                self._start(plan)

    def _meanwhile(self) -> None:
        """Begin to load the files whose objects came while git takes another."""
        if self._arriving.has_news:
            self._start_arrived()
            self._services.ahead.release()

    def _start(self, plan: smudge.Plan) -> None:
        if any(each.chain is not None for each in plan.groups):
            # Files often have the base of their updates in common: it is kept if those who need it are known.
            self._services.ahead.hold()
            if not self._is_replaying:
                self._is_replaying = True
                self._services.pool.submit(_get_ready)
        self._waiting[plan.path] = _Started(plan, smudge.start(self._services, plan))

    def _ready(self) -> dict[bytes, _Started]:
        """Wait until a file that is being loaded is ready, where there is one; return all that are."""
        ahead = self._services.ahead
        ahead.release()
        if self._offered and self._waiting:  # git has passed them over; they must not hold what the others need
            ahead.give_up()
            ahead.arrange([started.stream for started in self._waiting.values()])
        ahead.go_on()
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
        return ready

    def smudge(self, path: bytes, content: Readable, treeish: str | None = None) -> Iterator[smudge.Piece]:
        """Return the pieces of a file: that of `content`; where it is empty, the one that was delayed, if any.

        `treeish` is the tree that all files are from that git asks for, where it says so: what one of them lacks is
        fetched together with what the others do.

        Raises what is wrong with the one that was delayed.
        """
        self._services.ahead.release()
        source = smudge.source(self._services, content)
        if source.peek(1):
            self._forget(path)
        else:
            match self._find(path):
                case _Started(plan, stream):
                    return smudge.write(self._services, plan, stream, self._meanwhile)
                case Held() as held:
                    return smudge.fill(self._services, path, held)
                case Exception() as error:
                    raise error
        return smudge.answer(self._services, path, source, partial(self._prefetch.tree, treeish))

    def pause(self) -> None:
        """Give back the memory of everything that was loaded ahead; it is loaded again when it is asked for."""
        self._services.ahead.give_up()

    def _forget(self, path: bytes) -> None:
        if isinstance(started := self._find(path), _Started):
            smudge.give_up(self._services, started.plan, started.stream)

    def _find(self, path: bytes) -> _Started | Held | Exception | None:
        """Take out the file that was delayed for `path`, whether it was offered or not."""
        return (
            self._offered.pop(path, None)
            or self._waiting.pop(path, None)
            or self._failed.pop(path, None)
            or self._arriving.take(path)
        )


def _get_ready() -> None:
    """Import what replays updates, and NumPy with it, while the other files are planned."""
    import theta_daemon.pipelines.replay  # noqa: F401
