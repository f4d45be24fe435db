"""Changed parameter groups as updates: what is stored, that it comes back, and where a chain is cut."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support import models
from tests.support.pipelines import Bench
from theta_daemon.errors import MetadataError, ObjectError, RepositoryError
from theta_daemon.metadata import text
from theta_daemon.metadata.entries import Entry, Metadata, ObjectRef
from theta_daemon.pipelines.chains import Chain
from theta_daemon.pipelines.compact import compacted
from theta_daemon.pipelines.replay import base as replay_base
from theta_daemon.pipelines.spool import Spool
from theta_daemon.pipelines.value import memo_key
from theta_daemon.store.codec import DEFAULT, Codec

Tensors = dict[str, torch.Tensor]


def noise(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape).normal_(0, 0.02, generator=torch.Generator().manual_seed(seed)).to(dtype)


def touched(tensors: Tensors, seed: int, share: int = 1000) -> Tensors:
    """Return new values for one of `share` elements of each tensor."""
    generator = torch.Generator().manual_seed(seed)
    changed = {}
    for name, tensor in tensors.items():
        new = tensor.clone()
        flat = new.view(-1)
        at = torch.randint(len(flat), (max(len(flat) // share, 1),), generator=generator)
        flat[at] = torch.empty(len(at)).normal_(0, 0.02, generator=generator).to(tensor.dtype)
        changed[name] = new
    return changed


def parsed(data: bytes) -> Metadata:
    found = text.parse(data)
    assert isinstance(found, Metadata)
    return found


def entry(data: bytes, name: str) -> Entry:
    return parsed(data).entries[(name,)]


def sizes(data: bytes) -> int:
    """Return the bytes of the objects that are the entries' own, each once."""
    return sum({each.oid: each.size for each in parsed(data).entries.values()}.values())


def like_git_theta(bench: Bench, data: bytes, last_commit: str | None) -> bytes:
    """Return the metadata without what git-theta would not have written; signatures are computed anew."""
    del bench
    document: dict[str, Any] = json.loads(data)
    document.pop("theta_daemon", None)
    for each in document.values():
        each.pop("theta_daemon", None)
        each["theta_metadata"]["last_commit"] = last_commit
    return json.dumps(document, indent=4).encode()


def auto(tmp_path: Path, **changes: object) -> Bench:
    return Bench.at(tmp_path, **({"update_type": "auto"} | changes))


BASE: Tensors = {"a": noise(300, 400, seed=1), "b": noise(40_000, seed=2), "c": noise(64, 700, seed=3)}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_a_small_change_costs_little_and_comes_back(tmp_path: Path, dtype: torch.dtype) -> None:
    bench = auto(tmp_path)
    base = {name: tensor.to(dtype) for name, tensor in BASE.items()}
    bench.record.commit(bench.clean(models.safetensors_bytes(base)))
    new = models.safetensors_bytes(touched(base, seed=5))
    metadata = bench.clean(new)
    found = parsed(metadata).entries
    assert {each.update_type for each in found.values()} == {"exact-sparse"}
    assert all([step.update_type for step in each.replay] == ["dense"] for each in found.values())
    assert len({each.oid for each in found.values()}) == 1
    assert sizes(metadata) < sum(tensor.nbytes for tensor in base.values()) / 100
    fresh = bench.fresh()
    assert fresh.smudge(metadata) == new
    fresh.record.commit(metadata)
    assert fresh.fresh().clean(new) == metadata


def test_a_chain_of_many_steps(tmp_path: Path) -> None:
    bench = auto(tmp_path)
    versions: list[tuple[bytes, bytes]] = []
    tensors = BASE
    for seed in range(12):
        content = models.safetensors_bytes(tensors)
        versions.append((content, bench.clean(content)))
        bench.record.commit(versions[-1][1])
        tensors = touched(tensors, seed)
    assert [len(entry(metadata, "a").replay) for _, metadata in versions] == list(range(12))
    fresh = bench.fresh()
    for content, metadata in reversed(versions):
        assert fresh.smudge(metadata) == content


def test_a_chain_that_is_too_long_is_cut(tmp_path: Path) -> None:
    bench = auto(tmp_path, max_chain=3)
    depths = []
    tensors = BASE
    for seed in range(10):
        content = models.safetensors_bytes(tensors)
        metadata = bench.clean(content)
        bench.record.commit(metadata)
        depths.append(len(entry(metadata, "a").replay))
        assert bench.fresh().smudge(metadata) == content
        tensors = touched(tensors, seed)
    assert depths == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]


