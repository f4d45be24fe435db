"""Packs are made of objects and taken apart again; what is in one is believed only by its SHA-256."""

from __future__ import annotations

import hashlib
import struct
from pathlib import Path

import pytest

from theta_daemon.errors import CorruptObject, MissingObject
from theta_daemon.metadata.entries import ObjectRef
from theta_daemon.metadata.packs import Pack
from theta_daemon.store import packs
from theta_daemon.store.objects import ObjectStore

DATA = [bytes([number]) * (number * 1000) for number in range(5)]
REFS = tuple(ObjectRef(hashlib.sha256(data).hexdigest(), len(data)) for data in DATA)


def store_at(path: Path) -> ObjectStore:
    return ObjectStore(path / "lfs" / "objects", path / "theta" / "objects", path / "theta" / "tmp")


@pytest.fixture
def full(tmp_path: Path) -> ObjectStore:
    """Return a store that has the objects."""
    store = store_at(tmp_path / "full")
    for data in DATA:
        store.write([data])
    return store


@pytest.fixture
def empty(tmp_path: Path) -> ObjectStore:
    return store_at(tmp_path / "empty")


def packed(*members: tuple[str, int, bytes], magic: bytes = b"THETAPAK", number: int | None = None) -> bytes:
    """Return a pack that says of itself what it is told to."""
    table = b"".join(struct.pack("<32sQ", bytes.fromhex(oid), size) for oid, size, _ in members)
    head = struct.pack("<8sQ", magic, len(members) if number is None else number)
    return head + table + b"".join(data for _, _, data in members)


def lent(store: ObjectStore, data: bytes) -> ObjectRef:
    ref = ObjectRef(hashlib.sha256(data).hexdigest(), len(data))
    store.lend(ref, [data])
    return ref


def test_its_bytes_are_those_of_the_protocol(full: ObjectStore) -> None:
    data = packed(*((ref.oid, ref.size, content) for ref, content in zip(REFS, DATA, strict=True)))
    ref = packs.reference(full, REFS)
    assert ref == ObjectRef(hashlib.sha256(data).hexdigest(), len(data))
    assert not full.contains(ref.oid, ref.size)
    packs.write(full, Pack(ref, REFS))
    assert bytes(full.open(ref)) == data


def test_it_is_lent_to_git_lfs_alone(full: ObjectStore) -> None:
    ref = packs.reference(full, REFS)
    packs.write(full, Pack(ref, REFS))
    packs.write(full, Pack(ref, REFS))
    name = Path(ref.oid[:2]) / ref.oid[2:4] / ref.oid
    assert (full.lfs_objects / name).exists()
    assert not (full.theta_objects / name).exists()
    full.forgo(ref)
    full.forgo(ref)
    assert not (full.lfs_objects / name).exists()


def test_it_is_taken_apart(full: ObjectStore, empty: ObjectStore) -> None:
    pack = lent(empty, packed(*((ref.oid, ref.size, data) for ref, data in zip(REFS, DATA, strict=True))))
    packs.take_apart(empty, pack, set(REFS[1:]))
    assert not empty.contains(REFS[0].oid, REFS[0].size)
    for ref, data in list(zip(REFS, DATA, strict=True))[1:]:
        assert bytes(empty.open(ref)) == data
        for place in (empty.lfs_objects, empty.theta_objects):
            assert (place / ref.oid[:2] / ref.oid[2:4] / ref.oid).read_bytes() == data


def test_it_cannot_be_made_without_its_members(empty: ObjectStore) -> None:
    with pytest.raises(MissingObject):
        packs.reference(empty, REFS)


def test_what_the_members_do_not_make_is_not_written(full: ObjectStore) -> None:
    pack = Pack(ObjectRef("f" * 64, 7), REFS)
    with pytest.raises(CorruptObject, match="is not made of what the metadata says"):
        packs.write(full, pack)
    assert not full.contains(pack.ref.oid, pack.ref.size)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"THETAPAK",
        packed(magic=b"THETAPAC"),
        packed(number=1),
        packed(number=2**64 - 1),
        packed((REFS[1].oid, 2**64 - 1, b"")),
        packed((REFS[1].oid, REFS[1].size, DATA[1][:-1])),
        packed((REFS[2].oid, 1, b"x"), (REFS[1].oid, 2**63, DATA[1])),
    ],
)
def test_what_is_not_well_formed_is_refused(empty: ObjectStore, data: bytes) -> None:
    with pytest.raises(CorruptObject):
        packs.take_apart(empty, lent(empty, data), set(REFS))
    assert not empty.theta_objects.exists()


def test_a_member_with_other_bytes_is_refused(empty: ObjectStore) -> None:
    wrong = b"x" * REFS[1].size
    pack = lent(empty, packed((REFS[1].oid, REFS[1].size, wrong)))
    with pytest.raises(CorruptObject):
        packs.take_apart(empty, pack, {REFS[1]})
    assert not empty.theta_objects.exists()


def test_a_member_that_nobody_asked_for_is_not_stored(empty: ObjectStore) -> None:
    pack = lent(empty, packed((REFS[1].oid, REFS[1].size, DATA[1])))
    packs.take_apart(empty, pack, {REFS[2]})
    assert not empty.theta_objects.exists()
