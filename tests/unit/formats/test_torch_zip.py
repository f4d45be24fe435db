"""Real torch files come back byte for byte, their tensors have torch's values, and values leave the layout alone."""

from __future__ import annotations

import hashlib
import io
import json
import random
import struct
import warnings
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import safetensors.torch
import torch

from tests.support import torch_files
from tests.support.models import minilm, state_dict, torch_bytes, training_checkpoint
from tests.support.torch_files import (
    KNOWN,
    STREAMED,
    Read,
    Record,
    mapping,
    program,
    read_file,
    storage,
    tensor,
    torch_file,
    torch_records,
    zip_file,
)
from theta_daemon.errors import CheckpointError, TruncatedError
from theta_daemon.formats import torch_zip
from theta_daemon.formats.layout import ChecksumOp, CombinedChecksumOp
from theta_daemon.formats.layout_codec import encode
from theta_daemon.formats.parts import Role, Tensor
from theta_daemon.formats.source import Source

FIXTURES = Path(__file__).parents[3] / "protocol/fixtures/torch"


def raw(value: torch.Tensor, axes: tuple[int, ...] | None = None) -> bytes:
    """Return a tensor's bytes in C order, of the axes as they are stored."""
    value = value.detach() if axes is None else value.detach().permute(axes)
    return value.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def check(data: bytes, step: int | None = None) -> Read:
    """Read a file and write it again."""
    result = read_file(data, [step] * len(data) if step else ())
    assert result.taken.file() == data
    return result


def check_values(data: bytes, values: dict[str, torch.Tensor]) -> Read:
    result = check(data)
    assert result.keys() == [(name,) for name in values]
    for name, value in values.items():
        listed = result.tensor(name)
        assert (listed.dtype, listed.shape) == (str(value.dtype).removeprefix("torch."), tuple(value.shape))
        if listed.role is not Role.VIEW:
            assert result.value(name) == raw(value, listed.axes)
    return result


