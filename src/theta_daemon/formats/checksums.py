"""The checksums that a zip repeats, computed while a file passes: the same code for reading and for writing.

A region's CRC-32 is zip's (APPNOTE.TXT 4.4.7). The combination is what torch writes as a file's serialization id
(caffe2/serialize/inline_container.cc, `combined_uncomp_crc32_`).
"""

from __future__ import annotations

from isal.isal_zlib import crc32, crc32_combine

from theta_daemon.errors import LayoutError

_GOLDEN = 0x9E3779B9
_MASK = (1 << 64) - 1


class Regions:
    """The regions of one file so far. They are numbered from 0 in the order in which they start, and never nest."""

    def __init__(self) -> None:
        self._ended: list[bytes] = []
        self._open = False
        self._crc = 0
        self._length = 0
        self._combined = 0

    @property
    def is_open(self) -> bool:
        """Whether a region has started and not ended."""
        return self._open

    def start(self) -> None:
        """Start the next region. Raises LayoutError inside another."""
        if self._open:
            raise LayoutError("a checksummed region starts inside another")
        self._open = True
        self._crc = self._length = 0

    def end(self) -> None:
        """End the region. Raises LayoutError where none has started."""
        if not self._open:
            raise LayoutError("a checksummed region ends that never started")
        self._open = False
        self._ended.append(self._crc.to_bytes(4, "little"))
        if self._length:  # torch leaves empty records out
            c = self._combined
            self._combined = c ^ ((self._crc + _GOLDEN + (c << 6) + (c >> 2)) & _MASK)

    def feed(self, data: bytes | memoryview) -> None:
        """Take note of bytes of the file; those outside a region cost nothing."""
        if self._open:
            self._crc = crc32(data, self._crc)
            self._length += len(data)

    def feed_unseen(self, crc: int, length: int) -> None:
        """Take note of `length` bytes of the file of which nothing but their CRC-32 is known."""
        if self._open:
            self._crc = crc32_combine(self._crc, crc, length)
            self._length += length

    def checksum(self, region: int) -> bytes | None:
        """Return the CRC-32 of `region`, 4 bytes, little-endian; None where that has not ended."""
        return self._ended[region] if 0 <= region < len(self._ended) else None

    def combined(self) -> bytes:
        """Return the combination of the CRCs of the regions that have ended, 20 decimal digits."""
        return b"%020d" % self._combined
