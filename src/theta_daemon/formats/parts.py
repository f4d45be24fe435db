"""What a format reader yields while it reads a checkpoint from front to back.

A reader is a generator over a `Source`. It yields parts in file order; concatenating the bytes of all
parts gives the file. At a `Hole` the consumer must take exactly the tensor's bytes from the source before it
resumes the generator: the bytes never pass through the reader.

    Tensors        once, before any hole: every named tensor of the file
    Literal        bytes that belong to the file itself
    Hole           the bytes of one owning tensor, in storage order
    RegionStart/RegionEnd   bracket the bytes that a checksum covers; regions are numbered from 0 and never nest
    Checksum       4 bytes: the little-endian CRC-32 of an ended region, as the file has it
    CombinedChecksum  20 ASCII digits: torch's combination of the CRCs of all ended regions (serialization id)

Checksums carry the bytes that the file has: whoever builds the layout compares and keeps a literal where
they do not match.
"""

from __future__ import annotations

import enum

from theta_daemon.frozen import Frozen


class OtherKey(Frozen):
    """A key that is neither a string nor an integer, by its text (`None`, `True`, `1.5`, `(1, 2)`)."""

    text: str

    def __str__(self) -> str:
        return self.text


Key = str | int | OtherKey


class Role(enum.StrEnum):
    """How a tensor relates to the bytes of the file (DESIGN: group and hole)."""

    OWNER = "owner"  # fills one contiguous byte range that no earlier tensor fills
    ALIAS = "alias"  # the same range, dtype, shape and axes as its owner, under another name
    VIEW = "view"  # overlaps an owner in any other way: listed, not needed to rebuild


class Window(Frozen):
    """Where the elements of a view lie in its owner's bytes: the first at `offset`, then by `strides`, all in bytes."""

    offset: int
    strides: tuple[int, ...]


class Tensor(Frozen):
    """One named tensor.

    `keys` lead from the outermost container to it, as the file spells them (empty for a bare tensor).
    `shape` is the logical shape; `axes`, where not None, is the order of the logical axes in storage: the bytes
    in the file are those of `value.transpose(axes)` in C order. `owner` is the index of the owning tensor for an
    alias or a view (for a view None where its storage has no owner). `window` is set for views that lie within their
    owner's bytes.
    """

    keys: tuple[Key, ...]
    dtype: str
    shape: tuple[int, ...]
    axes: tuple[int, ...] | None = None
    role: Role = Role.OWNER
    owner: int | None = None
    window: Window | None = None


class Tensors(Frozen):
    """Every named tensor, in the order in which the file's own index lists them."""

    tensors: tuple[Tensor, ...]


class Literal(Frozen):
    """Bytes of the file's own; consecutive literals are one run."""

    data: bytes


class Hole(Frozen):
    """The bytes of owning tensor `index` come next in the source; the consumer takes them."""

    index: int


class RegionStart(Frozen):
    """A checksummed region begins."""


class RegionEnd(Frozen):
    """... and ends."""


class Checksum(Frozen):
    """The file repeats region `region`'s CRC-32 here; `seen` are its 4 bytes."""

    region: int
    seen: bytes


class CombinedChecksum(Frozen):
    """The file has torch's combined checksum here; `seen` are its 20 bytes."""

    seen: bytes


Part = Tensors | Literal | Hole | RegionStart | RegionEnd | Checksum | CombinedChecksum
