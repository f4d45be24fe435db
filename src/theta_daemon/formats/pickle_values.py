"""The inert values that the pickle interpreter builds.

A pickle is a program; what it would import, call and compare is only written down here. Numbers, strings, None,
lists and tuples are Python's own. Nothing else is: a dict becomes a list of pairs (its keys are neither hashed nor
compared), a global a name, a call a record of what would have been called.

Values may be shared, cyclic and nested to any depth: nothing here walks them, and whoever does must not recurse.
"""

from __future__ import annotations


class Global:
    """A class or function by name; never looked up."""

    __slots__ = __match_args__ = ("module", "name")

    def __init__(self, module: str, name: str) -> None:
        self.module = module
        self.name = name

    def __repr__(self) -> str:
        return f"Global(module={self.module!r}, name={self.name!r})"


class PersistentId:
    """An object that the pickle leaves to its surroundings (torch: a storage), by the id it gives.

    `meaning` is for whoever understands the id to note what it stands for: many ask for the same.
    """

    __slots__ = ("meaning", "value")

    def __init__(self, value: object) -> None:
        self.value = value
        self.meaning: object = None


class Dict:
    """A dict: its keys and values in turns, as the pickle sets them (a key may come twice)."""

    __slots__ = __match_args__ = ("items",)

    def __init__(self, items: list[object] | None = None) -> None:
        self.items: list[object] = [] if items is None else items


class Set:
    """A set or frozenset: its elements as the pickle adds them."""

    __slots__ = __match_args__ = ("elements",)

    def __init__(self, elements: list[object] | None = None) -> None:
        self.elements: list[object] = [] if elements is None else elements


class Object:
    """What calling `constructor` with `arguments` would make, and what was done to it afterwards.

    `items` (keys and values in turns) and `elements` are what was put into it as into a dict or a list, `state` what
    would have become its attributes; None where the pickle says nothing. A second state makes a pair of both.
    """

    __slots__ = ("arguments", "constructor", "elements", "items", "keywords", "state")
    __match_args__ = ("constructor", "arguments")

    def __init__(self, constructor: object, arguments: tuple[object, ...], keywords: Dict | None = None) -> None:
        self.constructor = constructor
        self.arguments = arguments
        self.keywords = keywords
        self.items: list[object] | None = None
        self.elements: list[object] | None = None
        self.state: object = None


class Pickle:
    """One pickle, read to its end.

    `value` is its root, `persistent` every persistent id in order of appearance, `end` the offset behind its STOP.
    """

    __slots__ = ("end", "persistent", "value")

    def __init__(self, value: object, persistent: list[PersistentId], end: int) -> None:
        self.value = value
        self.persistent = persistent
        self.end = end
