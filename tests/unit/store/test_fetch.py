"""Fetching with a git-lfs that misbehaves: every object comes or is given up, soon and with a reason."""

from __future__ import annotations

import hashlib
import os
import struct
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.repository import Repository
from theta_daemon import settings
from theta_daemon.errors import CorruptObject, MissingObject, ThetaError
from theta_daemon.metadata.entries import ObjectRef
from theta_daemon.metadata.packs import Pack
from theta_daemon.settings import Settings
from theta_daemon.store import fetch
from theta_daemon.store.fetch import Batch, Fetcher
from theta_daemon.store.objects import ObjectStore
from theta_daemon.trace import Trace

FAKE = Path(__file__).resolve().parents[2] / "support" / "fake_git_lfs.py"
SOON = 10.0  # seconds; nothing here takes nearly as long

DATA = [bytes([number]) * (1000 + number) for number in range(5)]
REFS = [ObjectRef(hashlib.sha256(data).hexdigest(), len(data)) for data in DATA]
ABSENT = ObjectRef("ab" * 32, 5)

Make = Callable[..., Fetcher]


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "_LONGEST_PAUSE", 0.0)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return the folder from which the fake fetches; `started` in it has a line for each time that it ran."""
    made = tmp_path / "source"
    made.mkdir()
    for ref, data in zip(REFS, DATA, strict=True):
        (made / ref.oid).write_bytes(data)
    return made


@pytest.fixture
def plain(new_repository: Callable[[str], Repository]) -> Repository:
    """Return a repository with a remote whose URL holds a password."""
    made = new_repository("plain")
    made.git("remote", "add", "origin", "https://somebody:secret@host.invalid/models.git")
    return made


def load(repository: Repository, **changes: object) -> Settings:
    """Return the settings there, with little patience."""
    return settings.load(repository.environment, repository.path).replace(
        **{"transfer_timeout": 1, "transfer_retries": 1, **changes}
    )


def store_of(found: Settings) -> ObjectStore:
    return ObjectStore(found.lfs_objects, found.theta_dir / "objects", found.temporary)


@pytest.fixture
def make(plain: Repository, source: Path, tmp_path: Path) -> Iterator[Make]:
    """Return a function that makes a fetcher whose git-lfs misbehaves as it is told."""
    made: list[Fetcher] = []

    def make(how: str, trace: Trace | None = None, **changes: object) -> Fetcher:
        programs = tmp_path / "programs"
        programs.mkdir(exist_ok=True)
        program = programs / "git-lfs"
        program.write_text(f'#!/bin/sh\nexec {sys.executable} {FAKE} "{how}" "{source}"\n')
        program.chmod(0o755)
        found = load(plain, **changes)
        here = plain.in_environment(
            PATH=f"{programs}{os.pathsep}{plain.environment['PATH']}", FAKE_STORE=str(found.lfs_objects)
        )
        found = load(here, **changes)
        made.append(Fetcher(found, store_of(found), *([trace] if trace else [])))
        return made[-1]

    yield make
    for fetcher in made:
        fetcher.close()


def settle(fetcher: Fetcher, *batches: Batch) -> None:
    """Wait until all of `batches` are settled; fail where that takes long."""
    ended = threading.Event()

    def wait() -> None:
        for batch in batches:
            fetcher.wait([batch])
        ended.set()

    threading.Thread(target=wait, daemon=True).start()
    assert ended.wait(SOON)
    assert all(batch.is_settled for batch in batches)


def failed(fetcher: Fetcher, refs: list[ObjectRef] = REFS[:3]) -> Mapping[ObjectRef, ThetaError]:
    """Ask for objects, fail where one comes, and return what is told of each."""
    batch = fetcher.want(refs)
    settle(fetcher, batch)
    assert set(batch.failed) == set(refs)
    for ref, error in batch.failed.items():
        assert ref.oid in str(error)
        assert "secret" not in str(error)
    return batch.failed


def rounds(source: Path) -> int:
    return len((source / "started").read_text().splitlines())


def assert_ended(source: Path) -> None:
    """Fail where something that the fake started, or it, is left after a second."""
    numbers = (source / "started").read_text().split()
    end = time.monotonic() + 1
    while any(is_running(number) for number in numbers):
        assert time.monotonic() < end


def is_running(number: str) -> bool:
    try:
        return Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(number: str) -> list[str]:
    return Path(f"/proc/{number}/task/{number}/children").read_text().split()


def test_nothing_runs_before_something_is_missing(make: Make, source: Path) -> None:
    fetcher = make("serves")
    before = threading.active_count()
    batch = fetcher.want([])
    assert batch.is_settled
    fetcher.wait([batch])
    fetcher.wait([])
    assert threading.active_count() == before
    assert not (source / "started").exists()


@pytest.mark.parametrize("how", ["serves", "talks"])
def test_objects_come_and_are_kept(make: Make, source: Path, how: str) -> None:
    fetcher = make(how)
    first, second = fetcher.want(iter(REFS[:2])), fetcher.want(REFS[1:])
    settle(fetcher, first, second)
    assert not first.failed
    assert not second.failed
    for ref, data in zip(REFS, DATA, strict=True):
        kept = fetcher._store.theta_objects / ref.oid[:2] / ref.oid[2:4] / ref.oid
        assert kept.read_bytes() == data
    assert rounds(source) == 1
    assert fetcher.want(REFS).is_settled


def test_what_is_asked_for_later_comes_too(make: Make, source: Path) -> None:
    fetcher = make("serves")
    for ref in REFS:
        batch = fetcher.want([ref])
        settle(fetcher, batch)
        assert not batch.failed
    assert rounds(source) == len(REFS)


def test_what_comes_before_all_was_asked_for_is_there(make: Make, source: Path) -> None:
    """git-lfs takes no more questions while it fetches what it was asked for."""
    fetcher = make("eager")
    first, second = fetcher.want(REFS[:2]), fetcher.want(REFS[2:])
    settle(fetcher, first)
    assert not first.failed
    assert not second.is_settled
    (source / "go").touch()
    settle(fetcher, second)
    assert not second.failed
    assert rounds(source) == 1


def test_what_has_come_needs_no_list(make: Make, source: Path) -> None:
    """git-lfs lists one object at a time, and begins with the first: to ask for all of them takes a clone's last."""
    fetcher = make("prompt")
    batch = fetcher.want(REFS)
    settle(fetcher, batch)
    assert not batch.failed
    assert not (source / "listed").exists()
    batch = fetcher.want([ABSENT])  # of what does not come nothing is known but from lists
    settle(fetcher, batch)
    assert set(batch.failed) == {ABSENT}
    assert (source / "listed").exists()


