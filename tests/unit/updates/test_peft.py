"""Adapters that the real PEFT writes, merged here and by PEFT itself."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    GPT2Config,
    GPT2ForSequenceClassification,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from theta_daemon.errors import UsageError
from theta_daemon.updates.array import Array
from theta_daemon.updates.peft import adapter
from theta_daemon.updates.steps import prepare

# PEFT warns of what it corrects by itself, and transformers of what PEFT does.
pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{kind}") for kind in ("UserWarning", "FutureWarning", "RuntimeWarning")
]

Name = tuple[str, ...]
Model = Any
State = dict[str, torch.Tensor]

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "float64": torch.float64}


def _described(value: object) -> str:
    """Return a name of a case that every process gives it: no address of memory."""
    return ",".join(map(str, value)) if isinstance(value, dict) else str(value)


def gpt2(kind: Callable[..., Model] = GPT2LMHeadModel, **options: Any) -> Model:
    """Conv1D but for lm_head; the attention's c_proj is square."""
    tokens = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
    sizes = {"n_layer": 2, "n_embd": 16, "n_head": 2, "vocab_size": 48, "n_positions": 8}
    return random(kind(GPT2Config(**{"tie_word_embeddings": False, **tokens, **sizes, **options})))


def llama(**options: Any) -> Model:
    """Linear, without a bias but in the attention; q_proj is square."""
    sizes: dict[str, Any] = {"num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 24, "vocab_size": 48}
    heads: dict[str, Any] = {"num_attention_heads": 2, "num_key_value_heads": 1}
    return random(LlamaForCausalLM(LlamaConfig(**sizes, **heads, **options)))


def random(model: Model) -> Model:
    torch.manual_seed(1)
    with torch.no_grad():
        for value in model.parameters():
            value.normal_(std=0.1)
    return model


def lora(**options: Any) -> Any:
    from peft import LoraConfig

    return LoraConfig(**{"r": 4, "lora_alpha": 8, "init_lora_weights": False, **options})


def ia3(**options: Any) -> Any:
    from peft import IA3Config

    return IA3Config(init_ia3_weights=False, **options)


class Trained:
    """A model, the adapter that PEFT wrote for it into a folder, and the model that PEFT merges of the two."""

    def __init__(self, folder: Path, model: Model, config: Any, *, keep_dtype: bool = False) -> None:
        from peft import PeftModel, get_peft_model

        self.base: State = {name: value.clone() for name, value in model.state_dict().items()}
        untouched = copy.deepcopy(model)
        torch.manual_seed(3)
        trained = get_peft_model(model, config, autocast_adapter_dtype=not keep_dtype)
        with torch.no_grad():
            for name, value in trained.named_parameters():
                if "modules_to_save" in name:
                    value.normal_()
        trained.save_pretrained(str(folder))
        loaded = PeftModel.from_pretrained(untouched, str(folder), autocast_adapter_dtype=not keep_dtype)
        self.merged: State = loaded.merge_and_unload().state_dict()
        self.config: dict[str, object] = json.loads((folder / "adapter_config.json").read_text())
        self.arrays = arrays_of(folder / "adapter_model.safetensors")

    def check(self, names: Callable[[str], Name] = lambda name: (name,), **options: Any) -> dict[Name, Any]:
        """Merge the adapter into the model's parameters, called what `names` says, and compare with PEFT's."""
        parameters = {names(name): form(value) for name, value in self.base.items()}
        updates = adapter(self.config, self.arrays, parameters, **options)
        assert updates
        for name, value in self.base.items():
            update = updates.get(names(name))
            expected = self.merged[name].to(torch.float64).numpy()
            merged = value.to(torch.float64).numpy() if update is None else apply(*update, value)
            if update is not None and update[0] != "dense":
                prepare(*update, *form(value), names(name))
            # Rounded once to the parameter's dtype here, and there the update before it, too.
            unit = torch.finfo(value.dtype).eps
            np.testing.assert_allclose(merged, expected, rtol=4 * unit, atol=4 * unit * np.abs(expected).max())
            assert (update is None) == np.array_equal(expected, value.to(torch.float64).numpy()), name
        return updates

    def refused(self) -> str:
        with pytest.raises(UsageError) as caught:
            adapter(self.config, self.arrays, {(name,): form(value) for name, value in self.base.items()})
        return str(caught.value)


def form(value: torch.Tensor) -> tuple[str, tuple[int, ...]]:
    return str(value.dtype).removeprefix("torch."), tuple(value.shape)


def array_of(value: torch.Tensor) -> Array:
    return Array(*form(value), memoryview(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()))


def arrays_of(file: Path) -> dict[str, Array]:
    from safetensors.torch import load_file

    return {name: array_of(value) for name, value in load_file(file).items()}


def tensor(array: Array) -> torch.Tensor:
    return torch.frombuffer(bytearray(array.raw), dtype=_DTYPES[array.dtype]).reshape(array.shape)


def apply(update_type: str, arrays: Mapping[str, Array], previous: torch.Tensor) -> np.ndarray[Any, Any]:
    """In plain numpy, float32, rounded to the dtype of `previous` at the end."""
    value = previous.to(torch.float32).numpy()
    matrices = {name: tensor(array).to(torch.float32).numpy() for name, array in arrays.items()}
    if update_type == "low-rank":
        value = value + matrices["R"] @ matrices["C"]
    elif update_type == "ia3":
        value = value * matrices["ia3"]
    else:
        assert update_type == "dense"
        assert form(previous) == (arrays["parameter"].dtype, arrays["parameter"].shape)
        value = matrices["parameter"]
    assert value.shape == previous.shape
    return torch.from_numpy(value).to(previous.dtype).to(torch.float64).numpy()


def stored(updates: Mapping[Name, tuple[str, Mapping[str, Array]]]) -> int:
    return sum(len(array.raw) for _, arrays in updates.values() for array in arrays.values())


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ["c_attn", "c_proj", "c_fc"]},
        {"target_modules": ["c_proj"], "fan_in_fan_out": True, "lora_alpha": 3},
        {"target_modules": ["c_attn", "wte", "wpe"], "use_rslora": True},
        {"target_modules": "all-linear"},
        {"target_modules": ["c_attn"], "lora_alpha": -4, "r": 1, "lora_dropout": 0.5, "layers_to_transform": [1]},
    ],
    ids=_described,
)
def test_lora_of_gpt2(tmp_path: Path, config: dict[str, Any]) -> None:
    trained = Trained(tmp_path, gpt2(), lora(**config))
    updates = trained.check()
    assert {update_type for update_type, _ in updates.values()} == {"low-rank"}
    assert stored(updates) == sum(len(array.raw) for array in trained.arrays.values())


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]},
        {"target_modules": ["q_proj"]},
        {"target_modules": ["q_proj", "k_proj"], "lora_alpha": 1.5, "use_rslora": True, "r": 5},
        {"target_modules": r".*\.1\.self_attn\.(q|v)_proj"},
    ],
    ids=_described,
)
def test_lora_of_llama(tmp_path: Path, config: dict[str, Any]) -> None:
    Trained(tmp_path, llama(attention_bias=True), lora(**config)).check()


