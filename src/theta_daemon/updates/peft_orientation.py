"""Whether the weight of a layer is (out, in), as in PyTorch's Linear, or (in, out), as in GPT-2's Conv1D.

An adapter's arrays tell for every weight that is not square. For the square ones `fan_in_fan_out` does not: PEFT sets
it for each layer that it wraps, and saves what the last one was, so an adapter for GPT-2 that ends with `lm_head` says
false for all. Layers that stand close together are of one kind: of those whose kind shows, the nearest decide.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

_WEIGHT, _BIAS = ".weight", ".bias"


class _Node:
    """A module: what shows below it, and the modules in it by their last component."""

    def __init__(self) -> None:
        self.kinds: set[bool] = set()
        self.inner: dict[str, Self] = {}


class Orientations:
    """The weights whose orientation shows, as a tree by the components of their names.

    `shapes` are those of all parameters of the checkpoint: a bias is as long as its layer has outputs.
    """

    def __init__(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._root = _Node()
        for text, shape in shapes.items():
            bias = shapes.get(text.removesuffix(_WEIGHT) + _BIAS) if text.endswith(_WEIGHT) else None
            if len(shape) == 2 and shape[0] != shape[1] and bias in ((shape[0],), (shape[1],)):
                self.add(text, bias == (shape[1],))

    def add(self, text: str, transposed: bool) -> None:
        """Remember that the weight `text` is (in, out) if `transposed`, else (out, in)."""
        node = self._root
        for part in text.split("."):
            node.kinds.add(transposed)
            node = node.inner.setdefault(part, _Node())
        node.kinds.add(transposed)

    def nearest(self, text: str, default: bool) -> bool:
        """Return whether those nearest to `text` are transposed; `default` where they differ, or there are none."""
        node = self._root
        for part in text.split("."):
            if part not in node.inner:
                break
            node = node.inner[part]
        return next(iter(node.kinds)) if len(node.kinds) == 1 else default
