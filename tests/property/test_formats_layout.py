"""Whatever a reader yields: the layout writes the file back, has one encoding, and does not depend on the values."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from hypothesis import example, given
from hypothesis import strategies as st

from tests.support.streams import Pieces, Taken, take
from theta_daemon.dtypes import DTYPES, nbytes
from theta_daemon.errors import LayoutError
from theta_daemon.formats.layout import Layout, check, size
from theta_daemon.formats.layout_codec import decode, encode
from theta_daemon.formats.parts import (
    Checksum,
    CombinedChecksum,
    Hole,
    Literal,
    Part,
    RegionEnd,
    RegionStart,
    Role,
    Tensor,
    Tensors,
)
from theta_daemon.formats.source import Source

SPLITS = st.lists(st.integers(1, 50), max_size=30)


@dataclass
class Script:
    """A file that is written part by part, with checksums of its own making."""

    tensors: list[Tensor]
    values: list[bytes]
    parts: list[Part] = field(default_factory=list)
    file: bytearray = field(default_factory=bytearray)
    marks: list[int] = field(default_factory=list)  # where regions start and end, in turn

    def write(self, part: Part, data: bytes = b"") -> None:
        self.parts.append(part)
        self.file += data

    def crcs(self) -> list[tuple[int, int]]:
        """Return CRC and length of the regions that have ended."""
        ends = zip(self.marks[::2], self.marks[1::2], strict=False)
        return [(zlib.crc32(bytes(self.file[start:end])), end - start) for start, end in ends]

    def act(self, action: str, data: bytes) -> None:
        match action:
            case "literal":
                self.write(Literal(data), data)
            case "mark":
                self.write(RegionEnd() if len(self.marks) % 2 else RegionStart())
                self.marks.append(len(self.file))
            case "checksum":
                for region, (crc, _) in list(enumerate(self.crcs()))[-2:]:
                    seen = crc.to_bytes(4, "little")
                    self.write(Checksum(region, seen), seen)
            case "combined":
                combined = 0
                for crc, length in self.crcs():
                    if length:
                        mixed = crc + 0x9E3779B9 + (combined << 6) + (combined >> 2)
                        combined ^= mixed % (1 << 64)
                seen = b"%020d" % combined
                self.write(CombinedChecksum(seen), seen)
            case "wrong":
                self.write(Checksum(len(data), b"oops"), b"oops")
            case "wrong combination":
                self.write(CombinedChecksum(b"9" * 20), b"9" * 20)
            case _:
                index = int(action)
                self.write(Hole(index), self.values[index])

    def read(self, source: Source) -> Iterator[Part]:
        """Yield the parts as a reader would, what is not in a hole taken from the source."""
        yield Tensors(tuple(self.tensors))
        for part in self.parts:
            match part:
                case Literal(data) | Checksum(seen=data) | CombinedChecksum(data):
                    assert source.read(len(data)) == data
                case _:
                    pass
            yield part

    def taken(self, splits: list[int], step: int) -> Taken:
        return take("made-up", Source(Pieces(bytes(self.file), splits)), self.read, step=step)


@st.composite
def tensors(draw: st.DrawFn) -> list[Tensor]:
    """Return owners, and aliases and views of them, in any order."""
    made: list[Tensor] = []
    number = draw(st.integers(0, 5))
    for index in range(number):
        dtype = draw(st.sampled_from(list(DTYPES)))
        shape = tuple(draw(st.lists(st.integers(0, 3), max_size=3)))
        if DTYPES[dtype].bits % 8:
            shape = (*shape, 4)
        axes = draw(st.none() | st.permutations(range(len(shape))).map(tuple)) if DTYPES[dtype].bits % 8 == 0 else None
        made.append(Tensor((f"owner {index}",), dtype, shape, axes))
    for index in range(draw(st.integers(0, 2)) if made else 0):
        owner = draw(st.integers(0, number - 1))
        of = made[owner]
        made.append(Tensor((f"alias {index}", "x"), of.dtype, of.shape, of.axes, Role.ALIAS, owner))
        claimed = tuple(draw(st.lists(st.integers(0, 1 << 30), max_size=2)))
        made.append(Tensor((f"view {index}",), of.dtype, claimed, None, Role.VIEW, draw(st.none() | st.just(owner))))
    return made


ACTIONS = ["literal", "literal", "mark", "mark", "checksum", "combined", "wrong", "wrong combination"]


@st.composite
def scripts(draw: st.DrawFn) -> tuple[Script, Script]:
    """Return two scripts that differ in the values of the tensors and in nothing else."""
    described = draw(tensors())
    owners = [index for index, tensor in enumerate(described) if tensor.role is Role.OWNER]
    noise = [(action, draw(st.binary(max_size=6))) for action in draw(st.lists(st.sampled_from(ACTIONS), max_size=20))]
    actions = draw(st.permutations([*noise, *((str(index), b"") for index in owners)]))
    both = []
    for fill in (b"\x00", b"\xa5"):
        values = [fill * nbytes(t.dtype, t.shape) if t.role is Role.OWNER else b"" for t in described]
        script = Script(described, values)
        for action, data in actions:
            script.act(action, data)
        if len(script.marks) % 2:
            script.act("mark", b"")
        both.append(script)
    return both[0], both[1]


@given(scripts(), SPLITS, st.integers(1, 40))
def test_the_layout_writes_the_file_back(both: tuple[Script, Script], splits: list[int], step: int) -> None:
    script = both[0]
    taken = script.taken(splits, step)
    assert taken.file() == script.file
    assert size(taken.layout) == len(script.file)


@given(scripts(), SPLITS, st.integers(1, 40))
def test_the_layout_does_not_depend_on_values_or_on_how_they_come(
    both: tuple[Script, Script], splits: list[int], step: int
) -> None:
    one, other = (script.taken(pieces, at) for script, pieces, at in zip(both, (splits, []), (step, 64), strict=True))
    assert one.layout == other.layout
    # so the one's layout writes the other's file, checksums and all
    assert Taken(one.layout, other.groups, other.opaque).file() == both[1].file


@given(scripts())
def test_a_layout_has_one_encoding(both: tuple[Script, Script]) -> None:
    layout = both[0].taken([], 64).layout
    data = encode(layout)
    decoded = decode(data)
    assert decoded == layout
    assert encode(decoded) == data


def tolerant(data: bytes) -> Layout | None:
    """Return None where `data` is refused as it should be; any other error fails the test."""
    try:
        return decode(data)
    except LayoutError:
        return None


@given(scripts(), st.data())
def test_a_changed_byte_is_refused_or_means_another_layout(both: tuple[Script, Script], data: st.DataObject) -> None:
    original = encode(both[0].taken([], 64).layout)
    where = data.draw(st.integers(0, len(original) - 1))
    changed = original[:where] + bytes([original[where] ^ data.draw(st.integers(1, 255))]) + original[where + 1 :]
    layout = tolerant(changed)
    if layout is not None:
        check(layout)
        assert encode(layout) == changed


@given(scripts(), st.data())
def test_a_cut_layout_is_refused(both: tuple[Script, Script], data: st.DataObject) -> None:
    original = encode(both[0].taken([], 64).layout)
    assert tolerant(original[: data.draw(st.integers(0, len(original) - 1))]) is None


@given(st.binary(max_size=200))
@example(b"\x93\xactheta-layout\x01\xa1x")
def test_any_bytes_are_refused_or_a_layout(data: bytes) -> None:
    layout = tolerant(data)
    assert layout is None or encode(layout) == data
