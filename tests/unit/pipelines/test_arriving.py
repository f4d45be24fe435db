"""Files whose objects come from a remote: each goes on when its own have come, and none waits for the others."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import models
from tests.support.pipelines import Bench
from theta_daemon.errors import CorruptObject, MissingObject, ThetaError
from theta_daemon.metadata import text
from theta_daemon.metadata.entries import Metadata, ObjectRef
from theta_daemon.metadata.objects import of
from theta_daemon.metadata.packs import Pack
from theta_daemon.pipelines import smudge
from theta_daemon.pipelines.checkout import Checkout
from theta_daemon.pipelines.load import Loaded
from theta_daemon.pipelines.services import Services
from theta_daemon.workers.ahead import Stream


class Asked:
    """A batch of the remote below."""

    def __init__(self, refs: list[ObjectRef]) -> None:
        self.refs = refs
        self.failed: dict[ObjectRef, ThetaError] = {}
        self.is_settled = not refs


class Remote:
    """What store/fetch.py does, with a folder for a server: every wait brings the oldest batch that is not settled.

    `refused` are objects that do not come, and `asked` is what was asked for, in order.
    """

    def __init__(self, store: Path, folder: Path) -> None:
        self.store, self.folder = store, folder
        self.refused: dict[str, ThetaError] = {}
        self.batches: list[Asked] = []
        self.settled = 0

    @property
    def asked(self) -> list[str]:
        return [ref.oid for batch in self.batches for ref in batch.refs]

    def want(self, refs: Iterable[ObjectRef], packs: Iterable[Pack] = (), *, hashed: bool = True) -> Asked:
        assert not hashed  # whatever is made of them is verified
        self.batches.append(Asked(list(refs)))
        return self.batches[-1]

    def wait(self, batches: Sequence[Asked]) -> None:
        assert batches
        assert all(batch in self.batches for batch in batches)
        if any(batch.is_settled for batch in batches):
            return
        batch = next(batch for batch in self.batches if not batch.is_settled)
        for ref in batch.refs:
            if ref.oid in self.refused:
                batch.failed[ref] = self.refused[ref.oid]
                continue
            target = self.store / ref.oid[:2] / ref.oid[2:4] / ref.oid
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(self.folder / ref.oid, target)
        batch.is_settled = True
        self.settled += 1
        if batch not in batches:
            self.wait(batches)

    @contextmanager
    def shown(self, *, shown: bool, lines: bool) -> Iterator[None]:
        yield

    def close(self) -> None:
        """Nothing is open."""


FILES = {path: models.safetensors_bytes(models.state_dict(seed)) for seed, path in enumerate((b"a", b"b", b"c"))}


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench.at(tmp_path)
    yield made
    made.close()


@pytest.fixture
def remote(bench: Bench, tmp_path: Path) -> Remote:
    """Return a remote, with `bench` as a clone that fetches from it."""
    settings = bench.services.settings
    found = Remote(settings.lfs_objects, tmp_path / "server")
    bench.services = bench.services.replace(fetcher=found)
    return found


@pytest.fixture
def metadata(bench: Bench, remote: Remote) -> Mapping[bytes, bytes]:
    """Return the metadata of all files, whose objects are on the remote alone."""
    made = {path: bench.clean(data, path) for path, data in FILES.items()}
    remote.folder.mkdir()
    for store in (bench.services.settings.lfs_objects, bench.services.settings.theta_dir / "objects"):
        for file in [file for file in store.glob("??/??/*") if file.is_file()]:
            shutil.copy(file, remote.folder / file.name)
            file.unlink()
    bench.services = bench.fresh().services.replace(fetcher=remote)
    return made


def objects(data: bytes) -> list[str]:
    parsed = text.read(data)
    assert isinstance(parsed, Metadata)
    return [each.oid for each in of(parsed)]


def content(checkout: Checkout, path: bytes) -> bytes:
    return b"".join(bytes(piece) for piece in checkout.smudge(path, io.BytesIO(b"")))


def test_a_file_is_written_from_what_was_fetched(bench: Bench, remote: Remote, metadata: Mapping[bytes, bytes]) -> None:
    assert bench.smudge(metadata[b"a"], b"a") == FILES[b"a"]
    assert sorted(remote.asked) == sorted(set(objects(metadata[b"a"])))


def test_what_is_here_is_not_asked_for(bench: Bench, remote: Remote, metadata: Mapping[bytes, bytes]) -> None:
    bench.smudge(metadata[b"a"], b"a")
    before = list(remote.asked)
    assert bench.fresh().smudge(metadata[b"a"], b"a") == FILES[b"a"]
    assert remote.asked == before


def test_all_delayed_files_ask_before_the_first_is_waited_for(
    bench: Bench, remote: Remote, metadata: Mapping[bytes, bytes]
) -> None:
    checkout = Checkout(bench.services)
    for path in FILES:
        assert checkout.delay(path, io.BytesIO(metadata[path])) is None
    assert len(remote.batches) == len(FILES)
    assert not any(batch.is_settled for batch in remote.batches)


def test_each_file_is_offered_when_its_own_objects_have_come(
    bench: Bench, remote: Remote, metadata: Mapping[bytes, bytes]
) -> None:
    checkout = Checkout(bench.services)
    for path in FILES:
        checkout.delay(path, io.BytesIO(metadata[path]))
    for number, path in enumerate(FILES, 1):
        assert checkout.available() == [path]
        assert [batch.is_settled for batch in remote.batches].count(True) == number
        assert content(checkout, path) == FILES[path]
    assert checkout.available() == []


def test_a_file_is_begun_while_git_takes_another(
    bench: Bench, remote: Remote, metadata: Mapping[bytes, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    checkout = Checkout(bench.services)
    for path in FILES:
        checkout.delay(path, io.BytesIO(metadata[path]))
    assert checkout.available() == [b"a"]
    started: list[bytes] = []
    start = smudge.start

    def noted(services: Services, plan: smudge.Plan) -> Stream[Loaded]:
        started.append(plan.path)
        return start(services, plan)

    monkeypatch.setattr(smudge, "start", noted)
    pieces = checkout.smudge(b"a", io.BytesIO(b""))
    taken = [bytes(next(pieces))]
    remote.wait([remote.batches[1]])  # the objects of b come
    taken += map(bytes, pieces)
    assert b"".join(taken) == FILES[b"a"]
    assert started == [b"b"]
    assert checkout.available() == [b"b"]
    assert content(checkout, b"b") == FILES[b"b"]
    assert checkout.available() == [b"c"]
    assert content(checkout, b"c") == FILES[b"c"]


def test_what_is_here_does_not_wait_for_what_is_not(
    bench: Bench, remote: Remote, metadata: Mapping[bytes, bytes]
) -> None:
    bench.smudge(metadata[b"b"], b"b")
    checkout = Checkout(bench.services)
    for path in FILES:
        checkout.delay(path, io.BytesIO(metadata[path]))
    settled = [batch.is_settled for batch in remote.batches]
    assert checkout.available() == [b"b"]
    assert [batch.is_settled for batch in remote.batches] == settled


def test_a_file_whose_object_does_not_come_is_offered_last_and_named(
    bench: Bench, remote: Remote, metadata: Mapping[bytes, bytes]
) -> None:
    lost = next(oid for oid in objects(metadata[b"a"]) if oid not in objects(metadata[b"b"]) + objects(metadata[b"c"]))
    remote.refused[lost] = MissingObject(f"object {lost} is not on the remote", hint="push it again")
    checkout = Checkout(bench.services)
    for path in FILES:
        checkout.delay(path, io.BytesIO(metadata[path]))
    offered = []
    while ready := checkout.available():
        offered += ready
        for path in ready:
            if path == b"a":
                with pytest.raises(MissingObject, match=lost) as caught:
                    content(checkout, path)
                assert caught.value.hint == "push it again"
            else:
                assert content(checkout, path) == FILES[path]
    assert offered == [b"b", b"c", b"a"]


def test_the_parameter_that_needs_an_object_is_named(
    bench: Bench, remote: Remote, metadata: Mapping[bytes, bytes]
) -> None:
    parsed = text.read(metadata[b"a"])
    assert isinstance(parsed, Metadata)
    name, entry = next(iter(parsed.entries.items()))
    remote.refused[entry.oid] = CorruptObject(f"object {entry.oid} came damaged")
    with pytest.raises(CorruptObject) as caught:
        bench.smudge(metadata[b"a"], b"a")
    assert caught.value.parameter == "/".join(name)
    assert caught.value.path == b"a"


def test_two_files_that_need_one_lost_object_name_each_their_own_path(
    bench: Bench, remote: Remote, metadata: Mapping[bytes, bytes]
) -> None:
    lost = objects(metadata[b"a"])[0]
    remote.refused[lost] = MissingObject(f"object {lost} is gone")
    for path in (b"one", b"two"):
        with pytest.raises(MissingObject) as caught:
            bench.smudge(metadata[b"a"], path)
        assert caught.value.path == path


def test_an_object_that_vanishes_as_fast_as_it_is_fetched_is_an_error(
    bench: Bench, remote: Remote, metadata: Mapping[bytes, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(batches: Sequence[Asked]) -> None:
        for batch in batches:
            batch.is_settled = True

    monkeypatch.setattr(remote, "wait", nothing)
    with pytest.raises(MissingObject, match="missing again"):
        bench.smudge(metadata[b"a"], b"a")


def test_a_file_that_git_asks_for_before_it_was_offered_is_waited_for(
    bench: Bench, remote: Remote, metadata: Mapping[bytes, bytes]
) -> None:
    checkout = Checkout(bench.services)
    for path in FILES:
        checkout.delay(path, io.BytesIO(metadata[path]))
    assert content(checkout, b"c") == FILES[b"c"]
    assert sorted([*checkout.available(), *checkout.available()]) == [b"a", b"b"]


def test_a_file_that_is_delayed_again_is_the_new_one(
    bench: Bench, remote: Remote, metadata: Mapping[bytes, bytes]
) -> None:
    checkout = Checkout(bench.services)
    checkout.delay(b"a", io.BytesIO(metadata[b"a"]))
    checkout.delay(b"a", io.BytesIO(metadata[b"b"]))
    assert checkout.available() == [b"a"]
    assert content(checkout, b"a") == FILES[b"b"]
    assert checkout.available() == []
