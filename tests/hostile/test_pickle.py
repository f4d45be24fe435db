"""Pickles made to harm: nothing runs, nothing recurses, memory stays in proportion to the bytes that are there."""

from __future__ import annotations

import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.torch_files import program, storage, tensor, text
from theta_daemon.errors import CheckpointError
from theta_daemon.formats import torch_walk
from theta_daemon.formats.pickle_reader import read_pickle
from theta_daemon.formats.pickle_values import Object
from theta_daemon.formats.torch_walk import find_tensors

ONE = tensor(storage())


def peak(run: Callable[[], object]) -> int:
    """Return the most memory that `run` took at once, in bytes."""
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


class Harm:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return os.system, (f"touch {self.path}",)


def test_commands_do_not_run(tmp_path: Path) -> None:
    path = tmp_path / "harmed"
    data = pickle.dumps({"w": Harm(path)}, 2)
    read_pickle(data)
    assert find_tensors(read_pickle(data).value, len(data)) == []
    assert not path.exists()
    subprocess.run([sys.executable, "-c", f"import pickle; pickle.loads({data!r})"], check=True)
    assert path.exists(), "the pickle was harmless anyway"


HUGE = [
    b"X\xff\xff\xff\xff",
    b"T\xff\xff\xff\x7f",
    b"B\xff\xff\xff\xff",
    b"\x8b\xff\xff\xff\x7f",
    *(code + struct.pack("<Q", n) for code in (b"\x8d", b"\x8e", b"\x96") for n in (1 << 63, (1 << 64) - 1, 1 << 40)),
]


@pytest.mark.parametrize("data", HUGE)
def test_lengths_are_not_believed(data: bytes) -> None:
    def run() -> None:
        with pytest.raises(CheckpointError):
            read_pickle(data + b"x" * 100 + b".")

    assert peak(run) < 1 << 20


def test_a_memo_index_is_a_name_not_a_place() -> None:
    def run() -> None:
        read_pickle(b"Nr\xff\xff\xff\xff" + b"p99999999999999999999\n.")

    assert peak(run) < 1 << 20


DEEP = 50_000


@pytest.mark.parametrize(
    "data",
    [
        b"(" * 1_000_000 + b"t" * 1_000_000,
        b"]" * DEEP + b"a" * (DEEP - 1),
        b"(" * DEEP + b"l" * DEEP,
        b")" + b"\x85q\0" * DEEP,
        b"}" + b"N}" * DEEP + b"s" * DEEP,
        b"cm\nf\nq\0" + b"h\0" * DEEP + b")R" + b"\x85R" * DEEP,
        b"cm\nf\nq\0)R" + b"h\0)R" * DEEP + b"b" * DEEP,
        b"N" + b"(" * DEEP + b"1" * DEEP,
    ],
    ids=["tuples", "lists", "list opcodes", "tuples of one", "dicts", "calls", "states", "marks"],
)
def test_nesting_does_not_recurse(data: bytes) -> None:
    result = read_pickle(b"\x80\x02" + data + b".")
    assert find_tensors(result.value, len(data)) == []


def test_a_deep_value_as_a_key_is_neither_hashed_nor_shown() -> None:
    key = b")" + b"\x85q\0" * 100_000
    (found,) = find_tensors(read_pickle(program(b"}" + key + ONE + b"s")).value, 100_000)
    assert str(found.keys[0]) == "(tuple)"


def doubling(make: bytes) -> bytes:
    """Return a pickle whose value holds 2 to the 1000 of the innermost one, by the memo."""
    steps = [b"]q\0"]
    for i in range(1000):
        steps.append(struct.pack("<cIcI", b"j", i, b"j", i) + make + struct.pack("<cI", b"r", i + 1))
    return program(b"".join(steps))


@pytest.mark.parametrize("make", [b"\x86", b"\x86\x85", b"(NNl0\x86"], ids=["tuples", "tuples of tuples", "lists"])
def test_doubling_by_the_memo(make: bytes) -> None:
    data = doubling(make)

    def run() -> None:
        assert find_tensors(read_pickle(data).value, len(data)) == []

    assert peak(run) < 2 << 20