def test_without_anybody_who_waits_it_begins(make: Make) -> None:
    fetcher = make("serves")
    batch = fetcher.want(REFS)
    end = time.monotonic() + SOON
    while not batch.is_settled:
        assert time.monotonic() < end
    assert not batch.failed


@pytest.mark.parametrize("oid", ["../../../../etc/passwd", "", "A" * 64, "ab" * 32 + "\n", "ab" * 31])
def test_what_is_no_id_never_gets_to_git_lfs(make: Make, source: Path, oid: str) -> None:
    batch = make("serves").want([ObjectRef(oid, 5)])
    assert batch.is_settled
    (error,) = batch.failed.values()
    assert isinstance(error, CorruptObject)
    assert not (source / "started").exists()


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("nonsense", "git-lfs could not get it from origin: "),
        ("crashes", "panic: all is lost"),
        ("closes", "git-lfs could not get it from origin: "),
        ("error", "answers without having fetched it"),
        ("abort", "refuses to fetch anything more"),
        ("pointers", "answers without having fetched it"),
        ("forgets", "forgot objects that it was asked for"),
        ("repeats", "forgot objects that it was asked for"),
        ("stalls", "nothing has come for 1 seconds (theta.transferTimeout)"),
        ("restarts", "nothing has come for 1 seconds (theta.transferTimeout)"),
        ("stubborn", "nothing has come for 1 seconds (theta.transferTimeout)"),
    ],
)
def test_every_object_is_given_up_with_a_reason(make: Make, source: Path, how: str, words: str) -> None:
    for error in failed(make(how)).values():
        assert isinstance(error, MissingObject)
        assert words in str(error)
    assert rounds(source) <= 2
    assert_ended(source)


