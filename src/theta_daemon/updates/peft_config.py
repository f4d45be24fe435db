"""What of `adapter_config.json` decides the merged values, with everything else shown not to matter.

PEFT ignores keys that it does not know; here one that is switched on is an error, since a later PEFT may mean by it
that the same arrays make other values. The file is as untrusted as any: every type is checked, and its regular
expressions are matched in bounded time (`patterns`).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from theta_daemon.errors import UsageError
from theta_daemon.frozen import Frozen
from theta_daemon.updates.listing import listed, quoted
from theta_daemon.updates.patterns import Budget, Node, Subject, parse

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_MOST = 1e30  # of a number in the file, either way: far from where float32 ends

# How the adapter was trained, where it came from, and which modules it has (its arrays show that).
_NO_MATTER = frozenset(
    [
        "auto_mapping",
        "base_model_name_or_path",
        "exclude_modules",
        "inference_mode",
        "modules_to_save",
        "peft_type",
        "peft_version",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
    ]
)
_NO_MATTER_LORA = _NO_MATTER | frozenset(
    [
        "corda_config",
        "eva_config",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_dropout",
        "lora_ga_config",
        "megatron_core",
        "qalora_group_size",
        "velora_config",
    ]
)
# Others (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) train against a base that they changed: the arrays alone say too little.
_INITIALIZED = (None, True, False, "gaussian", "eva", "orthogonal", "mica")


class Lora(Frozen):
    """A LoRA adapter. `transposed` is `fan_in_fan_out`: weights are (in, out); `ranks` are those that it may have."""

    transposed: bool
    ranks: frozenset[int]
    alpha: float
    alphas: tuple[tuple[Node, float], ...]
    rank_stabilized: bool

    def scaling(self, module: str, rank: int, budget: Budget) -> float:
        """Return what `B @ A` of `module` is multiplied by: the first pattern that matches its name, as in PEFT."""
        subject = Subject(module, budget)
        alpha = next((alpha for pattern, alpha in self.alphas if subject.ends(pattern)), self.alpha)
        return alpha / (math.sqrt(rank) if self.rank_stabilized else rank)


class Ia3(Frozen):
    """An (IA)3 adapter; `feedforward` are the ends of names, or a pattern for all of a name."""

    transposed: bool
    feedforward: tuple[str, ...] | Node

    def is_feedforward(self, module: str, budget: Budget) -> bool:
        """Return whether the inputs of `module` are scaled, not its outputs."""
        if isinstance(self.feedforward, tuple):
            return module.endswith(self.feedforward)
        return Subject(module, budget).is_all(self.feedforward)


def read(config: Mapping[str, object]) -> Lora | Ia3:
    """Return what `config`, the object in `adapter_config.json`, says of the values.

    Raises UsageError, which lists the keys that are wrong or not supported.
    """
    kind = config.get("peft_type")
    if kind not in ("LORA", "IA3"):
        raise UsageError(
            f"adapter_config.json: adapters of peft_type {_shown(kind)} are not supported, only LORA and IA3"
        )
    keys = _Keys(config)
    found = _lora(keys) if kind == "LORA" else _ia3(keys)
    wrong = [*keys.wrong, *keys.unasked()]
    if wrong:
        raise UsageError(f"adapter_config.json: not supported: {listed(wrong)}")
    return found


def _lora(keys: _Keys) -> Lora:
    keys.used |= _NO_MATTER_LORA
    ranks = [keys.number("r", 8), *keys.numbers("rank_pattern").values()]
    keys.wrong += [f"a rank of {rank}" for rank in ranks if rank < 1 or rank != int(rank)]
    alphas = keys.numbers("alpha_pattern")
    bias = keys.take("bias", "none")
    if bias != "none":
        keys.wrong.append(f"bias={_shown(bias)}")
    start = keys.take("init_lora_weights", True)
    if not any(start is known or (isinstance(known, str) and start == known) for known in _INITIALIZED):
        keys.wrong.append(f"init_lora_weights={_shown(start)} (PEFT can save such an adapter as plain LoRA)")
    return Lora(
        keys.flag("fan_in_fan_out"),
        frozenset(map(int, ranks)),
        keys.number("lora_alpha", 8),
        tuple((parse(pattern), alpha) for pattern, alpha in alphas.items()),
        keys.flag("use_rslora"),
    )


def _ia3(keys: _Keys) -> Ia3:
    keys.used |= _NO_MATTER | {"init_ia3_weights"}
    names = keys.take("feedforward_modules", None)
    feedforward: tuple[str, ...] | Node = ()
    if isinstance(names, str):
        feedforward = parse(names)
    elif isinstance(names, list) and all(isinstance(name, str) for name in names):
        feedforward = tuple(names)
    elif names is not None:
        keys.wrong.append(f"feedforward_modules={_shown(names)}")
    return Ia3(keys.flag("fan_in_fan_out"), feedforward)


class _Keys:
    """The keys of a configuration, each asked for once; `wrong` collects what is of no use."""

    def __init__(self, config: Mapping[str, object]) -> None:
        self._config = config
        self.used: frozenset[str] = frozenset()
        self.wrong: list[str] = []

    def unasked(self) -> Iterator[str]:
        """Yield the keys that nobody asked for, where they are not off."""
        for key, value in self._config.items():
            if key not in self.used and not (value is None or value is False or value in ("", [], {})):
                yield f"{quoted(key)}={_shown(value)}"

    def take(self, key: str, default: object) -> object:
        self.used |= {key}
        return self._config.get(key, default)

    def flag(self, key: str) -> bool:
        value = self.take(key, False)
        if not isinstance(value, bool):
            self.wrong.append(f"{key}={_shown(value)}")
        return value is True

    def number(self, key: str, default: int) -> float:
        return self._checked(key, self.take(key, default))

    def numbers(self, key: str) -> dict[str, float]:
        value = self.take(key, None)
        if value is None:
            return {}
        if not isinstance(value, dict) or not all(isinstance(pattern, str) for pattern in value):
            self.wrong.append(f"{key}={_shown(value)}")
            return {}
        return {pattern: self._checked(f"{key}[{_shown(pattern)}]", number) for pattern, number in value.items()}

    def _checked(self, key: str, value: object) -> float:
        # A comparison first: an integer of a file may be too large for a float.
        if isinstance(value, int | float) and not isinstance(value, bool) and -_MOST <= value <= _MOST:
            return value
        self.wrong.append(f"{key}={_shown(value)}")
        return 1


def _shown(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, dict | list):
        return "{...}" if isinstance(value, dict) else "[...]"
    if isinstance(value, int) and not -_MOST <= value <= _MOST:
        return "a number with too many digits"
    return quoted(value) if isinstance(value, str) else repr(value)
