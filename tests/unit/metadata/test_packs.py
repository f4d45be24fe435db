"""Which objects go together into packs, and when a pack is worth fetching."""

from __future__ import annotations

import hashlib

import pytest

from theta_daemon.metadata.entries import LFS_VERSION, NO_HASH, Entry, FileEntry, Metadata, Name, ObjectRef, Update
from theta_daemon.metadata.packs import FEWEST, FULL, SMALL, Pack, chunks, of, worthwhile

PACK = ObjectRef("f" * 64, 1000)


def ref(number: int, size: int = 100) -> ObjectRef:
    return ObjectRef(hashlib.sha256(str(number).encode()).hexdigest(), size)


def entry(of_: ObjectRef, nbytes: int = 400, update_type: str = "dense", replay: tuple[Update, ...] = ()) -> Entry:
    return Entry(
        shape=(nbytes,),
        dtype="uint8",
        hash=NO_HASH,
        version=LFS_VERSION,
        oid=of_.oid,
        size=of_.size,
        update_type=update_type,
        last_commit=None,
        digest="d" * 64,
        replay=replay,
    )


def entries(*each: Entry) -> dict[Name, Entry]:
    return {(f"w{number:05}",): one for number, one in enumerate(each)}


def test_small_objects_go_together_in_the_order_of_their_names() -> None:
    assert chunks(entries(*(entry(ref(number)) for number in (3, 1, 2)))) == [(ref(3), ref(1), ref(2))]


def test_large_values_stay_alone() -> None:
    found = entries(entry(ref(1)), entry(ref(2), SMALL), entry(ref(3), SMALL + 1), entry(ref(4)))
    assert chunks(found) == [(ref(1), ref(2), ref(4))]


def test_a_chunk_is_full_by_the_size_of_values_not_of_objects() -> None:
    """What compresses better must not push its neighbours into another chunk."""
    per_chunk = FULL // SMALL
    one = [entry(ref(number, 10), SMALL) for number in range(per_chunk + 1)]
    other = [entry(ref(number, 10 + number), SMALL) for number in range(per_chunk + 1)]
    assert [len(chunk) for chunk in chunks(entries(*one))] == [per_chunk, 1]
    assert [len(chunk) for chunk in chunks(entries(*other))] == [per_chunk, 1]


def test_an_object_of_several_groups_is_packed_once() -> None:
    assert chunks(entries(entry(ref(1)), entry(ref(1)), entry(ref(2)))) == [(ref(1), ref(2))]


def test_what_is_packed_of_a_chain_is_its_base() -> None:
    """So an update leaves the packs as they are."""
    base = Update("dense", ref(1).oid, ref(1).size)
    chain = entry(ref(9), update_type="exact-sparse", replay=(base, Update("exact-sparse", ref(8).oid, 7)))
    assert chunks(entries(chain, entry(ref(2)))) == chunks(entries(entry(ref(1)), entry(ref(2))))


def test_updates_of_git_theta_are_not_packed() -> None:
    assert chunks(entries(entry(ref(1), update_type="sparse"), entry(ref(2)))) == [(ref(2),)]


def metadata(number: int, *packs: tuple[int, ObjectRef]) -> Metadata:
    found = entries(*(entry(ref(each)) for each in range(number)))
    return Metadata(found, FileEntry("safetensors", ref(-1), (), packs))


def test_packs_of_metadata() -> None:
    found = list(of(metadata(FEWEST, (0, PACK))))
    assert found == [Pack(PACK, tuple(ref(number) for number in range(FEWEST)))]


@pytest.mark.parametrize("number", [1, 2**62])
def test_a_pack_of_no_chunk_is_none(number: int) -> None:
    assert list(of(metadata(FEWEST, (number, PACK)))) == []


def test_a_pack_of_few_objects_is_none() -> None:
    assert list(of(metadata(FEWEST - 1, (0, PACK)))) == []


def test_without_a_file_entry_there_are_no_packs() -> None:
    assert list(of(Metadata(entries(*(entry(ref(number)) for number in range(9))), None))) == []


def test_a_pack_is_worth_it_for_half_of_what_it_holds() -> None:
    members = tuple(ref(number) for number in range(9))
    pack = Pack(ObjectRef("f" * 64, 900 + 100), members)
    assert list(worthwhile([pack], set(members))) == [pack]
    assert list(worthwhile([pack], set(members[:5]))) == [Pack(pack.ref, members[:5])]
    assert list(worthwhile([pack], set(members[:4]))) == []
    assert list(worthwhile([pack], set())) == []


def test_a_pack_that_claims_to_be_huge_is_not_worth_it() -> None:
    members = tuple(ref(number) for number in range(9))
    assert list(worthwhile([Pack(ObjectRef("f" * 64, 1 << 40), members)], set(members))) == []
