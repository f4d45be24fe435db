"""What may be lifted out of a metadata file, and what must not."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest

from theta_daemon.errors import CheckpointError, ThetaError
from theta_daemon.metadata import fields, text
from theta_daemon.metadata.entries import LFS_VERSION, NO_HASH, Entry, FileEntry, Metadata, ObjectRef, Update
from theta_daemon.metadata.lift import HOLE, lift

OID, OTHER, DIGEST = "a" * 64, "b" * 64, "c" * 64
ENTRY = Entry((2, 3), "float32", NO_HASH, LFS_VERSION, OID, 24, "dense", None, DIGEST)
FILE = FileEntry("torch-zip", ObjectRef(OTHER, 7), ())


def written(*entries: Entry, file: FileEntry | None = FILE) -> str:
    return text.serialize(Metadata({("m", str(at)): entry for at, entry in enumerate(entries)}, file)).decode()


@pytest.mark.parametrize(
    "entry",
    [
        ENTRY,
        ENTRY.replace(shape=()),
        ENTRY.replace(shape=(7,)),
        ENTRY.replace(shape=(1,) * 64, dtype="bfloat16"),
        ENTRY.replace(hash=tuple(range(-8, 8))),
        ENTRY.replace(hash=(-(1 << 63), (1 << 63) - 1)),
        ENTRY.replace(hash=(5,) * 1024),
        ENTRY.replace(digest=None),
        ENTRY.replace(last_commit="0" * 40),
        ENTRY.replace(last_commit="f" * 64, size=(1 << 63) - 1),
        ENTRY.replace(update_type="low_rank", size=0, version="x~!#[]^"),
    ],
)
def test_what_is_written_is_lifted(entry: Entry) -> None:
    rest, entries = lift(written(entry, ENTRY))
    assert entries == [entry, ENTRY]
    assert rest.count(HOLE) == 2
    assert '"oid"' not in rest


def test_parse_does_not_read_field_by_field_what_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    data = written(ENTRY, ENTRY.replace(size=5)).encode()
    monkeypatch.setattr(fields, "entry", lambda _: pytest.fail("not lifted"))
    assert list(text.parse(data).entries.values()) == [ENTRY, ENTRY.replace(size=5)]


BASE, STEP = Update("dense", OTHER, 1), Update("exact-sparse", "d" * 64, (1 << 63) - 1)
REPLAYED = ENTRY.replace(replay=(BASE, STEP, Update("sparse", OID, 0)))


@pytest.mark.parametrize("replay", [(BASE,), (BASE, STEP), (STEP,) * 100, REPLAYED.replay])
def test_a_replay_is_lifted(replay: tuple[Update, ...]) -> None:
    replayed = ENTRY.replace(replay=replay)
    rest, entries = lift(written(replayed, ENTRY, replayed))
    assert entries == [replayed, ENTRY, replayed]
    assert "oid" not in rest


def test_what_follows_the_base_is_read_once() -> None:
    _, (one, other) = lift(written(REPLAYED, REPLAYED.replace(replay=(BASE.replace(size=2), *REPLAYED.replay[1:]))))
    assert [step.size for step in (one.replay[0], other.replay[0])] == [1, 2]
    assert all(mine is its for mine, its in zip(one.replay[1:], other.replay[1:], strict=True))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"exact-sparse"', '"Exact-sparse"'),
        ("d" * 64, "d" * 63),
        ("d" * 64, "D" * 64),
        ('"size": "1"', '"size": "01"'),
        ('"size": "1"', '"size": 1'),
        ('"size": "1"', f'"size": "{1 << 63}"'),
        ('"size": "0"', f'"size": "{1 << 63}"'),
        ('"size": "0"', '"size": "0", "more": 1'),
        ('"size": "0"', '"size": "0"}, 1, {'),
        ('"replay": [', '"replay": [,'),
        ('"replay": [', '"replay": [1, '),
        ('"replay": [', '"replay": [[], '),
        ('"replay": [', '"replay": ["'),
        ('"size": "0"', '"size": "0", "size": "0"'),
    ],
)
def test_a_replay_that_may_be_wrong_is_for_the_long_way(old: str, new: str) -> None:
    changed = written(REPLAYED).replace(old, new, 1)
    assert changed != written(REPLAYED)
    with suppress(ValueError):
        assert lift(changed)[1] == []
    with pytest.raises(ThetaError):
        text.parse(changed.encode())


@pytest.mark.parametrize("between", ["", ",,", ",x", "x,", "\n{}"])
def test_nothing_but_commas_is_between_the_updates_of_a_replay(between: str) -> None:
    start, middle, end = written(REPLAYED).rpartition("},\n                    {")
    assert middle
    with pytest.raises(ValueError, match="no list of updates"):
        lift(start + "}" + between + "{" + end)


def test_a_replay_without_updates_is_for_the_long_way() -> None:
    start, _, rest = written(REPLAYED).partition('"replay": [')
    with pytest.raises(ThetaError, match="the replay is a list"):
        text.parse((start + '"replay": [' + rest[rest.index("]") :]).encode())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"(2, 3)"', '"(2,3)"'),
        ('"(2, 3)"', '"(02, 3)"'),
        ('"(2, 3)"', '"(2)"'),
        ('"(2, 3)"', f'"({", ".join(["1"] * 65)})"'),
        ('"float32"', '"Float32"'),
        (OID, OID[:-1]),
        (OID, OID.upper()),
        ('"24"', '"024"'),
        ('"24"', "24"),
        ('"24"', '"12345678901234567890"'),
        ('"dense"', '"Dense"'),
        ("null", '"' + "0" * 41 + '"'),
        ("null", '"' + "0" * 39 + '"'),
        (DIGEST, DIGEST[:-1]),
        ("blake3:", "sha256:"),
        ('"oid"', '"\\u006fid"'),
        (LFS_VERSION, "a b"),
        (LFS_VERSION, "v" * 129),
        (LFS_VERSION, "\\\\"),
    ],
)
def test_what_is_not_sure_to_be_an_entry_stays(old: str, new: str) -> None:
    changed = written(ENTRY).replace(old, new)
    assert changed != written(ENTRY)
    assert lift(changed) == (changed, [])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("float32", "float31"),
        ('"24"', f'"{1 << 63}"'),
        ("(2, 3)", f"({1 << 61}, {1 << 61})"),
        ("[\n", "[\n-"),
        ("[\n", "[\n00, "),
        ("[\n", f"[\n{1 << 63}, "),
        ("[\n", f"[\n{-(1 << 63) - 1}, "),
        ("[\n", "[\n" + "0, " * 1024),
        ("[\n", "[\n,"),
        ("[\n", "[\n0 "),
        ('"m"', f'"{HOLE}"'),
    ],
)
def test_a_field_that_may_be_wrong_is_for_the_long_way(old: str, new: str) -> None:
    changed = written(ENTRY).replace(old, new, 1)
    assert changed != written(ENTRY)
    with pytest.raises((ValueError, CheckpointError)):
        lift(changed)


def test_a_value_that_does_not_end_on_a_byte_is_for_the_long_way() -> None:
    with pytest.raises(CheckpointError):
        lift(written(ENTRY.replace(dtype="float4_e2m1fn", shape=(3,))))


def test_an_empty_hash_is_for_the_long_way() -> None:
    start, _, rest = written(ENTRY).partition("[")
    with pytest.raises(ValueError, match="hash"):
        lift(start + "[" + rest[rest.index("]") :])


def test_an_entry_inside_a_string_is_no_entry() -> None:
    """The hole that it leaves is no value, and what is left of the text would be JSON if that were not noticed."""
    entry = written(ENTRY, file=None)
    entry = entry[entry.index('"0": ') + 5 : entry.rindex("}", 0, entry.rindex("}"))].strip()
    inside = '{"x' + entry + 'y": {"b": ' + json.dumps(json.loads(entry)) + "}}"
    assert lift(inside)[1]
    assert json.loads(lift(inside)[0])
    with pytest.raises(Exception, match="not JSON"):
        text.parse(inside.encode())
    # ... and with a number where the hole's value would be looked for
    forged = '{"x' + entry + '": ' + entry + ', "z": 0}'
    with pytest.raises(Exception, match="not JSON"):
        text.parse(forged.encode())


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity", "1.5"])
def test_no_constant_is_taken_for_an_entry(constant: str) -> None:
    data = written(ENTRY).replace('"m": {', '"k": ' + constant + ', "m": {')
    with pytest.raises(Exception, match="only integers"):
        text.parse(data.encode())
