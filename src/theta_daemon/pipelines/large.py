"""A parameter group that does not fit into memory, on its way out of the store.

Git must not get a byte before the whole value is verified, and the value is too large to be held. So it is decoded
twice, window after window: first to be hashed, against the digest in the metadata, and then, each window against what
it was the first time, to be written. Decoding is several times as fast as git's pipe, and the disk sees none of it.

A value whose chunks are no byte ranges (another writer's), or whose bytes stand in another order in the file, cannot
be made front to back: it is decoded once, into a file without a name, and read from there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from theta_daemon.errors import CorruptObject, ThetaError
from theta_daemon.metadata.digest import Digest
from theta_daemon.metadata.digest import digest as digest_of
from theta_daemon.pipelines.value import open_value, parameter_name, verify
from theta_daemon.workers.ahead import Job, ReadAhead

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Future

    from theta_daemon.formats.layout import Group
    from theta_daemon.metadata.entries import Entry
    from theta_daemon.pipelines.services import Services
    from theta_daemon.store.payload import Chunk, DensePayload

_WINDOW = 4 << 20


@dataclass(frozen=True, slots=True)
class _Window:
    """A byte range of the value, and the chunks that fill it as if it were all; `raw` where it needs no decoding."""

    size: int
    chunks: tuple[Chunk, ...]
    raw: memoryview | None = None


@dataclass(frozen=True, slots=True)
class _Decoded:
    view: memoryview
    digest: str
    buffer: memoryview | None


class Large:
    """One group; `pieces` may be asked for once."""

    def __init__(self, services: Services, group: Group, entry: Entry, size: int) -> None:
        self._services = services
        self._group = group
        self._entry = entry
        self.size = size

    def pieces(self) -> Iterator[memoryview]:
        """Yield the bytes in the file's order; a piece is valid until the next is asked for.

        Raises UnsupportedError, MissingObject, CorruptObject before the first piece.
        """
        try:
            stored, payload = open_value(self._services, self._entry, self.size)
            yield from self._decoded_twice(stored, payload)
        except ThetaError as error:
            error.at(parameter=parameter_name(self._group.name))
            raise

    def _decoded_twice(self, stored: memoryview, payload: DensePayload) -> Iterator[memoryview]:
        windows = _windows(payload)
        whole, digests = Digest(), []
        for each in self._through(windows):
            whole.update(each.view)
            digests.append(each.digest)
        verify(self._services, self._entry, stored, whole.hexdigest())
        for each, digest in zip(self._through(windows), digests, strict=True):
            if each.digest != digest:
                raise CorruptObject(f"object {self._entry.oid} changes while it is read", hint="run the command again")
            yield each.view

    def _through(self, windows: Sequence[_Window]) -> Iterator[_Decoded]:
        """Yield the windows decoded, one after the other, and the next ones ahead."""
        ahead = ReadAhead[_Decoded](self._services.ahead.window, self._drop)
        stream = ahead.stream(Job(2 * window.size, partial(self._start, window)) for window in windows)
        try:
            for _ in windows:
                yield stream.next()
        finally:
            ahead.close()

    def _start(self, window: _Window) -> Future[_Decoded]:
        return self._services.pool.submit(partial(self._decode, window))

    def _decode(self, window: _Window) -> _Decoded:
        if window.raw is not None:
            return _Decoded(window.raw, digest_of(window.raw), None)
        buffer = self._services.buffers.take(window.size)
        for chunk in window.chunks:
            chunk.decode_into(buffer)
        return _Decoded(buffer, digest_of(buffer), buffer)

    def _drop(self, decoded: _Decoded) -> None:
        if decoded.buffer is not None:
            self._services.buffers.give(decoded.buffer)


def _windows(payload: DensePayload) -> list[_Window]:
    if payload.raw is not None:
        raw = payload.raw
        parts = [raw[start : start + _WINDOW] for start in range(0, len(raw), _WINDOW)]
        return [_Window(len(part), (), part) for part in parts]
    windows: list[_Window] = []
    chunks: list[Chunk] = []
    for chunk in payload.chunks:
        chunks.append(chunk)
        if chunk.cell.stop - chunks[0].cell.start >= _WINDOW:
            windows.append(_window(chunks))
            chunks = []
    return [*windows, _window(chunks)] if chunks else windows


def _window(chunks: Sequence[Chunk]) -> _Window:
    first, last = chunks[0].cell.start, chunks[-1].cell.stop
    moved = (
        replace(chunk, cell=replace(chunk.cell, start=chunk.cell.start - first, stop=chunk.cell.stop - first))
        for chunk in chunks
    )
    return _Window(last - first, tuple(moved))
