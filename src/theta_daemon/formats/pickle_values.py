"""The inert values that the pickle interpreter builds.

A pickle is a program; what it would import, call and compare is only written down here. Numbers, strings, None,
lists and tuples are Python's own. Nothing else is: a dict becomes a list of pairs (its keys are neither hashed nor
compared), a global a name, a call a record of what would have been called.

Values may be shared, cyclic and nested to any depth: nothing here walks them, and whoever does must not recurse.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class Global:
    """A class or function by name; never looked up."""

    module: str
    name: str


@dataclass(slots=True, eq=False, repr=False)
class PersistentId:
    """An object that the pickle leaves to its surroundings (torch: a storage), by the id it gives."""

    value: object


@dataclass(slots=True, eq=False, repr=False)
class Dict:
    """A dict: its keys and values in turns, as the pickle sets them (a key may come twice)."""

    items: list[object] = field(default_factory=list)


@dataclass(slots=True, eq=False, repr=False)
class Set:
    """A set or frozenset: its elements as the pickle adds them."""

    elements: list[object] = field(default_factory=list)


@dataclass(slots=True, eq=False, repr=False)
class Object:
    """What calling `constructor` with `arguments` would make, and what was done to it afterwards.

    `items` (keys and values in turns) and `elements` are what was put into it as into a dict or a list, `state` what
    would have become its attributes; None where the pickle says nothing. A second state makes a pair of both.
    """

    constructor: object
    arguments: tuple[object, ...]
    keywords: Dict | None = None
    items: list[object] | None = None
    elements: list[object] | None = None
    state: object = None


@dataclass(slots=True, eq=False, repr=False)
class Pickle:
    """One pickle, read to its end.

    `value` is its root, `persistent` every persistent id in order of appearance, `end` the offset behind its STOP.
    """

    value: object
    persistent: list[PersistentId]
    end: int