def test_updates_that_weigh_too_much_are_not_made(tmp_path: Path) -> None:
    bench = auto(tmp_path)
    bench.record.commit(bench.clean(models.safetensors_bytes(BASE)))
    content = models.safetensors_bytes(touched(BASE, seed=1, share=3))
    metadata = bench.clean(content)
    assert {each.update_type for each in parsed(metadata).entries.values()} == {"dense"}
    assert bench.fresh().smudge(metadata) == content


def test_what_head_does_not_have_is_dense(tmp_path: Path) -> None:
    bench = auto(tmp_path)
    assert entry(bench.clean(models.safetensors_bytes(BASE)), "a").update_type == "dense"
    bench.record.commit(bench.clean(models.safetensors_bytes({"a": BASE["a"]})))
    other = {"a": BASE["a"].to(torch.float64), "d": BASE["b"]}
    metadata = bench.clean(models.safetensors_bytes(other))
    assert {each.update_type for each in parsed(metadata).entries.values()} == {"dense"}


def test_only_what_changed_is_written(tmp_path: Path) -> None:
    bench = auto(tmp_path)
    first = bench.clean(models.safetensors_bytes(BASE))
    bench.record.commit(first)
    second = bench.clean(models.safetensors_bytes(BASE | touched({"b": BASE["b"]}, seed=3)))
    assert entry(second, "a") == entry(first, "a")
    assert entry(second, "b").update_type == "exact-sparse"


def test_a_previous_value_that_is_damaged_is_not_built_upon(tmp_path: Path) -> None:
    bench = auto(tmp_path)
    metadata = bench.clean(models.safetensors_bytes(BASE))
    bench.record.commit(metadata)
    oid = entry(metadata, "a").oid
    for file in (tmp_path / ".git").glob(f"*/objects/*/*/{oid}"):
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.unlink()
        file.write_bytes(data)
    content = models.safetensors_bytes(touched(BASE, seed=2))
    new = bench.fresh().clean(content)
    assert entry(new, "a").update_type == "dense"
    assert entry(new, "b").update_type == "exact-sparse"
    assert bench.fresh().smudge(new) == content


def test_permuted_and_tied_tensors(tmp_path: Path) -> None:
    bench = auto(tmp_path)

    def file(weights: torch.Tensor, seed: int) -> bytes:
        tied = noise(300, 200, seed=seed) if seed else noise(300, 200)
        return models.torch_bytes({"t": weights.t(), "head": tied, "wte": tied, "x": noise(9000, seed=7)})

    weights = noise(200, 300, seed=4)
    bench.record.commit(bench.clean(file(weights, 0)))
    changed = touched({"w": weights}, seed=6)["w"]
    tied = noise(300, 200)
    tied[7, 7] = 1.0
    content = models.torch_bytes({"t": changed.t(), "head": tied, "wte": tied, "x": noise(9000, seed=7)})
    metadata = bench.clean(content)
    assert {entry(metadata, name).update_type for name in ("t", "head", "wte")} == {"exact-sparse"}
    assert bench.fresh().smudge(metadata) == content
    without_layout = bench.fresh().smudge(like_git_theta_with_digests(metadata))
    loaded = models.torch_loaded(without_layout)
    assert torch.equal(loaded["wte"], tied)
    assert torch.equal(loaded["t"], changed.t())


def like_git_theta_with_digests(data: bytes) -> bytes:
    document: dict[str, Any] = json.loads(data)
    document.pop("theta_daemon")
    return json.dumps(document, indent=4).encode()


def test_larger_than_memory(tmp_path: Path) -> None:
    bench = auto(tmp_path, memory_limit=16 << 20, cache_size=0)
    base = {"large": noise(3000, 1000, seed=1), "small": noise(5000)}
    bench.record.commit(bench.clean(models.safetensors_bytes(base)))
    content = models.safetensors_bytes(touched(base, seed=2))
    metadata = bench.clean(content)
    assert entry(metadata, "large").update_type == "exact-sparse"
    assert bench.fresh().smudge(metadata) == content


