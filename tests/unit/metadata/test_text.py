"""Parsing, writing and recognising metadata: what no vector of protocol/ shows."""

from __future__ import annotations

import json
from typing import Any

import pytest

from theta_daemon.errors import ConflictError, MetadataError, UnsupportedError
from theta_daemon.metadata import text
from theta_daemon.metadata.entries import LFS_VERSION, NO_HASH, Entry, FileEntry, Metadata, Name, ObjectRef, Update

OID, OTHER, DIGEST = "a" * 64, "b" * 64, "c" * 64
FILE = FileEntry("torch-zip", ObjectRef(OTHER, 7), ())


ENTRY = Entry(
    shape=(2, 3),
    dtype="float32",
    hash=NO_HASH,
    version=LFS_VERSION,
    oid=OID,
    size=24,
    update_type="dense",
    last_commit=None,
    digest=DIGEST,
)


def written(*names: Name, file: FileEntry | None = None) -> dict[str, Any]:
    """Return the JSON of metadata with these names, with the order of its keys."""
    tree = json.loads(text.serialize(Metadata(dict.fromkeys(names, ENTRY), file)))
    assert isinstance(tree, dict)
    return tree


def test_serialize_writes_what_json_dump_writes() -> None:
    metadata = Metadata(
        {("a", "b"): ENTRY.replace(replay=(Update("dense", OTHER, 1),)), ("c",): ENTRY.replace(digest=None)}, FILE
    )
    data = text.serialize(metadata)
    assert data == json.dumps(json.loads(data), indent=4).encode()


