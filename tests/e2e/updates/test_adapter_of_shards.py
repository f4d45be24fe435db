"""An adapter that peft wrote, for a model that transformers saved in shards."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import peft
import safetensors.torch
import torch
import transformers

from tests.e2e.updates.conftest import entries
from tests.support.repository import Repository


def test_shards_get_what_peft_merges(repository: Repository, tmp_path: Path) -> None:
    repository.git("theta", "track", "*.safetensors")
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_layer=2, n_head=2, n_embd=64, vocab_size=500, n_positions=64)
    model: Any = transformers.GPT2LMHeadModel(config)
    model.save_pretrained(repository.path, max_shard_size="200KB")
    shards = sorted(file.name for file in repository.path.glob("*.safetensors"))
    assert len(shards) > 2
    repository.commit("base")
    lora: Any = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=["c_attn", "c_fc"], fan_in_fan_out=True, init_lora_weights=False
    )
    with warnings.catch_warnings(action="ignore"):
        adapted: Any = peft.get_peft_model(model, lora)
        adapted.save_pretrained(tmp_path / "adapter")
        merged = adapted.merge_and_unload().state_dict()

    repository.git("theta", "add", *shards, "--update-path", str(tmp_path / "adapter"))
    repository.git("commit", "--quiet", "--message", "adapter")
    repository.checkout_again()
    assert repository.status() == ""
    types = {name: entry.update_type for shard in shards for name, entry in entries(repository, shard).items()}
    updated = {f"transformer.h.{layer}.{each}.weight" for layer in (0, 1) for each in ("attn.c_attn", "mlp.c_fc")}
    assert {name for name, kind in types.items() if kind == "low-rank"} == updated
    for shard in shards:
        for name, value in safetensors.torch.load_file(repository.path / shard).items():
            assert torch.allclose(value, merged[name], rtol=1e-5, atol=1e-6), name