@pytest.mark.parametrize("compatible", ["true", "false"])
def test_updates_larger_than_memory(tmp_path: Path, compatible: str) -> None:
    """Half of a base is much where memory is little; and what is written must always come back."""
    asked = {"update_type": "auto", "compatible": compatible, "memory_limit": 16 << 20, "cache_size": 0}
    bench = Bench.at(tmp_path, **asked)
    base = {"large": torch.round(2.0**20 * noise(3000, 1000, seed=1)) + 0.0}  # no -0.0, which sparse changes
    bench.record.commit(bench.clean(models.safetensors_bytes(base)))
    new = {"large": base["large"].clone()}
    new["large"][:400] += torch.randint(1, 99, (400, 1000), generator=torch.Generator().manual_seed(2))
    content = models.safetensors_bytes(new)
    metadata = bench.clean(content)
    found = entry(metadata, "large")
    assert found.update_type == ("sparse" if compatible == "true" else "exact-sparse")
    with_less = Bench.over(bench.services.settings.replace(memory_limit=8 << 20))
    for other in (bench, bench.fresh(), with_less):
        assert other.smudge(metadata) == content
        assert not list(other.services.settings.temporary.glob("*"))


@pytest.mark.parametrize("update_type", ["sparse", "auto"])
def test_types_that_git_theta_reads(tmp_path: Path, update_type: str) -> None:
    bench = Bench.at(tmp_path, update_type=update_type, compatible="true")
    base = {"a": torch.arange(40_000, dtype=torch.float32).reshape(200, 200)}
    bench.record.commit(bench.clean(models.safetensors_bytes(base)))
    new = {"a": base["a"].clone()}
    new["a"][3, 4:90] += 2.0
    content = models.safetensors_bytes(new)
    metadata = bench.clean(content)
    found = entry(metadata, "a")
    assert found.update_type == "sparse"
    assert found.last_commit == next(reversed(bench.record.commits))
    assert any(found.hash)
    assert bench.fresh().smudge(metadata) == content


def test_a_type_that_cannot_make_the_bits(tmp_path: Path) -> None:
    bench = Bench.at(tmp_path, update_type="sparse")
    base = {"a": noise(200, 200), "b": noise(9000, seed=3)}
    base["a"][0, 0] = -0.0
    bench.record.commit(bench.clean(models.safetensors_bytes(base)))
    content = models.safetensors_bytes(touched(base, seed=2))
    metadata = bench.clean(content)
    assert entry(metadata, "a").update_type == "exact-sparse"
    assert bench.fresh().smudge(metadata) == content
    assert any("cannot be sparse updates: stored otherwise" in warning for warning in bench.warnings)


@pytest.mark.parametrize(
    ("asked", "compatible", "change", "stored"),
    [
        ("ia3", "true", lambda value: value[3, 4:34].add_(2.0), "sparse"),
        ("ia3", "false", lambda value: value[3, 4:34].add_(2.0), "exact-sparse"),
        ("low-rank", "false", lambda value: value.mul_(torch.tensor([1.0, 2.0]).repeat(100)), "ia3"),
        ("sparse", "true", lambda value: value.mul_(torch.tensor([1.0, 2.0]).repeat(100)), "ia3"),
        ("auto", "false", lambda value: value.mul_(torch.tensor([1.0, 2.0]).repeat(100)), "ia3"),
    ],
)
def test_the_smallest_that_can(
    tmp_path: Path, asked: str, compatible: str, change: Callable[[torch.Tensor], object], stored: str
) -> None:
    bench = Bench.at(tmp_path, update_type=asked, compatible=compatible)
    base = {"a": 1.0 + torch.arange(40_000, dtype=torch.float32).reshape(200, 200)}
    bench.record.commit(bench.clean(models.safetensors_bytes(base)))
    new = {"a": base["a"].clone()}
    change(new["a"])
    content = models.safetensors_bytes(new)
    metadata = bench.clean(content)
    assert entry(metadata, "a").update_type == stored
    assert bench.fresh().smudge(metadata) == content
    assert any("stored otherwise" in warning for warning in bench.warnings) == (asked != "auto")


