"""Files that wait: which are offered when, what each of them becomes, and what is held meanwhile."""

from __future__ import annotations

import io
import json
import shutil
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import models
from tests.support.pipelines import Bench
from theta_daemon.errors import CorruptObject, MetadataError, MissingObject, UnsupportedError
from theta_daemon.metadata.entries import Entry
from theta_daemon.pipelines import load
from theta_daemon.pipelines.checkout import Checkout
from theta_daemon.pipelines.services import Services
from theta_daemon.pipelines.value import open_value
from theta_daemon.store.payload import DensePayload
from theta_daemon.workers.buffers import Buffers

WINDOW = 100_000


def noise(size: int, seed: int) -> torch.Tensor:
    """Return `size` bytes of float32 values that hardly compress."""
    return torch.from_numpy(np.random.default_rng(seed).normal(0, 1, size // 4).astype(np.float32))


def checkpoint(*groups: tuple[int, int]) -> bytes:
    """Return a checkpoint with a group for each size in bytes and seed; equal pairs are equal groups."""
    return models.safetensors_bytes({f"group{at}": noise(size, seed) for at, (size, seed) in enumerate(groups)})


THREE = {
    b"a": checkpoint((4000, 1), (20_000, 2), (400, 3)),
    b"b": checkpoint((4000, 4), (20_000, 5), (400, 6)),
    b"c": checkpoint((4000, 7), (20_000, 8), (400, 9)),
}


class Watched(Buffers):
    """Buffers that know how much of them is in use."""

    def __init__(self, keep: int) -> None:
        super().__init__(keep)
        self.used = self.peak = 0
        self._watch = threading.Lock()

    def take(self, size: int) -> memoryview:
        with self._watch:
            self.used += size
            self.peak = max(self.peak, self.used)
        return super().take(size)

    def give(self, view: memoryview) -> None:
        with self._watch:
            self.used -= len(view)
        super().give(view)


class Waiting:
    """A checkout, and a git at its other end."""

    def __init__(self, services: Services) -> None:
        self.buffers = Watched(1 << 20)
        self.services = services.replace(buffers=self.buffers)
        self.checkout = Checkout(self.services)

    def delay(self, files: Mapping[bytes, bytes]) -> None:
        for path, metadata in files.items():
            assert self.checkout.delay(path, io.BytesIO(metadata)) is None

    def retry(self, path: bytes, content: bytes = b"") -> bytes:
        return joined(self.checkout.smudge(path, io.BytesIO(content)))

    def everything(self) -> list[bytes]:
        """Have all listed that waits, in as many lists as it takes, and take nothing."""
        listed: list[bytes] = []
        while paths := self.checkout.available():
            listed += paths
        return listed

    def rest(self) -> tuple[dict[bytes, bytes], dict[bytes, Exception]]:
        """Do as git does until nothing is listed; return what was written, and what failed, in this order."""
        written: dict[bytes, bytes] = {}
        failed: dict[bytes, Exception] = {}
        while listed := self.checkout.available():
            assert listed == sorted({*listed})
            for path in listed:
                assert path not in written, "listed twice"
                assert path not in failed, "listed twice"
                try:
                    content = self.retry(path)
                except Exception as error:  # noqa: BLE001 - whatever it is
                    failed[path] = error
                else:
                    assert not failed, "what failed comes last"
                    written[path] = content
        return written, failed

    def rest_of(self, files: Mapping[bytes, bytes]) -> tuple[dict[bytes, bytes], dict[bytes, Exception]]:
        """Delay these files, and have the rest."""
        self.delay(files)
        return self.rest()

    def assert_nothing_is_held(self) -> None:
        pool = self.services.pool  # what was given up while it was being made is given back when it is made
        idle = threading.Barrier(pool.workers + 1)
        for _ in range(pool.workers):
            pool.submit(idle.wait)
        idle.wait(30)
        self.services.values.clear()
        assert self.buffers.used == 0
        self.services.ahead.give_up()
        assert self.services.ahead._used == 0


def joined(pieces: Iterable[bytes | memoryview]) -> bytes:
    return b"".join(bytes(piece) for piece in pieces)


def take(pieces: Iterable[bytes | memoryview], got: bytearray) -> None:
    """Add all pieces to `got`, as far as they come."""
    for piece in pieces:
        got += piece


@pytest.fixture(autouse=True, params=[0, load._HANDED_OVER], ids=["by workers", "as it is"])
def _whoever_loads(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have groups loaded by the workers, small as they are here, and as it is done: by the thread that asks."""
    monkeypatch.setattr(load, "_HANDED_OVER", request.param)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench.at(tmp_path)
    yield made
    made.close()


@pytest.fixture
def waiting(bench: Bench) -> Waiting:
    return Waiting(bench.services)


@pytest.fixture
def many_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each group of some size a job of its own."""
    monkeypatch.setattr(load, "_BATCH_BYTES", 10_000)


@pytest.fixture
def narrow(tmp_path: Path, many_jobs: None) -> Iterator[Waiting]:
    """Return a checkout that reads 100 000 bytes ahead, a job for each group, and has no cache."""
    bench = Bench.at(tmp_path, memory_limit=4 * WINDOW, cache_size=0)
    assert bench.services.ahead.window == WINDOW
    yield Waiting(bench.services)
    bench.close()


def cleaned(bench: Bench, files: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    return {path: bench.clean(content) for path, content in files.items()}


def oid(metadata: bytes, group: str) -> str:
    return str(json.loads(metadata)[group]["lfs_metadata"]["oid"])


def stored(bench: Bench, oid: str) -> list[Path]:
    """Return the files of an object, in all stores."""
    return [path for path in bench.services.settings.git_dir.rglob(oid) if path.is_file()]


def lose(bench: Bench, metadata: bytes, group: str) -> None:
    for path in stored(bench, oid(metadata, group)):
        path.unlink()


def damage(bench: Bench, metadata: bytes, group: str) -> None:
    for path in stored(bench, oid(metadata, group)):
        data = bytearray(path.read_bytes())
        data[len(data) * 2 // 3] ^= 1
        path.unlink()
        path.write_bytes(data)


def test_what_was_delayed_is_offered_and_written(bench: Bench, waiting: Waiting) -> None:
    waiting.delay(cleaned(bench, THREE))
    assert waiting.rest() == (THREE, {})
    assert waiting.checkout.available() == []
    waiting.assert_nothing_is_held()


def test_nothing_was_delayed(waiting: Waiting) -> None:
    assert waiting.checkout.available() == []
    waiting.checkout.pause()


@pytest.mark.parametrize("order", [b"abc", b"cba", b"bca"])
def test_paths_are_listed_in_the_order_in_which_git_asks(bench: Bench, waiting: Waiting, order: bytes) -> None:
    metadata = cleaned(bench, THREE)
    waiting.delay({bytes([name]): metadata[bytes([name])] for name in order})
    listed: list[bytes] = []
    while paths := waiting.checkout.available():
        assert paths == sorted(paths)
        listed += paths
        assert [waiting.retry(path) for path in paths] == [THREE[path] for path in paths]
    assert sorted(listed) == sorted(THREE)


def test_a_list_may_be_taken_in_any_order(bench: Bench, narrow: Waiting) -> None:
    files = {b"%d" % number: checkpoint((40_000, number), (9000, number + 100)) for number in range(9)}
    narrow.delay(cleaned(bench, files))
    while paths := narrow.checkout.available():
        for path in reversed(paths):
            assert narrow.retry(path) == files[path]
    narrow.assert_nothing_is_held()


def test_several_files_may_be_on_their_way_at_once(bench: Bench, narrow: Waiting) -> None:
    """Git never does that; but whoever is asked for a piece has it, whatever the others hold."""
    files = {b"%d" % number: checkpoint(*((60_000, 10 * number + at) for at in range(3))) for number in range(4)}
    narrow.delay(cleaned(bench, files))
    paths = narrow.everything()
    assert paths == sorted(files)
    streams = {path: iter(narrow.checkout.smudge(path, io.BytesIO())) for path in paths}
    written = dict.fromkeys(paths, b"")
    while streams:
        for path in list(streams):
            piece = next(streams[path], None)
            if piece is None:
                del streams[path]
            else:
                written[path] += bytes(piece)
    assert written == files
    narrow.assert_nothing_is_held()


FOUR = {bytes([name]): checkpoint((5000, name), (30_000, 1000 + name), (30_000, 2000 + name)) for name in b"bdfh"}


@pytest.mark.usefixtures("many_jobs")
@pytest.mark.parametrize("harm", [lose, damage], ids=["lost", "damaged"])
@pytest.mark.parametrize("group", ["group0", "group2"])
@pytest.mark.parametrize("bad", [b"b", b"d", b"h"], ids=["first", "middle", "last"])
@pytest.mark.parametrize("limit", [64 << 20, 4 * WINDOW, 4 * 69_000], ids=["all fit", "one fits", "one just fits"])
def test_a_file_that_failed_comes_last(
    tmp_path: Path, harm: Callable[[Bench, bytes, str], None], group: str, bad: bytes, limit: int
) -> None:
    bench = Bench.at(tmp_path, memory_limit=limit, cache_size=0)
    waiting = Waiting(bench.services)
    metadata = cleaned(bench, FOUR)
    harm(bench, metadata[bad], group)
    waiting.delay(metadata)
    written, failed = waiting.rest()
    assert written == {path: content for path, content in FOUR.items() if path != bad}
    (error,) = failed.values()
    assert isinstance(error, MissingObject if harm is lose else CorruptObject)
    assert f"parameter '{group}'" in str(error)
    waiting.assert_nothing_is_held()
    bench.close()


def test_a_file_larger_than_the_window_fails_in_its_turn(bench: Bench, narrow: Waiting) -> None:
    """It cannot be verified as a whole before git asks. What went out until then was right, and git throws it away."""
    large = checkpoint(*((40_000, at) for at in range(5)))
    metadata = {b"a": bench.clean(large), b"b": bench.clean(THREE[b"b"])}
    damage(bench, metadata[b"a"], "group4")
    narrow.delay(metadata)
    got = bytearray()
    assert narrow.checkout.available() == [b"a"]
    with pytest.raises(CorruptObject, match="parameter 'group4'"):
        take(narrow.checkout.smudge(b"a", io.BytesIO()), got)
    assert large.startswith(got)
    assert len(got) > 150_000
    assert narrow.rest() == ({b"b": THREE[b"b"]}, {})
    narrow.assert_nothing_is_held()


def test_what_belongs_to_no_group_is_missing(bench: Bench, waiting: Waiting) -> None:
    """A file that cannot be written must not begin to be, nor come before the others."""
    storage = torch.cat([noise(3 << 20, seed=1), noise(400, seed=2)])
    whole = models.torch_bytes({"view": storage[-100:]})  # saved with all of its storage
    files = {b"a": whole, b"b": THREE[b"b"]}
    metadata = cleaned(bench, files)
    opaque = json.loads(metadata[b"a"])["theta_daemon"]["opaque"]
    for path in stored(bench, next(iter(opaque["0"]))):
        path.unlink()
    waiting.delay(metadata)
    written, failed = waiting.rest()
    assert written == {b"b": files[b"b"]}
    assert isinstance(failed[b"a"], MissingObject)


def test_several_files_fail_each_for_itself(bench: Bench, waiting: Waiting) -> None:
    metadata = cleaned(bench, FOUR)
    lose(bench, metadata[b"b"], "group1")
    damage(bench, metadata[b"f"], "group2")
    metadata[b"d"] = metadata[b"d"].replace(b'"float32"', b'"float99"', 1)
    waiting.delay(metadata)
    assert waiting.checkout.available() == [b"h"]
    assert waiting.retry(b"h") == FOUR[b"h"]
    assert waiting.checkout.available() == [b"b", b"d", b"f"]
    for path, error in ((b"b", MissingObject), (b"d", UnsupportedError), (b"f", CorruptObject)):
        with pytest.raises(error):
            waiting.retry(path)
    assert waiting.checkout.available() == []


def test_damaged_metadata_waits_for_its_turn_too(bench: Bench, waiting: Waiting) -> None:
    metadata = bench.clean(THREE[b"a"])
    waiting.delay({b"a": metadata[:-100], b"b": metadata})
    written, failed = waiting.rest()
    assert written == {b"b": THREE[b"a"]}
    assert isinstance(failed[b"a"], MetadataError)


def test_whatever_goes_wrong_with_one_file_is_that_files(
    bench: Bench, waiting: Waiting, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = cleaned(bench, THREE)
    bad = oid(metadata[b"b"], "group1")

    def out_of_memory(services: Services, entry: Entry, size: int) -> tuple[memoryview, DensePayload]:
        if entry.oid == bad:
            raise MemoryError
        return open_value(services, entry, size)

    monkeypatch.setattr(load, "open_value", out_of_memory)
    waiting.delay(metadata)
    written, failed = waiting.rest()
    assert written == {path: THREE[path] for path in (b"a", b"c")}
    assert isinstance(failed[b"b"], MemoryError)
    waiting.assert_nothing_is_held()


def test_a_file_is_offered_once_all_of_it_that_fits_is_verified(bench: Bench, narrow: Waiting) -> None:
    """The window is narrower than two files: while the first is taken, the second is only begun."""
    files = {b"a": checkpoint((45_000, 1), (45_000, 2)), b"b": checkpoint((45_000, 3), (45_000, 4))}
    metadata = cleaned(bench, files)
    damage(bench, metadata[b"b"], "group1")
    metadata[b"c"], files[b"c"] = bench.clean(THREE[b"c"]), THREE[b"c"]
    narrow.delay(metadata)
    written, failed = narrow.rest()
    assert written == {path: files[path] for path in (b"a", b"c")}
    assert [*failed] == [b"b"]


class TestTwice:
    """One process of git's may check out a path again and again; what it asked last is what counts."""

    def test_the_second_content_counts(self, bench: Bench, waiting: Waiting) -> None:
        metadata = cleaned(bench, THREE)
        waiting.delay({b"a": metadata[b"a"], b"b": metadata[b"b"]})
        waiting.delay({b"a": metadata[b"c"]})
        assert waiting.rest() == ({b"a": THREE[b"c"], b"b": THREE[b"b"]}, {})
        waiting.assert_nothing_is_held()

    @pytest.mark.parametrize("first", ["good", "bad"])
    @pytest.mark.parametrize("second", ["good", "bad"])
    @pytest.mark.parametrize("offered", [False, True])
    def test_a_failure_counts_if_it_was_the_second(
        self, bench: Bench, waiting: Waiting, first: str, second: str, offered: bool
    ) -> None:
        metadata = cleaned(bench, THREE)
        lose(bench, metadata[b"a"], "group0")
        of = {"good": metadata[b"b"], "bad": metadata[b"a"]}
        waiting.delay({b"x": of[first]})
        assert not offered or waiting.checkout.available() == [b"x"]
        waiting.delay({b"x": of[second]})
        written, failed = waiting.rest()
        assert ([*written], [*failed]) == (([b"x"], []) if second == "good" else ([], [b"x"]))
        waiting.assert_nothing_is_held()

    @pytest.mark.parametrize("offered", [False, True])
    def test_the_second_need_not_wait(self, bench: Bench, waiting: Waiting, offered: bool) -> None:
        waiting.delay({b"a": bench.clean(THREE[b"a"])})
        assert not offered or waiting.checkout.available() == [b"a"]
        pieces = waiting.checkout.delay(b"a", io.BytesIO(b"raw"))
        assert pieces is not None
        assert joined(pieces) == b"raw"
        assert waiting.checkout.available() == []
        assert waiting.retry(b"a") == b""
        waiting.assert_nothing_is_held()

    @pytest.mark.parametrize("offered", [False, True])
    def test_content_that_cannot_wait_counts(self, bench: Bench, waiting: Waiting, offered: bool) -> None:
        metadata = cleaned(bench, THREE)
        waiting.delay({b"a": metadata[b"a"], b"b": metadata[b"b"]})
        assert not offered or waiting.everything() == [b"a", b"b"]
        assert waiting.retry(b"a", metadata[b"c"]) == THREE[b"c"]
        assert waiting.retry(b"a") == b""  # nothing waits for it any more
        assert waiting.checkout.available() == ([] if offered else [b"b"])
        assert waiting.retry(b"b") == THREE[b"b"]
        waiting.assert_nothing_is_held()


@pytest.mark.parametrize("content", [b"", b"raw bytes", b"x" * 3_000_000, b"<<<<<<< ours\n{}\n=======\n>>>>>>> x\n"])
def test_what_is_no_metadata_does_not_wait(bench: Bench, waiting: Waiting, content: bytes) -> None:
    waiting.delay({b"a": bench.clean(THREE[b"a"])})
    pieces = waiting.checkout.delay(b"raw", io.BytesIO(content))
    assert pieces is not None
    assert joined(pieces) == content
    assert waiting.rest() == ({b"a": THREE[b"a"]}, {})


def test_an_empty_blob_is_empty(waiting: Waiting) -> None:
    """Nobody delayed the path: what git asks for without content is a file without content."""
    assert waiting.retry(b"a") == b""
    assert waiting.checkout.available() == []


def test_metadata_that_cannot_wait_is_answered_while_others_do(bench: Bench, narrow: Waiting) -> None:
    metadata = cleaned(bench, FOUR)
    narrow.delay({path: metadata[path] for path in (b"b", b"d", b"f")})
    assert narrow.retry(b"h", metadata[b"h"]) == FOUR[b"h"]
    assert narrow.rest() == ({path: FOUR[path] for path in (b"b", b"d", b"f")}, {})


@pytest.mark.parametrize("when", ["delayed", "offered", "in the middle"])
def test_a_pause_gives_the_memory_back(bench: Bench, waiting: Waiting, when: str) -> None:
    metadata = cleaned(bench, FOUR)
    waiting.delay(metadata)
    written = {}
    if when != "delayed":
        assert waiting.everything() == [*FOUR]
    if when == "in the middle":
        written[b"b"] = waiting.retry(b"b")
    waiting.checkout.pause()
    assert waiting.services.ahead._used == 0
    waiting.services.values.clear()
    assert waiting.buffers.used == 0
    assert bench.clean(THREE[b"a"]) == bench.clean(THREE[b"a"])  # what git may ask meanwhile
    if when == "delayed":
        written |= waiting.rest()[0]
    else:
        written |= {path: waiting.retry(path) for path in FOUR if path not in written}
    assert written == FOUR
    waiting.assert_nothing_is_held()


def test_a_pause_in_the_middle_of_a_file(bench: Bench, narrow: Waiting) -> None:
    narrow.delay(cleaned(bench, FOUR))
    (first, *_) = narrow.checkout.available()
    got = b""
    for piece in narrow.checkout.smudge(first, io.BytesIO()):
        before = bytes(piece)
        narrow.checkout.pause()
        assert piece == before  # what is in use is not taken away
        got += before
    assert got == FOUR[first]
    narrow.assert_nothing_is_held()


def test_a_file_that_nobody_finishes_gives_its_memory_back(bench: Bench, narrow: Waiting) -> None:
    narrow.delay(cleaned(bench, FOUR))
    first, *others = narrow.checkout.available()
    pieces = narrow.checkout.smudge(first, io.BytesIO())
    next(pieces)
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    written = {path: narrow.retry(path) for path in others}
    assert written | narrow.rest()[0] == {path: FOUR[path] for path in FOUR if path != first}
    narrow.assert_nothing_is_held()


def test_files_that_git_does_not_take_do_not_stand_in_the_way(bench: Bench, narrow: Waiting) -> None:
    """It may find that a file is there already. Those behind are loaded, and verified, all the same."""
    metadata = cleaned(bench, FOUR)
    damage(bench, metadata[b"f"], "group2")
    narrow.delay(metadata)
    listed, failed = [], []
    while paths := narrow.checkout.available():
        listed += paths
        for path in paths:
            if path == b"f":
                with pytest.raises(CorruptObject):
                    narrow.retry(path)
                failed.append(path)
            elif path != b"b":
                assert narrow.retry(path) == FOUR[path]
                assert not failed
    assert sorted(listed) == [*FOUR]
    assert listed[-1] == b"f"


@pytest.mark.parametrize("limit", [0, 1000, 1 << 16, 4 * WINDOW])
@pytest.mark.parametrize("cache", [0, 1 << 20])
def test_any_window_will_do(tmp_path: Path, limit: int, cache: int) -> None:
    files = {
        b"large": checkpoint((300_000, 1), (10, 2), (150_000, 3), (99_000, 4), (10, 5)),
        b"small": checkpoint(*((400, number) for number in range(200))),
        b"empty": models.safetensors_bytes({}),
        b"nothing": models.safetensors_bytes({"none": torch.zeros(0), "some": noise(4000, 1)}),
        b"turned": models.torch_bytes(
            {"t": noise(240_000, 1).reshape(200, 300).t(), "s": noise(400, 2).reshape(4, 25).t()}
        ),
        b"tied": models.torch_bytes({"a": noise(50_000, 1), "b": noise(50_000, 1)}),
    }
    bench = Bench.at(tmp_path, memory_limit=limit, cache_size=cache)
    waiting = Waiting(bench.services)
    waiting.delay(cleaned(bench, files))
    assert waiting.rest() == (files, {})
    waiting.assert_nothing_is_held()
    bench.close()


def test_what_is_loaded_ahead_is_bounded(bench: Bench, narrow: Waiting) -> None:
    """By the window, however many files wait; a job that was asked for may come on top."""
    files = {b"%03d" % number: checkpoint((20_000, number), (7000, number + 500)) for number in range(40)}
    narrow.delay(cleaned(bench, files))
    assert narrow.rest() == (files, {})
    assert 20_000 < narrow.buffers.peak <= WINDOW


class TestShared:
    """Groups that several files share are decoded once, but for those that are on their way at the same time."""

    @pytest.fixture
    def bench(self, tmp_path: Path) -> Iterator[Bench]:
        """Return pipelines with one worker: two would sometimes meet at the same group."""
        made = Bench.at(tmp_path, workers=1)
        yield made
        made.close()

    @pytest.fixture(autouse=True)
    def opened(self, monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
        """Return how often the value of each object was decoded."""
        found: Counter[str] = Counter()

        def counted(services: Services, entry: Entry, size: int) -> tuple[memoryview, DensePayload]:
            found[entry.oid] += 1
            return open_value(services, entry, size)

        monkeypatch.setattr(load, "open_value", counted)
        return found

    @staticmethod
    def files(count: int = 6) -> dict[bytes, bytes]:
        """Return files that share groups: alone in a job, and among other small ones."""
        shared = [(1_200_000, 1), (400, 2), (400, 3)]
        return {b"%d" % at: checkpoint((4000, 10 + at), *shared, (800, 20 + at)) for at in range(count)}

    def test_shards_decode_them_once(self, bench: Bench, waiting: Waiting, opened: Counter[str]) -> None:
        files = self.files()
        waiting.delay(cleaned(bench, files))
        assert waiting.rest() == (files, {})
        assert set(opened.values()) == {1}
        assert len(opened) == 3 + 2 * len(files)
        waiting.assert_nothing_is_held()

    def test_copies_of_a_file_decode_it_once(self, bench: Bench, waiting: Waiting, opened: Counter[str]) -> None:
        files = dict.fromkeys([b"a", b"b", b"c"], self.files(1)[b"0"])
        waiting.delay(cleaned(bench, files))
        assert waiting.rest() == (files, {})
        assert set(opened.values()) == {1}

    def test_groups_of_several_chunks_are_decoded_once_a_window(
        self, bench: Bench, waiting: Waiting, opened: Counter[str]
    ) -> None:
        size = 5 << 20  # of which the window holds three
        files = {b"%d" % at: checkpoint((400, at), (size, 100)) for at in range(12)}
        waiting.delay(cleaned(bench, files))
        assert waiting.rest() == (files, {})
        assert max(opened.values()) <= waiting.services.ahead.window // size  # those that are in flight together

    def test_within_a_window_that_is_narrower_than_a_file(
        self, bench: Bench, tmp_path: Path, opened: Counter[str], many_jobs: None
    ) -> None:
        files = {b"%d" % at: checkpoint((40_000, 10 + at), (30_000, 1), (40_000, 20 + at)) for at in range(6)}
        metadata = cleaned(bench, files)
        other = Bench.at(tmp_path, memory_limit=4 * WINDOW, cache_size=40_000)
        waiting = Waiting(other.services)
        waiting.delay(metadata)
        assert waiting.rest() == (files, {})
        assert opened[oid(metadata[b"0"], "group1")] == 1
        waiting.assert_nothing_is_held()
        other.close()

    def test_a_cache_that_is_too_small_costs_time_only(self, bench: Bench, narrow: Waiting) -> None:
        files = self.files()
        narrow.delay(cleaned(bench, files))
        assert narrow.rest() == (files, {})

    def test_a_file_that_failed_does_not_take_them_along(
        self, bench: Bench, waiting: Waiting, opened: Counter[str]
    ) -> None:
        files = self.files(3)
        metadata = cleaned(bench, files)
        damage(bench, metadata[b"0"], "group4")
        waiting.delay(metadata)
        written, failed = waiting.rest()
        assert written == {path: files[path] for path in (b"1", b"2")}
        assert [*failed] == [b"0"]
        assert opened[oid(metadata[b"1"], "group1")] == 1

    def test_what_was_smudged_before_is_not_decoded_a_third_time(
        self, bench: Bench, waiting: Waiting, opened: Counter[str]
    ) -> None:
        """Branch after branch in one process, as a rebase does."""
        files = {b"a": THREE[b"a"]}
        for _ in range(4):
            waiting.delay(cleaned(bench, files))
            assert waiting.rest() == (files, {})
        assert set(opened.values()) == {2}

    def test_one_bad_object_fails_all_that_need_it(self, bench: Bench, waiting: Waiting) -> None:
        files = {**self.files(3), b"other": THREE[b"a"]}
        metadata = cleaned(bench, files)
        damage(bench, metadata[b"0"], "group1")
        waiting.delay(metadata)
        written, failed = waiting.rest()
        assert written == {b"other": THREE[b"a"]}
        assert [*failed] == [b"0", b"1", b"2"]
        assert all(isinstance(error, CorruptObject) for error in failed.values())


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[bytes, bytes]]:
    """Return a directory with a store, and metadata of files that share groups and differ in size; by content."""
    directory = tmp_path_factory.mktemp("store")
    bench = Bench.at(directory)
    contents = [
        checkpoint(*groups)
        for groups in (
            [(400, 1)],
            [(40_000, 2), (400, 1), (30_000, 3)],
            [(30_000, 3), (40_000, 2)],
            [(250_000, 4), (400, 1)],
            [(400, number) for number in range(90)],
            [(60_000, number) for number in range(4)],
            [],
        )
    ]
    contents.append(models.torch_bytes({"turned": noise(120_000, 9).reshape(100, 300).t()}))
    known = {content: bench.clean(content) for content in contents}
    bad = bench.clean(checkpoint((50_000, 80), (30_000, 3), (50_000, 81)))
    damage(bench, bad, "group2")
    gone = bench.clean(checkpoint((50_000, 82), (50_000, 83)))
    lose(bench, gone, "group0")
    bench.close()
    shutil.rmtree(bench.services.settings.theta_dir / "memo", ignore_errors=True)
    return directory, {**known, b"bad": bad, b"gone": gone}


STEPS = st.one_of(
    st.tuples(st.just("delay"), st.integers(0, 5), st.integers(0, 9)),
    st.tuples(st.just("delay"), st.integers(0, 5), st.integers(0, 9)),
    st.tuples(st.just("delay"), st.integers(0, 5), st.integers(0, 9)),
    st.tuples(st.just("list"), st.integers(0, 4), st.integers(1, 7)),
    st.tuples(st.just("list"), st.integers(0, 4), st.integers(1, 7)),
    st.tuples(st.just("ask"), st.integers(0, 5), st.integers(0, 9)),
    st.tuples(st.just("pause"), st.just(0), st.just(0)),
)


@settings(max_examples=60)
@given(
    limit=st.sampled_from([0, 1 << 16, 4 * WINDOW, 4 * 200_000, 16 << 20]),
    cache=st.sampled_from([0, 50_000, 1 << 20]),
    batch=st.sampled_from([10_000, 1 << 20]),
    steps=st.lists(STEPS, max_size=25),
)
def test_any_git(
    store: tuple[Path, dict[bytes, bytes]], limit: int, cache: int, batch: int, steps: Sequence[tuple[str, int, int]]
) -> None:
    """Whatever is delayed, listed, taken, left alone, and asked for anew: every file is right, or fails."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "_BATCH_BYTES", batch)
        play(store, limit, cache, steps)


def play(store: tuple[Path, dict[bytes, bytes]], limit: int, cache: int, steps: Sequence[tuple[str, int, int]]) -> None:
    directory, known = store
    contents = [*known]
    bench = Bench.at(directory, memory_limit=limit, cache_size=cache)
    waiting = Waiting(bench.services)
    delayed: dict[bytes, bytes] = {}
    offered: dict[bytes, bytes] = {}
    for step, at, number in steps:
        path = b"path %d" % at
        match step:
            case "delay":
                waiting.delay({path: known[contents[number]]})
                delayed[path] = contents[number]
                offered.pop(path, None)
            case "list":
                listed = waiting.checkout.available()
                assert bool(listed) == bool(delayed)
                offered |= {path: delayed.pop(path) for path in listed}
                for path in listed[:: number or 1][at:]:
                    assert_answer(waiting, path, b"", offered.pop(path))
            case "ask":
                assert_answer(waiting, path, known[contents[number]], contents[number])
                delayed.pop(path, None)
                offered.pop(path, None)
            case "pause":
                waiting.checkout.pause()
    assert len(waiting.checkout.available()) <= len(delayed)
    for path, content in offered.items():
        assert_answer(waiting, path, b"", content)
    bench.close()


def assert_answer(waiting: Waiting, path: bytes, metadata: bytes, expected: bytes) -> None:
    if expected in (b"bad", b"gone"):
        with pytest.raises(CorruptObject if expected == b"bad" else MissingObject):
            waiting.retry(path, metadata)
    else:
        assert waiting.retry(path, metadata) == expected


def test_an_interrupt_is_no_file_s_own(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """... where the asking thread loads the groups: it ends the command, now."""
    metadata = cleaned(bench, THREE)
    waiting = Waiting(bench.services)

    def interrupted(*_: object) -> tuple[memoryview, DensePayload]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(load, "open_value", interrupted)
        with pytest.raises(KeyboardInterrupt):
            waiting.rest_of(metadata)
