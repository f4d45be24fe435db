"""Metadata made to hurt: it costs little, raises one of our errors, and never recurses, evaluates or guesses."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from theta_daemon.errors import MetadataError
from theta_daemon.metadata import names, text
from theta_daemon.metadata.entries import LFS_VERSION, NO_HASH, Entry, Metadata, Name

ENTRY = Entry((1,), "uint8", NO_HASH, LFS_VERSION, "a" * 64, 1, "dense", None, None)


def nested(depth: int, inner: str) -> bytes:
    return ('{"a": ' * depth + inner + "}" * depth).encode()


ENTRY_TEXT = json.dumps(json.loads(text.serialize(Metadata({("x",): ENTRY}, None)))["x"])


@pytest.mark.parametrize("depth", [257, 400, 990, 1_000, 5_000, 100_000, 1_000_000])
def test_names_too_deep_are_refused(depth: int) -> None:
    with pytest.raises(MetadataError, match="nested too deeply"):
        text.parse(nested(depth, ENTRY_TEXT))


@pytest.mark.parametrize("depth", [1_000, 100_000, 1_000_000])
@pytest.mark.parametrize("opening", ["[", '{"a":', '{"lfs_metadata":', '{"theta_daemon":', '{"a":['])
def test_nesting_never_overflows_the_stack(opening: str, depth: int) -> None:
    for data in (opening * depth, '{"a": {"lfs_metadata": ' + opening * depth):
        with pytest.raises(MetadataError):
            text.parse(data.encode())
        assert text.kind(data.encode()) is text.Kind.OTHER


def test_the_deepest_names_are_read_wherever_the_reader_is_called_from() -> None:
    """The JSON reader's own limit depends on the stack that is left; ours must not."""
    data = nested(256, ENTRY_TEXT)

    def below(frames: int) -> Metadata:
        return below(frames - 1) if frames else text.parse(data)

    assert list(below(400).entries) == [("a",) * 256]


@pytest.fixture
def unlimited_digits() -> Iterator[None]:
    """Let int() take its quadratic time, as users may (PYTHONINTMAXSTRDIGITS=0)."""
    limit = sys.get_int_max_str_digits()
    sys.set_int_max_str_digits(0)
    yield
    sys.set_int_max_str_digits(limit)


@pytest.mark.usefixtures("unlimited_digits")
@pytest.mark.parametrize("start", ['{"a": ', '{"a": {"lfs_metadata": -', '{"lfs_metadata": {"lfs_metadata": [1, '])
def test_numbers_of_many_digits_are_not_converted(start: str) -> None:
    data = (start + "9" * 2_000_000).encode()
    started = time.process_time()
    with pytest.raises(MetadataError):
        text.parse(data)
    text.kind(data)
    assert time.process_time() - started < 2


@pytest.mark.parametrize("number", ["1.0", "1e400", "NaN", "Infinity", "-Infinity", "-0.0"])
def test_no_number_but_integers_is_read(number: str) -> None:
    with pytest.raises(MetadataError, match="only integers"):
        text.parse(f'{{"a": {{"lfs_metadata": {number}}}}}'.encode())


def test_too_much_is_refused_before_it_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "MAX_SIZE", 1000)
    with pytest.raises(MetadataError, match="larger than"):
        text.parse(b"{" * 1001)


def test_duplicate_keys_are_refused_wherever_they_stand() -> None:
    for data in ('{"a": 1, "a": 2}', '{"a": {"b": {}, "b": {}}}', '{"a": {"lfs_metadata": {"oid": "x", "oid": "y"}}}'):
        with pytest.raises(MetadataError, match="twice"):
            text.parse(data.encode())


def test_many_keys_with_one_duplicate_take_linear_time() -> None:
    data = "{" + ",".join(f'"{index}":0' for index in [*range(200_000), 199_999]) + "}"
    with pytest.raises(MetadataError, match="'199999' twice"):
        text.parse(data.encode())


