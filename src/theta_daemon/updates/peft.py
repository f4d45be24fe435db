"""PEFT adapters as they are on disk, as updates: LoRA becomes `low-rank`, (IA)3 becomes `ia3`.

The values come out as `merge_and_unload()` of PEFT makes them, within float rounding (PEFT multiplies with BLAS, and
rounds what it adds to the dtype of the adapter first):

    LoRA, weight (out, in)     R = B                   C = A * scaling
    LoRA, weight (in, out)     R = A.T * scaling       C = B.T
    LoRA, embedding (n, dim)   R = A.T * scaling       C = B.T
    (IA)3                      weight * l, by columns in a feedforward layer, else by rows, and the bias with them

Arrays without an update (`modules_to_save`, a resized embedding) are new values: `dense`. PEFT writes the base weight
of an embedding that has an update into the file as well, and loads it from there; `unchanged` keeps that from being
stored as if it were new.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from theta_daemon.errors import UnsupportedError, UsageError
from theta_daemon.updates.array import Array
from theta_daemon.updates.kinds import DENSE, IA3, LOW_RANK
from theta_daemon.updates.listing import listed, quoted
from theta_daemon.updates.numbers import computed_in
from theta_daemon.updates.patterns import Budget
from theta_daemon.updates.peft_config import Ia3, Lora, read
from theta_daemon.updates.peft_layers import layer, oriented
from theta_daemon.updates.peft_names import IA3_MARKS, LORA_MARKS, Parameters, contents
from theta_daemon.updates.scaling import FLOATS, converted, scaled, transposed
from theta_daemon.updates.steps import prepare

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from theta_daemon.updates.peft_layers import Layer

    Name = tuple[str, ...]
    Update = tuple[str, Mapping[str, Array]]


def adapter(
    config: Mapping[str, object],
    arrays: Mapping[str, Array],
    parameters: Mapping[Name, tuple[str, tuple[int, ...]]],
    unchanged: Callable[[Name, Array], bool] = lambda name, value: False,
) -> dict[Name, Update]:
    """Return the updates that merge an adapter: for each parameter group its update type and arrays, as `prepare` has.

    `config` is the object in adapter_config.json, `arrays` are those of adapter_model.safetensors by their names, and
    `parameters` the dtype and shape of every parameter group of the checkpoint. `unchanged` is asked for groups that
    have an update and stand in the adapter themselves whether the group has that value now (in its own dtype); where
    not, base and update become one dense value.

    Tied weights are one group with several names, of which the adapter has one or more, while the caller knows which
    names are tied. An update of one name is an update of the group. Updates of several of its names are applied one
    after the other, as PEFT does. A dense value unties the name in PEFT, so all names must have it, and the same one.

    Raises UsageError, which lists the names or the keys of the configuration, for all that cannot be told exactly.
    """
    held = contents(arrays, LORA_MARKS if config.get("peft_type") == "LORA" else IA3_MARKS)
    try:
        settings = read(config)
    except UsageError as error:
        names = [*held.odd, *(name for name in held.values if name.endswith(".bias"))]
        if names:
            error.message += f" (the adapter holds {listed(map(quoted, names))})"
        raise
    if held.odd:
        raise UsageError(f"the adapter holds arrays of an unknown kind: {listed(map(quoted, held.odd))}")
    if not held.modules and not held.values:
        raise UsageError("the adapter holds no arrays")
    where = Parameters(parameters, [*(f"{module}.weight" for module in held.modules), *held.values])
    merge = _Merge(settings, where, parameters)
    layers = [merge.layer(module, found) for module, found in held.modules.items()]
    shapes = {".".join(name): shape for name, (_, shape) in parameters.items()}
    for one, is_transposed in oriented(layers, settings.transposed, shapes):
        merge.update(one, is_transposed)
    for text, value in held.values.items():
        merge.value(text, value, unchanged)
    if merge.wrong:
        raise UsageError(f"the adapter does not fit the checkpoint: {listed(merge.wrong)}")
    return merge.updates


class _Merge:
    """Collects `updates`, and in `wrong` what there can be none of."""

    def __init__(
        self, settings: Lora | Ia3, where: Parameters, parameters: Mapping[Name, tuple[str, tuple[int, ...]]]
    ) -> None:
        self._settings = settings
        self._where = where
        self._parameters = parameters
        self._budget = Budget()
        self.updates: dict[Name, Update] = {}
        self.wrong: list[str] = []

    def layer(self, module: str, arrays: Mapping[str, Array]) -> Layer:
        """Return what the adapter says of a module."""
        weight = self._where[f"{module}.weight"]
        return layer(module, arrays, weight, self._parameters[weight][1], self._is_feedforward)

    def _is_feedforward(self, module: str) -> bool:
        return isinstance(self._settings, Ia3) and self._settings.is_feedforward(module, self._budget)

    def update(self, layer: Layer, is_transposed: bool | None) -> None:
        """Add the updates of one layer; its weight is (in, out) if transposed, and None if it has neither form."""
        if is_transposed is None:
            self._refuse(layer.module, layer.arrays, layer.weight)
        elif isinstance(self._settings, Lora):
            self._low_rank(layer, is_transposed, self._settings)
        else:
            self._factor(layer, is_transposed)

    def _low_rank(self, layer: Layer, is_transposed: bool, settings: Lora) -> None:
        a, b = (layer.arrays[mark] for mark in sorted(layer.arrays))
        rank = a.shape[0]
        if rank not in settings.ranks:
            self.wrong.append(f"{quoted(layer.module)} has rank {rank}, which adapter_config.json does not know")
            return
        factor = settings.scaling(layer.module, rank, self._budget)
        factors = scaled(a, b, factor)
        if factors is None:
            self.wrong.append(f"{quoted(layer.module)} is scaled by {factor}, which is too much for its dtype")
            return
        a, b = factors
        left, right = (transposed(a), transposed(b)) if is_transposed else (b, a)
        self._put(layer.weight, LOW_RANK, {"R": left, "C": right})

    def _factor(self, layer: Layer, is_transposed: bool) -> None:
        vector = layer.arrays["ia3_l"]
        flipped = vector.replace(shape=vector.shape[::-1])
        self._put(layer.weight, IA3, {"ia3": flipped if is_transposed else vector})
        bias = self._where.get(f"{layer.module}.bias")
        if bias is None or layer.outputs is None:
            return
        if self._parameters[bias][1] != (layer.outputs,):
            self._refuse(f"{layer.module}.bias", layer.arrays, bias)
            return
        self._put(bias, IA3, {"ia3": vector.replace(shape=(layer.outputs,))})

    def value(self, text: str, value: Array, unchanged: Callable[[Name, Array], bool]) -> None:
        """Add a new value, under the update that the same parameter group may have."""
        name = self._where[text]
        dtype, shape = self._parameters[name]
        if value.shape != shape or (value.dtype != dtype and not {value.dtype, dtype} <= FLOATS):
            self._refuse(text, {"value": value}, name)
            return
        value = converted(value, dtype)
        update = self.updates.get(name)
        if update is None:
            self.updates[name] = DENSE, {"parameter": value}
        elif not self.wrong and not unchanged(name, value):
            raw = memoryview(bytearray(value.raw))
            prepare(*update, dtype, shape, name).apply(raw, range(shape[0]))
            self.updates[name] = DENSE, {"parameter": Array(dtype, shape, raw)}

    def _put(self, name: Name, update_type: str, arrays: Mapping[str, Array]) -> None:
        dtype, _ = self._parameters[name]
        try:
            for array in arrays.values():
                computed_in(array.dtype, dtype)
        except UnsupportedError as error:
            self.wrong.append(f"{quoted('.'.join(name))}: {error.message}")
        self.updates[name] = update_type, arrays

    def _refuse(self, text: str, arrays: Mapping[str, Array], name: Name) -> None:
        forms = ", ".join(f"{mark} {array.dtype} {array.shape}" for mark, array in arrays.items())
        dtype, shape = self._parameters[name]
        self.wrong.append(f"{quoted(text)} ({forms} for {dtype} {shape})")
