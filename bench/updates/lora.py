"""A LoRA fine-tune of GPT-2, committed as what it is: an adapter.

The model is transformers' GPT-2 of 124 million parameters with random weights, the adapter peft's: rank 8 on all
matrices of attention and of the feed-forward layers. Nothing is trained: what is measured depends on sizes alone.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from bench.cases import ADD, CHECKOUT
from bench.data import Built, DataSet
from bench.measure import WorkTree, put_away
from bench.updates.chains import DENSE
from bench.updates.outcome import Outcome, Progress
from bench.updates.repository import Place, checkout, commit, stored, types, version

RANK = 8
MODULES = ("c_attn", "c_proj", "c_fc")
MUST_BYTES, MUST_SECONDS = 1.02, 1.5
ADAPTER = "LoRA adapter"
_FILE = "adapter_model.safetensors"


@dataclass(frozen=True, slots=True)
class Model:
    """The base on disk, the adapter's folder, and the tensors that merging the adapter makes."""

    base: Built
    adapter: Path
    merged: dict[str, torch.Tensor]


def make(folder: Path, **sizes: int) -> Model:
    """Write a GPT-2 and an adapter for it below `folder`; `sizes` changes the model's (of transformers' GPT2Config)."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # nothing is to be had from there
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # of transformers, about itself
        return _make(folder, **sizes)


def _make(folder: Path, **sizes: int) -> Model:
    import peft
    import transformers

    said: Any = transformers.logging
    said.set_verbosity_error()
    said.disable_progress_bar()
    torch.manual_seed(0)
    gpt2: Any = transformers.GPT2Config  # its many parameters have other types
    model: Any = transformers.GPT2LMHeadModel(gpt2(**sizes))
    elements = model.num_parameters()
    saved, base = folder / "saved", folder / "base"
    model.save_pretrained(saved)
    base.mkdir()
    (saved / "model.safetensors").rename(base / "model.safetensors")  # without the configuration beside it
    config = peft.LoraConfig(r=RANK, target_modules=list(MODULES), fan_in_fan_out=True, init_lora_weights=False)
    adapted: Any = peft.get_peft_model(model, config)
    adapted.save_pretrained(folder / "adapter")
    data = DataSet(
        f"GPT-2, {elements / 1e6:.0f} M parameters", files=1, groups=1, size=4 * elements, format="safetensors"
    )
    merged = adapted.merge_and_unload().state_dict()
    return Model(version(data, base), folder / "adapter", merged)


def run(place: Place, progress: Progress) -> Outcome:
    """Commit the adapter's result as an update, and dense, and check out both."""
    progress("building the model")
    model = make(place.scratch)
    data, (name,) = model.base.data, model.base.digests
    adapter_size = (model.adapter / _FILE).stat().st_size
    outcome = Outcome(place.scratch.name, {data.name: data.bytes, ADAPTER: adapter_size}, (ADD, CHECKOUT))

    update = place.repository("update", model.base)
    commit(update)
    held = stored(update)
    update.timed(ADD, "theta", "add", name, "--update-path", str(model.adapter))
    outcome.add(ADAPTER, ADD, update)
    outcome.number(f"stored: {ADAPTER} / adapter file", (stored(update) - held) / adapter_size, MUST_BYTES)
    update.git("commit", "--quiet", "--message", "adapter")
    found = types(update, model.base.digests)
    assert found == {"dense", "low-rank"}, f"the types are {found}"
    _compare(safetensors.torch.load_file(update.path / name), model.merged)

    result = place.scratch / "result"
    result.mkdir()
    os.rename(update.path / name, result / name)
    tip = version(data, result)
    dense = place.repository("dense", model.base)
    commit(dense)
    dense = replace(dense, built=tip)
    dense.replace_files(result)
    dense.timed(ADD, "add", "--all")
    outcome.add(DENSE, ADD, dense)
    dense.git("commit", "--quiet", "--message", "result")
    both: list[tuple[str, WorkTree]] = [(DENSE, dense), (ADAPTER, replace(update, built=tip))]
    for number in range(place.runs):
        for series, tree in both[:: -1 if number % 2 else 1]:
            progress(f"round {number + 1} of {place.runs}: {series}")
            checkout(tree, tip, "HEAD")
            outcome.add(series, CHECKOUT, tree)
    outcome.ratio(CHECKOUT, ADAPTER, DENSE, MUST_SECONDS)
    outcome.ratio(ADD, ADAPTER, DENSE)
    for _, tree in both:
        put_away(tree, place.scratch)
    return outcome


def _compare(ours: dict[str, torch.Tensor], merged: dict[str, torch.Tensor]) -> None:
    """Stop the bench where a value is not what merge_and_unload makes of it, but for rounding."""
    for name, value in ours.items():
        assert torch.allclose(value, merged[name], rtol=1e-5, atol=1e-6), f"{name} is not what peft makes of it"
