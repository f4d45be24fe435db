"""The layers that a PEFT adapter has updates for: what their arrays show, and which way their weights lie."""

from __future__ import annotations

from typing import TYPE_CHECKING

from theta_daemon.frozen import Frozen
from theta_daemon.updates.peft_orientation import Orientations
from theta_daemon.updates.scaling import FLOATS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from theta_daemon.updates.array import Array

    Name = tuple[str, ...]
    Shape = tuple[int, ...]


class Layer(Frozen):
    """A module with an update: its arrays by mark, its weight, and its inputs and outputs as far as the arrays show.

    `known` is false where the arrays are no update of any kind, and `lookup` true for an embedding, which has its
    inputs (the words) first.
    """

    module: str
    arrays: Mapping[str, Array]
    weight: Name
    shape: Shape
    inputs: int | None
    outputs: int | None
    known: bool = True
    lookup: bool = False

    def may_be(self, transposed: bool) -> bool:
        """Return whether the weight can be (in, out) if `transposed`, else (out, in)."""
        sizes = (self.inputs, self.outputs) if transposed else (self.outputs, self.inputs)
        fits = len(self.shape) == 2 and all(size in (None, at) for size, at in zip(sizes, self.shape, strict=True))
        return fits and self.known and (transposed or not self.lookup)


def layer(
    module: str, arrays: Mapping[str, Array], weight: Name, shape: Shape, is_feedforward: Callable[[str], bool]
) -> Layer:
    """Return what `arrays` show of a module whose weight has `shape`; `is_feedforward` is asked where they do not."""
    shapes = {mark: array.shape for mark, array in arrays.items() if array.dtype in FLOATS}
    match shapes:
        case {"lora_A": (rank, inputs), "lora_B": (outputs, other)} if rank == other and len(arrays) == 2:
            return Layer(module, arrays, weight, shape, inputs, outputs)
        case {"lora_embedding_A": (rank, words), "lora_embedding_B": (size, other)} if (
            rank == other and len(arrays) == 2
        ):
            return Layer(module, arrays, weight, shape, words, size, lookup=True)
        case {"ia3_l": (1, 1)}:
            ends = (1, None) if is_feedforward(module) else (None, 1)
            return Layer(module, arrays, weight, shape, *ends)
        case {"ia3_l": (1, inputs)}:
            return Layer(module, arrays, weight, shape, inputs, None)
        case {"ia3_l": (outputs, 1)}:
            return Layer(module, arrays, weight, shape, None, outputs)
    return Layer(module, arrays, weight, shape, None, None, known=False)


def oriented(
    layers: Sequence[Layer], default: bool, shapes: Mapping[str, Shape]
) -> Iterator[tuple[Layer, bool | None]]:
    """Yield each layer and whether its weight is transposed, (in, out); None where its shape is neither.

    `default` is for those of which nothing shows it; `shapes` are those of all parameters of the checkpoint.
    """
    forms = [(layer.may_be(transposed=False), layer.may_be(transposed=True)) for layer in layers]
    others = Orientations(shapes) if (True, True) in forms else None
    if others:
        for layer, (plain, transposed) in zip(layers, forms, strict=True):
            if plain is not transposed and not layer.lookup:
                others.add(".".join(layer.weight), transposed)
    for layer, (plain, transposed) in zip(layers, forms, strict=True):
        if others and plain and transposed:
            yield layer, others.nearest(".".join(layer.weight), default)
        else:
            yield layer, transposed if plain or transposed else None
