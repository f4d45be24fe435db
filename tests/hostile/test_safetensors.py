"""safetensors files that are damaged or made to harm: every way to be wrong has its own error, in one line."""

from __future__ import annotations

import json
import struct
import time
import tracemalloc
from collections.abc import Iterator

import pytest

from tests.support.safetensors_files import entry, file
from tests.support.streams import Pieces, take
from theta_daemon.errors import CheckpointError, TruncatedError
from theta_daemon.formats.safetensors import MAX_HEADER, read
from theta_daemon.formats.source import PEEK_LIMIT, Source

GOOD = entry("F32", [2], 0, 8)
DATA = bytes(8)


def refusal(data: bytes) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        take("safetensors", Source(Pieces(data)), read)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 800
    assert caught.value.hint
    return caught.value


@pytest.mark.parametrize("end", range(8))
def test_no_header_length(end: int) -> None:
    assert isinstance(refusal(file({})[:end]), TruncatedError)


def test_the_header_is_cut() -> None:
    error = refusal(file({"w": GOOD})[:30])
    assert isinstance(error, TruncatedError)
    assert "ends after 30 bytes" in str(error)


def test_the_data_are_cut() -> None:
    error = refusal(file({"w": GOOD}, DATA[:7]))
    assert isinstance(error, TruncatedError)  # who takes the hole adds the parameter's name


@pytest.mark.parametrize(("extra", "extent"), [(1, "1 bytes"), (PEEK_LIMIT, "at least 1048576 bytes")])
def test_bytes_follow(extra: int, extent: str) -> None:
    assert str(refusal(file({"w": GOOD}, DATA + bytes(extra)))).startswith(f"{extent} follow the last tensor, at ")


def test_bytes_follow_a_file_without_tensors() -> None:
    assert "1 bytes follow" in str(refusal(file({}, b"x")))


@pytest.mark.parametrize("length", [MAX_HEADER + 1, 1 << 40, (1 << 64) - 1])
def test_a_header_length_over_the_limit_is_refused_before_reading(length: int) -> None:
    readable = Pieces(struct.pack("<Q", length) + b"{" + bytes(1 << 20), [8])
    with pytest.raises(CheckpointError, match=f"claims {length} bytes; the format allows 100000000"):
        next(read(Source(readable)))
    assert readable.calls == 1


def test_a_header_takes_the_memory_that_arrives_not_what_it_claims() -> None:
    source = Source(Pieces(struct.pack("<Q", MAX_HEADER) + b"{" * 1000))
    tracemalloc.start()
    try:
        with pytest.raises(TruncatedError):
            next(read(source))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


@pytest.mark.parametrize("header", ["", "[]", ' {"w":1}', "\ufeff{}", "null", '"{}"', "x"])
def test_a_header_that_does_not_start_with_an_object(header: str) -> None:
    assert "does not start with '{'" in str(refusal(file(header)))


@pytest.mark.parametrize("header", ["{", "{]", "{}}", "{}x", "{'w':1}", '{"w":1,}', '{"a\nb":1}', "{} \0", '{"w":01}'])
def test_a_header_that_is_no_json(header: str) -> None:
    assert "is not JSON" in str(refusal(file(header)))


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity"])
def test_constants_that_json_lacks(value: str) -> None:
    assert f"not JSON: {value}" in str(refusal(file(f'{{"w":{{"x":{value}}}}}')))


@pytest.mark.parametrize("header", [b'{"\xff":1}', b'{"\xc0\x80":1}', b'{"\xed\xa0\x80":1}', b'{"w":1}\xf0'])
def test_a_header_that_is_not_utf8(header: bytes) -> None:
    assert "not UTF-8" in str(refusal(file(header)))


@pytest.mark.parametrize("opening", ["[", '{"x":'])
def test_a_header_nested_too_deeply(opening: str) -> None:
    assert "nested too deeply" in str(refusal(file('{"w":' + opening * 200_000)))


@pytest.mark.parametrize("digits", ["1" * 21, "9" * 5000, "-" + "9" * 100_000, "-0"])
def test_numbers_that_no_offset_has(digits: str) -> None:
    assert "has the number" in str(refusal(file(f'{{"w":{{"x":{digits}}}}}')))


@pytest.mark.parametrize(
    "header",
    [
        f'{{"w":{json.dumps(GOOD)},"w":{json.dumps(GOOD)}}}',
        '{"w":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}',
        f'{{"__metadata__":{{"w":"1","w":"2"}},"v":{json.dumps(GOOD)}}}',
        f'{{"w":{json.dumps(GOOD)},"__metadata__":{{}},"\\u005f_metadata__":{{}}}}',
        '{"v":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":{"w":1,"w":1}}}',
    ],
)
def test_a_key_twice(header: str) -> None:
    error = refusal(file(header, DATA))
    assert "has a key twice" in str(error)
    assert error.parameter in ("w", "dtype", "__metadata__")


def wrong(**changed: object) -> dict[str, object]:
    return {key: value for key, value in (GOOD | changed).items() if value is not None}


