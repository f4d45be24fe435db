"""Torch's zip format, read from a pipe, front to back (torch/serialization.py, caffe2/serialize/inline_container.cc).

A torch zip holds the pickle `<archive>/data.pkl`, a record `<archive>/data/<key>` for each storage, and a few more.
Torch writes it as a stream: local headers carry no sizes, data descriptors follow. So the pickle ends where a
descriptor says, and a storage is as long as the pickle says. Files that begin in any other way (TorchScript, zips of
other programs) are spooled first, for the directory at their end.

Every record is a checksummed region; its CRC stands in its descriptor and in the directory, and all of them together in
`.data/serialization_id`. Compressed and encrypted records, big-endian files and whatever else is not understood are
bytes of the file: nothing is ever inflated. protocol/torch-zip.md has the rules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from theta_daemon.errors import CheckpointError, TruncatedError
from theta_daemon.formats import zip_records as zips
from theta_daemon.formats.parts import (
    Checksum,
    CombinedChecksum,
    Hole,
    Literal,
    RegionEnd,
    RegionStart,
    Tensors,
)
from theta_daemon.formats.source import PEEK_LIMIT
from theta_daemon.formats.torch_canonical import canonical
from theta_daemon.formats.torch_contents import Contents
from theta_daemon.formats.zip_directory import MAX_TRAILER, read_directory, record_data

if TYPE_CHECKING:
    from collections.abc import Iterator

    from theta_daemon.formats.parts import Part
    from theta_daemon.formats.source import Source
    from theta_daemon.formats.zip_records import CentralHeader, LocalHeader

__all__ = ["canonical", "read"]

MAX_PICKLE = 1 << 29  # bytes of data.pkl, which is held in memory while it is read

_HEADER = 1 << 8  # bytes that hold nearly every local header of torch's
_WINDOWS = (1 << 8, 1 << 16, PEEK_LIMIT)  # how far ahead to look for the end of a small record
_PIECE = 1 << 20
_SERIALIZATION_ID = 40  # 20 digits from the records' names, 20 from their checksums
_BIG_ENDIAN = b"big"


def read(source: Source) -> Iterator[Part]:
    """Yield the parts of a torch zip.

    Raises CheckpointError for a zip that is no torch checkpoint, contradicts itself or its pickle (naming the
    parameter where there is one), and TruncatedError for one that ends too early.
    """
    try:
        yield from _Reader(source).parts()
    except CheckpointError as error:
        error.at(hint="the file is damaged: fetch or save it again")
        raise


_REGION_START, _REGION_END = RegionStart(), RegionEnd()


class _Reader:
    """Reads one file. `regions` has, by the offset of its local header, each record's region and length."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._archive = b""
        self._contents: Contents | None = None
        self._announced = False
        self._names: set[bytes] = set()
        self._regions: dict[int, tuple[int, int]] = {}
        self._directory: dict[int, CentralHeader] | None = None

    def parts(self) -> Iterator[Part]:
        header = self._local_header(self._source.peek(_HEADER))
        self._archive = header.name.partition(b"/")[0] + b"/"
        if header.name != self._archive + b"data.pkl" or header.size is not None or not header.is_plain:
            self._contents = self._look_ahead()
        yield from self._records()
        if self._contents is None:
            raise _no_checkpoint()
        yield from self._announce(self._contents)
        yield from self._end()
        self._contents.check_complete()

    def _local_header(self, window: bytes) -> LocalHeader:
        """Return the local header that comes next; `window` is what was peeked of it."""
        length = zips.local_length(window)
        return zips.parse_local(window if length <= len(window) else self._source.peek(length))

    def _look_ahead(self) -> Contents:
        """Spool the file and return what its directory and its pickle say."""
        tail = self._source.spool()
        directory = read_directory(tail)
        self._directory = directory.by_offset()
        entries = directory.by_name()
        pickle = entries.get(self._archive + b"data.pkl")
        if pickle is None:
            raise _no_checkpoint()
        if not pickle.is_plain:
            return Contents.unread()
        _require_sensible(pickle.size)
        contents = Contents.read(record_data(tail, pickle), self._archive)
        contents.keep_plain(entries)
        return contents

    def _announce(self, contents: Contents) -> Iterator[Part]:
        if not self._announced:
            self._announced = True
            yield Tensors(contents.tensors)

    # --- records --------------------------------------------------------------------------------

    def _records(self) -> Iterator[Part]:
        """Yield all records. Most are a storage that is one hole, so that way through is short."""
        source = self._source
        behind = b""  # the end of the last record
        while (window := source.peek(_HEADER)).startswith(zips.LOCAL):
            header = self._local_header(window)
            name = header.name
            if name in self._names:
                raise zips.damaged(f"the zip holds {_text(name)} twice")
            self._names.add(name)
            offset, region = source.position, len(self._regions)
            contents = self._contents
            if contents is not None and not self._announced and contents.is_storage(name):
                yield from self._announce(contents)
            yield Literal(behind + source.read(header.length))
            yield _REGION_START
            start = source.position
            if contents is None and name == self._archive + b"data.pkl":
                yield from self._pickle()
            else:
                size = self._size(header, offset)
                ranges = contents.take(name, size, is_plain=header.is_plain) if contents else []
                for owned in ranges:
                    if source.position < start + owned.start:
                        yield from self._literals(start + owned.start - source.position)
                    yield Hole(owned.index)
                if source.position < start + size:
                    yield from self._rest(header, start + size - source.position)
            size = source.position - start
            yield _REGION_END
            self._regions[offset] = region, size
            behind = b""
            if header.has_descriptor:
                descriptor = source.read(self._descriptor_length(header, size))
                yield Literal(descriptor[:4])
                yield Checksum(region, descriptor[4:8])
                behind = descriptor[8:]
        if behind:
            yield Literal(behind)

    def _pickle(self) -> Iterator[Part]:
        data = bytearray()
        while True:
            window = self._source.peek(PEEK_LIMIT)
            end = zips.find_descriptor(window, len(data), stored=True)
            if end is not None:
                break
            if len(window) < PEEK_LIMIT:
                raise TruncatedError("the file ends inside its data.pkl")
            data += self._source.read(len(window) - zips.DESCRIPTOR_WINDOW)
            _require_sensible(len(data))
        data += self._source.read(end)
        self._contents = Contents.read(bytes(data), self._archive)
        for at in range(0, len(data), _PIECE):
            yield Literal(bytes(data[at : at + _PIECE]))

    def _rest(self, header: LocalHeader, n: int) -> Iterator[Part]:
        """Yield the last `n` bytes of a record, which are nobody's."""
        if header.name == self._archive + b".data/serialization_id" and n == _SERIALIZATION_ID:
            half = _SERIALIZATION_ID // 2
            yield Literal(self._source.read(half))
            yield CombinedChecksum(self._source.read(half))
            return
        is_order = header.name == self._archive + b"byteorder" and n == len(_BIG_ENDIAN)
        if is_order and self._contents and not self._announced and self._source.peek(n) == _BIG_ENDIAN:
            self._contents.forget()
        yield from self._literals(n)

    def _size(self, header: LocalHeader, offset: int) -> int:
        """Return the length of a record's data: what its header, the directory, the pickle or a descriptor says."""
        if header.size is not None:
            return header.size
        if self._directory is None and self._contents is not None:
            nbytes = self._contents.storage_size(header.name)
            if nbytes is not None and header.is_plain:
                return nbytes
            for n in _WINDOWS:
                size = zips.find_descriptor(self._source.peek(n), 0, stored=header.is_plain)
                if size is not None:
                    return size
        if self._directory is None:
            self._directory = read_directory(self._source.spool()).by_offset()
        if offset not in self._directory:
            raise zips.damaged(f"the zip's directory lacks {_text(header.name)}")
        return self._directory[offset].size

    def _descriptor_length(self, header: LocalHeader, size: int) -> int:
        window = self._source.peek(zips.DESCRIPTOR_WINDOW)
        if len(window) < zips.DESCRIPTOR_WINDOW:
            raise TruncatedError(f"the file ends behind {_text(header.name)}")
        length = zips.descriptor_length(window, size, stored=header.is_plain)
        if length is None:
            parameter = self._contents.parameter_in(header.name) if self._contents else None
            raise zips.damaged(f"{_text(header.name)} does not have the {size} bytes that it should have", parameter)
        return length

    # --- the directory and the end --------------------------------------------------------------

    def _end(self) -> Iterator[Part]:
        while True:
            match self._source.peek(4):
                case zips.CENTRAL:
                    yield from self._central()
                case zips.ZIP64_END:
                    head = self._source.read(12)
                    yield Literal(head)
                    yield from self._literals(int.from_bytes(head[4:], "little"))
                case zips.ZIP64_LOCATOR:
                    yield Literal(self._source.read(zips.ZIP64_LOCATOR_SIZE))
                case zips.END:
                    break
                case signature if len(signature) < 4:
                    raise TruncatedError("the file ends before its zip structure does")
                case _:
                    raise zips.damaged(f"no part of a zip begins at {self._source.position}, where one should")
        yield Literal(self._source.read(zips.END_SIZE))
        trailer = 0
        while piece := self._source.read_some(_PIECE):
            trailer += len(piece)
            if trailer > MAX_TRAILER:
                raise zips.damaged(f"more than {MAX_TRAILER} bytes follow the end of the zip")
            yield Literal(piece)

    def _central(self) -> Iterator[Part]:
        """Yield as many entries of the directory as one look ahead shows."""
        window = self._source.peek(PEEK_LIMIT)
        at = taken = 0
        while window.startswith(zips.CENTRAL, at):
            try:
                header = zips.parse_central(window, at)
            except TruncatedError:
                if not at:
                    raise
                break
            record = self._regions.get(header.offset)
            if record is not None:
                region, size = record
                if header.size != size:
                    raise zips.damaged(
                        f"the zip's directory gives {_text(header.name)} {header.size} bytes instead of {size}"
                    )
                crc = at + zips.CENTRAL_CRC
                yield Literal(window[taken:crc])
                yield Checksum(region, window[crc : crc + 4])
                taken = crc + 4
            at += header.length
        if taken < at:
            yield Literal(window[taken:at])
        self._source.read(at)

    def _literals(self, n: int) -> Iterator[Part]:
        while n:
            piece = self._source.read_some(min(n, _PIECE))
            if not piece:
                raise TruncatedError(f"the file ends after {self._source.position} bytes, {n} too few")
            n -= len(piece)
            yield Literal(piece)


def _no_checkpoint() -> CheckpointError:
    hint = "take the path out of .gitattributes, or save it with torch.save"
    return CheckpointError("this zip is not a torch checkpoint: it holds no data.pkl", hint=hint)


def _require_sensible(pickle: int) -> None:
    if pickle > MAX_PICKLE:
        raise CheckpointError(f"data.pkl has more than {MAX_PICKLE} bytes", hint="keep data out of the checkpoint")


def _text(name: bytes) -> str:
    return repr(name[:100].decode("utf-8", "backslashreplace"))
