"""A parameter group that does not fit into memory, on its way out of the store.

Git must not get a byte before the whole value is verified, and the value is too large to be held. So it is decoded
twice, window after window: first to be hashed, against the digest in the metadata, and then, each window against what
it was the first time, to be written. Decoding is several times as fast as git's pipe, and the disk sees none of it.

A value whose chunks are no byte ranges (another writer's), or whose bytes stand in another order in the file, cannot
be made front to back, and updates touch it anywhere: it is made once, in a file without a name, and read from there.
"""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from theta_daemon.dtypes import DTYPES
from theta_daemon.errors import CorruptObject, ThetaError
from theta_daemon.frozen import Frozen
from theta_daemon.metadata.digest import Digest
from theta_daemon.metadata.digest import digest as digest_of
from theta_daemon.pipelines.scratch import Scratch
from theta_daemon.pipelines.tolerance import verify_replayed
from theta_daemon.pipelines.value import locate, open_value, verify
from theta_daemon.store.objects import forget
from theta_daemon.workers.ahead import Job, ReadAhead

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Future

    from theta_daemon.formats.layout import Group
    from theta_daemon.metadata.entries import Entry
    from theta_daemon.pipelines.chains import Chain
    from theta_daemon.pipelines.services import Services
    from theta_daemon.store.payload import Chunk, DensePayload

T = TypeVar("T")

_WINDOW = 4 << 20


class _Window(Frozen):
    """A byte range of the value, and the chunks that fill it as if it were all; `raw` where it needs no decoding.

    `places` are where these lie in the object.
    """

    size: int
    places: tuple[slice, ...]
    chunks: tuple[Chunk, ...]
    raw: memoryview | None = None


class _Decoded(Frozen):
    view: memoryview
    digest: str
    buffer: memoryview | None