@pytest.fixture
def no_spool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail where a file is not read as a stream."""

    def refuse(_: Source) -> None:
        raise AssertionError("this file can be read as it arrives")

    monkeypatch.setattr(Source, "spool", refuse)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning)
        yield


# --- torch's own files --------------------------------------------------------------------------


@pytest.mark.usefixtures("no_spool")
def test_a_flat_state_dict() -> None:
    values = state_dict()
    result = check_values(torch_bytes(values), values)
    assert {one.role for one in result.tensors} == {Role.OWNER}
    assert result.taken.opaque == []


@pytest.mark.usefixtures("no_spool")
def test_a_real_model() -> None:
    values = safetensors.torch.load_file(minilm())
    check_values(torch_bytes(values), values)


DTYPES = [
    *("bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"),
    *("float16", "bfloat16", "float32", "float64", "complex32", "complex64", "complex128"),
    *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
]


def test_every_dtype() -> None:
    generator = random.Random(0)
    values = {}
    for name in DTYPES:
        dtype: torch.dtype = getattr(torch, name)
        data = bytearray(generator.randbytes(6 * dtype.itemsize))
        values[name] = torch.frombuffer(data, dtype=torch.uint8).view(dtype).reshape(2, 3)
    values["bool"] = torch.tensor([[True, False, True]] * 2)
    check_values(torch_bytes(values), values)


def test_a_training_checkpoint() -> None:
    data = torch_bytes(training_checkpoint())
    result = check(data, step=1000)
    loaded = torch.load(io.BytesIO(data))
    for one in result.tensors:
        value = loaded
        for key in one.keys:
            value = value[key]
        assert result.value(*one.keys) == raw(value)


def test_a_whole_module() -> None:
    linear = torch.nn.Linear(2, 3)
    result = check(torch_bytes(torch.nn.Sequential(linear, torch.nn.BatchNorm1d(3))))
    assert result.value("_modules", "0", "_parameters", "weight") == raw(linear.weight)


def test_tied_tensors_are_aliases() -> None:
    shared = torch.randn(2, 3)
    result = check_values(torch_bytes({"a": shared, "b": shared, "c": shared[:]}), dict.fromkeys("abc", shared))
    assert [one.role for one in result.tensors] == [Role.OWNER, Role.ALIAS, Role.ALIAS]
    assert result.tensors[1].owner == 0


def test_parts_of_one_storage() -> None:
    whole = torch.randn(10)
    data = torch_bytes({"a": whole[:3], "b": whole[5:9], "every second": whole[::2]})
    result = check(data)
    assert [one.role.value for one in result.tensors] == ["owner", "owner", "view"]
    assert result.value("a") == raw(whole[:3])
    assert result.value("b") == raw(whole[5:9])


def test_permuted_tensors_are_stored_as_they_lie() -> None:
    values = {
        "t": torch.randn(3, 4).t(),
        "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "one": torch.randn(1, 5, 1, 4).permute(3, 0, 1, 2),
    }
    result = check_values(torch_bytes(values), values)
    assert {one.role for one in result.tensors} == {Role.OWNER}
    assert result.tensor("t").axes == (1, 0)


def test_an_expanded_tensor_is_not_materialised() -> None:
    data = torch_bytes({"4 TB": torch.zeros(1).expand(1_000_000, 1_000_000)})
    assert len(data) < 2000
    result = check(data)
    assert result.tensors == (Tensor(("4 TB",), "float32", (1_000_000, 1_000_000), role=Role.VIEW),)


def test_empty_tensors() -> None:
    values = {"a": torch.zeros(0), "b": torch.zeros(0, 3), "c": torch.zeros(5)[2:2], "d": torch.zeros(())}
    result = check_values(torch_bytes(values), values)
    assert {one.role for one in result.tensors} == {Role.OWNER}


def test_quantised_sparse_conjugate_and_bare() -> None:
    for value in (
        torch.quantize_per_channel(torch.rand(4, 5), torch.ones(4), torch.zeros(4), 0, torch.quint4x2),
        torch.quantize_per_tensor(torch.rand(4, 5), 0.1, 2, torch.qint32),
        torch.eye(3).to_sparse(),
        torch.eye(3).to_sparse_csr(),
        torch.nested.nested_tensor([torch.randn(2, 3), torch.randn(1, 3)]),
        torch.randn(3, dtype=torch.complex64).conj(),
        torch.randn(3),
        torch.randn(3).untyped_storage(),
        torch.zeros(4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2),
        torch.nn.Parameter(torch.randn(2)),
    ):
        result = check(torch_bytes([value]))
        assert result.tensors
        assert all(one.role is Role.OWNER for one in result.tensors)


@pytest.mark.parametrize("value", [5, None, {}, {"a": [1, "b"]}, torch.empty(3, device="meta")])
def test_files_without_tensors(value: object) -> None:
    assert check(torch_bytes(value)).tensors == ()


def test_a_file_saved_by_path_has_an_archive_of_its_name(tmp_path: Path) -> None:
    path = tmp_path / "my model.2.pt"
    values = state_dict(layers=1)
    torch.save(values, path)
    assert b"my model.2/data.pkl" in path.read_bytes()
    check_values(path.read_bytes(), values)


@pytest.mark.parametrize("protocol", range(1, 6))
def test_pickle_protocols(protocol: int) -> None:
    buffer = io.BytesIO()
    torch.save({"a": torch.arange(3.0), "b": {"c": [1.5, 1 << 40]}}, buffer, pickle_protocol=protocol)
    assert check(buffer.getvalue()).value("a") == raw(torch.arange(3.0))


def test_no_byteorder_record() -> None:
    buffer = io.BytesIO()
    torch.save(state_dict(), buffer, _disable_byteorder_record=True)
    check_values(buffer.getvalue(), state_dict())


@pytest.mark.usefixtures("no_spool")
def test_tensors_from_other_devices() -> None:
    data = torch_file(
        program(mapping({"a": tensor(storage(location="cuda:0")), "b": tensor(storage("1", location="meta"))})),
        {"0": b"a" * 16, "1": b"b" * 16},
    )
    assert check(data).value("b") == b"b" * 16


def test_torchscript() -> None:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        module = torch.jit.script(torch.nn.Sequential(torch.nn.Linear(2, 3)))
        torch.jit.save(module, buffer)
    result = check(buffer.getvalue(), step=1000)
    assert result.keys() == [("0", "weight"), ("0", "bias")]
    assert result.value("0", "weight") == raw(module.state_dict()["0.weight"])


def test_the_layout_does_not_depend_on_the_values() -> None:
    first, second = (check(torch_bytes(training_checkpoint(seed))) for seed in (0, 1))
    assert first.taken.groups != second.taken.groups
    assert encode(first.taken.layout) == encode(second.taken.layout)


def test_every_checksum_is_an_operation() -> None:
    ops = check(torch_bytes(state_dict())).taken.layout.ops
    with zipfile.ZipFile(io.BytesIO(torch_bytes(state_dict()))) as file:
        records = file.namelist()
    regions = [op.region for op in ops if isinstance(op, ChecksumOp)]
    # each record once in its descriptor, once in the directory
    assert regions == [*range(len(records)), *range(len(records))]
    assert sum(isinstance(op, CombinedChecksumOp) for op in ops) == 1


def test_a_wrong_checksum_stays_as_it_is() -> None:
    records = torch_records(program(tensor(storage())), {"0": bytes(16)})
    records[1] = Record(records[1].name, records[1].data, crc=1)
    check(zip_file(records))


def test_values_from_elsewhere_fit_into_the_layout() -> None:
    values, others = state_dict(0), state_dict(1)
    taken = check(torch_bytes(values)).taken
    groups = {i: raw(value) for i, value in enumerate(others.values())}
    assert type(taken)(taken.layout, groups, taken.opaque).file() == torch_bytes(others)


# --- files of other versions and other programs -------------------------------------------------


EXPECTED = json.loads((FIXTURES / "expected.json").read_text())


def test_no_fixture_is_forgotten() -> None:
    files = {str(path.relative_to(FIXTURES)) for path in FIXTURES.glob("*/*.pt")}
    assert {name for name in files if not name.startswith("canonical")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("step", [None, 500])
def test_the_fixtures(name: str, step: int | None) -> None:
    result = check((FIXTURES / name).read_bytes(), step)
    assert len(result.tensors) == len(EXPECTED[name]["tensors"])
    for i, (one, expected) in enumerate(zip(result.tensors, EXPECTED[name]["tensors"], strict=True)):
        keys = [key if isinstance(key, (str, int)) else {"other": str(key)} for key in one.keys]
        axes = None if one.axes is None else list(one.axes)
        described = {"keys": keys, "dtype": one.dtype, "shape": list(one.shape), "axes": axes, "role": one.role.value}
        value = result.taken.groups.get(i)
        digest = None if value is None else hashlib.sha256(value).hexdigest()
        assert described | {"owner": one.owner, "sha256": digest} == expected


def rewritten(data: bytes, method: int = zipfile.ZIP_STORED, order: Callable[[list[str]], list[str]] = list) -> bytes:
    """Return the zip as Python's zipfile writes it: sizes in the headers, no padding."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", method) as new:
        for name in order(old.namelist()):
            new.writestr(zipfile.ZipInfo(name), old.read(name), method)
    return buffer.getvalue()


