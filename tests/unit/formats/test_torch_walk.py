"""Names of tensors: the keys that lead to them, as git-theta sees them where it sees them at all."""

from __future__ import annotations

import collections
import io
import warnings
import zipfile

import pytest
import torch

from tests.support.models import state_dict, torch_bytes
from tests.support.torch_files import call, integers, mapping, program, reference, sequence, storage, tensor, text
from theta_daemon.errors import CheckpointError
from theta_daemon.formats import torch_walk
from theta_daemon.formats.parts import OtherKey
from theta_daemon.formats.pickle_reader import read_pickle
from theta_daemon.formats.torch_walk import Found, find_tensors


def find(pickle: bytes) -> list[Found]:
    return find_tensors(read_pickle(pickle).value, len(pickle))


def saved(value: object) -> list[Found]:
    with zipfile.ZipFile(io.BytesIO(torch_bytes(value))) as file:
        return find(file.read("archive/data.pkl"))


def keys(found: list[Found]) -> list[tuple[object, ...]]:
    return [one.keys for one in found]


def value(*shape: int) -> torch.Tensor:
    return torch.zeros(shape)


ONE = tensor(storage())


def test_a_flat_dict_has_git_thetas_names() -> None:
    assert keys(saved(state_dict())) == [(name,) for name in state_dict()]
    assert keys(saved(collections.OrderedDict(state_dict()))) == [(name,) for name in state_dict()]


def test_the_state_dict_of_a_module() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.BatchNorm1d(2))
    assert keys(saved(module.state_dict())) == [(name,) for name in module.state_dict()]


def test_a_whole_module() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 2))
    assert keys(saved(module)) == [
        ("_modules", "0", "_parameters", "weight"),
        ("_modules", "0", "_parameters", "bias"),
    ]


def test_a_bare_tensor_has_no_keys() -> None:
    assert keys(saved(value(2))) == [()]


def test_positions_in_lists_and_tuples() -> None:
    assert keys(saved([value(1), (value(1), [value(1)])])) == [(0,), (1, 0), (1, 1, 0)]


def test_keys_of_other_kinds() -> None:
    odd = {None: 0, True: 0, 1.5: 0, (1, "a", None): 0, b"\xff": 0, 1 << 70: 0, torch.float32: 0, -3: 0}
    assert keys(saved(dict.fromkeys(odd, value(1)))) == [
        (OtherKey("None"),),
        (OtherKey("True"),),
        (OtherKey("1.5"),),
        (OtherKey("(1, 'a', None)"),),
        (OtherKey("Object"),),  # protocol 2 spells bytes as a call
        (OtherKey("int of 71 bits"),),
        (OtherKey("torch.float32"),),
        (-3,),
    ]


def test_keys_that_are_not_unicode_or_long() -> None:
    pickle = program(mapping({"\ud800" * 200: ONE}))
    ((key,),) = keys(find(pickle))
    assert isinstance(key, OtherKey)
    assert key.text.startswith("'\\ud800\\ud800")
    assert len(key.text) == 100
    pair = sequence(*[text("x" * 50)] * 9)
    assert keys(find(program(b"}" + pair + ONE + b"s"))) == [(OtherKey(("(" + f"'{'x' * 50}', " * 9)[:100]),)]


def test_containers_of_the_library() -> None:
    lists = collections.defaultdict(list)
    lists["k"].append(value(1))
    assert keys(saved({"d": lists, "q": collections.deque([value(1)])})) == [("d", "k", 0), ("q", 0)]


def test_parameters_add_no_key() -> None:
    parameter = torch.nn.Parameter(value(2))
    assert keys(saved({"p": parameter, "b": torch.nn.Buffer(value(2))})) == [("p",), ("b",)]


def test_attributes_of_parameters_and_subclasses_are_named_below_them() -> None:
    parameter = torch.nn.Parameter(value(2))
    parameter.scale = value(1)  # type: ignore[attr-defined]
    assert keys(saved({"p": parameter})) == [("p",), ("p", "scale")]
    subclass = value(2).as_subclass(Subclass)
    subclass.scale = value(1)  # type: ignore[attr-defined]
    assert keys(saved({"p": subclass})) == [("p",), ("p", "scale")]


class Subclass(torch.Tensor):
    pass


class Slotted:
    __slots__ = ("first", "second")

    def __init__(self, first: object, second: object) -> None:
        self.first = first
        self.second = second


class Stateful:
    def __init__(self, inner: object) -> None:
        self.inner = inner

    def __getstate__(self) -> list[object]:
        return [self.inner]

    def __setstate__(self, state: object) -> None:
        raise AssertionError("nobody unpickles this")


def test_objects() -> None:
    assert keys(saved(Slotted(value(1), {"x": value(1)}))) == [("first",), ("second", "x")]
    assert keys(saved(Stateful(value(1)))) == [("state", 0)]