@pytest.mark.parametrize("rank_stabilized", [False, True])
def test_rank_and_alpha_patterns(tmp_path: Path, rank_stabilized: bool) -> None:
    config = lora(
        target_modules=["q_proj", "k_proj", "v_proj", "down_proj"],
        use_rslora=rank_stabilized,
        rank_pattern={"layers.0.self_attn.q_proj": 2, "^model.layers.1.mlp.down_proj": 6, "v_proj": 5},
        alpha_pattern={
            "_proj": 100,  # of no module: a name matches from a dot on
            "^layers.0.mlp.down_proj": 101,
            r"layers\.[01]\.self_attn\.(q|k)_proj": 3,
            "self_attn.k_proj": 102,  # comes second
            "model.layers.1.mlp.down_proj": 7,
            ".*v_proj": 11,
        },
    )
    Trained(tmp_path, llama(), config).check()


@pytest.mark.parametrize("alpha", [8, 3])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("keep_dtype", [True, False])
def test_half_precision(tmp_path: Path, dtype: torch.dtype, alpha: int, keep_dtype: bool) -> None:
    config = lora(target_modules=["c_attn", "c_proj", "wte"], lora_alpha=alpha)
    trained = Trained(tmp_path, gpt2().to(dtype), config, keep_dtype=keep_dtype)
    assert {array.dtype for array in trained.arrays.values()} == {
        form(torch.empty(0, dtype=dtype))[0] if keep_dtype else "float32"
    }
    updates = trained.check()
    assert stored(updates) == sum(len(array.raw) for array in trained.arrays.values())