@pytest.mark.parametrize("order", [list, sorted, lambda names: names[::-1]])
def test_zips_that_other_programs_wrote(order: Callable[[list[str]], list[str]]) -> None:
    data = rewritten(torch_bytes(state_dict()), order=order)
    torch.load(io.BytesIO(data))
    check_values(data, state_dict())


def test_compressed_zips_are_bytes() -> None:
    data = rewritten(torch_bytes(state_dict()), zipfile.ZIP_DEFLATED)
    assert check(data).tensors == ()


def test_one_compressed_storage_hides_its_tensors() -> None:
    records = torch_records(PAIR, {"0": b"a" * 16, "1": b"b" * 16}, flags=KNOWN)
    records[1] = Record(records[1].name, b"deflated", KNOWN, method=8)
    assert check(zip_file(records)).keys() == [("b",)]


PAIR = program(mapping({"a": tensor(storage("0")), "b": tensor(storage("1"))}))
STORAGES = {"0": b"a" * 16, "1": b"b" * 16}


@pytest.mark.usefixtures("no_spool")
def test_storages_in_any_order() -> None:
    """Before format version 1, torch sorted storages by their keys' text."""
    pickle, version, first, second = (torch_records(PAIR, STORAGES)[i] for i in (0, 3, 1, 2))
    result = check(zip_file([pickle, second, Record("archive/extra", b"x" * 5000), first, version]))
    assert result.value("a") == b"a" * 16
    assert result.value("b") == b"b" * 16


