"""torch zips made to harm: refused in one line or back byte for byte; nothing runs, is inflated, or is believed."""

from __future__ import annotations

import struct
import subprocess
import sys
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest

from tests.support.torch_files import (
    KNOWN,
    STREAMED,
    Record,
    call,
    integer,
    integers,
    mapping,
    program,
    read_file,
    reference,
    sequence,
    storage,
    tensor,
    text,
    torch_file,
    torch_records,
    zip_file,
)
from theta_daemon.errors import CheckpointError, TruncatedError
from theta_daemon.formats.parts import Role

FIXTURES = Path(__file__).parents[2] / "protocol/fixtures/torch"
FILL = b"a" * 16


def refusal(data: bytes) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        read_file(data)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 800
    assert caught.value.hint
    return caught.value


def peak(run: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def one(*arguments: bytes) -> bytes:
    """Return a file whose tensor "w" is rebuilt from `arguments`."""
    function = reference("torch._utils", "_rebuild_tensor_v2")
    return torch_file(program(mapping({"w": call(function, *arguments, b"\x89", b"N")})), {"0": FILL})


def test_a_pickle_that_runs_a_command(tmp_path: Path) -> None:
    path = tmp_path / "harmed"
    command = call(reference("posix", "system"), text(f"touch {path}"))
    data = torch_file(program(mapping({"x": command, "w": tensor(storage())})), {"0": FILL})
    result = read_file(data)
    assert result.taken.file() == data
    assert result.keys() == [("w",)]
    assert not path.exists()
    with zipfile.ZipFile(BytesIO(data)) as file:
        pickle = file.read("archive/data.pkl")
    subprocess.run([sys.executable, "-c", f"import pickle; pickle.loads({pickle!r})"], check=False, capture_output=True)
    assert path.exists(), "the file was harmless anyway"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (one(storage(), integer(0), integers([-4]), integers([1])), "not all sensible integers"),
        (one(storage(), integer(0), integers([4]), integers([-1])), "not all sensible integers"),
        (one(storage(), integer(-1), integers([4]), integers([1])), "offset or strides make no sense"),
        (one(storage(), integer(1), integers([4]), integers([1])), "ends at byte 20 of storage '0', which has 16"),
        (one(storage(), integer(0), integers([1 << 62, 1 << 62]), integers([0, 0])), "larger than any file"),
        (one(storage(), integer(0), integers([1] * 65), integers([1] * 65)), "no short list"),
        (one(storage(), integer(0), text("4"), integers([1])), "no short list"),
        (one(text("0"), integer(0), integers([4]), integers([1])), "something other than a storage"),
        (one(sequence(text("storage")) + b"Q", integer(0), integers([4]), integers([1])), "no storage's"),
        (one(storage(numel=-1), integer(0), integers([4]), integers([1])), "no storage's"),
    ],
)
def test_tensors_that_cannot_be(data: bytes, reason: str) -> None:
    error = refusal(data)
    assert reason in str(error)
    assert error.parameter == "w"


def test_one_storage_of_two_sizes() -> None:
    both = mapping({"a": tensor(storage()), "b": tensor(storage(numel=5))})
    assert "storage '0' has two sizes" in str(refusal(torch_file(program(both), {"0": FILL})))


def test_a_small_file_that_claims_terabytes_by_strides() -> None:
    data = one(storage(), integer(0), integers([1 << 20, 1 << 20]), integers([0, 0]))
    assert len(data) < 1000
    result = read_file(data)
    assert result.taken.file() == data
    assert result.tensor("w").role is Role.VIEW


@pytest.mark.parametrize("numel", [1 << 30, 1 << 50, 1 << 59])
@pytest.mark.parametrize("owned", [True, False])
def test_a_small_file_that_claims_a_large_storage(numel: int, owned: bool) -> None:
    stored = storage(numel=numel)
    pickle = program(mapping({"w": tensor(stored, (numel if owned else 4,))}))
    data = torch_file(pickle, {"0": FILL})

    def run() -> None:
        assert isinstance(refusal(data), TruncatedError)

    assert peak(run) < 16 << 20


@pytest.mark.parametrize("size", [1 << 20, 1 << 28, (1 << 32) - 2])
def test_headers_that_claim_large_records(size: int) -> None:
    pickle, first, version = torch_records(program(tensor(storage())), {"0": FILL}, flags=KNOWN)
    large_pickle = Record(pickle.name, pickle.data, KNOWN, claimed=size)
    large_other = Record("archive/other", b"x", KNOWN, claimed=size)
    streamed = torch_records(program(tensor(storage())), {"0": FILL})

    def run() -> None:
        refusal(zip_file([large_pickle, first, version]))
        refusal(zip_file([pickle, large_other, first, version]))
        assert isinstance(refusal(zip_file([streamed[0], large_other, *streamed[1:]])), TruncatedError)

    assert peak(run) < 16 << 20