def ways() -> Iterator[tuple[str, object, str]]:
    yield "an entry is an object", ["F32", [2], [0, 8]], "not an object"
    yield "an entry is not null", None, "not an object"
    yield "no dtype", wrong(dtype=None), "no dtype that is a string"
    yield "a dtype is a string", wrong(dtype={"F32": None}), "no dtype that is a string"
    yield "a dtype that torch has", wrong(dtype="float32"), "has no dtype 'float32'"
    yield "a dtype in lower case", wrong(dtype="f32"), "has no dtype 'f32'"
    yield "a dtype of a megabyte", wrong(dtype="F" * 1_000_000), "has no dtype 'FFF"
    yield "no shape", wrong(shape=None), "shape is not a list of sizes"
    yield "a shape is a list", wrong(shape=2), "shape is not a list of sizes"
    yield "a size is not negative", wrong(shape=[-2]), "shape is not a list of sizes"
    yield "a size is not negative, twice", wrong(shape=[-1, -2]), "shape is not a list of sizes"
    yield "a size is no boolean", wrong(shape=[2, True]), "shape is not a list of sizes"
    yield "a size is no float", wrong(shape=[2.0]), "shape is not a list of sizes"
    yield "a size is no string", wrong(shape=["2"]), "shape is not a list of sizes"
    yield "a size is a number", wrong(shape=[None]), "shape is not a list of sizes"
    yield "a size is not above 2**62", wrong(shape=[0, (1 << 62) + 1]), "shape is not a list of sizes"
    yield "sizes multiply to no more", wrong(shape=[1 << 40, 1 << 40]), "larger than any file"
    yield "a rank", wrong(shape=[1] * 65), "rank 65 is not credible"
    yield "no data_offsets", wrong(data_offsets=None), "not two offsets"
    yield "one offset", wrong(data_offsets=[0]), "not two offsets"
    yield "three offsets", wrong(data_offsets=[0, 8, 8]), "not two offsets"
    yield "offsets are no object", wrong(data_offsets={"0": 0, "1": 8}), "not two offsets"
    yield "an offset is no string", wrong(data_offsets=["0", 8]), "not two offsets"
    yield "an offset is no boolean", wrong(shape=[], dtype="U8", data_offsets=[0, True]), "not two offsets"
    yield "an offset is not negative", wrong(data_offsets=[-8, 0]), "not two offsets"
    yield "offsets in order", wrong(data_offsets=[8, 0]), r"data_offsets \[8, 0\] span -8 bytes"
    yield "too few bytes", wrong(data_offsets=[0, 7]), r"span 7 bytes, but F32 \[2\] fills 8"
    yield "too many bytes", wrong(shape=[]), r"span 8 bytes, but F32 \[\] fills 4"
    yield "elements end on a byte", wrong(dtype="F4", shape=[15]), "do not end on a byte"
    yield "a gap at the front", wrong(data_offsets=[1, 9]), "bytes begin at 1, but those before them end at 0"


@pytest.mark.parametrize(("value", "message"), [way[1:] for way in ways()], ids=[way[0] for way in ways()])
def test_an_entry_that_is_wrong_names_its_tensor(value: object, message: str) -> None:
    error = refusal(file({"bad.weight": value}, bytes(16)))
    assert error.parameter == "bad.weight"
    with pytest.raises(CheckpointError, match=message):
        raise error


@pytest.mark.parametrize(
    ("second", "message"),
    [
        (entry("F32", [2], 9, 17), "begin at 9, but those before them end at 8"),  # a gap
        (entry("F32", [2], 7, 15), "begin at 7, but those before them end at 8"),  # an overlap
        (entry("F32", [2], 0, 8), "begin at 0, but those before them end at 8"),  # the same bytes
        (entry("F32", [0], 4, 4), "begin at 4, but those before them end at 8"),  # empty, inside another
        (entry("F32", [0], 9, 9), "begin at 9, but those before them end at 8"),  # empty, behind the end
    ],
)
def test_bytes_without_one_owner(second: dict[str, object], message: str) -> None:
    error = refusal(file({"a": GOOD, "b": second}, bytes(17)))
    assert message in str(error)
    assert error.parameter == "b"


def test_overlap_is_found_whatever_the_order_of_the_header() -> None:
    assert refusal(file({"b": entry("F32", [2], 7, 15), "a": GOOD}, bytes(15))).parameter == "b"


@pytest.mark.parametrize("metadata", [1, "x", [], True, ["a"]])
def test_metadata_is_an_object(metadata: object) -> None:
    assert "__metadata__ is not an object" in str(refusal(file({"__metadata__": metadata, "w": GOOD}, DATA)))


@pytest.mark.parametrize("value", [1, None, True, 1.5, [], {}])
def test_metadata_has_strings(value: object) -> None:
    error = refusal(file({"__metadata__": {"ok": "", "key": value}, "w": GOOD}, DATA))
    assert "a value that is not a string, for 'key'" in str(error)


@pytest.mark.parametrize("escape", ["\\ud800", "\\udc00", "\\udc00\\ud800", "x\\ud800x"])
def test_lone_surrogates(escape: str) -> None:
    entry_text = json.dumps(GOOD)
    assert "lone surrogate" in str(refusal(file(f'{{"{escape}":{entry_text}}}', DATA)))
    assert "lone surrogate" in str(refusal(file(f'{{"__metadata__":{{"{escape}":""}},"w":{entry_text}}}', DATA)))
    assert "lone surrogate" in str(refusal(file(f'{{"__metadata__":{{"x":"{escape}"}},"w":{entry_text}}}', DATA)))


def test_an_error_stays_short_and_printable_whatever_the_name() -> None:
    error = refusal(file({"\n\x1b[2J" * 100_000: None}))
    assert "\x1b" not in str(error)


def test_bytes_that_a_tensor_only_claims_are_not_allocated() -> None:
    claimed = 1 << 61
    source = Source(Pieces(file({"w": entry("U8", [claimed], 0, claimed)}, bytes(1000))))
    tracemalloc.start()
    try:
        with pytest.raises(TruncatedError, match="the file ends after"):
            take("safetensors", source, read)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


def test_a_header_of_many_tiny_entries_is_read_in_linear_time() -> None:
    header = {f"{number}": entry("U8", [0], 0, 0) for number in range(20_000)}
    started = time.process_time()
    take("safetensors", Source(Pieces(file(header))), read)
    assert time.process_time() - started < 20  # half a second here; a quadratic step would take minutes