class Large:
    """One group; `pieces` may be asked for once."""

    def __init__(self, services: Services, group: Group, entry: Entry, size: int, chain: Chain | None) -> None:
        self._services = services
        self._group = group
        self._entry = entry
        self._chain = chain
        self.size = size

    def pieces(self) -> Iterator[memoryview]:
        """Yield the bytes in the file's order; a piece is valid until the next is asked for.

        Raises UnsupportedError, MissingObject, CorruptObject before the first piece.
        """
        try:
            if self._chain is not None:
                yield from self._replayed_aside(self._chain)
                return
            stored, payload = open_value(self._services, self._entry, self.size)
            in_order = payload.raw is not None or all(chunk.is_contiguous for chunk in payload.chunks)
            if in_order and self._group.axes is None:
                yield from self._decoded_twice(stored, payload)
            else:
                yield from self._decoded_aside(stored, payload, in_order=in_order)
        except ThetaError as error:
            locate(error, self._group.name, self._entry)
            raise

    def _decoded_twice(self, stored: memoryview, payload: DensePayload) -> Iterator[memoryview]:
        windows = _windows(payload)
        whole, digests = Digest(), []
        for window, each in zip(windows, self._through(windows), strict=True):
            whole.update(each.view)
            digests.append(each.digest)
            _forget(stored, window)
        verify(self._services, self._entry, stored, whole.hexdigest(), forgetting=True)
        for window, each, digest in zip(windows, self._through(windows), digests, strict=True):
            if each.digest != digest:
                raise CorruptObject(f"object {self._entry.oid} changes while it is read", hint="run the command again")
            yield each.view
            if window.raw is not None:
                self._services.store.require_unchanged(window.raw)
            _forget(stored, window)

    def _decoded_aside(self, stored: memoryview, payload: DensePayload, *, in_order: bool) -> Iterator[memoryview]:
        scratch = Scratch(self._services.settings.temporary, self.size)
        found = self._fill(scratch, stored, payload) if in_order else self._scatter(scratch, stored, payload)
        verify(self._services, self._entry, stored, found, forgetting=True)
        yield from self._written(scratch)

    def _replayed_aside(self, chain: Chain) -> Iterator[memoryview]:
        from theta_daemon.pipelines.replay import replay  # and with it numpy

        scratch = Scratch(self._services.settings.temporary, self.size)
        replay(self._services, chain, scratch.view, scratch.forget)
        found = self._digest(scratch)
        verify_replayed(self._services, self._entry, chain, scratch.view, found, scratch.forget)
        yield from self._written(scratch)

    def _written(self, scratch: Scratch) -> Iterator[memoryview]:
        group = self._group
        if group.axes is not None:
            yield from _transposed(scratch, group.dtype, group.shape, group.axes)
            return
        for start in range(0, self.size, _WINDOW):
            stop = min(start + _WINDOW, self.size)
            yield scratch.view[start:stop]
            scratch.forget(start, stop)

    def _fill(self, scratch: Scratch, stored: memoryview, payload: DensePayload) -> str:
        """Decode front to back into `scratch`; return the digest."""
        windows, whole, at = _windows(payload), Digest(), 0
        for window, each in zip(windows, self._through(windows), strict=True):
            scratch.view[at : at + window.size] = each.view
            whole.update(scratch.view[at : at + window.size])
            scratch.forget(at, at + window.size)
            _forget(stored, window)
            at += window.size
        return whole.hexdigest()

    def _scatter(self, scratch: Scratch, stored: memoryview, payload: DensePayload) -> str:
        """Decode chunks that lie anywhere into `scratch`; return the digest."""

        def decode(chunk: Chunk) -> _Decoded:
            chunk.decode_into(scratch.view)
            return _Decoded(memoryview(b""), "", None)

        chunks = payload.chunks
        written = 0
        jobs = (Job(chunk.array.chunk_bytes, partial(self._submit, decode, chunk)) for chunk in chunks)
        for chunk, _ in zip(chunks, self._ahead(jobs), strict=True):
            forget(stored, chunk.place)
            written += chunk.array.chunk_bytes
            if written >= _WINDOW:
                scratch.forget(0, self.size)
                written = 0
        return self._digest(scratch)

    def _digest(self, scratch: Scratch) -> str:
        whole = Digest()
        for start in range(0, self.size, _WINDOW):
            stop = min(start + _WINDOW, self.size)
            whole.update(scratch.view[start:stop])
            scratch.forget(start, stop)
        return whole.hexdigest()

    def _through(self, windows: Sequence[_Window]) -> Iterator[_Decoded]:
        """Yield the windows decoded, one after the other, and the next ones ahead."""
        return self._ahead(Job(2 * window.size, partial(self._submit, self._decode, window)) for window in windows)

    def _ahead(self, jobs: Iterable[Job[_Decoded]]) -> Iterator[_Decoded]:
        ahead = ReadAhead[_Decoded](self._services.ahead.window, self._drop)
        stream = ahead.stream(jobs)
        try:
            while not stream.is_done:
                yield stream.next()
        finally:
            ahead.close()

    def _submit(self, work: Callable[[T], _Decoded], on: T) -> Future[_Decoded]:
        return self._services.pool.submit(partial(work, on))

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


def _forget(stored: memoryview, window: _Window) -> None:
    for place in window.places:
        forget(stored, place)


def _transposed(scratch: Scratch, dtype: str, shape: Sequence[int], axes: Sequence[int]) -> Iterator[memoryview]:
    from theta_daemon.formats.parts import Window
    from theta_daemon.pipelines.order import gathered_pieces

    strides = [math.prod(shape[axis + 1 :]) * DTYPES[dtype].bits // 8 for axis in range(len(shape))]
    window = Window(0, tuple(strides[axis] for axis in axes))
    forget = partial(scratch.forget, 0, len(scratch.view))
    return gathered_pieces(scratch.view, dtype, [shape[axis] for axis in axes], window, _WINDOW, forget)


def _windows(payload: DensePayload) -> list[_Window]:
    if payload.raw is not None:
        raw = payload.raw
        parts = [slice(start, min(start + _WINDOW, len(raw))) for start in range(0, len(raw), _WINDOW)]
        lies = payload.raw_start
        return [
            _Window(part.stop - part.start, (slice(lies + part.start, lies + part.stop),), (), raw[part])
            for part in parts
        ]
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
        chunk.replace(cell=chunk.cell.replace(start=chunk.cell.start - first, stop=chunk.cell.stop - first))
        for chunk in chunks
    )
    return _Window(last - first, tuple(chunk.place for chunk in chunks), tuple(moved))