def test_doubled_containers_with_tensors_are_listed_once() -> None:
    steps = [b"](" + ONE + b"eq\0"]
    for i in range(100):
        steps.append(struct.pack("<cIcI", b"j", i, b"j", i) + b"\x86" + struct.pack("<cI", b"r", i + 1))
    data = program(b"".join(steps))
    assert len(find_tensors(read_pickle(data).value, len(data))) == 1


@pytest.mark.parametrize("code", [b"]", b"}", b"\x8f", b"(l", b"(t", b"(d", b")\x85", b"cm\nn\n"])
def test_many_small_containers(code: bytes) -> None:
    """No pickler writes more than one container for two bytes, so nobody needs the memory for more."""
    count = (1 << 15) // len(code)
    data = program(code * count)

    def run() -> None:
        try:
            read_pickle(data)
        except CheckpointError as error:
            assert "more objects than its length explains" in str(error)

    assert peak(run) < 200 * len(data)


@pytest.mark.parametrize("code", [b"N", b"K\x01", b"J\0\1\0\0", b"2", b"\x94", b"(", b"\x8c\x02ab", b"G" + bytes(8)])
def test_many_small_values(code: bytes) -> None:
    data = program(b"N" + code * ((1 << 16) // len(code)))

    def run() -> None:
        read_pickle(data)

    assert peak(run) < 110 * len(data)


def test_many_references_to_one_object_are_cheap() -> None:
    """A dict that is reached a hundred thousand times, and large, is looked at once."""
    large = b"}(" + (b"NN" * 100_000) + b"uq\0"
    data = program(b"](" + large + b"h\0" * 100_000 + b"e")
    assert find_tensors(read_pickle(data).value, len(data)) == []


def test_many_names_of_one_tensor_are_listed_each() -> None:
    data = program(b"](" + ONE + b"q\0" + b"h\0" * 10_000 + b"e")
    assert len(find_tensors(read_pickle(data).value, len(data))) == 10_001


def test_a_tensor_inside_itself() -> None:
    data = b"\x80\x02ctorch._utils\n_rebuild_parameter\n(]q\0h\0a\x88Nt"
    assert find_tensors(read_pickle(data + b"R.").value, len(data)) == []


def test_wrappers_around_wrappers() -> None:
    wrap = b"ctorch._utils\n_rebuild_parameter\nq\0" + b"0"
    deep = b"h\0" * 50_000 + ONE + b"\x88N\x87R" * 50_000
    data = program(wrap + deep)
    assert find_tensors(read_pickle(data).value, len(data)) == []
    assert torch_walk.MAX_WRAPPERS < 100


def test_an_attribute_that_is_a_key_of_the_file() -> None:
    """`__class__` and its like are keys among others."""
    made = read_pickle(program(b"cm\nC\n)\x81}" + text("__class__") + b"cm\nD\nsb")).value
    assert type(made) is Object


@given(st.binary(max_size=60))
def test_random_bytes(data: bytes) -> None:
    try:
        result = read_pickle(data)
        find_tensors(result.value, len(data))
    except CheckpointError as error:
        assert "\n" not in str(error)


OPCODES = st.sampled_from(
    [
        *(b"(", b".", b"0", b"1", b"2", b"N", b"K\1", b"Q", b"R", b"b", b"a", b"e", b"s", b"u", b"d", b"l", b"t", b"o"),
        *(b")", b"]", b"}", b"\x81", b"\x85", b"\x86", b"\x87", b"\x88", b"\x8f", b"\x90", b"\x91", b"\x92", b"\x93"),
        *(b"\x94", b"q\0", b"h\0", b"q\1", b"h\1", text("storage"), text("0"), b"cm\nC\n", storage(), ONE),
        *(b"ctorch._utils\n_rebuild_tensor_v2\n", b"ctorch\nFloatStorage\n", b"K\4\x85", b"K\1\x85"),
    ]
)


@given(st.lists(OPCODES, max_size=40))
def test_random_programs(opcodes: list[bytes]) -> None:
    data = b"".join(opcodes) + b"."
    try:
        result = read_pickle(data)
        find_tensors(result.value, len(data))
    except CheckpointError as error:
        assert "\n" not in str(error)