def test_half_precision_adapter_of_a_float32_model(tmp_path: Path) -> None:
    trained = Trained(tmp_path, gpt2(), lora(target_modules=["c_attn"]))
    trained.arrays = {name: array_of(tensor(array).to(torch.bfloat16)) for name, array in trained.arrays.items()}
    parameters: dict[Name, Any] = {(name,): form(value) for name, value in trained.base.items()}
    updates = adapter(trained.config, trained.arrays, parameters)
    assert len(updates) == 2
    for name, (update_type, arrays) in updates.items():
        assert {array.dtype for array in arrays.values()} == {"bfloat16"}
        expected = trained.merged[name[0]].numpy()
        np.testing.assert_allclose(apply(update_type, arrays, trained.base[name[0]]), expected, atol=0.02)


def test_square_weights_lie_as_those_around_them(tmp_path: Path) -> None:
    # lm_head is Linear and wrapped last: PEFT saves fan_in_fan_out false, which is wrong of every other layer.
    trained = Trained(tmp_path, gpt2(), lora(target_modules=["attn.c_proj", "lm_head"]))
    assert trained.config["fan_in_fan_out"] is False
    trained.check()


def test_a_base_weight_in_the_adapter_is_no_news_where_it_is_the_groups_value(tmp_path: Path) -> None:
    trained = Trained(tmp_path, llama(), lora(target_modules=["embed_tokens", "lm_head", "k_proj"]))
    assert "base_model.model.lm_head.base_layer.weight" in trained.arrays
    asked: list[tuple[Name, Array]] = []

    def unchanged(name: Name, value: Array) -> bool:
        asked.append((name, value))
        return True

    updates = trained.check(unchanged=unchanged)
    assert {update_type for update_type, _ in updates.values()} == {"low-rank"}
    assert asked == [(name, array_of(trained.base[name[0]])) for name, _ in asked]
    assert sorted(name for name, _ in asked) == [("lm_head.weight",), ("model.embed_tokens.weight",)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_base_weight_in_the_adapter_replaces_another(tmp_path: Path, dtype: torch.dtype) -> None:
    trained = Trained(tmp_path, llama().to(dtype), lora(target_modules=["embed_tokens", "q_proj"]))
    trained.base["model.embed_tokens.weight"] *= 3  # the checkpoint is another than the adapter was trained on
    updates = trained.check()
    assert updates[("model.embed_tokens.weight",)][0] == "dense"


def test_a_base_weight_under_ia3(tmp_path: Path) -> None:
    config = ia3(target_modules=["k_proj", "lm_head"], feedforward_modules=[])
    trained = Trained(tmp_path, llama(), config)
    assert trained.check()[("lm_head.weight",)][0] == "dense"
    assert trained.check(unchanged=lambda name, value: True)[("lm_head.weight",)][0] == "ia3"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_modules_to_save_are_dense(tmp_path: Path, dtype: torch.dtype) -> None:
    from peft import TaskType

    model = gpt2(GPT2ForSequenceClassification, num_labels=3).to(dtype)
    config = lora(target_modules=["c_attn"], task_type=TaskType.SEQ_CLS, modules_to_save=["ln_f"])
    updates = Trained(tmp_path, model, config).check()
    dense = {name for name, (update_type, _) in updates.items() if update_type == "dense"}
    assert dense == {("score.weight",), ("transformer.ln_f.weight",), ("transformer.ln_f.bias",)}


def test_an_update_of_one_name_of_a_tied_weight(tmp_path: Path) -> None:
    trained = Trained(tmp_path, gpt2(tie_word_embeddings=True), lora(target_modules=["wte"]))
    tied = trained.merged["lm_head.weight"]
    assert torch.equal(tied, trained.merged["transformer.wte.weight"])
    del trained.base["lm_head.weight"]  # the caller knows that it is the same group
    assert list(trained.check()) == [("transformer.wte.weight",)]


@pytest.mark.parametrize(
    "config",
    [
        {"target_modules": ["c_attn", "c_proj", "c_fc"], "feedforward_modules": ["c_proj"]},
        {"target_modules": ["attn.c_proj"], "feedforward_modules": ["attn.c_proj"]},
        {"target_modules": ["attn.c_proj"], "feedforward_modules": [], "fan_in_fan_out": True},
        {"target_modules": ["c_attn", "mlp.c_proj"], "feedforward_modules": r".*\.mlp\..*"},
    ],
    ids=_described,
)
def test_ia3_of_gpt2(tmp_path: Path, config: dict[str, Any]) -> None:
    updates = Trained(tmp_path, gpt2(), ia3(**config)).check()
    assert {update_type for update_type, _ in updates.values()} == {"ia3"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_ia3_of_llama(tmp_path: Path, dtype: torch.dtype) -> None:
    config = ia3(target_modules=["q_proj", "k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"])
    updates = Trained(tmp_path, llama(attention_bias=True).to(dtype), config).check()
    assert ("model.layers.0.self_attn.k_proj.bias",) in updates
    assert len(updates) == 2 * (3 * 2 + 1)


@pytest.mark.parametrize("feedforward", [[], ["head"], ".*head"])
def test_ia3_of_a_single_output_or_input(tmp_path: Path, feedforward: list[str] | str) -> None:
    model = torch.nn.Sequential()
    model.add_module("body", torch.nn.Linear(3, 5))
    model.add_module("head", torch.nn.Linear(*((1, 5) if feedforward else (5, 1))))
    Trained(tmp_path, model, ia3(target_modules=["body", "head"], feedforward_modules=feedforward)).check()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return Trained(tmp_path_factory.mktemp("adapter"), gpt2(), lora(target_modules=["c_attn", "c_proj"]))


@pytest.mark.parametrize(
    "names",
    [
        lambda name: (name.removeprefix("transformer."),),  # saved from the model inside
        lambda name: (f"model.{name}",),  # saved from a model around it
        lambda name: ("state_dict", name),  # a dictionary in a torch file
        lambda name: tuple(name.split(".")),  # nested all the way
    ],
    ids=["less", "more", "in a dictionary", "nested"],
)
def test_checkpoints_of_more_or_less_of_the_model(trained: Trained, names: Callable[[str], Name]) -> None:
    assert len(trained.check(names)) == 6


@pytest.mark.parametrize(
    "rename",
    [
        lambda key: key.replace(".weight", ".default.weight"),
        lambda key: key.removeprefix("base_model.model."),
        lambda key: f"base_model.model._orig_mod.{key.removeprefix('base_model.model.')}",
    ],
    ids=["adapter's name", "no prefix", "compiled"],
)
def test_other_names_of_the_same_arrays(trained: Trained, rename: Callable[[str], str]) -> None:
    other = copy.copy(trained)
    other.arrays = {rename(key): array for key, array in trained.arrays.items()}
    assert len(other.check()) == 6


def test_names_of_embeddings_with_the_adapters_name(tmp_path: Path) -> None:
    trained = Trained(tmp_path, gpt2(), lora(target_modules=["wte", "wpe"]))
    trained.arrays = {f"{key}.default": array for key, array in trained.arrays.items()}
    assert len(trained.check()) == 2


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (lambda: lora(target_modules=["c_attn"], use_dora=True), ["'use_dora'=true", "c_attn.lora_magnitude_vector"]),
        (lambda: lora(target_modules=["c_attn"], bias="all"), ["bias='all'", "h.0.ln_1.bias'", " and 3 more"]),
        (lambda: lora(target_modules=["c_attn"], bias="lora_only"), ["bias='lora_only'", "h.1.attn.c_attn.bias"]),
        (lambda: lora(target_modules=["c_attn"], lora_bias=True), ["'lora_bias'=true", "c_attn.lora_B.bias"]),
        (lambda: lora(target_modules=["lm_head"], init_lora_weights="olora"), ["init_lora_weights='olora'"]),
        (lambda: lora(target_modules=["c_attn"], trainable_token_indices={"wte": [1]}), ["'trainable_token_indices'"]),
    ],
    ids=["dora", "bias", "lora bias", "bias in lora", "olora", "tokens"],
)  # fmt: skip
def test_what_is_not_supported_is_said(tmp_path: Path, config: Callable[[], Any], says: list[str]) -> None:
    message = Trained(tmp_path, gpt2(), config()).refused()
    assert [text for text in says if text not in message] == []


