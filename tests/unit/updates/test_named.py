from __future__ import annotations

import numpy as np
import pytest

from theta_daemon.errors import UsageError
from theta_daemon.updates.array import Array
from theta_daemon.updates.named import named

Key = tuple[str, ...]
PARAMETERS: dict[Key, tuple[str, tuple[int, ...]]] = {
    ("a.weight",): ("float32", (3, 4)),
    ("a.bias",): ("float32", (3,)),
    ("b", "weight"): ("bfloat16", (2, 2)),
}


def array(*shape: int, dtype: str = "float32") -> Array:
    return Array(dtype, shape, memoryview(np.ones(shape, dtype).tobytes()))


def numbers(*values: int) -> Array:
    return Array("int64", (len(values),), memoryview(np.array(values, np.int64).tobytes()))


R, C = array(3, 1), array(1, 4)


@pytest.mark.parametrize(
    "keys",
    [
        [("a.weight/R",), ("a.weight/C",)],  # a flat file
        [("a.weight", "R"), ("a.weight", "C")],  # a nested one
    ],
)
def test_flat_and_nested_files(keys: list[Key]) -> None:
    found = named("low-rank", dict(zip(keys, (R, C), strict=True)), PARAMETERS)
    assert found == {("a.weight",): {"R": R, "C": C}}


def test_nested_parameters() -> None:
    small = array(2, 1)
    for keys in ([("b/weight/ia3",)], [("b", "weight", "ia3")], [("b", "weight/ia3")]):
        assert named("ia3", dict.fromkeys(keys, small), PARAMETERS) == {("b", "weight"): {"ia3": small}}


def test_sparse() -> None:
    arrays = {"data": array(2), "indices": numbers(1, 5), "indptr": numbers(0, 2), "shape": numbers(3, 4)}
    found = named("sparse", {(f"a.weight/{name}",): value for name, value in arrays.items()}, PARAMETERS)
    assert found == {("a.weight",): arrays}


def test_low_rank_of_a_vector_is_added_whole() -> None:
    whole = array(3)
    assert named("low-rank", {("a.bias/parameter",): whole}, PARAMETERS) == {("a.bias",): {"parameter": whole}}


def refused(update_type: str, arrays: dict[Key, Array]) -> str:
    with pytest.raises(UsageError) as caught:
        named(update_type, arrays, PARAMETERS)
    return str(caught.value)


def test_everything_that_is_wrong_is_said_at_once() -> None:
    arrays: dict[Key, Array] = {
        ("a.weight/R",): R,
        ("b/weight/R",): array(2, 1),
        ("b/weight/C",): array(1, 3),
        ("c/R",): R,
        ("c/C",): C,
        ("a.bias/ia3",): array(3),
        ("alone",): array(1),
    }
    message = refused("low-rank", arrays)
    assert "arrays that are not of a low-rank update: 'a.bias/ia3', 'alone'" in message
    assert "no parameter: 'c'" in message
    assert "'a.weight' (it has R alone)" in message
    assert "'b/weight' (R of shape (2, 1)" in message


def test_at_most_ten_names() -> None:
    message = refused("ia3", {(f"p{n:02}/ia3",): array(1) for n in range(25)})
    assert "'p09' and 15 more" in message
    assert "p10" not in message


@pytest.mark.parametrize(
    ("update_type", "arrays", "says"),
    [
        ("ia3", {}, "no ia3 updates"),
        ("dense", {("a.bias/parameter",): array(3)}, "updates of type 'dense' cannot be taken from a file"),
        ("exact-sparse", {}, "'exact-sparse' cannot be taken from a file"),
        ("ia3", {("a.bias/ia3",): array(7)}, "'a.bias' ("),
        ("ia3", {("a.bias/ia3",): array(3), ("a.bias", "ia3"): array(3)}, "'a.bias/ia3'"),
        ("low-rank", {("a.weight/R",): R, ("a.weight/C",): C, ("a.weight/parameter",): R}, "'a.weight' (it has"),
        ("ia3", {(): array(3)}, "''"),
        ("ia3", {("a.bias/ia3",): array(3, dtype="complex64")}, "'a.bias' ("),
    ],
)  # fmt: skip
def test_refused(update_type: str, arrays: dict[Key, Array], says: str) -> None:
    assert says in refused(update_type, arrays)


def test_two_parameters_of_one_name() -> None:
    parameters = {**PARAMETERS, ("b/weight",): ("float32", (2, 2))}
    with pytest.raises(UsageError, match="more than one parameter: 'b/weight'"):
        named("ia3", {("b/weight/ia3",): array(2, 1)}, parameters)