def test_a_large_zip64_end() -> None:
    data = torch_file(program(tensor(storage())), {"0": FILL})
    end = data.index(b"PK\5\6")
    large = data[:end] + struct.pack("<4sQ", b"PK\6\6", 1 << 60) + bytes(44) + data[end:]
    assert isinstance(refusal(large), TruncatedError)


def test_a_zip_bomb_is_not_inflated() -> None:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join(compressor.compress(bytes(1 << 20)) for _ in range(256)) + compressor.flush()
    records = torch_records(program(tensor(storage())), {"0": FILL}, flags=KNOWN)
    data = zip_file([*records, Record("archive/bomb", bomb, KNOWN, method=8)])

    def run() -> None:
        assert read_file(data).taken.file() == data

    assert len(data) < 1 << 19
    assert peak(run) < 16 << 20


def test_two_storages_at_one_place() -> None:
    """Entries of the directory that share a record: the file has only one, so a storage is missing."""
    pickle = program(mapping({"a": tensor(storage("0")), "b": tensor(storage("1"))}))
    records = torch_records(pickle, {"0": FILL}, flags=KNOWN)
    at = len(zip_file(records[:1]).partition(b"PK\1\2")[0])
    overlapping = Record("archive/data/1", b"", KNOWN, central=16, place=at)
    error = refusal(zip_file([*records, overlapping]))
    assert error.parameter == "b"


def test_a_directory_of_other_names() -> None:
    """What the directory calls the records changes nothing: their own headers are what is read."""
    data = torch_file(program(mapping({"w": tensor(storage())})), {"0": FILL})
    start = data.index(b"PK\1\2")
    renamed = data[:start] + data[start:].replace(b"archive/data/0", b"archive/data/9")
    result = read_file(renamed)
    assert result.taken.file() == renamed
    assert result.value("w") == FILL


def test_a_record_inside_another() -> None:
    inner = torch_file(program(mapping({"inner": tensor(storage())})), {"0": FILL})
    pickle = program(mapping({"w": tensor(storage(numel=len(inner), kind="ByteStorage"), (len(inner),))}))
    data = torch_file(pickle, {"0": inner})
    result = read_file(data)
    assert result.keys() == [("w",)]
    assert result.value("w") == inner


def test_descriptors_inside_the_pickle() -> None:
    """A pickle that holds what looks like its own end is cut there, as any reader of the stream must."""
    before = b"\x80\x02X\x20\0\0\0"
    size = len(before)
    fake = struct.pack("<4sIII", b"PK\7\10", 0, size, size) + b"PK\3\4" + bytes(12)
    assert isinstance(refusal(torch_file(before + fake + b".")), CheckpointError)
    wrong = struct.pack("<4sIII", b"PK\7\10", 0, size + 1, size + 1) + b"PK\3\4" + bytes(12)
    data = torch_file(before + wrong + b".")
    assert read_file(data).taken.file() == data


@pytest.mark.parametrize("flags", [STREAMED, KNOWN])
@pytest.mark.parametrize("bad", [b"", b"N", b"\x82\x01.", b"]" * 9000 + b"."])
def test_pickles_that_are_damaged(flags: int, bad: bytes) -> None:
    error = refusal(zip_file(torch_records(bad, {}, flags=flags)))
    assert "the pickle is damaged" in str(error) or not bad


@pytest.mark.parametrize(
    ("name", "mask"),
    [("torch-2.13/bare", 0xFF), ("torch-2.13/shared", 0x01), ("emulated/rezipped", 0xFF), ("emulated/script", 0x01)],
)
def test_every_byte_changed(name: str, mask: int) -> None:
    data = bytearray((FIXTURES / f"{name}.pt").read_bytes())
    refused = 0
    for i in range(len(data)):
        data[i] ^= mask
        try:
            result = read_file(bytes(data))
        except CheckpointError as error:
            refused += 1
            assert "\n" not in str(error)
        else:
            assert result.taken.file() == data
        data[i] ^= mask
    assert 0 < refused < len(data)


def test_every_length_of_a_file() -> None:
    data = (FIXTURES / "torch-2.13/shared.pt").read_bytes()
    assert read_file(data).taken.file() == data
    for end in range(len(data)):
        assert isinstance(refusal(data[:end]), TruncatedError)