def test_other_kinds_of_adapters_are_refused(tmp_path: Path) -> None:
    from peft import LoHaConfig

    message = Trained(tmp_path, llama(), LoHaConfig(target_modules=["q_proj"])).refused()
    assert "peft_type 'LOHA'" in message


def test_convolutions_are_refused(tmp_path: Path) -> None:
    model = torch.nn.Sequential()
    model.add_module("conv", torch.nn.Conv2d(3, 5, 3))
    message = Trained(tmp_path, model, lora(target_modules=["conv"])).refused()
    assert "'conv' (lora_A float32 (4, 3, 3, 3), lora_B float32 (5, 4, 1, 1) for float32 (5, 3, 3, 3))" in message


class Hostile:
    """A small adapter without PEFT, to be changed."""

    def __init__(self) -> None:
        self.config: dict[str, object] = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
        self.arrays = {"a.q.lora_A.weight": zeros(2, 3), "a.q.lora_B.weight": zeros(5, 2)}
        self.parameters: dict[Name, tuple[str, tuple[int, ...]]] = {("a.q.weight",): ("float32", (5, 3))}

    def refused(self) -> str:
        with pytest.raises(UsageError) as caught:
            adapter(self.config, self.arrays, self.parameters)
        assert len(str(caught.value)) < 5000
        return str(caught.value)