def test_keywords_and_sets() -> None:
    made = b"cm\nC\n)" + mapping({"k": ONE}) + b"\x92"
    assert keys(find(program(made))) == [("k",)]
    assert keys(find(program(b"\x8f(" + ONE + b"\x90"))) == [(0,)]


def test_arguments_of_unknown_calls() -> None:
    assert keys(find(program(call(reference("m", "f"), b"N", ONE)))) == [(1,)]
    # not torch's own: not a tensor, though its storage is one
    mine = call(reference("mine", "_rebuild_tensor"), storage(), b"K\0", integers([4]), integers([1]))
    assert [one.claim.shape for one in find(program(mine))] == [(4,)]
    assert keys(find(program(mine))) == [(0,)]


def test_sparse_tensors() -> None:
    eye = torch.eye(4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layouts = {"coo": eye.to_sparse(), "csr": eye.to_sparse_csr(), "bsc": eye.to_sparse_bsc((2, 2))}
    assert keys(saved(layouts)) == [
        ("coo", "indices"),
        ("coo", "values"),
        ("csr", "crow_indices"),
        ("csr", "col_indices"),
        ("csr", "values"),
        ("bsc", "ccol_indices"),
        ("bsc", "row_indices"),
        ("bsc", "values"),
    ]


def test_nested_tensors() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nested = torch.nested.nested_tensor([value(2, 3), value(1, 3)])
    assert [one.keys[-1] for one in saved({"n": nested})] == ["values", "sizes", "strides", "offsets"]


def test_quantised_tensors() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        per_tensor = torch.quantize_per_tensor(value(2, 3), 0.1, 3, torch.quint8)
        per_channel = torch.quantize_per_channel(
            value(2, 3), torch.ones(2), torch.zeros(2, dtype=torch.long), 0, torch.qint32
        )
        found = saved({"t": per_tensor, "c": per_channel})
    assert [(one.keys, one.claim.dtype, one.claim.shape) for one in found] == [
        (("t",), "uint8", (6,)),
        (("c",), "uint8", (24,)),
        (("c", "scales"), "float64", (2,)),
        (("c", "zero_points"), "int64", (2,)),
    ]


def test_conjugate_and_negative_bits() -> None:
    value = torch.zeros(3, dtype=torch.complex64)
    found = saved({"c": value.conj(), "n": torch.zeros(3, dtype=torch.complex64).conj().imag})
    assert [(one.claim.dtype, one.claim.fills) for one in found] == [("uint8", True), ("uint8", False)]


def test_meta_tensors_have_no_bytes() -> None:
    assert saved({"m": torch.empty(3, device="meta")}) == []


def test_storages_by_themselves() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = saved([value(3).untyped_storage(), value(3).storage()])  # type: ignore[no-untyped-call]
    assert [(one.claim.dtype, one.claim.shape) for one in found] == [("uint8", (12,)), ("float32", (3,))]


def test_a_tensor_under_two_keys_is_listed_twice() -> None:
    shared = value(2)
    assert keys(saved({"a": shared, "b": [shared]})) == [("a",), ("b", 0)]


def test_a_container_under_two_keys_is_entered_once() -> None:
    shared = {"w": value(2)}
    assert keys(saved({"a": shared, "b": shared, "c": shared["w"]})) == [("a", "w"), ("c",)]


def test_cycles_end() -> None:
    cyclic: dict[str, object] = {"w": value(1)}
    cyclic["again"] = [cyclic]
    assert keys(saved(cyclic)) == [("w",)]


def nested(depth: int) -> bytes:
    return program(b"]" * depth + ONE + b"a" * depth)


def test_depth_has_an_end() -> None:
    (found,) = find(nested(torch_walk.MAX_DEPTH))
    assert found.keys == (0,) * torch_walk.MAX_DEPTH
    assert find(nested(torch_walk.MAX_DEPTH + 1)) == []


def test_wrappers_have_an_end() -> None:
    wrapped = ONE
    for _ in range(torch_walk.MAX_WRAPPERS - 1):
        wrapped = call(reference("torch._utils", "_rebuild_parameter"), wrapped, b"\x88", b"N")
    assert keys(find(program(wrapped))) == [()]


def test_names_have_an_end() -> None:
    """All keys together may be some 32 times as long as the pickle: one long key above many tensors is not."""

    def below_one_key(count: int) -> bytes:
        return program(b"}" + text("n" * 100_000) + b"](" + ONE + b"q\2" + b"h\2" * (count - 1) + b"es")

    assert len(find(below_one_key(42))) == 42
    with pytest.raises(CheckpointError, match="names of its tensors are longer"):
        find(below_one_key(43))


def test_errors_name_the_parameter() -> None:
    pickle = program(mapping({"model": mapping({"w": tensor(storage(numel=3))})}))
    with pytest.raises(CheckpointError) as caught:
        find(pickle)
    assert str(caught.value) == "parameter 'model/w': its last element ends at byte 16 of storage '0', which has 12"