def test_a_large_record_of_unknown_length_needs_the_directory() -> None:
    large = random.Random(0).randbytes(3 << 20)
    pickle, *rest = torch_records(PAIR, STORAGES)
    result = check(zip_file([pickle, Record("archive/large", large), *rest]))
    assert result.value("b") == b"b" * 16


def test_a_record_of_a_type_that_is_not_known_needs_a_descriptor() -> None:
    pickle = program(mapping({"a": tensor(storage("0", kind="FutureStorage")), "b": tensor(storage("1"))}))
    result = check(torch_file(pickle, {"0": b"123", "1": b"b" * 16}))
    assert [one.role.value for one in result.tensors] == ["view", "owner"]


def test_a_pickle_longer_than_what_can_be_peeked_at() -> None:
    signatures = torch_files.text("PK\7\10" * (1 << 20))
    pickle = program(signatures + b"0" + mapping({"a": tensor(storage())}))
    result = check(torch_file(pickle, {"0": bytes(16)}))
    assert result.value("a") == bytes(16)
    assert sum(map(len, result.taken.opaque)) == len(pickle)


@pytest.mark.parametrize("flags", [STREAMED, KNOWN])
def test_big_endian_files_are_bytes(flags: int) -> None:
    pickle, *rest = torch_records(PAIR, STORAGES, flags=flags)
    byteorder = Record("archive/byteorder", b"big", flags)
    result = check(zip_file([pickle, byteorder, *rest]))
    assert result.tensors == ()


def test_little_endian_files_say_so() -> None:
    pickle, *rest = torch_records(PAIR, STORAGES)
    assert check(zip_file([pickle, Record("archive/byteorder", b"little"), *rest])).keys() == [("a",), ("b",)]


@pytest.mark.parametrize("name", ["archive/data.pkl/x", "archive/data/2", "other/data.pkl", "archive/data/", "nothing"])
def test_records_that_mean_nothing(name: str) -> None:
    records = torch_records(PAIR, STORAGES)
    assert check(zip_file([*records, Record(name, b"12345")])).keys() == [("a",), ("b",)]


@pytest.mark.parametrize("digits", [b"0" * 40, b"0" * 39, b"0" * 41])
def test_serialization_ids(digits: bytes) -> None:
    records = torch_records(PAIR, STORAGES)
    check(zip_file([*records, Record("archive/.data/serialization_id", digits)]))


@pytest.mark.parametrize("trailer", [b"x", b"PK\5\6", bytes(69_000)])
def test_some_bytes_may_follow_the_end(trailer: bytes) -> None:
    data = torch_bytes(state_dict(layers=1)) + trailer
    torch.load(io.BytesIO(data))
    check_values(data, state_dict(layers=1))


def test_comments() -> None:
    check(zip_file(torch_records(PAIR, STORAGES), comment=b"a comment"))


def test_unowned_bytes_of_a_storage() -> None:
    pickle = program(
        mapping({"a": tensor(storage(numel=12), (2,), (1,), 2), "b": tensor(storage(numel=12), (3,), (1,), 5)})
    )
    data = bytes(range(48))
    result = check(torch_file(pickle, {"0": data}))
    assert (result.value("a"), result.value("b")) == (data[8:16], data[20:32])


