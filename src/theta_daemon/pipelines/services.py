"""What the pipelines need of the world, in one frozen object.

Built once by whoever owns the process (daemon, cli, tests); the pipelines read no environment and hold no
descriptor of their own.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Protocol

from theta_daemon import durable
from theta_daemon.errors import RepositoryError, UsageError
from theta_daemon.frozen import Frozen
from theta_daemon.trace import OFF

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from theta_daemon.cache.memo import Memo
    from theta_daemon.cache.parsed import Parsed
    from theta_daemon.cache.recent import Recent
    from theta_daemon.cache.values import SharedValues
    from theta_daemon.history.record import GitRecord
    from theta_daemon.pipelines.ancestors import Ancestors
    from theta_daemon.pipelines.bundles import Bundles
    from theta_daemon.pipelines.load import Loaded
    from theta_daemon.pipelines.selection import Selection
    from theta_daemon.settings import Settings
    from theta_daemon.store.codec import Codec
    from theta_daemon.store.fetch import Fetcher
    from theta_daemon.store.objects import ObjectStore
    from theta_daemon.trace import Trace
    from theta_daemon.workers.ahead import ReadAhead
    from theta_daemon.workers.buffers import Buffers
    from theta_daemon.workers.pool import Pool

_RECENT_LIMIT = 64 << 20
_PARSED_LIMIT = 4 << 20  # of text; what is parsed from it takes some ten times as much
_BUNDLES_LIMIT = 64 << 20
_ENTRY = 16 << 10  # a share of memory for each entry of earlier versions that is remembered; it takes about 1 KB
# More would hide longer pauses of git's, but memory that was never used before, and has left the processor's cache
# when git comes to it, costs more than that (measured: 16 MiB took 8 % less than 64, of files of 57 and 256 MB).
_AHEAD = 16 << 20
_AHEAD_PER_WORKER = 4 << 20


class Candidate(Protocol):
    """One earlier content of a path: where it was found, and the bytes git holds for it."""

    @property
    def origin(self) -> str:
        """Where it was found: an index stage or a commit."""

    @property
    def data(self) -> bytes:
        """The blob."""


class Record(Protocol):
    """The earlier contents of a path, in the order in which clean compares with them."""

    def candidates(self, path: bytes) -> Iterator[Candidate]:
        """Yield them lazily, each blob once."""

    def head(self, path: bytes) -> Candidate | None:
        """Return what the commit at HEAD holds; `origin` is that commit's id."""

    def blob(self, commit: str, path: bytes) -> str | None:
        """Return the blob's id of what `commit` holds, None where that is nothing, or not here."""

    def version(self, commit: str, path: bytes) -> Candidate | None:
        """Return what `commit` holds, None where that is nothing, or not here."""

    def is_here(self, commit: str) -> bool:
        """Whether the repository holds this commit."""

    def close(self) -> None:
        """End what reads them."""


class Attributes(Protocol):
    """What is set for a path in .gitattributes."""

    def checkpoint_type(self, path: bytes) -> str | None:
        """Return git-theta's name of the format that `path` has where its metadata does not say."""


class Services(Frozen):
    """The parts below the pipelines, wired together for one repository."""

    settings: Settings
    store: ObjectStore
    fetcher: Fetcher
    selection: Selection
    record: Record
    attributes: Attributes
    memo: Memo
    recent: Recent
    values: SharedValues
    parsed: Parsed
    ancestors: Ancestors
    bundles: Bundles
    pool: Pool
    ahead: ReadAhead[Loaded]
    buffers: Buffers
    codec: Codec
    trace: Trace
    warn: Callable[[bytes, str], None]

    def close(self) -> None:
        """Give back what would outlive the process, and end all work that is under way."""
        self._count()
        self.fetcher.close()
        self.pool.close()
        self.memo.flush()
        self.record.close()

    def _count(self) -> None:
        counts = self.values.counts
        for name in ("hits", "misses", "evictions", "hit_bytes", "missed_bytes"):
            self.trace.count(f"cache.{name}", getattr(counts, name))