def test_many_file_keys_take_linear_time() -> None:
    tree = {"theta_daemon" + "~" * index: {"lfs_metadata": 0} for index in range(2_000)}
    with pytest.raises(MetadataError):
        text.parse(json.dumps(tree).encode())


@pytest.mark.parametrize(
    "shape", ["__import__('os')", "(1,)*9", "(0x5,)", "(1_0,)", "(" * 5000, "(1, " * 5000, "(1" + "0" * 100_000 + ",)"]
)
def test_shapes_are_matched_not_evaluated(shape: str) -> None:
    tree = {"w": json.loads(ENTRY_TEXT)}
    tree["w"]["tensor_metadata"]["shape"] = shape
    with pytest.raises(MetadataError, match="the shape is") as caught:
        text.parse(json.dumps(tree).encode())
    assert len(str(caught.value)) < 200


def test_errors_stay_one_short_line() -> None:
    name = "\x1b[31m" + "x" * 100_000 + "\n"
    tree = {name: json.loads(ENTRY_TEXT)}
    tree[name]["lfs_metadata"]["oid"] = "\x1b[2J\n" * 10_000
    with pytest.raises(MetadataError) as caught:
        text.parse(json.dumps(tree).encode())
    message = str(caught.value)
    assert len(message) < 1_000
    assert message.isprintable()


@pytest.mark.parametrize("mark", [b"<", b"=", b">", b"<<<<<<< ", b"{<<<<<<<", b"\n", b" ", b"\r"])
def test_recognising_conflicts_takes_linear_time(mark: bytes) -> None:
    data = b'{\n<<<<<<< "lfs_metadata"\n=======\n' + mark * (1_000_000 // len(mark))
    started = time.process_time()
    assert text.kind(data) is not text.Kind.METADATA
    assert time.process_time() - started < 5


def test_parsing_costs_memory_in_proportion() -> None:
    """2 MiB of the most wasteful JSON: a clone of a hostile repository must not take the machine down."""
    script = (
        "import resource, sys; from theta_daemon.metadata import text; from theta_daemon.errors import MetadataError\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "for piece in (b'[],', b'{},', b'\"ab\",'):\n"
        "    data = b'{\"a\": [' + piece * ((2 << 20) // len(piece)) + b'0]}'\n"
        "    text.kind(data)\n"
        "    try: text.parse(data)\n"
        "    except MetadataError: pass\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)"
    )
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(ran.stdout) < 32 * 2


def test_a_small_checkpoint_cannot_make_huge_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    """Containers share their keys in a pickle, but not in JSON: the size is counted while it is written."""
    monkeypatch.setattr(text, "MAX_SIZE", 1 << 20)
    key = "k" * 100_000
    paths = [[key, index, key] for index in range(2_000)]
    assigned: list[Name] = names.assign(paths)
    with pytest.raises(MetadataError, match="2000 parameters would be larger"):
        text.serialize(Metadata(dict.fromkeys(assigned, ENTRY), None))


def test_keys_from_deep_checkpoints_stay_readable() -> None:
    assigned = names.assign([["d"] * depth for depth in (1, 31, 32, 33, 255, 256, 257, 100_000)])
    metadata = Metadata(dict.fromkeys(assigned, ENTRY), None)
    assert text.parse(text.serialize(metadata)) == metadata


@pytest.mark.parametrize(
    "piece",
    [
        '{"tensor_metadata": {',
        '{ \n"tensor_metadata": {' + " " * 50,
        '{"tensor_metadata": {"shape": "(1,)", "dtype": "x", "hash": [' + "0, " * 20,
        ENTRY_TEXT[:-1],
        ENTRY_TEXT.replace('"a', '"b', 1),
        "{" + " " * 200,
    ],
)
def test_what_nearly_is_an_entry_is_looked_at_once(piece: str) -> None:
    data = ("{" + piece * (8_000_000 // len(piece))).encode()
    started = time.process_time()
    with pytest.raises(MetadataError):
        text.parse(data)
    assert time.process_time() - started < 4