def test_zip64_records() -> None:
    """Descriptors of 24 bytes, sizes in extra fields: as beyond 4 GiB, but small."""
    wide = struct.pack("<4sIQQ", b"PK\7\10", 0, 16, 16)
    pickle, first, second, version = torch_records(PAIR, STORAGES)
    records = [pickle, Record(first.name, first.data, descriptor=wide), second, version]
    assert check(zip_file(records)).value("b") == b"b" * 16


# --- what is refused ----------------------------------------------------------------------------


def refusal(data: bytes) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        read_file(data)
    assert "\n" not in str(caught.value)
    return caught.value


def test_zips_of_other_programs_are_no_checkpoints() -> None:
    for name in ("word/document.xml", "arr_0.npy", "data.pkl"):
        error = refusal(zip_file([Record(name, b"x", KNOWN)]))
        assert "not a torch checkpoint: it holds no data.pkl" in str(error)
        assert ".gitattributes" in str(error)


@pytest.mark.parametrize("flags", [STREAMED, KNOWN])
def test_a_storage_of_another_size_than_the_pickles(flags: int) -> None:
    for size in (15, 17, 0):
        error = refusal(zip_file(torch_records(PAIR, {"0": b"a" * 16, "1": b"b" * size}, flags=flags)))
        assert error.parameter == "b"


def test_a_directory_that_contradicts_a_record() -> None:
    records = torch_records(PAIR, STORAGES)
    records[1] = Record(records[1].name, records[1].data, central=15)
    assert "gives 'archive/data/0' 15 bytes instead of 16" in str(refusal(zip_file(records)))


@pytest.mark.parametrize("flags", [STREAMED, KNOWN])
def test_a_missing_storage(flags: int) -> None:
    error = refusal(zip_file(torch_records(PAIR, {"0": b"a" * 16}, flags=flags)))
    assert str(error).startswith("parameter 'b': the file lacks its storage")


def test_a_storage_twice() -> None:
    records = torch_records(PAIR, STORAGES)
    assert "holds 'archive/data/0' twice" in str(refusal(zip_file([*records, records[1]])))


def test_one_compressed_storage_in_a_stream() -> None:
    records = torch_records(PAIR, STORAGES)
    records[2] = Record(records[2].name, b"deflated", method=8)
    assert "its storage is compressed or encrypted" in str(error := refusal(zip_file(records)))
    assert error.parameter == "b"


def test_a_pickle_over_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_zip, "MAX_PICKLE", 1 << 20)
    pickle = program(torch_files.text("x" * (3 << 20)))
    for flags in (STREAMED, KNOWN):
        assert "data.pkl has more than 1048576 bytes" in str(refusal(zip_file(torch_records(pickle, {}, flags=flags))))


def test_bytes_between_records() -> None:
    records = torch_records(PAIR, STORAGES)
    records[1] = Record(records[1].name, records[1].data, descriptor=records[1].after() + b"junk")
    assert isinstance(refusal(zip_file(records)), CheckpointError)
    records = torch_records(PAIR, STORAGES, flags=KNOWN)
    records[1] = Record(records[1].name, records[1].data, KNOWN, descriptor=b"junk")
    assert "no part of a zip begins at" in str(refusal(zip_file(records)))


def test_more_bytes_after_the_end_than_torch_reads_over() -> None:
    data = torch_bytes(state_dict(layers=1)) + bytes((1 << 17) + 1)
    with pytest.raises(RuntimeError):
        torch.load(io.BytesIO(data))
    assert "more than 131072 bytes follow" in str(refusal(data))


@pytest.mark.parametrize("flags", [STREAMED, KNOWN])
def test_a_file_cut_at_every_byte(flags: int) -> None:
    data = zip_file(torch_records(PAIR, STORAGES, flags=flags))
    check(data)
    for end in range(len(data)):
        with pytest.raises(TruncatedError):
            read_file(data[:end])


def test_a_real_file_cut_anywhere() -> None:
    data = torch_bytes(state_dict(layers=1))
    for end in range(0, len(data), 7):
        with pytest.raises(TruncatedError):
            read_file(data[:end])
