"""A checkpoint goes into git and comes back, byte for byte."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.e2e.git.conftest import Model, assert_clean, leftovers, objects
from tests.support import models
from tests.support.repository import Repository


def test_a_root_commit_comes_back(repository: Repository, model: Model) -> None:
    repository.git("theta", "track", "*.pt", "*.safetensors")
    content = model.version(1)
    repository.write(model.path, content)
    repository.commit("first")
    assert_clean(repository)
    repository.checkout_again()
    assert repository.read(model.path) == content
    assert_clean(repository)
    assert leftovers(repository) == []


def test_git_holds_metadata_and_the_store_one_object_a_group(tracked: Repository, model: Model) -> None:
    tracked.write(model.path, model.version(1))
    tracked.commit("first")
    metadata = json.loads(tracked.git("cat-file", "blob", f"HEAD:{model.path}"))
    groups = {name: entry for name, entry in metadata.items() if "lfs_metadata" in entry}
    assert sorted(groups) == sorted(models.state_dict(1))
    assert groups["layers.0.weight"]["tensor_metadata"]["shape"] == "(32, 32)"
    assert groups["layers.0.weight"]["tensor_metadata"]["dtype"] == "float32"
    oids = {entry["lfs_metadata"]["oid"] for entry in groups.values()}
    assert len(oids) == len(groups)
    layout = set(metadata["theta_daemon"]["layout"])
    assert objects(tracked) == oids | layout


def test_one_changed_group_costs_one_object(tracked: Repository, model: Model) -> None:
    tracked.write(model.path, model.version(1))
    tracked.commit("first")
    before = objects(tracked)
    tracked.write(model.path, model.version(1, changed=1))
    tracked.commit("second")
    assert len(objects(tracked) - before) == 1
    changed = tracked.git("diff", "--unified=0", "HEAD~1", "HEAD", "--no-ext-diff", "--", model.path)
    assert changed.count('+            "digest"') + changed.count('+                "digest"') == 1


def test_back_and_forth_in_history(tracked: Repository, model: Model) -> None:
    versions = [model.version(1), model.version(1, changed=1), model.version(2), model.version(1)]
    commits = []
    for content in versions:
        tracked.write(model.path, content)
        commits.append(tracked.commit("version"))
    for at in (0, 2, 1, 3, 0, 3):
        tracked.git("checkout", "--quiet", commits[at])
        assert tracked.read(model.path) == versions[at]
        assert_clean(tracked)
    tracked.git("checkout", "--quiet", "main")
    tracked.git("reset", "--quiet", "--hard", commits[1])
    assert tracked.read(model.path) == versions[1]
    tracked.git("checkout", commits[0], "--", model.path)
    assert tracked.read(model.path) == versions[0]


def test_real_files_of_real_libraries(tracked: Repository) -> None:
    weight = torch.randn(8, 4, generator=torch.Generator().manual_seed(1))
    conv = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(2))
    files = {
        "plain.pt": models.torch_bytes(models.state_dict(3)),
        "training.pt": models.torch_bytes(models.training_checkpoint()),
        "tied.pt": models.torch_bytes({"embed.weight": weight, "head.weight": weight}),
        "views.pt": models.torch_bytes({"all": weight, "row": weight[1], "column": weight[:, 2], "t": weight.t()}),
        "strided.pt": models.torch_bytes({"t": weight.t(), "last": conv.to(memory_format=torch.channels_last)}),
        "expanded.pt": models.torch_bytes({"wide": torch.zeros(1).expand(1 << 40)}),
        "scalar.pt": models.torch_bytes({"step": torch.tensor(3.0), "none": torch.zeros(0, 4)}),
        "bare.pt": models.torch_bytes(weight),
        "list.pt": models.torch_bytes([weight, {"0": weight.clone(), 0: weight.clone()}]),
        "module.pt": models.torch_bytes(torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4))),
        "odd.pt": models.torch_bytes({"nan": torch.full((64,), torch.nan), "inf": torch.full((3,), -torch.inf)}),
        "empty.pt": models.torch_bytes({}),
        "none.safetensors": models.safetensors_bytes({}),
        "noted.safetensors": models.safetensors_bytes({"w": weight}, {"format": "pt", "note": "kept"}),
    }
    for name in (
        "bfloat16",
        "float16",
        "float64",
        "float8_e4m3fn",
        "float8_e5m2",
        "complex64",
        "bool",
        "int64",
        "uint8",
    ):
        values = (torch.arange(24) % 7).to(getattr(torch, name)).reshape(4, 6)
        files[f"{name}.pt"] = models.torch_bytes({"values": values, "t": values.t().contiguous().t()})
        files[f"{name}.safetensors"] = models.safetensors_bytes({"values": values})
    for name, content in files.items():
        tracked.write(name, content)
    tracked.commit("all kinds")
    assert_clean(tracked)
    tracked.checkout_again()
    different = [name for name, content in files.items() if tracked.read(name) != content]
    assert different == []
    assert_clean(tracked)


def test_transformers_models_plain_and_sharded(tracked: Repository, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="make test installs it")
    config = transformers.GPT2Config(n_layer=2, n_head=2, n_embd=64, vocab_size=500, n_positions=64)
    gpt2 = transformers.GPT2LMHeadModel(config)
    gpt2.save_pretrained(tracked.path / "plain")
    gpt2.save_pretrained(tracked.path / "sharded", max_shard_size="100KB")
    shards = sorted((tracked.path / "sharded").glob("*.safetensors"))
    assert len(shards) > 1
    assert (tracked.path / "sharded" / "model.safetensors.index.json").exists()
    before = {
        file: file.read_bytes() for file in tracked.path.rglob("*") if file.is_file() and ".git" not in file.parts
    }
    tracked.commit("models")
    tracked.checkout_again()
    assert {file: file.read_bytes() for file in before} == before
    assert_clean(tracked)
    again = transformers.GPT2LMHeadModel.from_pretrained(tracked.path / "sharded")
    assert all((one == other).all() for one, other in zip(gpt2.parameters(), again.parameters(), strict=True))


def test_a_real_model(tracked: Repository, minilm: Path) -> None:
    content = minilm.read_bytes()
    tracked.write("minilm.safetensors", content)
    tracked.commit("MiniLM")
    tracked.checkout_again()
    assert tracked.read("minilm.safetensors") == content
    assert_clean(tracked)


def test_an_empty_file_stays_empty(tracked: Repository, model: Model) -> None:
    tracked.write(model.path, b"")
    tracked.commit("empty")
    tracked.checkout_again()
    assert tracked.read(model.path) == b""


def test_one_shot_filters_give_the_same(tracked: Repository, model: Model) -> None:
    content = model.version(1)
    tracked.write(model.path, content)
    tracked.commit("first")
    metadata = tracked.git_bytes("cat-file", "blob", f"HEAD:{model.path}")
    cleaned = tracked.run("theta-daemon", "clean", model.path, stdin=content)
    assert (cleaned.returncode, cleaned.stdout) == (0, metadata)
    smudged = tracked.run("theta-daemon", "smudge", model.path, stdin=metadata)
    assert (smudged.returncode, smudged.stdout) == (0, content)
    for key in ("process", "required"):
        tracked.git("config", "--local", "--unset", f"filter.theta.{key}")
    assert_clean(tracked)
    tracked.checkout_again()
    assert tracked.read(model.path) == content


def test_metadata_given_to_clean_passes_unchanged(tracked: Repository, model: Model) -> None:
    tracked.write(model.path, model.version(1))
    tracked.commit("first")
    metadata = tracked.git_bytes("cat-file", "blob", f"HEAD:{model.path}")
    blob = tracked.git("hash-object", "--path", model.path, "--stdin", stdin=metadata)
    assert blob == tracked.git("rev-parse", f"HEAD:{model.path}")
    content = tracked.read(model.path)
    assert tracked.git("hash-object", "--path", model.path, "--stdin", stdin=content) == blob


def test_deleting_memo_and_theta_store_changes_no_result(tracked: Repository, model: Model) -> None:
    tracked.write(model.path, model.version(1))
    tracked.commit("first")
    shutil.rmtree(tracked.path / ".git" / "theta")
    assert_clean(tracked)
    tracked.checkout_again()
    assert tracked.read(model.path) == model.version(1)
    assert_clean(tracked)


def test_what_git_lfs_prune_took_is_restored(tracked: Repository, model: Model) -> None:
    tracked.write(model.path, model.version(1))
    tracked.commit("first")
    shutil.rmtree(tracked.path / ".git" / "lfs" / "objects")
    tracked.checkout_again()
    assert tracked.read(model.path) == model.version(1)


def test_a_lost_object_is_stored_again_by_add(tracked: Repository, model: Model) -> None:
    tracked.write(model.path, model.version(1))
    tracked.commit("first")
    before = objects(tracked)
    shutil.rmtree(tracked.path / ".git" / "lfs" / "objects")
    shutil.rmtree(tracked.path / ".git" / "theta")
    (tracked.path / model.path).touch()
    tracked.git("add", "--renormalize", model.path)
    assert tracked.git("status", "--porcelain") == ""
    assert objects(tracked) == before