def test_another_shape_is_refused_and_said(tmp_path: Path) -> None:
    bench = Bench.at(tmp_path, update_type="sparse")
    bench.record.commit(bench.clean(models.safetensors_bytes({"w": torch.ones(90, 40)})))
    metadata = bench.clean(models.safetensors_bytes({"w": torch.ones(40, 90)}))
    assert entry(metadata, "w").update_type == "dense"
    assert any("stored otherwise" in warning for warning in bench.warnings)


@pytest.mark.parametrize("update_type", ["sparse", "low-rank", "ia3"])
def test_what_head_does_not_have_is_not_refused(tmp_path: Path, update_type: str) -> None:
    bench = Bench.at(tmp_path, update_type=update_type)
    bench.clean(models.safetensors_bytes(BASE))
    bench.record.commit(bench.clean(models.safetensors_bytes({"b": BASE["b"]})))
    bench.clean(models.safetensors_bytes(BASE))
    assert bench.warnings == []


def low_rank(tmp_path: Path) -> tuple[Bench, bytes, bytes]:
    """Return content and metadata of a model whose `a` is a low-rank update."""
    bench = Bench.at(tmp_path, update_type="low-rank")
    base = {"a": torch.arange(40_000, dtype=torch.float32).reshape(200, 200), "b": noise(9000, seed=3)}
    bench.record.commit(bench.clean(models.safetensors_bytes(base)))
    base["a"] += torch.outer(torch.ones(200), torch.arange(200.0))
    content = models.safetensors_bytes(base)
    metadata = bench.clean(content)
    assert entry(metadata, "a").update_type == "low-rank"
    return bench, content, metadata


@pytest.mark.parametrize("off", [0.0, 1.0])
def test_where_blas_makes_other_bits_they_are_made_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, off: float
) -> None:
    bench, content, metadata = low_rank(tmp_path)
    matmul, called = np.matmul, []

    def other(left: Any, right: Any, out: Any) -> None:
        called.append(1)
        np.add(matmul(left, right), off, out=out)

    monkeypatch.setattr(np, "matmul", other)
    assert bench.fresh().smudge(metadata) == content
    assert called
    wrong = metadata.replace((entry(metadata, "a").digest or "").encode(), b"0" * 64)
    with pytest.raises(ObjectError, match="does not make the value"):
        bench.fresh().smudge(wrong)


def test_an_object_of_the_chain_is_missing(tmp_path: Path) -> None:
    bench = auto(tmp_path)
    base = bench.clean(models.safetensors_bytes(BASE))
    bench.record.commit(base)
    metadata = bench.clean(models.safetensors_bytes(touched(BASE, seed=2)))
    for file in (tmp_path / ".git").glob(f"*/objects/*/*/{entry(base, 'b').oid}"):
        file.unlink()
    with pytest.raises(ObjectError, match=f"parameter 'b': object {entry(base, 'b').oid} .* is missing"):
        bench.fresh().smudge(metadata)


def test_an_update_that_is_another_one(tmp_path: Path) -> None:
    bench = auto(tmp_path)
    bench.record.commit(bench.clean(models.safetensors_bytes(BASE)))
    one = bench.clean(models.safetensors_bytes(touched(BASE, seed=2)))
    other = bench.clean(models.safetensors_bytes(touched(BASE, seed=3)))
    wrong = one.replace(entry(one, "a").oid.encode(), entry(other, "a").oid.encode())
    wrong = wrong.replace(b'"%d"' % entry(one, "a").size, b'"%d"' % entry(other, "a").size)
    with pytest.raises(ObjectError, match="does not make the value"):
        bench.fresh().smudge(wrong)


def chain_of_git_theta(bench: Bench) -> tuple[list[bytes], list[bytes]]:
    """Return contents and metadata of three versions, the latter as if git-theta had written them."""
    contents, written = [], []
    tensors = {"a": torch.arange(40_000, dtype=torch.float32).reshape(200, 200), "b": noise(5000)}
    for _ in range(3):
        content = models.safetensors_bytes(tensors)
        metadata = bench.clean(content)
        commit = next(reversed(bench.record.commits), None)
        contents.append(content)
        written.append(like_git_theta(bench, metadata, commit))
        bench.record.commit(written[-1])
        tensors = {"a": tensors["a"].clone(), "b": tensors["b"]}
        tensors["a"][1, 3:9] += 2.0
    return contents, written


