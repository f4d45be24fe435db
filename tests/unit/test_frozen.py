"""What dataclasses promise, of the classes that do without them."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from typing import ClassVar

import pytest

from theta_daemon.frozen import Frozen


class Point(Frozen):
    """A place."""

    x: int
    y: int = 0
    label: str | None = None
    origin: ClassVar[tuple[int, int]] = (0, 0)

    @property
    def sum(self) -> int:
        return self.x + self.y


class Other(Frozen):
    x: int
    y: int = 0
    label: str | None = None


class Nothing(Frozen):
    """No fields."""


class Nothing2(Frozen):
    """None either."""


@dataclasses.dataclass(frozen=True, slots=True)
class Dataclass:
    x: int
    y: int = 0
    label: str | None = None


def test_fields_are_given_by_place_or_name_and_have_defaults() -> None:
    point = Point(1, label="a")
    assert (point.x, point.y, point.label, point.sum, Point.origin) == (1, 0, "a", 1, (0, 0))
    assert Point(1, 2, "a") == Point(label="a", y=2, x=1)


@pytest.mark.parametrize(("arguments", "named"), [((), {}), ((1, 2, "a", 4), {}), ((1,), {"x": 1}), ((1,), {"z": 1})])
def test_other_arguments_are_refused(arguments: tuple[int, ...], named: dict[str, int]) -> None:
    with pytest.raises(TypeError):
        Dataclass(*arguments, **named)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        Point(*arguments, **named)  # type: ignore[arg-type]


def test_values_of_one_class_are_equal_by_their_fields() -> None:
    assert Point(1, 2) == Point(1, 2) != Point(1, 3)
    assert Point(1, 2) != Other(1, 2)
    assert Point(1) != 1
    assert Nothing() == Nothing() != Nothing2()
    assert {Point(1), Point(1), Point(2), Nothing(), Nothing()} == {Point(2), Point(1), Nothing()}


def test_what_is_in_it_decides_whether_it_can_be_hashed() -> None:
    with pytest.raises(TypeError, match="unhashable"):
        hash(Other([]))  # type: ignore[arg-type]


def test_it_looks_like_the_dataclass() -> None:
    assert repr(Point(1, label="a")) == repr(Dataclass(1, label="a")).replace("Dataclass", "Point")
    assert repr(Nothing()) == "Nothing()"
    assert Point.__doc__ == "A place."


def test_it_is_matched_like_the_dataclass() -> None:
    match Point(1, 2):
        case Point(1, y, label=None):
            assert y == 2
        case _:
            pytest.fail("no match")


def test_a_copy_has_some_fields_changed() -> None:
    point = Point(1, 2, "a")
    assert point.replace(y=3) == Point(1, 3, "a")
    assert point == Point(1, 2, "a")
    with pytest.raises(TypeError):
        point.replace(z=1)


def test_it_has_no_room_for_anything_else() -> None:
    with pytest.raises(AttributeError):
        Point(1).z = 1  # type: ignore[attr-defined]
    assert not hasattr(Point(1), "__dict__")


def test_it_is_copied_and_pickled() -> None:
    point = Point(1, 2, "a")
    assert copy.deepcopy(point) == copy.copy(point) == pickle.loads(pickle.dumps(point)) == point
