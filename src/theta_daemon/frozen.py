"""`Frozen`: what `@dataclass(frozen=True, slots=True)` gives, without what that costs in every process.

git starts this program anew for every command, and dataclasses would be the dearest part of that: the module imports
`inspect` (6 ms), and then compiles six methods for each class (0.3 ms, and there are sixty classes). A class made here
gets one compiled method, its constructor (0.02 ms), and shares the others. The constructor assigns directly, and so
takes 0.1 us for one field and 0.2 for ten; a frozen dataclass's takes 0.2 and 1, one for any number of fields more.

That nothing is changed after it was made is for mypy to see, which takes these classes for frozen dataclasses; nothing
stops it at run time.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any, ClassVar, Self, dataclass_transform


class _Fields(type):
    """Makes slots and a constructor of a class's annotations. Defaults are immutable values, of the last fields."""

    def __new__(cls, name: str, bases: tuple[type, ...], namespace: dict[str, Any]) -> _Fields:
        annotations: dict[str, str] = namespace.get("__annotations__", {})
        fields = tuple(field for field, kind in annotations.items() if not kind.startswith("ClassVar"))
        defaults = tuple(namespace.pop(field) for field in fields if field in namespace)
        namespace["__slots__"] = namespace["__match_args__"] = fields
        namespace["_content"] = attrgetter(*(fields or ("__class__",)))
        if fields:
            # Annotations of our own source: nothing but identifiers can stand here.
            assignments = "; ".join(f"self.{field} = {field}" for field in fields)
            exec(f"def __init__(self, {', '.join(fields)}): {assignments}", {}, namespace)  # noqa: S102
            namespace["__init__"].__defaults__ = defaults
        return super().__new__(cls, name, bases, namespace)


@dataclass_transform(frozen_default=True)
class Frozen(metaclass=_Fields):
    """A value: equal to another of its own class with equal fields, hashable where they are, not to be changed.

    A subclass names its fields by annotations and is not derived from again.
    """

    __match_args__: ClassVar[tuple[str, ...]]
    _content: ClassVar[attrgetter[Any]]

    def replace(self, **changes: object) -> Self:
        """Return a copy with some fields changed."""
        return type(self)(**{field: getattr(self, field) for field in self.__match_args__} | changes)

    def __eq__(self, other: object) -> bool:
        if type(other) is not type(self):
            return NotImplemented
        return bool(self._content(self) == self._content(other))

    def __hash__(self) -> int:
        return hash(self._content(self))

    def __repr__(self) -> str:
        fields = ", ".join(f"{field}={getattr(self, field)!r}" for field in self.__match_args__)
        return f"{type(self).__qualname__}({fields})"