@pytest.mark.parametrize("how", ["trickles", "flows", "copies"])
def test_slow_is_not_stalled(make: Make, source: Path, how: str) -> None:
    fetcher = make(how)
    batch = fetcher.want(REFS)
    settle(fetcher, batch)
    assert not batch.failed
    assert rounds(source) == 1


def test_it_is_tried_as_often_as_the_setting_says(make: Make, source: Path) -> None:
    failed(make("crashes", transfer_retries=3))
    assert rounds(source) == 4


def test_what_came_before_it_broke_down_has_come(make: Make, source: Path) -> None:
    """Each round brings one: as long as something comes, it is tried again."""
    fetcher = make("crashes-late")
    batch = fetcher.want(REFS)
    settle(fetcher, batch)
    assert not batch.failed
    assert rounds(source) == len(REFS)


def test_objects_that_are_not_whole_have_not_come(make: Make) -> None:
    failed(make("half"))


def test_one_missing_object_does_not_keep_the_others(make: Make) -> None:
    fetcher = make("serves")
    batch = fetcher.want([ABSENT, *REFS])
    settle(fetcher, batch)
    assert set(batch.failed) == {ABSENT}


def test_a_wrong_size_costs_nobody_an_object(make: Make, source: Path) -> None:
    """git-lfs deletes a file of another size before it fetches, and that may be the only copy."""
    fetcher = make("serves")
    settle(fetcher, fetcher.want(REFS[:1]))
    lie = ObjectRef(REFS[0].oid, 77)
    assert "has 1000 bytes, and metadata says 77" in str(failed(fetcher, [lie])[lie])
    assert fetcher._store.contains(REFS[0].oid, REFS[0].size)


def test_two_sizes_of_one_object_are_two(make: Make) -> None:
    fetcher = make("serves")
    lie = ObjectRef(REFS[0].oid, 77)
    batch = fetcher.want([lie, REFS[0]])
    settle(fetcher, batch)
    assert set(batch.failed) == {lie}


def test_an_object_that_is_damaged_is_not_taken(make: Make, source: Path) -> None:
    (source / REFS[0].oid).write_bytes(b"x" * REFS[0].size)
    fetcher = make("serves")
    assert "is damaged" in str(failed(fetcher, REFS[:1])[REFS[0]])
    assert not fetcher._store.contains(REFS[0].oid, REFS[0].size)


def test_an_object_that_others_verify_is_not_hashed(make: Make, source: Path) -> None:
    """Unless somebody else asks for it too, who does not."""
    for ref in REFS[:2]:
        (source / ref.oid).write_bytes(b"x" * ref.size)
    fetcher = make("serves")
    batches = [fetcher.want(REFS[:2], hashed=False), fetcher.want(REFS[1:2])]
    settle(fetcher, *batches)
    assert set(batches[0].failed) == set(batches[1].failed) == {REFS[1]}
    assert fetcher._store.contains(REFS[0].oid, REFS[0].size)


@pytest.mark.parametrize("how", ["stalls", "stubborn", "closes"])
def test_close_ends_everything_at_once(make: Make, source: Path, how: str) -> None:
    fetcher = make(how, transfer_timeout=1000)
    batch = fetcher.want(REFS)
    waiter = threading.Thread(target=fetcher.wait, args=[[batch]])
    waiter.start()
    end = time.monotonic() + SOON
    while not ((source / "started").exists() and (names := (source / "started").read_text().split())):
        assert time.monotonic() < end
    while how != "closes" and not (below := children(names[0])):
        assert time.monotonic() < end
    begun = time.monotonic()
    fetcher.close()
    assert time.monotonic() - begun < 2
    waiter.join(SOON)
    assert not waiter.is_alive()
    assert set(batch.failed) == set(REFS)
    assert_ended(source)
    if how != "closes":
        assert not is_running(below[0])
    later = fetcher.want(REFS)
    assert set(later.failed) == set(REFS)


