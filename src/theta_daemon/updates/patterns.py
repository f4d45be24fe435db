"""Match regular expressions that come from a file, in bounded time.

PEFT lets an adapter's configuration choose modules by regular expressions. Python's `re` takes exponential time for
some of them and a file may hold any, so these are matched here by sets of positions: what can be reached in a name
after a part of the expression, as the bits of one integer. Nothing is tried twice, and `Budget` ends what takes long.

Known are characters, `.`, escaped punctuation, `\\d`, `\\w`, classes, groups, `|`, `*`, `+`, `?` (also lazy), `^` and
`$`: all that choosing modules needs. With these an expression matches here exactly where it does in `re`; anything
else is refused, not guessed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from theta_daemon.errors import UsageError
from theta_daemon.frozen import Frozen

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_LENGTH = 1000
MAX_DEPTH = 10  # groups within groups: as deep as `_reach` recurses
STEPS = 20_000_000  # for all names and all expressions of an adapter: seconds


class Chars(Frozen):
    """A character of (or outside) these ranges and kinds: "d" is `\\d`, "w" is `\\w`."""

    ranges: tuple[tuple[str, str], ...] = ()
    kinds: str = ""
    negated: bool = False

    def holds(self, char: str) -> bool:
        """Return whether this may be `char`."""
        found = any(low <= char <= high for low, high in self.ranges)
        found = found or ("d" in self.kinds and char.isdecimal())
        found = found or ("w" in self.kinds and (char.isalnum() or char == "_"))
        return found is not self.negated


class Edge(Frozen):
    """The beginning or the end of the name."""

    end: bool


class Sequence(Frozen):
    """One part after the other."""

    parts: tuple[Node, ...]


class Choice(Frozen):
    """Any one of these."""

    options: tuple[Node, ...]


class Repeat(Frozen):
    """`part`, once at least if `some`, once at most unless `many`."""

    part: Node
    some: bool
    many: bool


Node = str | Chars | Edge | Sequence | Choice | Repeat

_ANY = Chars((("\n", "\n"),), negated=True)
_QUANTIFIERS = {"*": (False, True), "+": (True, True), "?": (False, False)}


class Budget:
    """How many steps may still be taken. Raises UsageError behind the last one."""

    def __init__(self, steps: int = STEPS) -> None:
        self._left = steps

    def spend(self, steps: int) -> None:
        """Take `steps`."""
        self._left -= steps
        if self._left < 0:
            raise UsageError("the adapter's patterns take too long to match")


class Subject:
    """A name, ready to be matched with many expressions."""

    def __init__(self, text: str, budget: Budget) -> None:
        self._budget = budget
        self._places: dict[str, int] = {}
        for index, char in enumerate(text):
            self._places[char] = self._places.get(char, 0) | 1 << index
        self._known: dict[Chars, int] = {}
        self._weight = 1 + len(text) // 64  # what an operation on all positions costs
        last = 1 << len(text)
        self._end = last | last >> 1 if text.endswith("\n") else last  # as `$` has it
        self._last = last

    def ends(self, node: Node) -> bool:
        """Return whether the end of the name matches: all of it, or what follows a dot (PEFT's `(.*\\.)?(...)$`)."""
        starts = 1 | (self._places.get(".", 0) & self._before_newline()) << 1
        return bool(self._reach(node, starts) & self._end)

    def is_all(self, node: Node) -> bool:
        """Return whether all of the name matches (`re.fullmatch`)."""
        return bool(self._reach(node, 1) & self._last)

    def _before_newline(self) -> int:
        newlines = self._places.get("\n", 0)
        return (newlines & -newlines) - 1 if newlines else -1

    def _reach(self, node: Node, starts: int) -> int:
        self._budget.spend(self._weight)
        match node:
            case str():
                return (starts & self._places.get(node, 0)) << 1
            case Chars():
                return (starts & self._where(node)) << 1
            case Edge(end):
                return starts & (self._end if end else 1)
            case Sequence(parts):
                for part in parts:
                    starts = self._reach(part, starts) if starts else 0
                return starts
            case Choice(options):
                reached = 0
                for option in options:
                    reached |= self._reach(option, starts)
                return reached
            case Repeat(part, some, many):
                new = self._reach(part, starts) if some else starts
                reached = new
                while new:
                    new = self._reach(part, new) & ~reached
                    reached |= new
                    if not many:
                        break
                return reached

    def _where(self, chars: Chars) -> int:
        found = self._known.get(chars)
        if found is None:
            self._budget.spend(len(self._places))
            found = 0
            for char, places in self._places.items():
                if chars.holds(char):
                    found |= places
            self._known[chars] = found
        return found


def parse(text: str) -> Node:
    """Return `text`, a regular expression, ready to be matched. Raises UsageError for what is not known here."""
    if len(text) > MAX_LENGTH:
        raise UsageError(f"a pattern of {len(text)} characters is longer than {MAX_LENGTH}")
    groups: list[tuple[list[Node], list[Node]]] = [([], [])]  # options that are complete, parts of the one that is not
    rest = iter(text)
    previous = ""  # what may be repeated: nothing, an "atom", or "done" behind a quantifier
    for char in rest:
        options, parts = groups[-1]
        kind = "atom"
        if char == "(":
            groups.append(([], []))
            kind = ""
            if len(groups) > MAX_DEPTH:
                raise _refused(text, "groups nested so deep")
        elif char == ")":
            if len(groups) == 1:
                raise _refused(text, "a ) without its (")
            groups.pop()
            groups[-1][1].append(Choice((*options, Sequence(tuple(parts)))))
        elif char == "|":
            options.append(Sequence(tuple(parts)))
            parts.clear()
            kind = ""
        elif char == "?" and previous == "done":
            kind = "lazy"  # the same places are reached
        elif char == "?" and not parts and previous == "" and len(groups) > 1 and not options:
            if next(rest, "") != ":":
                raise _refused(text, "(? with anything but :")
            kind = ""
        elif char in _QUANTIFIERS:
            if previous != "atom":
                raise _refused(text, f"{char} with nothing that it repeats")
            parts.append(Repeat(parts.pop(), *_QUANTIFIERS[char]))
            kind = "done"
        elif char in "{}":
            raise _refused(text, char)
        elif char in "^$":
            parts.append(Edge(char == "$"))
            kind = ""
        else:
            parts.append(_atom(char, rest, text))
        previous = kind
    if len(groups) > 1:
        raise _refused(text, "a ( without its )")
    options, parts = groups[0]
    return Choice((*options, Sequence(tuple(parts))))


def _atom(char: str, rest: Iterator[str], text: str) -> Node:
    if char == ".":
        return _ANY
    if char == "\\":
        return _escaped(next(rest, ""), text)
    return _class(rest, text) if char == "[" else char


def _escaped(char: str, text: str) -> str | Chars:
    if char in ("d", "w"):
        return Chars(kinds=char)
    if not char or char.isalnum() or not char.isascii():
        raise _refused(text, f"\\{char}")
    return char


def _class(rest: Iterator[str], text: str) -> Chars:
    ranges: list[tuple[str, str]] = []
    kinds = ""
    negated = False
    single = ""  # what a "-" would make a range of
    low = ""  # of a range whose "-" has been read
    first = True
    for char in rest:
        if char == "^" and first and not negated:
            negated = True
            continue
        if char == "]" and not first:
            if low:  # a "-" at the end is itself
                ranges.append(("-", "-"))
            return Chars(tuple(ranges), kinds, negated)
        if char == "-" and single:
            low, single = single, ""
            continue
        item = _escaped(next(rest, ""), text) if char == "\\" else char
        if char == "[" or (low and (isinstance(item, Chars) or item < low)):
            raise _refused(text, "a class of another kind")
        if isinstance(item, Chars):
            kinds += item.kinds
            single = ""
        else:
            ranges.append((low or item, item))
            single = "" if low else item
        low, first = "", False
    raise _refused(text, "a [ without its ]")


def _refused(text: str, what: str) -> UsageError:
    return UsageError(f"the pattern {text!r} has {what}, which is not supported")
