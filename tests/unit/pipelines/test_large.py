"""Groups that are too large for memory: right, or not a byte of them; and little memory, whoever wrote them."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.support import models, tensorstore_payload
from tests.support.pipelines import Bench
from theta_daemon.errors import CorruptObject, MetadataError, RepositoryError, UnsupportedError
from theta_daemon.metadata import text
from theta_daemon.metadata.entries import Entry, Metadata, ObjectRef, Update
from theta_daemon.pipelines import large
from theta_daemon.pipelines.services import Services
from theta_daemon.pipelines.smudge import smudge
from theta_daemon.pipelines.value import verify
from theta_daemon.store import payload
from theta_daemon.store.codec import DEFAULT, Codec
from theta_daemon.workers.buffers import Buffers

MOST = 1 << 17  # bytes of a group that is held as a whole
SHAPE = (600, 700)  # of float32: 1.68 MB
START = "group0"  # of the file: small, and so is the last
NAME = "group1"
NOISE = np.random.default_rng(5).normal(0, 1, SHAPE).astype(np.float32)

Array = npt.NDArray[np.float32]


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make of a value of some megabytes what one of some gigabytes is: many chunks, and many windows."""
    monkeypatch.setattr(payload, "CHUNK_BYTES", 1 << 15)
    monkeypatch.setattr(large, "_WINDOW", 1 << 16)
    payload.chunk_plan.cache_clear()
    yield
    payload.chunk_plan.cache_clear()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench.at(tmp_path, memory_limit=4 * MOST, compatible="false")
    yield made
    made.close()


def safetensors_file(value: Array) -> bytes:
    tensors = {START: torch.arange(40.0), NAME: torch.from_numpy(value), "group2": torch.ones(50)}
    return models.safetensors_bytes(tensors)


def torch_file(value: torch.Tensor) -> bytes:
    return models.torch_bytes({START: torch.arange(40.0), NAME: value, "group2": torch.ones(50)})


FILE = safetensors_file(NOISE)
BEFORE = FILE.index(NOISE.tobytes())  # bytes of the file before the large group


def with_entry(metadata: bytes, change: Callable[[Entry], Entry]) -> bytes:
    """Return the metadata with the large group's entry changed."""
    parsed = text.parse(metadata)
    entries = dict(parsed.entries)
    entries[(NAME,)] = change(entries[(NAME,)])
    return text.serialize(Metadata(entries, parsed.file))


def ref_in(metadata: bytes) -> ObjectRef:
    """Return the large group's object."""
    entry = text.parse(metadata).entries[(NAME,)]
    return ObjectRef(entry.oid, entry.size)


def with_payload(bench: Bench, metadata: bytes, stored: bytes, *, digest: bool = True) -> bytes:
    """Return metadata whose large group is in an object with these bytes."""
    ref = bench.services.store.write([stored])

    def change(entry: Entry) -> Entry:
        changed = entry.replace(oid=ref.oid, size=ref.size)
        return changed if digest else changed.replace(digest=None)

    return with_entry(metadata, change)


def smudged(bench: Bench, metadata: bytes) -> Iterator[bytes | memoryview]:
    return smudge(bench.services, b"model", io.BytesIO(metadata))


def take(pieces: Iterable[bytes | memoryview], got: bytearray) -> None:
    """Add all pieces to `got`, as far as they come."""
    for piece in pieces:
        got += piece


def assert_fails(bench: Bench, metadata: bytes, error: type[Exception], match: str | None = None) -> bytearray:
    """Fail unless the file fails so; return what came of it before."""
    got = bytearray()
    with pytest.raises(error, match=match) as caught:
        take(smudged(bench, metadata), got)
    assert f"parameter '{NAME}'" in str(caught.value)
    assert_nothing_is_held(bench)
    return got


def assert_nothing_is_held(bench: Bench) -> None:
    bench.services.ahead.give_up()
    assert bench.services.ahead._used == 0
    temporary = bench.services.settings.temporary
    assert not temporary.exists() or list(temporary.iterdir()) == []


