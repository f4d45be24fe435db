"""Pull: files of the work tree that hold their metadata become checkpoints, without git.

A checkout through git's pipe has the whole file in git's memory before it is written, copied twice. Here each value
goes from where it was decoded into its place in the file (scatter.py, worktree.py).

What is missing is asked for in one conversation, for all files. Those that lack nothing are written first, and then
each as soon as its objects have arrived. What is wrong with one file is told, and stops no other.
"""

from __future__ import annotations

from collections import deque
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from theta_daemon.errors import RepositoryError, ThetaError
from theta_daemon.formats.layout import size as size_of
from theta_daemon.frozen import Frozen
from theta_daemon.history import index, refresh
from theta_daemon.history.index_file import Note
from theta_daemon.interrupts import Interrupts
from theta_daemon.metadata import text
from theta_daemon.metadata.digest import digest
from theta_daemon.metadata.entries import Metadata
from theta_daemon.pipelines import smudge
from theta_daemon.pipelines.arriving import Arriving
from theta_daemon.pipelines.scatter import Scattered, Writers
from theta_daemon.pipelines.worktree import NewFile

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Generator, Iterable, Iterator, Sequence

    from theta_daemon.history.tracked import Tracked
    from theta_daemon.pipelines.services import Services
    from theta_daemon.pipelines.worktree import WorkTree
    from theta_daemon.progress import Meter
    from theta_daemon.settings import Settings

_OPEN = 32  # files that are being written at a time; each has three descriptors


class Target(Frozen):
    """A file to write: its place in the index, and its metadata, which it holds now if it is there."""

    file: Tracked
    blob: str
    held: smudge.Held


class Written(Frozen):
    """A file that was written, and what its descriptor said when it had got its name."""

    target: Target
    status: os.stat_result