def test_history_is_followed(tmp_path: Path) -> None:
    bench = Bench.at(tmp_path, update_type="sparse", compatible="true", checkpoint_type=None)
    contents, written = chain_of_git_theta(bench)
    assert entry(written[2], "a").update_type == "sparse"
    assert entry(written[2], "a").digest is None
    for content, metadata in zip(contents, written, strict=True):
        got = models.safetensors_loaded(bench.fresh().smudge(metadata, b"m.safetensors"))
        assert torch.equal(got["a"], models.safetensors_loaded(content)["a"])


def test_a_commit_that_is_gone(tmp_path: Path) -> None:
    bench = Bench.at(tmp_path, update_type="sparse", compatible="true")
    _, written = chain_of_git_theta(bench)
    gone = entry(written[2], "a").last_commit
    assert gone is not None
    del bench.record.commits[gone]
    with pytest.raises(RepositoryError, match=f"model: commit {gone}: parameter 'a': .*git fetch REMOTE {gone}"):
        bench.fresh().smudge(written[2])


def test_a_commit_without_the_group(tmp_path: Path) -> None:
    bench = Bench.at(tmp_path, update_type="sparse", compatible="true")
    _, written = chain_of_git_theta(bench)
    before = entry(written[2], "a").last_commit
    assert before is not None
    document = json.loads(written[1])
    del document["a"]
    bench.record.commits[before] = json.dumps(document).encode()
    with pytest.raises(MetadataError, match="does not hold it"):
        bench.fresh().smudge(written[2])


def test_a_value_that_git_theta_did_not_mean(tmp_path: Path) -> None:
    bench = Bench.at(tmp_path, update_type="sparse", compatible="true")
    _, written = chain_of_git_theta(bench)
    document = json.loads(written[2])
    document["a"]["tensor_metadata"]["hash"][3] += 1 << 50
    with pytest.raises(ObjectError, match="another value than git-theta recorded"):
        bench.fresh().smudge(json.dumps(document).encode())


def test_compact(tmp_path: Path) -> None:
    bench = auto(tmp_path)
    bench.record.commit(bench.clean(models.safetensors_bytes(BASE)))
    content = models.safetensors_bytes(touched(BASE, seed=2))
    metadata = bench.clean(content)
    found, number = compacted(bench.services, b"model", metadata)
    assert number == len(BASE)
    assert {(each.update_type, each.replay) for each in parsed(found).entries.values()} == {("dense", ())}
    assert bench.fresh().smudge(found) == content
    assert compacted(bench.services, b"model", found) == (found, 0)


@pytest.mark.parametrize("codec", ["none", DEFAULT.name])
def test_compact_what_is_larger_than_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, codec: str) -> None:
    bench = auto(tmp_path, memory_limit=16 << 20, cache_size=0)
    bench.services = bench.services.replace(codec=Codec.parse(codec))
    base = {"large": noise(3001, 1001, seed=1), "small": noise(5000)}
    bench.record.commit(bench.clean(models.safetensors_bytes(base)))
    content = models.safetensors_bytes(touched(base, seed=2))
    metadata = bench.clean(content)
    spooled: list[int] = []
    append = Spool.append

    def noted(spool: Spool, data: bytes | memoryview) -> slice:
        spooled.append(len(data))
        return append(spool, data)

    monkeypatch.setattr(Spool, "append", noted)
    found, number = compacted(bench.services, b"model", metadata)
    assert number == 2
    assert sum(spooled) > 3001 * 1001  # the large one's payload
    assert max(spooled) <= 4 << 20
    assert bench.fresh().smudge(found) == content


def test_a_base_that_nothing_has_verified_is_for_chains_alone(tmp_path: Path) -> None:
    """An entry without digest, of the same object, must not be answered with it."""
    bench = auto(tmp_path)
    base_entry = entry(bench.clean(models.safetensors_bytes(BASE)), "b").replace(digest=None)
    chain = Chain(
        ("b",), "float32", tuple(BASE["b"].shape), ObjectRef(base_entry.oid, base_entry.size), (), is_exact=True
    )
    size = BASE["b"].nbytes
    values = bench.services.values
    values.expect([chain.base_key, chain.base_key, memo_key(base_entry)])
    replay_base(bench.services, chain, memoryview(bytearray(size)))
    assert values.get(chain.base_key, size) is not None
    assert values.get(memo_key(base_entry), size) is None
