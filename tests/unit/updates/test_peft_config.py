from __future__ import annotations

import json

import pytest

from theta_daemon.errors import UsageError
from theta_daemon.updates.patterns import Budget
from theta_daemon.updates.peft_config import Ia3, Lora, read


def lora(**keys: object) -> Lora:
    found = read({"peft_type": "LORA", "r": 8, "lora_alpha": 16, **keys})
    assert isinstance(found, Lora)
    return found


def ia3(**keys: object) -> Ia3:
    found = read({"peft_type": "IA3", **keys})
    assert isinstance(found, Ia3)
    return found


def test_scaling() -> None:
    assert lora().scaling("a.q", 8, Budget()) == 2
    assert lora(use_rslora=True).scaling("a.q", 4, Budget()) == 8
    assert lora(alpha_pattern={"q": 4, "a.q": 9}).scaling("a.q", 8, Budget()) == 0.5  # the first that matches
    assert lora(alpha_pattern={"q": 4}).scaling("a.qq", 8, Budget()) == 2


def test_defaults_are_pefts() -> None:
    found = read({"peft_type": "LORA"})
    assert found == Lora(False, frozenset([8]), 8, (), False)


def test_feedforward() -> None:
    assert ia3(feedforward_modules=["fc2"]).is_feedforward("h.0.mlp.fc2", Budget())
    assert not ia3(feedforward_modules=["fc2"]).is_feedforward("h.0.mlp.fc1", Budget())
    assert not ia3().is_feedforward("fc2", Budget())
    assert ia3(feedforward_modules=r".*\.fc\d").is_feedforward("h.0.mlp.fc2", Budget())
    assert not ia3(feedforward_modules=r"fc\d").is_feedforward("h.0.mlp.fc2", Budget())  # all of the name


@pytest.mark.parametrize("value", [None, False, [], {}, ""])
def test_unknown_keys_that_are_off(value: object) -> None:
    assert lora(use_what_comes_next=value) == lora()


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"peft_type": "ADALORA"}, "peft_type 'ADALORA' are not supported"),
        ({"peft_type": None}, "peft_type null"),
        ({"peft_type": ["LORA"]}, "peft_type [...]"),
        ({"use_next": True, "layer_replication": [[0, 2]]}, "'use_next'=true, 'layer_replication'=[...]"),
        ({"megatron_config": {"a": 1}}, "'megatron_config'={...}"),
        ({"target_parameters": ["w"]}, "'target_parameters'"),
        ({"alora_invocation_tokens": [1]}, "'alora_invocation_tokens'"),
        ({"ensure_weight_tying": True}, "'ensure_weight_tying'=true"),
        ({"x" * 5000: 0}, "...=0"),
        ({f"key{n}": 1 for n in range(30)}, "'key9'=1 and 20 more"),
        ({"bias": ["all"]}, "bias=[...]"),
        ({"init_lora_weights": "pissa_niter_4"}, "init_lora_weights='pissa_niter_4'"),
        ({"init_lora_weights": 1}, "init_lora_weights=1"),
        ({"lora_alpha": "16"}, "lora_alpha='16'"),
        ({"lora_alpha": True}, "lora_alpha=true"),
        ({"lora_alpha": float("nan")}, "lora_alpha=nan"),
        ({"lora_alpha": json.loads("1e999")}, "lora_alpha=inf"),
        ({"lora_alpha": 10**5000}, "lora_alpha=a number with too many digits"),
        ({"r": 0}, "a rank of 0"),
        ({"r": 2.5}, "a rank of 2.5"),
        ({"rank_pattern": {"q": -1}}, "a rank of -1"),
        ({"rank_pattern": ["q"]}, "rank_pattern=[...]"),
        ({"alpha_pattern": {"q": None}}, "alpha_pattern['q']=null"),
        ({"alpha_pattern": {"(q": 1}}, "the pattern '(q' has a ( without its )"),
        ({"fan_in_fan_out": 1}, "fan_in_fan_out=1"),
        ({"use_rslora": "yes"}, "use_rslora='yes'"),
        ({"peft_type": "IA3", "feedforward_modules": [1]}, "feedforward_modules=[...]"),
        ({"peft_type": "IA3", "feedforward_modules": "("}, "the pattern '('"),
        ({"peft_type": "IA3", "fan_in_fan_out": None}, "fan_in_fan_out=null"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(keys: dict[str, object], says: str) -> None:
    with pytest.raises(UsageError) as caught:
        read({"peft_type": "LORA", **keys})
    assert says in str(caught.value)
    assert len(str(caught.value)) < 2000
