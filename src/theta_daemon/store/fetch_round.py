"""One round of fetching: ask git-lfs for objects, take what comes, and tell what did not, and why."""

from __future__ import annotations

from time import monotonic, sleep
from typing import TYPE_CHECKING, Final

from theta_daemon.errors import ThetaError
from theta_daemon.store.failure import Failure, failure
from theta_daemon.store.lfs_process import Conversation, Stalled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from theta_daemon.metadata.entries import ObjectRef
    from theta_daemon.settings import Settings

_LOOK: Final = 0.05  # seconds between two looks whether objects have come
_FLOWING: Final = 0.2  # seconds since the last object came, in which more are expected to come
_SIDE_BY_SIDE: Final = 64  # objects that may be under way at a time: twice as many as git-lfs fetches
_SAMPLES: Final = 8  # objects that git-lfs is asked about, why they did not come


class Round:
    """One conversation, and what is known of each object that was asked for.

    `is_here` tells whether an object is there; `take` verifies it too, and returns false where it is not there. Raises
    RepositoryError when git cannot be run.
    """

    def __init__(
        self,
        settings: Settings,
        remote: str | None,
        is_abandoned: Callable[[], bool],
        is_here: Callable[[ObjectRef], bool],
        take: Callable[[ObjectRef], bool],
    ) -> None:
        self._settings = settings
        self._remote = remote
        self._is_here = is_here
        self._take = take
        self._left: dict[str, ObjectRef] = {}
        self._refused: dict[ObjectRef, Failure] = {}
        self._unlisted: set[str] = set()
        self._awaited: dict[str, ObjectRef] = {}  # of those the ones that have not come, as far as we know
        self._looked = self._came = monotonic()
        self._talk = Conversation(settings, remote, is_abandoned, self._look)

    def kill(self) -> None:
        """Break off, from any thread."""
        self._talk.kill()

    def run(
        self, again: Sequence[ObjectRef], new: Iterable[ObjectRef], unasked: Callable[[], Iterable[ObjectRef]]
    ) -> dict[ObjectRef, Failure]:
        """Ask for the objects of `again`, then for `new` ones; return those that did not come.

        `unasked` takes those that are left where git-lfs is no good: they have failed too.
        """
        self._left = {_name(ref): ref for ref in again}
        said = b""
        try:
            self._talk.open()
            self._ask(again, new)
            return self._refused | self._reasons(set(again))
        except (ThetaError, OSError) as error:
            if not isinstance(error, Stalled):  # what it said before that has nothing to do with it
                said = self._talk.said()
            why = self._failure(said, error.message if isinstance(error, ThetaError) else str(error))
            self._left |= {_name(ref): ref for ref in unasked()}
            return self._refused | {ref: why for ref in self._left.values() if not self._take(ref)}
        finally:
            self._talk.close()

    def _ask(self, again: Iterable[ObjectRef], new: Iterable[ObjectRef]) -> None:
        """Ask for objects and take them; what is left then has not come."""
        for refs in (again, new):
            for ref in refs:
                name = _name(ref)
                self._left[name] = ref
                if self._take(ref):
                    del self._left[name]
                elif self._talk.ask(name, ref):
                    self._unlisted.add(name)
                    self._awaited[name] = ref
                else:
                    del self._left[name]
                    if not self._take(ref):
                        self._refused[ref] = self._refusal()
                if monotonic() - self._looked > _LOOK:
                    self._look()
        self._look()
        while self._awaited:
            listed = [name for name in self._talk.available(self._unlisted) if name in self._awaited]
            for name in listed:
                if not self._has_come(name):
                    del self._awaited[name]
            if monotonic() - self._looked > _LOOK:
                self._look()
            if not listed and monotonic() - self._came < _FLOWING:
                sleep(_LOOK / 2)

    def _look(self) -> None:
        """Take what has come and was not listed yet.

        git-lfs lists nothing before it was asked for all, and does not let itself be asked for all before most of them
        are here; then it begins with the first, one at a time. It gives an object its name when it is whole.
        """
        absent = 0
        for name, ref in list(self._awaited.items()):
            if not (self._is_here(ref) and self._has_come(name)) and (absent := absent + 1) == _SIDE_BY_SIDE:
                break  # those asked for later are later
        self._looked = monotonic()

    def _has_come(self, name: str) -> bool:
        """Take an object that is awaited, where it is there."""
        if not self._take(self._awaited[name]):
            return False
        del self._awaited[name], self._left[name]
        self._came = monotonic()
        self._talk.moved()
        return True

    def _refusal(self) -> Failure:
        said = self._talk.said()
        why = self._failure(said, "it answers without having fetched it")
        return why if said else why.replace(is_final=True)

    def _reasons(self, again: set[ObjectRef]) -> dict[ObjectRef, Failure]:
        """Ask why objects did not come: of some, and of no more once a reason is one that may pass.

        What is said of those holds for the others too; but that to try again is of no use, only for objects that were
        asked for `again` already.
        """
        reasons: dict[ObjectRef, Failure] = {}
        why: Failure | None = None
        for name, ref in self._left.items():
            if why is None or (why.is_final and len(reasons) < _SAMPLES):
                said = self._talk.reason(name)
                if self._take(ref):
                    continue
                reasons[ref] = why = self._failure(said)
            else:
                reasons[ref] = why.replace(is_final=why.is_final and ref in again)
        return reasons

    def _failure(self, said: bytes, otherwise: str = "") -> Failure:
        return failure(self._settings, said, otherwise, self._remote)


def _name(ref: ObjectRef) -> str:
    # Metadata that lies may name one object with two sizes.
    return f"{ref.oid}.{ref.size}"
