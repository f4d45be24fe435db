from __future__ import annotations

import zlib

import pytest

from theta_daemon.errors import LayoutError
from theta_daemon.formats.checksums import Regions


def region(regions: Regions, *pieces: bytes) -> None:
    regions.start()
    for piece in pieces:
        regions.feed(piece)
    regions.end()


def test_a_checksum_is_that_of_zip() -> None:
    regions = Regions()
    region(regions, b"1234", b"", b"56789")
    assert regions.checksum(0) == (0xCBF43926).to_bytes(4, "little")  # the check value of CRC-32/ISO-HDLC


def test_bytes_outside_a_region_do_not_count() -> None:
    regions = Regions()
    regions.feed(b"before")
    region(regions, b"first")
    regions.feed(b"between")
    region(regions, b"second")
    assert regions.checksum(1) == zlib.crc32(b"second").to_bytes(4, "little")


def test_a_region_that_has_not_ended_has_no_checksum() -> None:
    regions = Regions()
    assert regions.checksum(0) is None
    regions.start()
    regions.feed(b"x")
    assert regions.checksum(0) is None
    regions.end()
    assert regions.checksum(0) is not None
    assert regions.checksum(1) is None
    assert regions.checksum(-1) is None


def test_nothing_combined_is_zero() -> None:
    assert Regions().combined() == b"0" * 20


def test_the_combination_takes_regions_in_order_and_leaves_empty_ones_out() -> None:
    # torch's own numbers stand in protocol/fixtures/layout; this is its formula, step by step
    first, second = zlib.crc32(b"one"), zlib.crc32(b"two")
    one = (first + 0x9E3779B9) & (2**64 - 1)
    two = one ^ ((second + 0x9E3779B9 + (one << 6) + (one >> 2)) & (2**64 - 1))
    regions = Regions()
    region(regions, b"one")
    region(regions)
    assert regions.combined() == b"%020d" % one
    region(regions, b"two")
    assert regions.combined() == b"%020d" % two


def test_regions_do_not_nest() -> None:
    regions = Regions()
    regions.start()
    with pytest.raises(LayoutError, match="inside another"):
        regions.start()


def test_a_region_ends_once() -> None:
    regions = Regions()
    region(regions, b"x")
    with pytest.raises(LayoutError, match="never started"):
        regions.end()


def test_bytes_of_which_only_the_checksum_is_known_count_as_they_are() -> None:
    regions = Regions()
    regions.start()
    regions.feed(b"12")
    for unseen in (b"345", b"", b"6789"):
        regions.feed_unseen(zlib.crc32(unseen), len(unseen))
    regions.end()
    regions.feed_unseen(zlib.crc32(b"outside"), 7)
    assert regions.checksum(0) == (0xCBF43926).to_bytes(4, "little")
    seen = Regions()
    region(seen, b"123456789")
    assert regions.combined() == seen.combined()