def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Array:
    return array_of(torch.zeros(shape, dtype=dtype))


def test_the_example_itself_is_fine() -> None:
    hostile = Hostile()
    assert list(adapter(hostile.config, hostile.arrays, hostile.parameters)) == [("a.q.weight",)]


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"a.q.lora_B.weight": None}, "'a.q' (lora_A float32 (2, 3) for float32 (5, 3))"),
        ({"a.q.lora_B.weight": zeros(6, 2)}, "'a.q' (lora_A float32 (2, 3), lora_B float32 (6, 2) for float32 (5, 3))"),
        ({"a.q.lora_B.weight": zeros(5, 1)}, "'a.q' (lora_A"),
        ({"a.q.lora_B.weight": zeros(10)}, "'a.q' (lora_A"),
        ({"a.q.lora_B.weight": zeros(5, 2, dtype=torch.int64)}, "lora_B int64"),
        ({"a.q.lora_A.weight": zeros(0, 3), "a.q.lora_B.weight": zeros(5, 0)}, "'a.q' has rank 0"),
        ({"a.q.lora_A.weight": zeros(4, 3), "a.q.lora_B.weight": zeros(5, 4)}, "'a.q' has rank 4"),
        ({"a.q.lora_embedding_A": zeros(2, 3)}, "'a.q' (lora_A"),
        ({"a.q.lora_A.x.y.weight": zeros(2, 3)}, "unknown kind: 'a.q.lora_A.x.y.weight'"),
        ({"a.q.lora_E": zeros(2, 3)}, "unknown kind: 'a.q.lora_E'"),
        ({"base_model.model.a.q.lora_A.weight": zeros(2, 3)}, "unknown kind: 'base_model.model.a.q.lora_A.weight'"),
        ({"a.q.lora_A.x.weight": zeros(2, 3), "a.q.lora_A.weight": None}, "more than one adapter: '', 'x'"),
        ({"lora_A.weight": zeros(2, 3)}, "unknown kind: 'lora_A.weight'"),
        ({"b.q.lora_A.weight": zeros(2, 3), "c.weight": zeros(1)}, "has the name 'b.q.weight', 'c.weight'"),
        ({f"{n}.lora_A.weight": zeros(2, 3) for n in range(30)}, "'9.weight' and 20 more"),
        ({"x" * 10_000: zeros(1)}, "'..."),
        ({"a.q.weight": zeros(5, 3)}, ""),
        ({"a.q.base_layer.weight": zeros(3, 5)}, "'a.q.weight' (value float32 (3, 5) for float32 (5, 3))"),
        ({"a.q.base_layer.weight": zeros(5, 3, dtype=torch.int64)}, "'a.q.weight' (value int64"),
        ({"a.q.base_layer.weight": zeros(5, 3), "a.q.weight": zeros(5, 3)}, "unknown kind: 'a.q.weight'"),
        ({"a.q.lora_A.weight": None, "a.q.lora_B.weight": None}, "holds no arrays"),
    ],
    ids=_described,
)  # fmt: skip
def test_arrays_that_make_no_update(arrays: dict[str, Array | None], says: str) -> None:
    hostile = Hostile()
    changed = {**hostile.arrays, **arrays}
    hostile.arrays = {key: array for key, array in changed.items() if array is not None}
    if says:
        assert says in hostile.refused()
    else:  # a value of its own and an update: the base is in the file
        assert adapter(hostile.config, hostile.arrays, hostile.parameters)[("a.q.weight",)][0] == "dense"


