"""Objects that are not here, from a remote.

Any thread asks for objects; one thread of our own has the conversation with git-lfs, and verifies what comes: size and
SHA-256 of every object, before anybody hears that it is there. Objects that are asked for together make a batch, which
is settled as soon as each of them has come or was given up.

    asked for --> under way --> arrived
                     |  ^
                     v  |  again after a pause: `theta.transferRetries` rounds, counted anew whenever something came
                   failed --> given up

A round is one conversation. What is asked for after git-lfs was told to send all it was asked for waits for the next.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from theta_daemon.errors import CorruptObject, MissingObject, ThetaError
from theta_daemon.metadata.entries import ObjectRef
from theta_daemon.progress import SILENT, meter
from theta_daemon.trace import OFF

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from theta_daemon.metadata.packs import Pack
    from theta_daemon.progress import Meter
    from theta_daemon.settings import Settings
    from theta_daemon.store.failure import Failure
    from theta_daemon.store.fetch_round import Round
    from theta_daemon.store.objects import ObjectStore
    from theta_daemon.trace import Trace

_QUIET: Final = 0.05  # seconds without a new question after which those that were asked are sent
_LONGEST_PAUSE: Final = 30.0  # seconds


class Batch:
    """What was asked for together."""

    def __init__(self, left: Iterable[ObjectRef], failed: Mapping[ObjectRef, ThetaError]) -> None:
        self._left = set(left)
        self._failed = dict(failed)

    @property
    def is_settled(self) -> bool:
        """Whether each of its objects has come or was given up."""
        return not self._left

    @property
    def failed(self) -> Mapping[ObjectRef, ThetaError]:
        """The objects that were given up, and why; all of them once it is settled."""
        return self._failed

    def _settle(self, ref: ObjectRef, error: ThetaError | None) -> None:
        if error is not None:
            self._failed[ref] = error
        self._left.discard(ref)  # last: others look without the lock


class Fetcher:
    """Fetches objects into `store`; nothing is started before the first is asked for. May be used from any thread.

    `remote` is a remote's name or URL; None leaves the choice to git-lfs, which takes the one that the branch follows.
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
        self._is_abandoned = is_abandoned
        self._settings = settings
        self._store = store
        self._trace = trace
        self._remote = remote
        self._changed = threading.Condition()
        self._under_way: dict[ObjectRef, list[Batch]] = {}
        self._hashed: set[ObjectRef] = set()  # of those under way
        self._packs: dict[ObjectRef, set[ObjectRef]] = {}  # those asked for, and what is to be taken from each
        self._brought: set[ObjectRef] = set()  # packs that were not here before
        self._unsent: deque[ObjectRef] = deque()
        self._waiters = 0
        self._over: str | None = None  # why nothing is fetched any more
        self._thread: threading.Thread | None = None
        self._current: Round | None = None
        self._came = [0, 0]  # objects, bytes
        self.settled = 0  # batches so far: whoever has many looks at them only where this has changed

    def want(self, refs: Iterable[ObjectRef], packs: Iterable[Pack] = (), *, hashed: bool = True) -> Batch:
        """Ask for those of `refs` that are not here, in this order, and return at once.

        `packs` hold some of them: each is fetched first, and instead of its members where it has them.

        `hashed` is false for those who verify whatever they read of an object: git-lfs has compared the SHA-256 of what
        came, and to do that once more here would cost a clone a sixth of its time.
        """
        wanted: list[ObjectRef] = []
        failed: dict[ObjectRef, ThetaError] = {}
        for ref in dict.fromkeys(refs):
            try:
                if not self._store.contains(ref.oid, ref.size):
                    wanted.append(ref)
            except ThetaError as error:  # what metadata names is no id
                failed[ref] = error
        batch = Batch(wanted, failed)
        with self._changed:
            packed = set() if self._over is not None else self._ask_for(packs, set(wanted))
            for ref in wanted:
                if self._over is not None:
                    batch._settle(ref, _missing(ref, self._over))
                    continue
                if ref not in self._under_way:
                    self._under_way[ref] = []
                    if ref not in packed:
                        self._unsent.append(ref)
                    self.meter.expect(1, ref.size)
                self._under_way[ref].append(batch)
                if hashed:
                    self._hashed.add(ref)
            if self._unsent and self._thread is None:
                self._thread = threading.Thread(target=self._run, name="theta-fetch", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return batch

    def _ask_for(self, packs: Iterable[Pack], wanted: Collection[ObjectRef]) -> set[ObjectRef]:
        """Ask for packs that hold `wanted` objects that are not under way; return those objects."""
        found: set[ObjectRef] = set()
        for pack in packs:
            members = {ref for ref in pack.members if ref in wanted and ref not in self._under_way} - found
            if len(members) > 1 and pack.ref not in self._packs and not self._has_other_size(pack.ref):
                self._packs[pack.ref] = members
                if not self._is_here(pack.ref):
                    self._brought.add(pack.ref)
                self._unsent.append(pack.ref)
                found |= members
        return found

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
        self._end("fetching was ended")
        if self._thread is not None:
            self._thread.join(1)

    def _end(self, why: str) -> None:
        with self._changed:
            self._over = why
            for ref in list(self._under_way):
                self._settle(ref, _missing(ref, why))
            self._unsent.clear()
            self._packs.clear()
            current = self._current
            self._changed.notify_all()
        if current is not None:
            current.kill()

    def _run(self) -> None:
        try:
            self._fetch_all()
        except BaseException as error:  # noqa: BLE001 - nobody but those who wait could be told
            self._end(f"fetching failed: {error!r:.200}")

    def _fetch_all(self) -> None:
        tries: dict[ObjectRef, int] = {}
        again: list[ObjectRef] = []
        while self._is_wanted(again):
            started, (objects, size) = time.perf_counter(), self._came
            failed = self._round(again)
            self._trace.add("fetch objects", time.perf_counter() - started, self._came[1] - size)
            if self._came[0] > objects:
                tries.clear()
            again = []
            for ref, why in failed.items():
                if ref in self._packs:
                    self._without(ref)
                    continue
                tries[ref] = tries.get(ref, 0) + 1
                if why.is_final or tries[ref] > self._settings.transfer_retries:
                    self._settle(ref, _missing(ref, why.message, why.hint))
                else:
                    again.append(ref)
            if again:
                self._pause(min(tries[ref] for ref in again))

    def _is_wanted(self, again: Sequence[ObjectRef]) -> bool:
        """Wait until there is something to fetch; false when nothing is to be fetched any more."""
        if self._is_abandoned():
            self._end("nobody waits for it any more")
        with self._changed:
            self._changed.wait_for(lambda: again or self._unsent or self._over is not None)
            return self._over is None

    def _round(self, again: Sequence[ObjectRef]) -> dict[ObjectRef, Failure]:
        """Ask for objects, those of `again` first, and take what comes; return what did not."""
        from theta_daemon.store.failure import Failure
        from theta_daemon.store.fetch_round import Round  # and with it the protocol's client

        with self._changed:  # so that `close` finds it
            if self._over is not None:
                return {}
            try:
                self._current = Round(self._settings, self._remote, self._is_abandoned, self._is_here, self._take)
            except ThetaError as error:  # git cannot be run
                why = Failure(error.message, error.hint or "", True)
                return dict.fromkeys([*again, *self._unsent_now()], why)
        try:
            return self._current.run(again, iter(self._next_unsent, None), self._unsent_now)
        finally:
            with self._changed:
                self._current = None

    def _next_unsent(self) -> ObjectRef | None:
        """Wait for the next question; None when those that were asked shall be sent."""
        with self._changed:
            while not self._unsent and not self._waiters and self._over is None:
                if not self._changed.wait(_QUIET):
                    break
            return self._unsent.popleft() if self._unsent else None

    def _unsent_now(self) -> list[ObjectRef]:
        with self._changed:
            left = list(self._unsent)
            self._unsent.clear()
            return left

    def _is_here(self, ref: ObjectRef) -> bool:
        return self._store.contains(ref.oid, ref.size)

    def _take(self, ref: ObjectRef) -> bool:
        """Verify an object and tell those who wait for it; return false where it has not come."""
        if ref in self._packs:
            return self._take_apart(ref)
        try:
            if not self._is_here(ref):
                self._clear_other_size(ref)
                return False
            with self._trace.stage("take in objects", ref.size):
                self._store.take_in(ref, hashed=ref in self._hashed)
        except MissingObject:
            return False
        except ThetaError as error:
            self._settle(ref, error)
        else:
            self._arrived(ref)
        return True

    def _has_other_size(self, ref: ObjectRef) -> bool:
        """Tell whether what has the object's name is something else: git-lfs would delete that."""
        try:
            return os.stat(self._lfs_path(ref)).st_size != ref.size
        except OSError:
            return False

    def _lfs_path(self, ref: ObjectRef) -> Path:
        return self._store.lfs_objects / ref.oid[:2] / ref.oid[2:4] / ref.oid

    def _take_apart(self, pack: ObjectRef) -> bool:
        """Take what a pack holds; what it turns out not to hold is asked for itself. False where it has not come."""
        from theta_daemon.store import packs

        members = self._packs.get(pack, set())
        if not self._is_here(pack):
            return False
        try:
            with self._trace.stage("take packs apart", pack.size):
                packs.take_apart(self._store, pack, members)
        except ThetaError as error:
            self._trace.event("a pack is no good", error=str(error))
        for ref in members:
            if self._is_here(ref):
                self._arrived(ref)
        self._without(pack)
        if pack in self._brought:  # else it may be anything: metadata says that it is a pack
            self._store.forgo(pack)
        return True

    def _without(self, pack: ObjectRef) -> None:
        """Forget a pack; what it was to bring and has not is asked for itself."""
        with self._changed:
            self._unsent.extend(ref for ref in self._packs.pop(pack, ()) if ref in self._under_way)
            self._changed.notify_all()

    def _arrived(self, ref: ObjectRef) -> None:
        self._came = [self._came[0] + 1, self._came[1] + ref.size]
        self.meter.advance(1, ref.size)
        self._settle(ref, None)

    def _clear_other_size(self, ref: ObjectRef) -> None:
        """Remove what has the object's name and is not whole: git-lfs would not fetch it.

        Raises CorruptObject where it is whole, and metadata is wrong about its size. git-lfs would delete it in either
        case, and it may be the only copy.
        """
        path = self._lfs_path(ref)
        try:
            found = ObjectRef(ref.oid, os.stat(path).st_size)
            self._store.verify(found, self._store.open(found), forgetting=True)
        except CorruptObject:
            with suppress(OSError):
                path.unlink()
            return
        except (OSError, ThetaError):
            return
        raise CorruptObject(
            f"object {ref.oid} has {found.size} bytes, and metadata says {ref.size}", hint="restore the metadata"
        )

    def _settle(self, ref: ObjectRef, error: ThetaError | None) -> None:
        with self._changed:
            settled = 0
            for batch in self._under_way.pop(ref, ()):
                batch._settle(ref, error)
                settled += batch.is_settled
            self._hashed.discard(ref)
            if settled:
                self.settled += settled
                self._changed.notify_all()

    def _pause(self, tries: int) -> None:
        from random import uniform

        seconds = min(2.0 ** (tries - 1), _LONGEST_PAUSE) * uniform(0.5, 1)  # noqa: S311 - not all come back at once
        end = time.monotonic() + seconds
        with self._changed:
            while self._over is None and not self._is_abandoned() and (left := end - time.monotonic()) > 0:
                self._changed.wait(min(left, 1))


def _missing(ref: ObjectRef, why: str, hint: str | None = None) -> MissingObject:
    return MissingObject(f"object {ref.oid} ({ref.size} bytes) is missing and cannot be fetched: {why}", hint=hint)
