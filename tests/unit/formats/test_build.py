from __future__ import annotations

import zlib

import pytest

from theta_daemon.errors import LayoutError
from theta_daemon.formats.build import LayoutBuilder
from theta_daemon.formats.layout import (
    LITERAL_LIMIT,
    OPAQUE_CHUNK,
    ChecksumOp,
    CombinedChecksumOp,
    GroupOp,
    LiteralOp,
    Op,
    OpaqueOp,
    RegionEndOp,
    RegionStartOp,
)
from theta_daemon.formats.parts import Checksum, CombinedChecksum, Tensor


def refuse(chunk: bytes) -> None:
    pytest.fail(f"no opaque chunk expected, got {len(chunk)} bytes")


def ops(builder: LayoutBuilder) -> tuple[Op, ...]:
    return builder.finish("x").ops


def crc(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(4, "little")


def test_consecutive_literals_are_one() -> None:
    builder = LayoutBuilder(refuse)
    for piece in (b"a", b"", b"bc", b"d"):
        builder.literal(piece)
    assert ops(builder) == (LiteralOp(b"abcd"),)


def test_nothing_makes_nothing() -> None:
    builder = LayoutBuilder(refuse)
    builder.literal(b"")
    assert ops(builder) == ()


def test_a_hole_takes_its_bytes_in_any_pieces() -> None:
    builder = LayoutBuilder(refuse)
    builder.tensors([("w",)], [Tensor(("w",), "int8", (6,))])
    builder.region_start()
    for piece in (b"12", b"", b"3456"):
        builder.hole_bytes(memoryview(piece))
    builder.hole(0)
    builder.region_end()
    builder.checksum(Checksum(0, crc(b"123456")))
    assert ops(builder) == (RegionStartOp(), GroupOp(0), RegionEndOp(), ChecksumOp(0))


@pytest.mark.parametrize("given", [b"", b"12345", b"1234567"])
def test_a_hole_must_be_full(given: bytes) -> None:
    builder = LayoutBuilder(refuse)
    builder.tensors([("a", "w")], [Tensor(("w",), "int8", (6,))])
    builder.hole_bytes(memoryview(given))
    with pytest.raises(LayoutError, match=f"parameter 'a/w': the hole got {len(given)} bytes instead of 6"):
        builder.hole(0)


def test_every_tensor_has_a_name() -> None:
    with pytest.raises(ValueError, match="argument 2 is longer"):
        LayoutBuilder(refuse).tensors([], [Tensor(("w",), "int8", (6,))])


def test_a_right_checksum_is_an_operation() -> None:
    builder = LayoutBuilder(refuse)
    builder.region_start()
    builder.literal(b"abc")
    builder.region_end()
    builder.literal(b"-")
    builder.checksum(Checksum(0, crc(b"abc")))
    assert ops(builder) == (RegionStartOp(), LiteralOp(b"abc"), RegionEndOp(), LiteralOp(b"-"), ChecksumOp(0))


@pytest.mark.parametrize("region", [0, 1, -1])
def test_a_wrong_checksum_is_a_literal_and_joins_its_neighbours(region: int) -> None:
    builder = LayoutBuilder(refuse)
    builder.region_start()
    builder.literal(b"abc")
    builder.region_end()
    builder.literal(b"-")
    builder.checksum(Checksum(region, b"nope"))
    builder.literal(b"-")
    assert ops(builder)[3:] == (LiteralOp(b"-nope-"),)


def test_a_checksum_before_its_regions_end_is_a_literal() -> None:
    builder = LayoutBuilder(refuse)
    builder.checksum(Checksum(0, crc(b"")))
    builder.region_start()
    builder.region_end()
    assert ops(builder) == (LiteralOp(bytes(4)), RegionStartOp(), RegionEndOp())


def test_a_checksum_counts_in_the_region_it_stands_in() -> None:
    builder = LayoutBuilder(refuse)
    builder.region_start()
    builder.literal(b"abc")
    builder.region_end()
    builder.region_start()
    builder.checksum(Checksum(0, crc(b"abc")))
    builder.checksum(Checksum(0, b"nope"))
    builder.combined(CombinedChecksum(b"%020d" % (zlib.crc32(b"abc") + 0x9E3779B9)))
    builder.region_end()
    builder.checksum(Checksum(1, crc(crc(b"abc") + b"nope" + b"%020d" % (zlib.crc32(b"abc") + 0x9E3779B9))))
    assert ops(builder)[3:] == (
        RegionStartOp(),
        ChecksumOp(0),
        LiteralOp(b"nope"),
        CombinedChecksumOp(),
        RegionEndOp(),
        ChecksumOp(1),
    )


def test_a_wrong_combination_is_a_literal() -> None:
    builder = LayoutBuilder(refuse)
    builder.combined(CombinedChecksum(b"1" * 20))
    assert ops(builder) == (LiteralOp(b"1" * 20),)


@pytest.mark.parametrize("step", [1 << 20, 100_003, OPAQUE_CHUNK + 1, 1 << 30])
@pytest.mark.parametrize(
    ("length", "chunks"),
    [
        (LITERAL_LIMIT + 1, [LITERAL_LIMIT + 1]),
        (OPAQUE_CHUNK, [OPAQUE_CHUNK]),
        (OPAQUE_CHUNK + 1, [OPAQUE_CHUNK, 1]),
        (2 * OPAQUE_CHUNK + 5, [OPAQUE_CHUNK, OPAQUE_CHUNK, 5]),
    ],
)
def test_a_long_run_becomes_the_same_chunks_in_whatever_pieces_it_comes(
    step: int, length: int, chunks: list[int]
) -> None:
    data = bytes(range(251)) * (length // 251 + 1)
    data = data[:length]
    opaque: list[bytes] = []
    builder = LayoutBuilder(opaque.append)
    for start in range(0, length, step):
        builder.literal(data[start : start + step])
        assert len(builder._run) < OPAQUE_CHUNK
    builder.region_start()
    builder.literal(b"x")
    builder.region_end()
    assert [len(chunk) for chunk in opaque] == chunks
    assert b"".join(opaque) == data
    assert ops(builder) == (*map(OpaqueOp, chunks), RegionStartOp(), LiteralOp(b"x"), RegionEndOp())


def test_a_run_at_the_limit_stays_in_the_layout() -> None:
    builder = LayoutBuilder(refuse)
    builder.literal(bytes(LITERAL_LIMIT))
    assert ops(builder) == (LiteralOp(bytes(LITERAL_LIMIT)),)


def test_what_follows_an_opaque_run_is_literal_again() -> None:
    builder = LayoutBuilder(lambda chunk: None)
    builder.tensors([("w",)], [Tensor(("w",), "int8", (0,))])
    builder.literal(bytes(OPAQUE_CHUNK))
    builder.hole(0)
    builder.literal(b"x")
    assert ops(builder) == (OpaqueOp(OPAQUE_CHUNK), GroupOp(0), LiteralOp(b"x"))


def test_a_planned_layout_needs_no_bytes() -> None:
    builder = LayoutBuilder(refuse)
    builder.tensors([("w",)], [Tensor(("w",), "int8", (6,))])
    builder.region_start()
    builder.put_group(0)
    builder.region_end()
    builder.put_checksum(0)
    builder.put_combined()
    assert ops(builder) == (RegionStartOp(), GroupOp(0), RegionEndOp(), ChecksumOp(0), CombinedChecksumOp())


def test_an_unfinished_layout_is_refused() -> None:
    builder = LayoutBuilder(refuse)
    builder.region_start()
    with pytest.raises(LayoutError, match="never ends"):
        builder.finish("x")
