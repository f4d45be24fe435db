from __future__ import annotations

import struct

import numpy as np
import pytest
import safetensors.numpy

from tests.support.streams import Pieces, take
from theta_daemon.errors import CheckpointError, UnsupportedError
from theta_daemon.formats import registry
from theta_daemon.formats import safetensors as subject
from theta_daemon.formats.layout import CanonicalTensor
from theta_daemon.formats.source import Source

FILE = safetensors.numpy.save({"w": np.arange(3)}, {"format": "np"})


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (FILE, registry.SAFETENSORS),
        (FILE[: registry.HEAD], registry.SAFETENSORS),
        (struct.pack("<Q", 200_000_000) + b"{", registry.SAFETENSORS),  # over the limit: its reader says so
        (b"PK\x03\x04" + bytes(30), registry.TORCH_ZIP),
        (b"PK\x03\x04", registry.TORCH_ZIP),
        (b"PK\x05\x06" + bytes(18), None),
        (b"", None),
        (FILE[:8], None),
        (b'{"w": 1, {', None),
        (b"abcdefgh{", None),
        (bytes(9), None),
        (b"\x80\x02}q\x00.", None),
    ],
)
def test_a_format_is_told_by_its_first_bytes(head: bytes, name: str | None) -> None:
    assert registry.format_of(head) == name


def test_a_checkpoint_is_read_by_its_format() -> None:
    source = Source(Pieces(FILE, [3] * 10))
    assert take(registry.SAFETENSORS, source, registry.read_checkpoint).file() == FILE


@pytest.mark.parametrize("data", [b"", b"weights", b'{"a": 1}'])
def test_what_is_no_checkpoint_is_refused_with_the_formats_known(data: bytes) -> None:
    with pytest.raises(CheckpointError, match=r"not a checkpoint of a known format \(safetensors, torch-zip\); "):
        registry.read_checkpoint(Source(Pieces(data)))


def test_a_canonical_form_is_made_by_its_format() -> None:
    tensors = [CanonicalTensor(("w",), "int64", (3,))]
    made = registry.canonical("safetensors", tensors, lambda chunk: None)
    assert made == subject.canonical(tensors, lambda chunk: None)
    assert registry.canonical("torch-zip", tensors, lambda chunk: None).format == "torch-zip"


def test_an_unknown_format_has_no_canonical_form() -> None:
    with pytest.raises(UnsupportedError, match="unknown checkpoint format 'onnx'; known are safetensors, torch-zip"):
        registry.canonical("onnx", [], lambda chunk: None)
