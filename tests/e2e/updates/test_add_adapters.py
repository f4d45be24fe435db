"""Adapters that peft wrote for a model of transformers, given to `git theta add --update-path`: merged, or refused."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import peft
import pytest
import safetensors.torch
import torch
import transformers

from tests.e2e.updates.conftest import copy_of, entries, tracking
from tests.e2e.updates.test_add import PATH, assert_refused, assert_staged
from tests.support.checkouts import repository_below
from tests.support.models import StateDict
from tests.support.repository import Repository

LORA: dict[str, Any] = {"r": 4, "lora_alpha": 6, "target_modules": ["c_attn", "c_fc"], "fan_in_fan_out": True}
WEIGHTS = {"transformer.h.0.attn.c_attn.weight", "transformer.h.0.mlp.c_fc.weight"}
MOST_CONFIG = 16 << 20
# How far rounding takes a value from itself, at most: half of what torch.finfo calls eps.
FLOAT32 = 2.0**-24
BFLOAT16 = 2.0**-8


def gpt2() -> Any:
    """Return a model, the same each time; its layers are Conv1D, with a bias."""
    torch.manual_seed(0)
    config = transformers.GPT2Config(n_layer=1, n_head=2, n_embd=64, vocab_size=100, n_positions=16)
    model: Any = transformers.GPT2LMHeadModel(config)
    with torch.no_grad():
        for value in model.parameters():
            value.normal_(std=0.1)  # the biases, too, which are 0 else
    return model


def adapted(config: Any) -> Any:
    """Return the model with an adapter of random values."""
    torch.manual_seed(1)
    with warnings.catch_warnings(action="ignore"):  # PEFT warns of what it corrects by itself
        return peft.get_peft_model(gpt2(), config)


def lora(**options: Any) -> Any:
    return peft.LoraConfig(**{**LORA, "init_lora_weights": False, **options})


def save(model: Any, folder: Path) -> None:
    """Write the adapter of a model."""
    with warnings.catch_warnings(action="ignore"):
        model.save_pretrained(folder)


def merged(model: Any) -> StateDict:
    """Return what PEFT makes of a model and its adapter."""
    with warnings.catch_warnings(action="ignore"):
        state: StateDict = model.merge_and_unload().state_dict()
    return state


def restored(repository: Repository) -> StateDict:
    """Return the model as git checks it out, after a look at the index."""
    assert_staged(repository, PATH, repository.read(PATH))
    return safetensors.torch.load(repository.read(PATH))


def kinds(repository: Repository, update_type: str) -> set[str]:
    """Return the groups that the index holds as updates of this type."""
    return {name for name, entry in entries(repository, PATH, "").items() if entry.update_type == update_type}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """Return the repository that each test gets a copy of: the model is committed as transformers saves it."""
    repository = tracking(repository_below(tmp_path_factory.mktemp("template")))
    gpt2().save_pretrained(repository.path)
    repository.commit("base")
    return repository


@pytest.fixture
def plain(template: Repository, tmp_path: Path, git_environment: dict[str, str]) -> Repository:
    return copy_of(template, tmp_path / "repository", git_environment)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return where the adapter is to be, outside of the repository."""
    return tmp_path / "adapter"


@pytest.mark.parametrize("file", ["", "adapter_model.safetensors"], ids=["the folder", "the file"])
def test_ia3(plain: Repository, folder: Path, file: str) -> None:
    """By columns, in a feedforward layer by rows, and the bias of the first."""
    base = safetensors.torch.load(plain.read(PATH))
    config = peft.IA3Config(
        target_modules=["c_attn", "c_fc"],
        feedforward_modules=["c_fc"],
        fan_in_fan_out=True,
        init_ia3_weights=False,
    )
    model = adapted(config)
    save(model, folder)
    expected = merged(model)

    plain.git("theta", "add", PATH, "--update-type", "ia3", "--update-path", str(folder / file))
    found = restored(plain)
    assert kinds(plain, "ia3") == WEIGHTS
    changed = {*WEIGHTS, "transformer.h.0.attn.c_attn.bias"}
    for name, value in found.items():
        if name in changed:
            assert torch.allclose(value, expected[name], rtol=2 * FLOAT32, atol=0), name  # one product, rounded once
            off = (expected[name] - base[name]).abs()
            assert (off > 1000 * FLOAT32 * expected[name].abs()).double().mean() > 0.9, name
        else:
            assert torch.equal(value, base[name]), name
            assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize("alpha", [8, 6], ids=["a power of two", "another scaling"])
