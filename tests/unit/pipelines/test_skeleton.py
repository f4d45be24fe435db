"""Which canonical form a checkpoint gets whose metadata has no layout."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.pipelines import Bench, WrittenAttributes
from theta_daemon.errors import UnsupportedError
from theta_daemon.gitconfig import Value
from theta_daemon.metadata.entries import LFS_VERSION, NO_HASH, Entry, Metadata
from theta_daemon.pipelines.skeleton import canonical, skeleton

METADATA = Metadata({("w",): Entry((2,), "float32", NO_HASH, LFS_VERSION, "0" * 64, 8, "dense", None, None)}, None)


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench.at(tmp_path)
    yield made
    made.close()


def chosen(bench: Bench, path: bytes, attribute: str | None = None, setting: str | None = None) -> str:
    named = None if setting is None else Value(setting, "GIT_THETA_CHECKPOINT_TYPE")
    services = bench.services.replace(
        settings=bench.services.settings.replace(checkpoint_type=named),
        attributes=WrittenAttributes({} if attribute is None else {path: attribute}),
    )
    return skeleton(services, path, METADATA).layout.format


@pytest.mark.parametrize(
    ("path", "attribute", "setting", "form"),
    [
        (b"m", None, None, "torch-zip"),
        (b"m.safetensors", None, None, "safetensors"),
        (b"m.safetensors", None, "pytorch", "torch-zip"),
        (b"m.safetensors", "safetensors", "pytorch", "safetensors"),
        (b"m.safetensors", "pickled-dict", "safetensors", "torch-zip"),
        (b"m.pt", "safetensors-checkpoint", None, "safetensors"),
        (b"m.pt", "safetensors", "of-a-plugin", "safetensors"),
    ],
)
def test_attribute_then_settings_then_extension_then_torch(
    bench: Bench, path: bytes, attribute: str | None, setting: str | None, form: str
) -> None:
    assert chosen(bench, path, attribute, setting) == form


@pytest.mark.parametrize("name", ["", "flax", "torch-zip", "\x1b[31m\udcff"])
def test_an_attribute_of_another_name_is_an_error(bench: Bench, name: str) -> None:
    with pytest.raises(UnsupportedError) as caught:
        chosen(bench, b"m.safetensors", name)
    assert str(caught.value).startswith(
        f"checkpoints of type {name!r} (attribute theta-format) are not supported; use "
    )
    assert str(caught.value).isprintable()


def test_a_format_that_is_known_is_not_asked_for(bench: Bench) -> None:
    services = bench.services.replace(attributes=WrittenAttributes({b"m": "flax"}))
    assert canonical(services, b"m", METADATA, "safetensors").layout.format == "safetensors"