CODECS = {"lz4": DEFAULT, "none": Codec(None)}


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers(tmp_path: Path, workers: int) -> None:
    bench = Bench.at(tmp_path, memory_limit=4 * MOST, workers=workers)
    for content in (FILE, torch_file(VALUE.t())):
        assert bench.smudge(bench.clean(content)) == content
    bench.close()


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("digest", [True, False], ids=["digest", "no digest"])
def test_our_chunks(bench: Bench, codec: str, digest: bool) -> None:
    bench.services = bench.services.replace(codec=CODECS[codec])
    metadata = bench.clean(FILE)
    if not digest:
        metadata = with_entry(metadata, lambda entry: entry.replace(digest=None))
    assert bench.smudge(metadata) == FILE
    assert_nothing_is_held(bench)


# What tensorstore may have been told, or have chosen by itself.
CHUNKINGS: dict[str, dict[str, object]] = {
    "rows": {"chunks": [7, 700]},
    "rows, not compressed": {"chunks": [20, 700], "compressor": None},
    "one": {"chunks": [600, 700]},
    "padded rows": {"chunks": [512, 700]},
    "columns": {"chunks": [600, 13]},
    "blocks": {"chunks": [64, 64]},
    "columns first": {"chunks": [100, 700], "order": "F"},
    "blocks, not compressed": {"chunks": [250, 300], "compressor": None},
    "zlib": {"chunks": [100, 700], "compressor": {"id": "zlib", "level": 1}},
}


@pytest.mark.parametrize("chunking", CHUNKINGS)
@pytest.mark.parametrize("digest", [True, False], ids=["digest", "no digest"])
def test_chunks_of_another_writer(bench: Bench, chunking: str, digest: bool) -> None:
    stored = tensorstore_payload.write(NOISE, **CHUNKINGS[chunking])
    metadata = with_payload(bench, bench.clean(FILE), stored, digest=digest)
    assert bench.smudge(metadata) == FILE
    assert_nothing_is_held(bench)


VALUE = torch.from_numpy(NOISE)
PERMUTED = {
    "transposed": VALUE.t(),
    "channels last": VALUE.reshape(6, 20, 50, 70).to(memory_format=torch.channels_last),
    "bfloat16": VALUE.to(torch.bfloat16).t(),
    "complex": torch.complex(VALUE, VALUE).t(),
}


@pytest.mark.parametrize("order", PERMUTED)
@pytest.mark.parametrize("codec", ["lz4", "none"])
def test_a_value_that_lies_in_another_order(bench: Bench, order: str, codec: str) -> None:
    bench.services = bench.services.replace(codec=CODECS[codec])
    content = torch_file(PERMUTED[order])
    metadata = bench.clean(content)
    assert bench.smudge(metadata) == content
    assert_nothing_is_held(bench)


def test_chunks_of_another_writer_in_another_order(bench: Bench) -> None:
    content = torch_file(VALUE.t())
    stored = tensorstore_payload.write(np.ascontiguousarray(NOISE.T), chunks=[64, 64])
    assert bench.smudge(with_payload(bench, bench.clean(content), stored, digest=False)) == content


def test_small_groups_around_large_ones_stay_in_their_places(bench: Bench) -> None:
    sizes = [100, 90_000, 5, 40_000, 3, 3, 50_000, 60_000, 1]
    content = models.safetensors_bytes(
        {f"{at:02}": torch.full((size,), float(at)) + torch.arange(size) for at, size in enumerate(sizes)}
    )
    assert bench.smudge(bench.clean(content)) == content
    assert_nothing_is_held(bench)


