"""Names in a PEFT adapter: which module an array belongs to, and which parameter of a checkpoint that is.

On disk an array is `base_model.model.<module>.lora_A.weight`, or `.lora_A.<adapter>.weight` where a training script
saved the model's own state. An array without such a mark is a parameter's new value (`modules_to_save`, a resized
embedding); PEFT puts `base_layer` before the last component of those that belong to a module with an update, too.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

from theta_daemon.errors import UsageError
from theta_daemon.frozen import Frozen
from theta_daemon.updates.listing import listed, quoted

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from theta_daemon.updates.array import Array

    Name = tuple[str, ...]

_PREFIX = "base_model.model."
_BASE = "base_layer"

# What follows the mark: a module of its own with a weight, or nothing.
LORA_MARKS = {"lora_A": "weight", "lora_B": "weight", "lora_embedding_A": "", "lora_embedding_B": ""}
IA3_MARKS = {"ia3_l": ""}
_FAMILIES = ("lora_", "ia3_")


class Contents(Frozen):
    """What an adapter holds.

    `modules`: for each module its arrays, by mark. `values`: new values, by the name of the parameter. `odd`: the
    names of arrays that are neither.
    """

    modules: Mapping[str, Mapping[str, Array]]
    values: Mapping[str, Array]
    odd: tuple[str, ...]


def contents(arrays: Mapping[str, Array], marks: Mapping[str, str]) -> Contents:
    """Sort `arrays` by what they are for. Raises UsageError where they are of more than one adapter."""
    modules: dict[str, dict[str, Array]] = {}
    plain: dict[str, str] = {}
    odd: list[str] = []
    adapters: set[str] = set()
    for key in arrays:
        text = key.removeprefix(_PREFIX)
        path = text.split(".")
        at = next((i for i in range(len(path) - 1, 0, -1) if path[i] in marks), None)
        if at is None:
            if any(part.startswith(_FAMILIES) for part in path) or text in plain:
                odd.append(key)
            else:
                plain[text] = key
            continue
        found = modules.setdefault(".".join(path[:at]), {})
        adapter = _adapter(path[at + 1 :], marks[path[at]])
        if adapter is None or path[at] in found:
            odd.append(key)
            continue
        found[path[at]] = arrays[key]
        adapters.add(adapter)
    if len(adapters) > 1:
        raise UsageError(f"the file holds more than one adapter: {listed(map(quoted, sorted(adapters)))}")
    values: dict[str, Array] = {}
    for text, key in plain.items():
        name = _unwrapped(text, modules)
        if name in values:
            odd.append(key)
        values.setdefault(name, arrays[key])
    return Contents({module: found for module, found in modules.items() if found}, values, tuple(odd))


def _adapter(tail: list[str], own: str) -> str | None:
    """Return the adapter's name, empty where there is none, in what follows a mark; None where it is not that."""
    if own:
        if tail[-1:] != [own]:
            return None
        tail = tail[:-1]
    return None if len(tail) > 1 else "".join(tail)


def _unwrapped(text: str, modules: Collection[str]) -> str:
    above, _, last = text.rpartition(".")
    module, _, base = above.rpartition(".")
    return f"{module}.{last}" if base == _BASE and module in modules else text


class Parameters:
    """The parameters of a checkpoint, found by the names that an adapter has for them.

    The checkpoint may hold more of a model than the adapter was trained on, or less: where not all of `wanted` are
    there by their own names, but all of them with one and the same prefix added or removed, that is what is meant.

    Raises UsageError, which lists the names that are not there, or the prefixes between which nothing decides.
    """

    def __init__(self, names: Iterable[Name], wanted: Collection[str]) -> None:
        self._names: dict[str, list[Name]] = {}
        for name in names:
            self._names.setdefault(".".join(name), []).append(name)
        self._added, self._removed = self._prefix(wanted)
        twice = [quoted(text) for text in wanted if len(self._names[self._text(text)]) > 1]
        if twice:
            raise UsageError(f"more than one parameter has the name {listed(twice)}")

    def get(self, text: str) -> Name | None:
        """Return the parameter that the adapter calls `text`, or None."""
        names = self._names.get(self._text(text))
        return names[0] if names else None

    def __getitem__(self, text: str) -> Name:
        return self._names[self._text(text)][0]

    def _text(self, text: str) -> str:
        return self._added + text.removeprefix(self._removed)

    def _prefix(self, wanted: Collection[str]) -> tuple[str, str]:
        missing = [text for text in wanted if text not in self._names]
        if not missing:
            return "", ""
        fitting = [*self._addable(wanted, missing[0]), *self._removable(wanted, missing[0])]
        if len(fitting) > 1:
            prefixes = listed(quoted(added or removed) for added, removed in fitting)
            raise UsageError(f"the adapter fits more than one part of the checkpoint, by the prefixes {prefixes}")
        if not fitting:
            raise UsageError(f"no parameter of the checkpoint has the name {listed(map(quoted, missing))}")
        return fitting[0]

    def _addable(self, wanted: Collection[str], first: str) -> Iterator[tuple[str, str]]:
        for text in self._names:
            prefix = text.removesuffix(first)
            if text.endswith(f".{first}") and all(prefix + other in self._names for other in wanted):
                yield prefix, ""

    def _removable(self, wanted: Collection[str], first: str) -> Iterator[tuple[str, str]]:
        for prefix in accumulate(f"{part}." for part in first.split(".")[:-1]):
            if all(text.startswith(prefix) and text.removeprefix(prefix) in self._names for text in wanted):
                yield "", prefix
