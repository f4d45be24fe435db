"""safetensors files made by hand, where the library would not write them so."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping

Entry = Mapping[str, object]


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, object]:
    """Return a tensor's entry in the header."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def file(header: str | bytes | Mapping[str, object], data: bytes = b"", padding: bytes = b"") -> bytes:
    """Return a file with this header (a mapping is written as JSON) and these data bytes."""
    if isinstance(header, Mapping):
        header = json.dumps(header)
    if isinstance(header, str):
        header = header.encode("utf-8", "surrogatepass")
    header += padding
    return struct.pack("<Q", len(header)) + header + data