class TestNothingThatIsWrong:
    """Not a byte of the group goes out where any of it is wrong."""

    @pytest.mark.parametrize("place", [0, 0.5, 1], ids=["first", "middle", "last"])
    @pytest.mark.parametrize("codec", CODECS)
    @pytest.mark.parametrize("digest", [True, False], ids=["digest", "no digest"])
    def test_a_damaged_chunk(self, bench: Bench, codec: str, place: float, digest: bool) -> None:
        bench.services = bench.services.replace(codec=CODECS[codec])
        metadata = bench.clean(FILE)
        if not digest:
            metadata = with_entry(metadata, lambda entry: entry.replace(digest=None))
        ref = ref_in(metadata)
        at = int(2000 + (ref.size - 4000) * place)
        change_object(bench, ref.oid, at)
        assert assert_fails(bench, metadata, CorruptObject, ref.oid) == FILE[:BEFORE]

    @pytest.mark.parametrize("chunking", ["rows", "blocks", "columns first"])
    @pytest.mark.parametrize("digest", [True, False], ids=["digest", "no digest"])
    def test_a_damaged_chunk_of_another_writer(self, bench: Bench, chunking: str, digest: bool) -> None:
        stored = tensorstore_payload.write(NOISE, **CHUNKINGS[chunking])
        metadata = with_payload(bench, bench.clean(FILE), stored, digest=digest)
        change_object(bench, ref_in(metadata).oid, -1000)
        assert assert_fails(bench, metadata, CorruptObject) == FILE[:BEFORE]

    def test_chunks_that_have_changed_places(self, bench: Bench) -> None:
        """Each is whole; only the digest of all tells."""
        metadata = bench.clean(FILE)
        ref = ref_in(metadata)
        entries = tensorstore_payload.unpack(bytes(bench.services.store.open(ref)))
        first, second = [key for key in entries if key != ".zarray"][3:5]
        entries[first], entries[second] = entries[second], entries[first]
        wrong = with_payload(bench, metadata, tensorstore_payload.pack(entries))
        assert assert_fails(bench, wrong, CorruptObject, "does not hold the value") == FILE[:BEFORE]

    def test_another_value(self, bench: Bench) -> None:
        other = np.array(NOISE)
        other[-1, -1] += 1
        wrong = with_payload(bench, bench.clean(FILE), tensorstore_payload.write(other, chunks=[64, 64]))
        assert assert_fails(bench, wrong, CorruptObject, "does not hold the value") == FILE[:BEFORE]

    def test_another_value_in_another_order(self, bench: Bench) -> None:
        content = torch_file(VALUE.t())
        metadata = bench.clean(content)
        change_object(bench, ref_in(metadata).oid, -2000)
        got = assert_fails(bench, metadata, CorruptObject)
        assert content.startswith(got)
        assert len(got) < len(content) - NOISE.nbytes

    def test_an_update_that_builds_on_nothing(self, bench: Bench) -> None:
        metadata = with_entry(bench.clean(FILE), lambda entry: entry.replace(update_type="sparse"))
        assert assert_fails(bench, metadata, MetadataError, "names neither replay nor the commit") == b""

    @pytest.mark.parametrize(
        ("update_type", "error", "said"),
        [("sparse", CorruptObject, "sparse"), ("fancy", UnsupportedError, "'fancy' is not known")],
    )
    def test_an_update_that_is_none(self, bench: Bench, update_type: str, error: type[Exception], said: str) -> None:
        """Its object is that of a dense value."""
        metadata = bench.clean(FILE)
        small = text.parse(metadata).entries[(START,)]

        def change(entry: Entry) -> Entry:
            replay = (Update("dense", entry.oid, entry.size),)
            return entry.replace(update_type=update_type, oid=small.oid, size=small.size, replay=replay)

        metadata = with_entry(metadata, change)
        assert assert_fails(bench, metadata, error, said) == FILE[:BEFORE]

    @pytest.mark.parametrize("codec", CODECS)
    @pytest.mark.parametrize("place", [0, 0.5, 1], ids=["first", "middle", "last"])
    def test_an_object_that_changes_after_it_was_verified(
        self, bench: Bench, codec: str, place: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Nobody should; who does gets an error, and git no byte that is not right."""
        bench.services = bench.services.replace(codec=CODECS[codec])
        metadata = bench.clean(FILE)
        ref = ref_in(metadata)

        def change_then(
            services: Services, entry: Entry, stored: memoryview, found: str, *, forgetting: bool = False
        ) -> None:
            verify(services, entry, stored, found, forgetting=forgetting)
            if entry.oid == ref.oid:
                with path.open("r+b") as file:
                    change_byte(file, int(2000 + (ref.size - 4000) * place))

        path = files_of(bench, ref.oid)[0]  # the others are names of the same file
        path.chmod(0o644)
        monkeypatch.setattr(large, "verify", change_then)
        got = assert_fails(bench, metadata, CorruptObject, ref.oid)
        assert FILE.startswith(got)
        assert len(got) < BEFORE + NOISE.nbytes
        if place == 0:
            assert got == FILE[:BEFORE]


def files_of(bench: Bench, oid: str) -> list[Path]:
    return [path for path in bench.services.settings.git_dir.rglob(oid) if path.is_file()]


def change_byte(file: io.BufferedRandom, at: int) -> None:
    file.seek(at)
    old = file.read(1)
    file.seek(at)
    file.write(bytes([old[0] ^ 0x55]))


def change_object(bench: Bench, oid: str, at: int) -> None:
    """Put another file with one byte changed in the place of an object."""
    for path in files_of(bench, oid):
        data = bytearray(path.read_bytes())
        data[at] ^= 0x55
        path.unlink()
        path.write_bytes(data)


def test_a_value_in_order_needs_no_disk(bench: Bench) -> None:
    metadata = bench.clean(FILE)
    block_temporary(bench)
    assert bench.smudge(metadata) == FILE


def test_a_value_in_another_order_needs_room_on_the_disk(bench: Bench) -> None:
    content = torch_file(VALUE.t())
    metadata = bench.clean(content)
    block_temporary(bench)
    got = assert_fails_without_room(bench, metadata)
    assert content.startswith(got)


def block_temporary(bench: Bench) -> None:
    """Put a file where the directory for temporary files should be."""
    temporary = bench.services.settings.temporary
    if temporary.exists():
        temporary.rmdir()
    temporary.parent.mkdir(parents=True, exist_ok=True)
    temporary.write_text("in the way")


def assert_fails_without_room(bench: Bench, metadata: bytes) -> bytearray:
    got = bytearray()
    with pytest.raises(RepositoryError, match="cannot spool a parameter group of 1680000 bytes"):
        take(smudged(bench, metadata), got)
    return got


@pytest.mark.parametrize("kind", ["in order", "transposed"])
@pytest.mark.parametrize("taken", [1, 2, 3, 10])
def test_nobody_takes_the_rest(bench: Bench, kind: str, taken: int) -> None:
    content = FILE if kind == "in order" else torch_file(VALUE.t())
    pieces = smudged(bench, bench.clean(content))
    got = b"".join(bytes(next(pieces)) for _ in range(taken))
    pieces.close()  # type: ignore[attr-defined]
    assert content.startswith(got)
    assert_nothing_is_held(bench)


class Watched(Buffers):
    """Buffers that know how much of them is in use."""

    used = peak = 0

    def take(self, size: int) -> memoryview:
        self.used += size
        self.peak = max(self.peak, self.used)
        return super().take(size)

    def give(self, view: memoryview) -> None:
        self.used -= len(view)
        super().give(view)


@pytest.mark.parametrize("kind", ["in order", "transposed"])
def test_it_takes_little_memory(tmp_path: Path, kind: str) -> None:
    bench = Bench.at(tmp_path, memory_limit=8 * MOST, workers=1)
    watched = Watched(1 << 20)
    bench.services = bench.services.replace(buffers=watched)
    content = FILE if kind == "in order" else torch_file(VALUE.t())
    metadata = bench.clean(content)
    assert watched.used == 0
    watched.peak = 0
    longest = 0
    for piece in smudged(bench, metadata):
        longest = max(longest, len(piece))
    assert longest < large._WINDOW + payload.CHUNK_BYTES
    assert watched.used == 0
    assert 0 < watched.peak <= bench.services.ahead.window
    bench.close()


def test_two_files_share_the_workers(tmp_path: Path) -> None:
    """Those who wait for a large group hold no worker."""
    bench = Bench.at(tmp_path, memory_limit=4 * MOST, workers=1)
    metadata = bench.clean(FILE)
    others = [Bench.at(tmp_path, memory_limit=4 * MOST, workers=1) for _ in range(3)]
    for other in others:
        other.services = other.services.replace(pool=bench.services.pool)
    with ThreadPoolExecutor(3) as threads:
        assert list(threads.map(lambda other: other.smudge(metadata), others)) == [FILE] * 3
    bench.close()
