"""Persistent ids become storages, or errors; the names of types are torch's."""

from __future__ import annotations

import pytest
import torch

from tests.support.torch_files import integer, program, reference, sequence, storage, text
from theta_daemon.errors import CheckpointError
from theta_daemon.formats.pickle_reader import read_pickle
from theta_daemon.formats.pickle_values import PersistentId
from theta_daemon.formats.torch_storages import ELEMENTS, STORAGE_CLASSES, parse_storage, parse_storages


def ids(*stored: bytes) -> list[PersistentId]:
    return read_pickle(program(sequence(*stored))).persistent


def test_a_storage() -> None:
    parsed = parse_storage(*ids(storage("7", 3, "DoubleStorage", "cuda:0")))
    assert (parsed.key, parsed.nbytes, parsed.element) == ("7", 24, ELEMENTS["float64"])


def test_a_class_of_storage_that_is_not_known_tells_no_length() -> None:
    parsed = parse_storage(*ids(storage(kind="FutureStorage")))
    assert (parsed.nbytes, parsed.element) == (None, None)


def test_every_dtype_of_torch_is_known_with_its_size() -> None:
    dtypes = {value for value in vars(torch).values() if isinstance(value, torch.dtype)}
    names = {str(dtype).removeprefix("torch.") for dtype in dtypes}
    # torch reserves these, but no tensor of them can be made or saved
    unused = {name for name in names if name.startswith(("int", "uint")) and int(name.lstrip("uint")) < 8}
    assert names - unused == set(ELEMENTS)
    for dtype in dtypes:
        element = ELEMENTS.get(str(dtype).removeprefix("torch."))
        assert element is None or element.size == dtype.itemsize


def test_every_class_of_storage_of_torch_is_known_with_its_size() -> None:
    for dtype, name in torch.storage._dtype_to_storage_type_map().items():
        assert STORAGE_CLASSES[name] == ELEMENTS[str(dtype).removeprefix("torch.")]


FLOATS = reference("torch", "FloatStorage")


@pytest.mark.parametrize(
    "value",
    [
        b"N",
        text("storage"),
        sequence(text("storage"), FLOATS, text("0"), text("cpu")),
        sequence(text("storage"), FLOATS, text("0"), text("cpu"), integer(1), b"N"),
        sequence(text("module"), FLOATS, text("0"), text("cpu"), integer(1)),
        sequence(text("storage"), text("FloatStorage"), text("0"), text("cpu"), integer(1)),
        sequence(text("storage"), FLOATS, integer(0), text("cpu"), integer(1)),
        sequence(text("storage"), FLOATS, text("0"), b"N", integer(1)),
        sequence(text("storage"), FLOATS, text("0"), text("cpu"), text("1")),
        sequence(text("storage"), FLOATS, text("0"), text("cpu"), b"\x88"),
        sequence(text("storage"), FLOATS, text("0"), text("cpu"), integer(-1)),
        sequence(text("storage"), FLOATS, text("0"), text("cpu"), integer(1 << 63)),
        sequence(text("storage"), FLOATS, text(""), text("cpu"), integer(1)),
        sequence(text("storage"), FLOATS, text("a\0b"), text("cpu"), integer(1)),
        sequence(text("storage"), FLOATS, text("\ud800"), text("cpu"), integer(1)),
    ],
)
def test_ids_of_other_things(value: bytes) -> None:
    with pytest.raises(CheckpointError, match="a persistent id that is no storage's"):
        parse_storage(*ids(value + b"Q"))


def test_one_key_with_one_size() -> None:
    parsed = parse_storages(ids(storage("0", 4), storage("1", 2), storage("0", 4), storage("0", 2, "DoubleStorage")))
    assert {key: one.nbytes for key, one in parsed.items()} == {"0": 16, "1": 8}


def test_one_key_with_two_sizes() -> None:
    with pytest.raises(CheckpointError, match="storage '0' has two sizes"):
        parse_storages(ids(storage("0", 4), storage("0", 5)))