def test_nobody_waits_any_more(make: Make, source: Path) -> None:
    fetcher = make("stalls", transfer_timeout=1000)
    fetcher._is_abandoned = lambda: True
    assert "nobody waits" in str(failed(fetcher)[REFS[0]])


def test_without_git_lfs_the_error_says_how_to_get_it(plain: Repository, tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("git", "sh"):
        path = next(Path(part) / name for part in os.environ["PATH"].split(os.pathsep) if (Path(part) / name).exists())
        (programs / name).symlink_to(path)
    found = load(plain.in_environment(PATH=str(programs)))
    fetcher = Fetcher(found, store_of(found))
    for error in failed(fetcher).values():
        assert "git-lfs, which fetches objects from origin, is not installed; install git-lfs" in str(error)
    fetcher.close()


def test_what_nobody_foresaw_is_told_to_those_who_wait(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    fetcher = make("serves")

    def take_in(_: ObjectRef, *, hashed: bool) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(fetcher._store, "take_in", take_in)
    assert "a bug" in str(failed(fetcher)[REFS[0]])
    assert fetcher.want(REFS[3:]).is_settled


def pack_of(source: Path, refs: list[ObjectRef], *, lacking: int = 0) -> Pack:
    """Put a pack of objects into the folder of the fake, without the last ones of them."""
    held = refs[: len(refs) - lacking]
    table = b"".join(struct.pack("<32sQ", bytes.fromhex(ref.oid), ref.size) for ref in held)
    data = struct.pack("<8sQ", b"THETAPAK", len(held)) + table + b"".join(DATA[REFS.index(ref)] for ref in held)
    ref = ObjectRef(hashlib.sha256(data).hexdigest(), len(data))
    (source / ref.oid).write_bytes(data)
    return Pack(ref, tuple(refs))


def asked(source: Path) -> list[str]:
    """Return the ids that the fake was asked for."""
    return [line.partition(".")[0] for line in (source / "asked").read_text().splitlines()]


def test_a_pack_comes_instead_of_its_members(make: Make, source: Path) -> None:
    pack = pack_of(source, REFS[:4])
    for ref in REFS[:4]:
        (source / ref.oid).unlink()
    fetcher = make("serves")
    fetcher.meter = counts = Counts()
    batch = fetcher.want(REFS, [pack])
    settle(fetcher, batch)
    assert not batch.failed
    assert asked(source) == [pack.ref.oid, REFS[4].oid]
    assert counts.expected == counts.done == [len(REFS), sum(ref.size for ref in REFS)]
    assert not fetcher._store.contains(pack.ref.oid, pack.ref.size)
    for ref, data in zip(REFS, DATA, strict=True):
        assert bytes(fetcher._store.open(ref)) == data


def test_the_members_come_where_the_pack_does_not(make: Make, source: Path) -> None:
    pack = pack_of(source, REFS[:4])
    (source / pack.ref.oid).unlink()
    fetcher = make("serves", transfer_retries=0)
    batch = fetcher.want(REFS, [pack])
    settle(fetcher, batch)
    assert not batch.failed
    assert rounds(source) == 2


@pytest.mark.parametrize("how", ["stale", "damaged"])
def test_what_a_pack_does_not_hold_is_asked_for_itself(make: Make, source: Path, how: str) -> None:
    pack = pack_of(source, REFS[:4], lacking=2 if how == "stale" else 0)
    if how == "damaged":
        data = (source / pack.ref.oid).read_bytes()
        (source / pack.ref.oid).write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    fetcher = make("serves")
    batch = fetcher.want(REFS[:4], [pack])
    settle(fetcher, batch)
    assert not batch.failed
    assert set(asked(source)[1:]) == {ref.oid for ref in REFS[2 if how == "stale" else 3 : 4]}
    assert not fetcher._store.contains(pack.ref.oid, pack.ref.size)


def test_two_packs_and_others_who_want_the_same(make: Make, source: Path) -> None:
    one, other = pack_of(source, REFS[:3]), pack_of(source, REFS[1:])
    fetcher = make("serves")
    batches = [fetcher.want(REFS[:3], [one]), fetcher.want(REFS, [one, other]), fetcher.want(REFS[4:])]
    settle(fetcher, *batches)
    assert not any(batch.failed for batch in batches)
    assert asked(source) == [one.ref.oid, other.ref.oid]


def test_a_pack_that_is_left_from_before_is_used(make: Make, source: Path) -> None:
    pack = pack_of(source, REFS[:4])
    fetcher = make("serves")
    fetcher._store.lend(pack.ref, [(source / pack.ref.oid).read_bytes()])
    batch = fetcher.want(REFS[:4], [pack])
    settle(fetcher, batch)
    assert not batch.failed
    assert not (source / "asked").exists()
    assert fetcher._store.contains(pack.ref.oid, pack.ref.size)


def test_an_object_that_metadata_calls_a_pack_stays(make: Make, source: Path) -> None:
    """It may be the only copy of a file that Git LFS keeps."""
    fetcher = make("serves")
    data = b"not a pack"
    mine = ObjectRef(hashlib.sha256(data).hexdigest(), len(data))
    fetcher._store.lend(mine, [data])
    packs = [Pack(mine, tuple(REFS[:2])), Pack(mine.replace(size=7), tuple(REFS[2:4]))]
    batch = fetcher.want(REFS[:4], packs)
    settle(fetcher, batch)
    assert not batch.failed
    assert bytes(fetcher._store.open(mine)) == data
    assert mine.oid not in asked(source)


@pytest.mark.parametrize("how", ["crashes", "pointers", "error"])
def test_neither_a_pack_nor_its_members_come(make: Make, source: Path, how: str) -> None:
    fetcher = make(how)
    batch = fetcher.want(REFS, [pack_of(source, REFS[:4])])
    settle(fetcher, batch)
    assert set(batch.failed) == set(REFS)


def test_close_ends_packs_too(make: Make, source: Path) -> None:
    fetcher = make("stalls", transfer_timeout=1000)
    batch = fetcher.want(REFS, [pack_of(source, REFS[:4])])
    fetcher.close()
    assert set(batch.failed) == set(REFS)
    later = fetcher.want(REFS, [pack_of(source, REFS[:4])])
    assert set(later.failed) == set(REFS)


class Counts:
    def __init__(self) -> None:
        self.expected = [0, 0]
        self.done = [0, 0]

    def expect(self, items: int = 0, size: int = 0) -> None:
        self.expected = [self.expected[0] + items, self.expected[1] + size]

    def advance(self, items: int = 0, size: int = 0) -> None:
        self.done = [self.done[0] + items, self.done[1] + size]


def test_the_meter_is_told(make: Make) -> None:
    fetcher = make("serves")
    fetcher.meter = counts = Counts()
    settle(fetcher, fetcher.want(REFS), fetcher.want(REFS))
    assert counts.expected == counts.done == [len(REFS), sum(ref.size for ref in REFS)]


class Stages(Trace):
    def __init__(self) -> None:
        self.nbytes: dict[str, int] = {}

    def add(self, stage: str, seconds: float, nbytes: int = 0) -> None:
        assert seconds > 0
        self.nbytes[stage] = self.nbytes.get(stage, 0) + nbytes


def test_the_trace_tells_what_was_fetched(make: Make) -> None:
    stages = Stages()
    fetcher = make("serves", stages)
    settle(fetcher, fetcher.want(REFS))
    fetcher.close()
    assert stages.nbytes["fetch objects"] == sum(ref.size for ref in REFS)
