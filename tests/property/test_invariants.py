"""The invariants of the design, on random checkpoints of both formats (4, killing, is tests/faults)."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support import models
from tests.support.pipelines import Bench
from theta_daemon.errors import ThetaError
from theta_daemon.pipelines.smudge import smudge

DTYPES = ["float32", "float16", "bfloat16", "float8_e4m3fn", "complex64", "bool", "int64", "uint8"]

names = st.text("ab.0/~{é", min_size=1, max_size=5)
shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)
seeds = st.integers(0, 2**32 - 1)


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    """A tensor with random bits, NaNs and all; sometimes transposed."""
    dtype = getattr(torch, draw(st.sampled_from(DTYPES)))
    shape = draw(shapes)
    raw = np.random.default_rng(draw(seeds)).integers(0, 256, int(np.prod(shape)) * dtype.itemsize, np.uint8)
    if dtype is torch.bool:
        raw &= 1
    made = (torch.from_numpy(raw).view(dtype) if raw.size else torch.empty(0, dtype=dtype)).reshape(shape)
    return made.transpose(0, -1) if draw(st.booleans()) and shape else made


flat = st.dictionaries(names, tensors(), max_size=6)
nested = st.recursive(
    tensors() | st.integers() | st.none() | st.text(max_size=3),
    lambda inner: st.dictionaries(names | st.integers(0, 3), inner, max_size=4) | st.lists(inner, max_size=3),
    max_leaves=8,
)


def as_safetensors(checkpoint: models.StateDict) -> bytes:
    """Write contiguous copies; the library takes no others."""
    return models.safetensors_bytes({name: value.contiguous() for name, value in checkpoint.items()}, {"format": "pt"})


files = flat.map(as_safetensors) | flat.map(models.torch_bytes) | nested.map(models.torch_bytes)


@pytest.fixture(scope="module")
def scratch() -> Iterator[Callable[..., Bench]]:
    """Return a function that makes pipelines in a folder of their own."""
    with tempfile.TemporaryDirectory() as root:
        made: list[Bench] = []

        def make(**changes: object) -> Bench:
            bench = Bench.at(Path(tempfile.mkdtemp(dir=root)), **changes)
            made.append(bench)
            return bench

        yield make
        for bench in made:
            bench.close()


@pytest.fixture(scope="module")
def bench(scratch: Callable[..., Bench]) -> Bench:
    """Return pipelines whose store all examples of this module share."""
    return scratch()


@given(files, st.lists(st.integers(1, 700), max_size=30))
def test_1_what_was_cleaned_smudges_to_the_same_bytes(bench: Bench, content: bytes, sizes: list[int]) -> None:
    bench.record.contents = []
    assert bench.smudge(bench.clean(content, sizes=tuple(sizes))) == content


@given(files, st.lists(files, max_size=2))
def test_2_cleaning_what_was_smudged_gives_the_record_back(bench: Bench, content: bytes, others: list[bytes]) -> None:
    bench.record.contents = []
    metadata = bench.clean(content)
    bench.record.contents = [*(bench.clean(other) for other in others), metadata]
    again = bench.fresh()
    assert again.clean(again.smudge(metadata)) == metadata
    assert again.clean(metadata) == metadata
    without_smudge = bench.fresh()
    assert without_smudge.clean(content) == metadata
    again.close()
    without_smudge.close()


def as_git_theta_would_write(metadata: bytes) -> bytes:
    """Drop what git-theta drops: everything of ours."""

    def strip(tree: dict[str, dict[str, object]]) -> dict[str, object]:
        if "lfs_metadata" in tree:
            return {key: value for key, value in tree.items() if key != "theta_daemon"}
        return {key: strip(value) for key, value in tree.items()}  # type: ignore[arg-type]

    tree = json.loads(metadata)
    ours = min(key for key, value in tree.items() if key.startswith("theta_daemon") and "lfs_metadata" not in value)
    del tree[ours]
    return json.dumps(strip(tree), indent=4).encode()


@given(flat, st.sampled_from([b"model.pt", b"model.safetensors"]))
def test_2_holds_for_metadata_of_git_theta(bench: Bench, checkpoint: models.StateDict, path: bytes) -> None:
    bench.record.contents = []
    theirs = as_git_theta_would_write(bench.clean(models.torch_bytes(checkpoint)))
    bench.record.contents = [theirs]
    other = bench.fresh()
    content = other.smudge(theirs, path)
    assert other.clean(content, path) == theirs
    other.close()
    unremembered = bench.fresh()
    assert unremembered.clean(content, path) == theirs
    unremembered.close()


@given(flat, st.data())
def test_2_a_change_keeps_the_entries_of_all_other_groups(
    bench: Bench, checkpoint: models.StateDict, data: st.DataObject
) -> None:
    bench.record.contents = []
    before = bench.clean(models.torch_bytes(checkpoint))
    changed = data.draw(st.sampled_from(sorted(checkpoint))) if checkpoint else None
    if changed is not None:
        checkpoint = {**checkpoint, changed: torch.ones(7, dtype=torch.int16)}
    stripped = as_git_theta_would_write(before)
    bench.record.contents = [stripped]
    after = json.loads(bench.clean(models.torch_bytes(checkpoint)))
    for name, entry in json.loads(stripped).items():
        assert (after[name] == entry) == (name != changed)


@given(files, files, st.integers(1, 4))
def test_3_clean_depends_on_content_and_record_alone(
    scratch: Callable[..., Bench], content: bytes, earlier: bytes, workers: int
) -> None:
    one, other = scratch(), scratch(workers=workers, memory_limit=1 << 10)
    record = one.clean(earlier)
    one.record.contents = other.record.contents = [record]
    first = one.clean(content)
    assert other.clean(content, sizes=(1, 2, 3, 500)) == first  # another machine: nothing stored, hardly any memory
    assert one.clean(content) == first
    assert one.fresh().clean(content) == first


@given(flat.map(models.torch_bytes) | flat.map(as_safetensors), st.data())
def test_5_git_never_gets_a_byte_that_was_not_verified(
    scratch: Callable[..., Bench], content: bytes, data: st.DataObject
) -> None:
    bench = scratch()
    metadata = bench.clean(content)
    settings = bench.services.settings
    objects = sorted(file for file in settings.lfs_objects.rglob("*") if file.is_file())
    victim = data.draw(st.sampled_from(objects))
    damaged = bytearray(victim.read_bytes())
    at = data.draw(st.integers(0, len(damaged) - 1))
    damaged[at] ^= 1 << data.draw(st.integers(0, 7))
    for store in (settings.lfs_objects, settings.theta_dir / "objects"):
        file = store / victim.relative_to(settings.lfs_objects)
        file.unlink()
        file.write_bytes(damaged)
    got = b""
    refused: ThetaError | None = None
    try:
        for piece in smudge(bench.services, b"model", BytesIO(metadata)):
            got += bytes(piece)
    except ThetaError as error:
        refused = error
    if refused is None:
        assert got == content  # a byte that means nothing: zarr's text, padding of a chunk
    else:
        assert refused.path == b"model"
        assert content.startswith(got)