def test_parse_takes_any_spacing_and_order() -> None:
    metadata = Metadata({("a", "b"): ENTRY, ("a", "c"): ENTRY.replace(last_commit="0" * 40), ("d",): ENTRY}, FILE)
    tree = json.loads(text.serialize(metadata))
    shuffled = json.dumps(tree, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\r\n"
    parsed = text.parse(shuffled.encode())
    assert parsed == metadata
    assert text.serialize(parsed) == text.serialize(metadata)


def test_entries_come_sorted_whatever_their_order_in_the_file() -> None:
    tree = written(("b",), ("a", "2"), ("a", "10"))
    backwards = json.dumps(dict(reversed(tree.items())))
    assert list(text.parse(backwards.encode()).entries) == [("a", "10"), ("a", "2"), ("b",)]


def test_names_are_sorted_as_tuples_of_text() -> None:
    # By text alone "a.b" would stand between "a" and what is nested in it.
    tree = written(("a.b",), ("a", "z"), ("B",), ("a", "b", "c"))
    assert list(tree) == ["B", "a", "a.b"]
    assert list(tree["a"]) == ["b", "z"]


def test_the_file_entry_comes_first() -> None:
    assert next(iter(written(("a",), ("!",), file=FILE))) == "theta_daemon"


def test_the_file_entry_gives_way_to_parameters_of_its_name() -> None:
    cases: list[tuple[list[Name], str]] = [
        ([("theta_daemon",)], "theta_daemon~"),
        ([("theta_daemon", "w")], "theta_daemon~"),
        ([("theta_daemon~",)], "theta_daemon"),
        ([("theta_daemon",), ("theta_daemon~", "w"), ("theta_daemon~~~",)], "theta_daemon~~"),
    ]
    for names, key in cases:
        tree = written(*names, file=FILE)
        assert next(iter(tree)) == key
        parsed = text.parse(json.dumps(tree).encode())
        assert parsed.file == FILE
        assert set(parsed.entries) == set(names)


@pytest.mark.parametrize("name", [("theta_daemon",), ("theta_daemon", "version"), ("theta_daemon~", "x", "y")])
def test_a_parameter_called_theta_daemon_is_no_file_entry(name: Name) -> None:
    metadata = Metadata({name: ENTRY.replace(digest=None)}, None)
    assert text.parse(text.serialize(metadata)) == metadata


def test_opaque_objects_keep_their_order() -> None:
    refs = tuple(ObjectRef(f"{index % 3:064x}", index) for index in range(12))
    metadata = Metadata({}, FileEntry("safetensors", ObjectRef(OTHER, 7), refs))
    data = text.serialize(metadata)
    assert list(json.loads(data)["theta_daemon"]["opaque"]) == [str(index) for index in range(12)]
    assert text.parse(data) == metadata


def test_packs_keep_their_numbers() -> None:
    packs = ((0, ObjectRef(OID, 5)), (2, ObjectRef(OTHER, 6)), (10, ObjectRef(OID, 7)))
    metadata = Metadata({}, FILE.replace(packs=packs))
    data = text.serialize(metadata)
    assert list(json.loads(data)["theta_daemon"]) == ["format", "layout", "packs", "version"]
    assert list(json.loads(data)["theta_daemon"]["packs"]) == ["0", "2", "10"]
    assert text.parse(data) == metadata


def test_packs_may_have_any_number() -> None:
    """Which of them are of use is told by the entries."""
    metadata = Metadata({}, FILE.replace(packs=((10**18, ObjectRef(OID, 5)),)))
    assert text.parse(text.serialize(metadata)) == metadata


@pytest.mark.parametrize(
    "packs",
    [
        {},
        [],
        {"": {OID: {"5": {}}}},
        {"-1": {OID: {"5": {}}}},
        {"01": {OID: {"5": {}}}},
        {"1" * 20: {OID: {"5": {}}}},
        {"0": {"../../x": {"5": {}}}},
        {"0": {OID: {"5": {}}, OTHER: {"5": {}}}},
        {"0": {OID: {"-5": {}}}},
        {"0": {}},
    ],
)
def test_packs_that_are_none(packs: object) -> None:
    tree = written(("a",), file=FILE)
    tree["theta_daemon"]["packs"] = packs
    with pytest.raises(MetadataError):
        text.parse(json.dumps(tree).encode())


@pytest.mark.parametrize(
    "names",
    [[()], [("a",), ("a", "b")], [("a", "b"), ("a", "b", "c", "d")], [("a", "lfs_metadata")], [("d",) * 257]],
    ids=["empty", "prefix", "prefix below", "reserved", "too deep"],
)
def test_serialize_refuses_names_that_do_not_fit(names: list[Name]) -> None:
    with pytest.raises(ValueError, match=r"name of a parameter|prefix"):
        text.serialize(Metadata(dict.fromkeys(names, ENTRY), None))


def test_serialize_refuses_a_replay_without_a_digest() -> None:
    with pytest.raises(ValueError, match="digest"):
        text.serialize(Metadata({("a",): ENTRY.replace(digest=None, replay=(Update("dense", OTHER, 1),))}, None))


def test_serialize_refuses_what_parse_would_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = Metadata({("a",): ENTRY}, None)
    size = len(text.serialize(metadata))
    monkeypatch.setattr(text, "MAX_SIZE", size)
    assert text.parse(text.serialize(metadata)) == metadata
    monkeypatch.setattr(text, "MAX_SIZE", size - 1)
    with pytest.raises(MetadataError, match="larger than"):
        text.serialize(metadata)


def test_names_as_deep_as_allowed_come_back() -> None:
    metadata = Metadata({("d",) * 256: ENTRY}, None)
    assert text.parse(text.serialize(metadata)) == metadata


def test_errors_name_the_parameter() -> None:
    data = text.serialize(Metadata({("model", "layer", "w"): ENTRY}, None))
    with pytest.raises(UnsupportedError, match=r"parameter 'model/layer/w': the dtype 'float7' is unknown") as caught:
        text.parse(data.replace(b"float32", b"float7"))
    assert caught.value.parameter == "model/layer/w"
    with pytest.raises(MetadataError, match="parameter 'model/layer/w': the oid is 'A"):
        text.parse(data.replace(OID.encode(), OID.upper().encode()))


def test_a_newer_version_is_named() -> None:
    data = text.serialize(Metadata({}, FILE)).replace(b'"1": {}', b'"7": {}')
    with pytest.raises(UnsupportedError, match="use a theta-daemon that knows metadata version 7"):
        text.parse(data)


def test_conflict_markers_are_a_conflict_error() -> None:
    ours, theirs = (text.serialize(Metadata({("a",): ENTRY.replace(oid=oid)}, None)) for oid in (OID, OTHER))
    data = b"<<<<<<< HEAD\n" + ours + b"\n=======\n" + theirs + b"\n>>>>>>> topic\n"
    assert text.kind(data) is text.Kind.CONFLICT
    with pytest.raises(ConflictError, match="conflict markers"):
        text.parse(data)


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"null", b'"a"', b"{} {}", b"{,}", b"\xef\xbb\xbf{}", b'{"\xff": 1}', b"{\0}"]
)
def test_parse_refuses_what_is_no_json_object(data: bytes) -> None:
    with pytest.raises(MetadataError) as caught:
        text.parse(data)
    assert not isinstance(caught.value, ConflictError)


def test_kind_is_not_misled_by_safetensors_lengths_that_begin_like_json() -> None:
    for second in b'"} \n':
        header = b'{"a": {"lfs_metadata": {}}}'
        assert text.kind(bytes([0x7B, second, 0, 0, 0, 0, 0, 0]) + header) is text.Kind.OTHER


def test_kind_rules_out_binaries_by_their_first_bytes() -> None:
    for head in (b"PK\x03\x04", b"\x80\x02}", b"\x89HDF\r\n\x1a\n", b"{\x80", b"\0" * 8, b"GGUF"):
        assert text.kind(head + bytes(4096)) is text.Kind.OTHER


def test_kind_does_not_parse_what_is_too_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text, "MAX_SIZE", 10)
    assert text.kind(b"{" + b" " * 8 + b"}") is text.Kind.METADATA
    assert text.kind(b"{" + b" " * 9 + b"}") is text.Kind.OTHER