def test_groups_that_are_no_floats() -> None:
    hostile = Hostile()
    hostile.parameters = {("a.q.weight",): ("int8", (5, 3))}
    assert "'a.q.weight': values of dtype int8 cannot be updated by values of dtype float32" in hostile.refused()


def test_nothing_decides_between_two_parts_of_a_checkpoint() -> None:
    hostile = Hostile()
    hostile.parameters = {(f"{part}.a.q.weight",): ("float32", (5, 3)) for part in ("encoder", "decoder")}
    assert "by the prefixes 'encoder.', 'decoder.'" in hostile.refused()


def test_two_parameters_that_are_one_to_the_adapter() -> None:
    hostile = Hostile()
    hostile.parameters[("a", "q.weight")] = ("float32", (5, 3))
    assert "more than one parameter has the name 'a.q.weight'" in hostile.refused()


def test_a_scaling_beyond_the_dtype() -> None:
    hostile = Hostile()
    hostile.config["lora_alpha"] = 1e30
    ones = array_of(torch.ones(2, 3, dtype=torch.float16)), array_of(torch.ones(5, 2, dtype=torch.float16))
    hostile.arrays = dict(zip(hostile.arrays, ones, strict=True))
    assert "'a.q' is scaled by 5e+29" in hostile.refused()


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
_keys = st.sampled_from(
    ["r", "lora_alpha", "rank_pattern", "alpha_pattern", "bias", "use_rslora", "fan_in_fan_out", "init_lora_weights",
     "feedforward_modules", "target_modules", "use_dora"]
)  # fmt: skip
_words = ["a", "q", "lora_A", "lora_B", "lora_embedding_A", "ia3_l", "weight", "bias", "base_layer", "", "base_model"]
_names = st.lists(st.sampled_from(_words), min_size=1, max_size=5).map(".".join)
_arrays = st.builds(
    lambda shape, dtype: zeros(*shape, dtype=dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from([torch.float32, torch.bfloat16, torch.int8]),
)
_forms = st.tuples(st.sampled_from(["float32", "int8"]), st.sampled_from([(5, 3), (3,), (2, 2)]))


@given(
    st.sampled_from(["LORA", "IA3"]), st.dictionaries(_keys, _json), st.dictionaries(_names, _arrays), st.booleans(),
    st.dictionaries(_names | st.just("a.q.weight"), _forms),
)  # fmt: skip
def test_whatever_the_files_hold_the_error_is_ours(
    kind: str,
    config: dict[str, object],
    arrays: dict[str, Array],
    complete: bool,
    parameters: dict[str, tuple[str, tuple[int, ...]]],
) -> None:
    arrays = arrays | Hostile().arrays if complete else arrays
    groups: dict[Name, Any] = {(name,): form for name, form in parameters.items()}
    try:
        updates = adapter({"peft_type": kind, "r": 2, **config}, arrays, groups)
    except UsageError:
        return
    assert updates.keys() <= groups.keys()
