"""Objects that are not here, from a remote.

Any thread asks for objects; one thread of our own has the conversation with git-lfs, and verifies what comes: size and
SHA-256 of every object, before anybody hears that it is there. Objects that are asked for together make a batch, which
is settled as soon as each of them has come or was given up.

    asked for --> under way --> arrived
                     |  ^
                     v  |  again after a pause, `theta.transferRetries` times
                   failed --> given up
"""

from __future__ import annotations

import threading
from collections import deque
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Final

from theta_daemon.errors import CorruptObject, MissingObject, ObjectError, ProtocolError, ThetaError
from theta_daemon.progress import SILENT, meter
from theta_daemon.trace import OFF

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from theta_daemon.metadata.entries import ObjectRef
    from theta_daemon.progress import Meter
    from theta_daemon.settings import Settings
    from theta_daemon.store.failure import Failure
    from theta_daemon.store.lfs_process import Conversation
    from theta_daemon.store.objects import ObjectStore
    from theta_daemon.trace import Trace

_QUIET: Final = 0.05  # seconds without a new question after which those that were asked are sent
_LONGEST_PAUSE: Final = 30.0  # seconds


class Batch:
    """What was asked for together."""

    def __init__(self, left: Iterable[ObjectRef]) -> None:
        self._left = set(left)
        self._failed: dict[ObjectRef, ThetaError] = {}

    @property
    def is_settled(self) -> bool:
        """Whether each of its objects has come or was given up."""
        return not self._left

    @property
    def failed(self) -> Mapping[ObjectRef, ThetaError]:
        """The objects that were given up, and why; all of them once it is settled."""
        return self._failed

    def _settle(self, ref: ObjectRef, error: ThetaError | None) -> None:
        self._left.discard(ref)
        if error is not None:
            self._failed[ref] = error