def test_bfloat16_lora_of_a_float32_model(plain: Repository, folder: Path, alpha: int) -> None:
    base = safetensors.torch.load(plain.read(PATH))
    model = adapted(lora(lora_alpha=alpha))
    for name, value in model.named_parameters():
        if "lora_" in name:
            value.data = value.data.to(torch.bfloat16)
    save(model, folder)
    held = safetensors.torch.load_file(folder / "adapter_model.safetensors")
    assert {value.dtype for value in held.values()} == {torch.bfloat16}
    # Loaded, PEFT computes in float32. In the model that was trained it rounds what it adds to bfloat16.
    with warnings.catch_warnings(action="ignore"):
        loaded = merged(peft.PeftModel.from_pretrained(gpt2(), str(folder)))
    trained = merged(model)

    plain.git("theta", "add", PATH, "--update-type", "low-rank", "--update-path", str(folder))
    found = restored(plain)
    assert kinds(plain, "low-rank") == WEIGHTS
    for name, value in found.items():
        if name not in WEIGHTS:
            assert torch.equal(value, base[name]), name
            assert torch.equal(value, loaded[name]), name
            continue
        module = f"base_model.model.{name.removesuffix('.weight')}"
        a, b = (held[f"{module}.lora_{letter}.weight"].double() for letter in "AB")
        update = (b @ a).T * alpha / LORA["r"]
        terms = (b.abs() @ a.abs()).T * alpha / LORA["r"]  # what the update is the sum of
        single = 8 * FLOAT32 * (terms + base[name].abs())  # four products, their sum, the scaling, the base
        # A scaling that is no power of two is rounded into one of the bfloat16 factors.
        ours = single if alpha == 8 else single + BFLOAT16 * terms
        theirs = BFLOAT16 * update.abs()
        assert ((value - loaded[name]).abs() <= ours).all(), name
        assert ((value - trained[name]).abs() <= ours + theirs).all(), name
        for expected in (loaded, trained):
            off = (expected[name] - base[name]).abs()
            assert (off > 10 * (ours + theirs)).double().mean() > 0.9, name


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"use_dora": True}, ["'use_dora'=true", "attn.c_attn.lora_magnitude_vector"]),
        ({"bias": "all"}, ["bias='all'", "h.0.ln_1.bias"]),
        ({"bias": "lora_only"}, ["bias='lora_only'", "h.0.attn.c_attn.bias"]),
    ],
    ids=["dora", "all biases", "biases in lora"],
)
def test_adapters_that_are_not_supported(
    plain: Repository, folder: Path, options: dict[str, Any], says: list[str]
) -> None:
    save(adapted(lora(**options)), folder)
    for kind in ((), ("--update-type", "low-rank")):
        error = assert_refused(plain, PATH, *kind, "--update-path", str(folder))
        assert [text for text in (*says, f"updates for {PATH}: ") if text not in error] == []


@pytest.fixture
def fine(folder: Path) -> Path:
    """Return the configuration of an adapter that can be merged."""
    save(adapted(lora()), folder)
    return folder / "adapter_config.json"


def test_another_type_than_the_adapter_has(plain: Repository, fine: Path) -> None:
    command = (PATH, "--update-path", str(fine.parent), "--update-type")
    for kind in ("ia3", "sparse"):
        error = assert_refused(plain, *command, kind)
        assert f"updates for {PATH}: the adapter holds low-rank updates, not {kind}" in error
    plain.git("theta", "add", *command, "low-rank")
    assert kinds(plain, "low-rank") == WEIGHTS


@pytest.mark.parametrize(
    "content",
    [b"", b"no JSON", b'{"peft_type": "LORA"', b'"\xff"', b"[" * 100_000, b"[]", b'[{"peft_type": "LORA"}]', b"null"],
    ids=["empty", "no JSON", "cut", "no UTF-8", "deep", "an empty list", "a list", "null"],
)
def test_a_configuration_that_is_none(plain: Repository, fine: Path, content: bytes) -> None:
    fine.write_bytes(content)
    error = assert_refused(plain, PATH, "--update-type", "low-rank", "--update-path", str(fine.parent))
    assert f"{fine} is no adapter configuration" in error


def test_a_configuration_that_is_too_large(plain: Repository, fine: Path) -> None:
    command = (PATH, "--update-path", str(fine.parent))
    whole = json.dumps(json.loads(fine.read_text())).encode()
    fine.write_bytes(whole.ljust(MOST_CONFIG + 1))
    assert f"{fine} is no adapter configuration" in assert_refused(plain, *command)
    fine.write_bytes(whole.ljust(MOST_CONFIG))
    plain.git("theta", "add", *command)
    assert kinds(plain, "low-rank") == WEIGHTS


def test_a_configuration_that_is_missing(plain: Repository, fine: Path) -> None:
    """Without it nobody knows the scaling: the arrays are taken for updates as git-theta names them."""
    fine.unlink()
    for path in (fine.parent, fine.parent / "adapter_model.safetensors"):
        assert "say of which type the updates are" in assert_refused(plain, PATH, "--update-path", str(path))
        error = assert_refused(plain, PATH, "--update-type", "low-rank", "--update-path", str(path))
        assert f"updates for {PATH}: the file holds arrays that are not of a low-rank update: 'base_model." in error


def test_another_model_than_the_adapter_was_trained_on(plain: Repository, fine: Path) -> None:
    """Several files are a model, and a message about them names the first."""
    other = safetensors.torch.load(plain.read(PATH))
    cut = {name: value[:-1].clone() if name in WEIGHTS else value for name, value in other.items()}
    plain.write(PATH, safetensors.torch.save(cut))
    plain.write("other.safetensors", safetensors.torch.save({"other": torch.zeros(3)}))
    plain.commit("another")
    command = ("--update-path", str(fine.parent))
    error = assert_refused(plain, PATH, *command)
    assert f"updates for {PATH}: the adapter does not fit the checkpoint: 'transformer.h.0.attn.c_attn'" in error
    assert f"updates for {PATH} and 1 more: the adapter does not fit" in assert_refused(
        plain, PATH, "other.safetensors", *command
    )