class _Bytes:
    """Tells a meter of files of objects: only their bytes count."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter

    def advance(self, items: int = 0, size: int = 0) -> None:
        """Count the bytes."""
        self._meter.advance(size=size)

    def expect(self, items: int = 0, size: int = 0) -> None:
        """Count the bytes."""
        self._meter.expect(size=size)


class _Open(Frozen):
    """A file that is being written."""

    target: Target
    new: NewFile
    values: Scattered
    left: ExitStack


def targets(
    services: Services, tree: WorkTree, files: Iterable[Tracked], failed: Callable[[ThetaError], None]
) -> Iterator[Target]:
    """Yield those of `files` that hold their metadata, or nothing: as git-lfs does, what was deleted is brought back.

    Files whose blob is no metadata, or has conflict markers, are none. What cannot be looked at or read, or is missing
    and its blob too (a partial clone), is told to `failed`. Raises RepositoryError when git fails.
    """
    found: list[tuple[Tracked, str, bytes | None]] = []
    for file in files:
        if file.blob is None or file.is_skipped:
            continue
        tree.sweep(file.path)
        try:
            there = tree.look(file.path, file.blob)
        except OSError as error:
            failed(RepositoryError(f"it cannot be read: {error.strerror}", path=file.path))
        except ThetaError as error:
            failed(error)
        else:
            if there is None or there.data is not None:
                found.append((file, file.blob, there.data if there is not None else None))
    looks = index.looks(services.settings, (blob for _, blob, data in found if data is None))
    blobs = {look.id: look.data for look in looks}
    for file, blob, data in found:
        content = blobs.get(blob) if data is None else data
        if content is None:
            if blob not in blobs:
                why = RepositoryError("its metadata is not here", hint="`git restore` fetches it (partial clone)")
                failed(why.at(path=file.path))
            continue  # else the blob is no metadata
        try:
            metadata = services.parsed.get(text.read, digest(content), lambda content=content: content)  # type: ignore[misc]
        except ThetaError as error:
            failed(error.at(path=file.path))
        else:
            if isinstance(metadata, Metadata):
                yield Target(file, blob, smudge.Held(content, metadata))


def note(settings: Settings, written: Iterable[Written]) -> None:
    """Let git know that these files hold what the index says. Raises what `history.refresh.note` raises."""
    refresh.note(settings, {each.target.file.path: Note(each.target.blob, each.status) for each in written})


class Pull:
    """Writes files; `failed` is told what is wrong with one of them, and its path is in the error."""

    def __init__(
        self,
        services: Services,
        tree: WorkTree,
        meter: Meter,
        failed: Callable[[ThetaError], None],
        interrupts: Interrupts | None = None,
    ) -> None:
        """Nothing is written yet. Within `interrupts` signals are heard where it waits, and nowhere else."""
        self._hear = (interrupts or Interrupts()).hear
        self._services = services
        self._tree = tree
        self._meter = meter
        self._failed = failed
        self._open: deque[_Open] = deque()

    def files(self, targets: Sequence[Target]) -> Generator[Written, None, None]:
        """Write all that can be written; yield each file that was. Close the iterator where it is not used up.

        Raises RepositoryError, with nothing written, where the index cannot be.
        """
        if not targets:
            return
        refresh.mark(self._services.settings, (target.file for target in targets))
        self._services.fetcher.meter = _Bytes(self._meter)
        arriving = Arriving(self._services)
        waiting: dict[bytes, Target] = {}
        with closing(Writers(self._services, lambda size: self._meter.advance(size=size))) as writers:
            try:
                for target in targets:
                    plan = self._hear(lambda target=target: self._plan(target))  # type: ignore[misc]
                    if isinstance(plan, smudge.Plan):
                        yield from self._begin(writers, target, plan)
                    elif plan is not None:
                        self._meter.expect(size=sum(ref.size for ref in plan.objects))
                        arriving.add(plan)
                        waiting[target.file.path] = target
                yield from self._finish(0)
                while arriving:
                    self._hear(arriving.wait)
                    for path, come in arriving.come():
                        if isinstance(come, smudge.Plan):
                            yield from self._begin(writers, waiting[path], come)
                        else:
                            self._tell(come, path)
                    yield from self._finish(0)
            finally:
                writers.close()  # before the files are, which they write to
                while self._open:
                    self._open.pop().left.close()

    def _plan(self, target: Target) -> smudge.Plan | smudge.Lacking | None:
        path = target.file.path
        try:
            return smudge.plan(self._services, path, target.held)
        except ThetaError as error:
            self._tell(error, path)
            return None

    def _begin(self, writers: Writers, target: Target, plan: smudge.Plan) -> Generator[Written, None, None]:
        """Let a file be written; first finish some others if too many are under way."""
        yield from self._finish(_OPEN - 1)
        self._meter.expect(size=size_of(plan.skeleton.layout))
        with ExitStack() as left:
            try:
                place = left.enter_context(self._tree.place(target.file.path, make=True))
                new = left.enter_context(closing(NewFile(place, executable=target.file.is_executable)))
            except (OSError, ThetaError) as error:
                self._tell(error, target.file.path)
                return
            self._services.values.expect(_keys(plan))
            values = Scattered(self._services, plan, new.write)
            self._open.append(_Open(target, new, values, left.pop_all()))
        writers.add(values)

    def _finish(self, most: int) -> Generator[Written, None, None]:
        """Finish files, the first of them first, until no more than `most` are being written."""
        while len(self._open) > most:
            each = self._open[0]
            try:
                self._hear(each.values.wait)
                self._meter.advance(size=each.values.finish(self._services))
                status = each.new.publish(each.target.blob)
            except (OSError, ThetaError) as error:
                self._tell(error, each.target.file.path)
            else:
                self._meter.advance(items=1)
                yield Written(each.target, status)
            finally:
                each.left.close()
                self._open.popleft()

    def _tell(self, error: Exception, path: bytes) -> None:
        """Tell what is wrong with a file. Raises what is not its fault, nor the system's."""
        if isinstance(error, OSError):
            error = RepositoryError(f"the file cannot be written: {error.strerror or error}")
        if not isinstance(error, ThetaError):
            raise error
        self._failed(error.at(path=path))


def _keys(plan: smudge.Plan) -> Iterator[str]:
    """Yield what the plan asks the shared values for."""
    for each in plan.groups:
        yield each.key
        if each.chain is not None:
            yield each.chain.base_key
