from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch

from bench import data
from bench.data import DataSet


def test_a_streamed_file_is_one_of_the_library_s(tmp_path: Path) -> None:
    data_set = DataSet("small", files=1, groups=3, size=4096, first=20_000, format="streamed")
    built = data_set.build(tmp_path, changed=False)
    (name,) = built.digests
    tensors = safetensors.torch.load_file(built.original / name)
    assert {key: tensor.numel() * 4 for key, tensor in tensors.items()} == {
        "embedding.weight": 20_000,
        "layers.0.weight": 4096,
        "layers.1.weight": 4096,
        "layers.2.weight": 4096,
    }
    written = tmp_path / "library.safetensors"
    safetensors.torch.save_file(tensors, written, {"format": "pt"})
    assert written.read_bytes() == (built.original / name).read_bytes()


def test_pieces_do_not_show(tmp_path: Path) -> None:
    elements = data._PIECE // 4 * 2 + 1000
    data_set = DataSet("two pieces and a bit", files=1, groups=1, size=elements * 4, format="streamed")
    data_set.stream(7, tmp_path / "streamed")
    values = torch.from_numpy(safetensors.torch.load_file(tmp_path / "streamed")["layers.0.weight"].numpy()).flatten()
    assert values.numel() == elements
    assert 0.019 < float(values.std()) < 0.021
    assert not torch.equal(values[: data._PIECE // 4], values[data._PIECE // 4 : data._PIECE // 2])


def test_the_changed_version_differs_in_one_group(tmp_path: Path) -> None:
    built = DataSet("small", files=2, groups=3, size=4096).build(tmp_path, changed=True)
    for name in built.digests:
        original, changed = torch.load(built.original / name), torch.load(built.changed / name)
        assert [key for key in original if not torch.equal(original[key], changed[key])] == ["layers.1.weight"]
