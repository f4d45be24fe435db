"""The hash of the records' names, as torch's C++ library computes it."""

from __future__ import annotations

import io
import zipfile

import pytest
import torch

from tests.support.models import torch_bytes
from theta_daemon.errors import UnsupportedError
from theta_daemon.formats import torch_serialization_id
from theta_daemon.formats.torch_serialization_id import hash_name, name_digits


def test_the_hash_of_names_of_any_length() -> None:
    """Values of `std::hash<std::string>` with libstdc++, computed by a C++ program."""
    known = {
        b"": 6142509188972423790,
        b"a": 4993892634952068459,
        b"version": 1565691551459181974,
        b"byteorder": 17475754552457364548,
        b"data.pkl": 4941642132189851806,
        b"data/123456789": 765040932722371865,
        b"abcdefghijklmnop": 9002761040096737846,
        b"\xc3\xa9\xff": 4877504192996921567,
    }
    assert {name: hash_name(name) for name in known} == known


@pytest.mark.parametrize("count", [0, 1, 8, 9, 23, 24, 25, 55, 120, 600])
def test_the_digits_in_torchs_files(count: int) -> None:
    """Across the sizes at which the set grows (13, 29, 59, 127, 541 names)."""
    with zipfile.ZipFile(io.BytesIO(torch_bytes([torch.zeros(0) for _ in range(count)]))) as file:
        *names, last = file.namelist()
        assert last == "archive/.data/serialization_id"
        stored = file.read(last)
    assert name_digits([name.removeprefix("archive/").encode() for name in names]) == stored[:20]


def test_more_names_than_the_table_reaches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_serialization_id, "_BUCKETS", (3, 7))
    assert len(name_digits([bytes([i]) for i in range(7)])) == 20
    with pytest.raises(UnsupportedError, match="cannot have 8 records"):
        name_digits([bytes([i]) for i in range(8)])