class Fetcher:
    """Fetches objects into `store`; nothing is started before the first is asked for. May be used from any thread.

    `remote` is the name of a remote; None leaves the choice to git-lfs, which takes the one that the branch follows.
    `meter` is told of what is asked for and of what has come. `is_abandoned` tells, within a second, that nobody waits.
    """

    def __init__(
        self,
        settings: Settings,
        store: ObjectStore,
        trace: Trace = OFF,
        *,
        remote: str | None = None,
        is_abandoned: Callable[[], bool] = lambda: False,
    ) -> None:
        self.meter: Meter = SILENT
        self._settings = settings
        self._store = store
        self._trace = trace
        self._remote = remote
        self._is_abandoned = is_abandoned
        self._changed = threading.Condition()
        self._under_way: dict[ObjectRef, list[Batch]] = {}
        self._unsent: deque[ObjectRef] = deque()
        self._waiters = 0
        self._is_closed = False
        self._thread: threading.Thread | None = None
        self._conversation: Conversation | None = None

    def want(self, refs: Iterable[ObjectRef]) -> Batch:
        """Ask for those of `refs` that are not here, in this order, and return at once."""
        wanted = [ref for ref in dict.fromkeys(refs) if not self._store.contains(ref.oid, ref.size)]
        batch = Batch(wanted)
        with self._changed:
            if self._is_closed:
                for ref in wanted:
                    batch._settle(ref, MissingObject(f"object {ref.oid} is missing, and nothing is fetched any more"))
                return batch
            for ref in wanted:
                if ref not in self._under_way:
                    self._under_way[ref] = []
                    self._unsent.append(ref)
                    self.meter.expect(1, ref.size)
                self._under_way[ref].append(batch)
            if wanted and self._thread is None:
                self._thread = threading.Thread(target=self._run, name="theta-fetch", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return batch

    def wait(self, batches: Sequence[Batch]) -> None:
        """Wait until one of `batches` is settled; what was asked for and not sent yet is sent now."""
        with self._changed:
            self._waiters += 1
            self._changed.notify_all()
            try:
                self._changed.wait_for(lambda: not batches or any(batch.is_settled for batch in batches))
            finally:
                self._waiters -= 1

    @contextmanager
    def shown(self, *, shown: bool = True, lines: bool = True) -> Iterator[None]:
        """Show, until the block ends, how far it has come; `shown` and `lines` as for `progress.meter`.

        Whoever has set `meter` shows it himself.
        """
        if self.meter is not SILENT:
            yield
            return
        with self._changed:
            items, size = len(self._under_way), sum(ref.size for ref in self._under_way)
        with meter("Fetching objects", items, size, shown=shown, lines=lines) as self.meter:
            try:
                yield
            finally:
                self.meter = SILENT

    def close(self) -> None:
        """Give up everything that is under way, at once."""
        with self._changed:
            self._is_closed = True
            conversation, thread = self._conversation, self._thread
            self._changed.notify_all()
        if conversation is not None:
            conversation.kill()
        if thread is not None:
            thread.join(2)

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._unsent or self._is_closed)
                if self._is_closed:
                    break
            try:
                self._fetch()
            except ThetaError as error:
                self._give_up(list(self._under_way), error)
            except Exception as error:  # noqa: BLE001 - whoever waits must hear of it, whatever it is
                self._give_up(list(self._under_way), ObjectError(f"fetching failed: {error!r:.200}"))
        self._give_up(list(self._under_way), ObjectError("fetching was given up"))

    def _fetch(self) -> None:
        """Fetch all that is asked for, as often as the settings say."""
        from theta_daemon.store.failure import failure

        again: list[ObjectRef] = []
        for attempt in range(self._settings.transfer_retries + 1):
            failed, said = self._round(again)
            failed = [ref for ref in failed if not self._take(ref)]
            if not failed:
                return
            if self._is_over():
                raise ObjectError("fetching was given up")
            why = failure(self._settings, said)
            is_last = attempt == self._settings.transfer_retries
            if is_last or (why.is_final and attempt):
                self._give_up(failed, why)
                return
            if why.is_final:
                # Of one of them this is known; the others may have failed for that or for another reason.
                self._give_up(failed[:1], why)
                failed = failed[1:]
                if not failed:
                    return
            else:
                self._pause(attempt)
            again = failed

    def _round(self, again: Iterable[ObjectRef]) -> tuple[list[ObjectRef], str]:
        """Ask for objects, those of `again` first, take what comes; return what did not, and why the first did not."""
        from theta_daemon.store.lfs_process import Conversation, Stalled  # and with it the protocol's client

        asked: dict[str, ObjectRef] = {}
        missing: list[ObjectRef] = []
        todo = deque(again)
        conversation = Conversation(self._settings, self._is_over, self._remote)
        with self._changed:
            self._conversation = conversation
        try:
            conversation.open()
            while (ref := todo.popleft() if todo else self._next_unsent()) is not None:
                asked[ref.oid] = ref
                if not conversation.ask(ref):
                    del asked[ref.oid]
                    if not self._take(ref):
                        missing.append(ref)
            while asked:
                for oid in conversation.available():
                    found = asked.pop(oid, None)
                    if found is not None and not self._take(found):
                        missing.append(found)
            return missing, conversation.reason(missing[0]) if missing else ""
        except (ProtocolError, OSError, ObjectError) as error:
            left = [*missing, *asked.values(), *todo]
            if not left:
                left = self._unsent_now()
            conversation.kill()
            said = "" if isinstance(error, Stalled) else conversation.said()
            return left, said or (error.message if isinstance(error, ThetaError) else str(error))
        finally:
            with self._changed:
                self._conversation = None
            conversation.close()

    def _next_unsent(self) -> ObjectRef | None:
        """Wait for the next question; None when those that were asked shall be sent."""
        with self._changed:
            while not self._unsent and not self._waiters and not self._is_closed:
                if not self._changed.wait(_QUIET):
                    break
            return self._unsent.popleft() if self._unsent and not self._is_closed else None

    def _unsent_now(self) -> list[ObjectRef]:
        with self._changed:
            left = list(self._unsent)
            self._unsent.clear()
            return left

    def _take(self, ref: ObjectRef) -> bool:
        """Verify an object and tell those who wait for it; return whether it has come, or is known to be damaged."""
        try:
            with self._trace.stage("fetch objects", ref.size):
                self._store.take_in(ref)
        except MissingObject:
            return False
        except CorruptObject as error:
            if "is not whole" in error.message:
                return False
            self._settle([ref], error)
        except ThetaError as error:
            self._settle([ref], error)
        else:
            self.meter.advance(1, ref.size)
            self._settle([ref], None)
        return True

    def _give_up(self, refs: Sequence[ObjectRef], why: ThetaError | Failure) -> None:
        with self._changed:
            self._unsent = deque(ref for ref in self._unsent if ref not in set(refs))
        for ref in refs:
            own = MissingObject(f"object {ref.oid} is missing and cannot be fetched: {why.message}", hint=why.hint)
            self._settle([ref], own)

    def _settle(self, refs: Sequence[ObjectRef], error: ThetaError | None) -> None:
        with self._changed:
            for ref in refs:
                for batch in self._under_way.pop(ref, ()):
                    batch._settle(ref, error)
            self._changed.notify_all()

    def _is_over(self) -> bool:
        return self._is_closed or self._is_abandoned()

    def _pause(self, attempt: int) -> None:
        from random import uniform

        seconds = min(2.0**attempt, _LONGEST_PAUSE) * uniform(0.5, 1)  # noqa: S311 - so that not all come back at once
        end = monotonic() + seconds
        with self._changed:
            while not self._is_over() and (left := end - monotonic()) > 0:
                self._changed.wait(min(left, 1))