def open_services(
    settings: Settings,
    warn: Callable[[bytes, str], None],
    trace: Trace = OFF,
    is_abandoned: Callable[[], bool] = lambda: False,
) -> Services:
    """Wire the parts together for the repository of `settings`; nothing is opened or written yet.

    But for the directory of temporary files, where users share the repository: whoever needs it finds it.

    `is_abandoned` tells whether nobody waits for what is fetched any more.

    Raises UsageError for a theta.compression that does not exist.
    """
    from theta_daemon.cache.memo import Memo
    from theta_daemon.cache.parsed import Parsed
    from theta_daemon.cache.recent import Recent
    from theta_daemon.cache.values import SharedValues
    from theta_daemon.history.attributes import GitAttributes
    from theta_daemon.history.record import GitRecord
    from theta_daemon.pipelines.ancestors import Ancestors
    from theta_daemon.pipelines.bundles import Bundles
    from theta_daemon.pipelines.selection import Selection
    from theta_daemon.store.fetch import Fetcher
    from theta_daemon.workers.ahead import ReadAhead
    from theta_daemon.workers.buffers import Buffers
    from theta_daemon.workers.pool import Pool

    share = settings.largest_in_memory
    window = min(share, max(_AHEAD, settings.workers * _AHEAD_PER_WORKER))
    record, parsed = GitRecord(settings), Parsed(min(share // 64, _PARSED_LIMIT))
    store = open_store(settings)
    if settings.file_mode is not None:
        with suppress(OSError):  # nothing can be written, and perhaps need not be
            durable.make_directories(settings.temporary, mode=settings.file_mode)
    return Services(
        settings=settings,
        store=store,
        fetcher=Fetcher(settings, store, trace, is_abandoned=is_abandoned),
        selection=Selection(settings),
        record=record,
        attributes=GitAttributes(settings),
        memo=Memo(settings.theta_dir / "memo", mode=settings.file_mode),
        recent=Recent(_RECENT_LIMIT),
        values=SharedValues(settings.cache_size),
        parsed=parsed,
        ancestors=Ancestors(record, parsed, trace, share // _ENTRY, partial(_fetch, settings, record)),
        bundles=Bundles(store, min(share // 2, _BUNDLES_LIMIT), share // 2),
        pool=Pool(settings.workers, settings.memory_limit),
        ahead=ReadAhead(window, _drop, most=2 * share),  # of two groups one is made while git takes the other
        buffers=Buffers(share),
        codec=_codec(settings),
        trace=trace,
        warn=warn,
    )


def open_store(settings: Settings) -> ObjectStore:
    """Return the objects of the repository of `settings`, and of those that it borrows from."""
    from theta_daemon.store.objects import ObjectStore

    return ObjectStore(
        settings.lfs_objects,
        settings.theta_dir / "objects",
        settings.temporary,
        alternates=settings.alternates,
        fsync=settings.fsync,
        mode=settings.file_mode,
    )


def _codec(settings: Settings) -> Codec:
    from theta_daemon.store import codec

    named = settings.compression
    if named is None:
        return codec.DEFAULT
    try:
        return codec.Codec.parse(named.text or "")
    except UsageError as error:
        raise UsageError(f"{named.origin}: {error.message}", hint=error.hint) from None


def _fetch(settings: Settings, record: GitRecord, commit: str, path: bytes) -> bytes | str:
    """Get what `commit` holds of `path` from a remote; return it, or why there is none."""
    if not settings.fetch_history:
        return "theta.fetchHistory is false"
    from theta_daemon.history.fetch import fetch_commit

    if not record.is_here(commit) and (why := fetch_commit(settings, commit)) is not None:
        return why
    try:
        found = record.promised(commit, path)
    except RepositoryError as error:
        return error.message
    return "it does not hold the file" if found is None else found


def _drop(loaded: Loaded) -> None:
    loaded.release()
