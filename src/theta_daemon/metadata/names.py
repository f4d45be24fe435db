"""Give each parameter group of a checkpoint its name in the metadata.

A checkpoint nests its tensors in dictionaries and lists, by keys of any type; metadata nests entries in JSON objects,
by text. `assign` maps one to the other so that names are unique and none is a prefix of another, and so that flat
checkpoints with string keys keep exactly their keys, as in git-theta. The rules stand in protocol/metadata.md; a
change to them renames parameters in every later commit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from theta_daemon.metadata.entries import Name

MAX_DEPTH = 32
"""Components of the longest name; of a deeper path, those between the 31st and the last are left out."""

_RESERVED = "lfs_metadata"  # git-theta takes any JSON object below the top that holds this key for an entry
_BARE = "tensor"
_STEM = 200  # characters kept before "~2", so that many equal long keys do not add up


def assign(paths: Sequence[Sequence[Hashable]]) -> list[Name]:
    """Return a name for each tensor; `paths` are their keys from the outermost container on, in file order.

    Keys are told apart by type and value and named by `str()`. Total: no path is refused. Takes time in proportion to
    the number of keys, and does not recurse.
    """
    root, joined = _Container(), _Joined()
    slots: list[_Slot] = []  # of the containers, then of the tensors
    inner: list[_Container] = []
    tensors: list[_Slot] = []
    for path in paths:
        inside = root
        *above, last = _bounded(path)
        for key in above:
            identity = _identity(key)
            child = inside.children.get(identity)
            if child is None:
                child = inside.children[identity] = _Container()
                inner.append(child)
                slots.append((inside, key, _text(key, inside is root, joined)))
            inside = child
        tensors.append((inside, last, _text(last, inside is root, joined)))
    slots += tensors

    # A string has the first right to its own text; whoever comes later, or is no string, takes what is free.
    texts = [
        wanted if isinstance(key, str) and key == wanted and inside.take(wanted) else None
        for inside, key, wanted in slots
    ]
    given = [
        inside.free(wanted) if text is None else text for (inside, _, wanted), text in zip(slots, texts, strict=True)
    ]
    for (inside, _, _), child, text in zip(slots, inner, given, strict=False):
        child.prefix = (*inside.prefix, text)
    return [(*inside.prefix, text) for (inside, _, _), text in zip(tensors, given[len(inner) :], strict=True)]


class _Container:
    """A dictionary or list of the checkpoint, while names are given out in it."""

    __slots__ = ("children", "numbers", "prefix", "taken")

    def __init__(self) -> None:
        self.prefix: Name = ()
        self.children: dict[Hashable, _Container] = {}
        self.taken: set[str] = set()
        self.numbers: dict[str, int] = {}  # stem of a text -> the next number to try

    def take(self, text: str) -> bool:
        """Take `text`, if it is free."""
        if text in self.taken:
            return False
        self.taken.add(text)
        return True

    def free(self, text: str) -> str:
        """Take and return the first of `text`, `text~2`, `text~3`, ... that is free."""
        if self.take(text):
            return text
        stem = text[:_STEM]
        number = self.numbers.get(stem, 2)
        while not self.take(f"{stem}~{number}"):
            number += 1
        self.numbers[stem] = number + 1
        return f"{stem}~{number}"


class _Joined(dict[str, str]):
    """Texts with surrogate pairs -> the same with the characters that the pairs encode; JSON cannot tell them apart."""

    def __missing__(self, text: str) -> str:
        joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "surrogatepass")
        self[text] = joined
        return joined


_Slot = tuple[_Container, "Hashable", str]  # where, under which key, and the text that it would like


def _bounded(path: Sequence[Hashable]) -> Sequence[Hashable]:
    if not path:
        return (_Bare(),)
    if len(path) > MAX_DEPTH:
        return (*path[: MAX_DEPTH - 1], path[-1])
    return path


def _identity(key: Hashable) -> Hashable:
    if isinstance(key, str):
        return key
    # 1, True and 1.0 are equal, but not the same key. Integers by their text: their hashes can be made to collide.
    return (type(key), _str(key) if isinstance(key, int) else key)


def _str(key: Hashable) -> str:
    if isinstance(key, int) and not -(1 << 63) <= key < 1 << 63:
        return hex(key)  # str() of a huge integer takes quadratic time, or fails
    return str(key)


def _text(key: Hashable, at_top: bool, joined: _Joined) -> str:
    text = _str(key)
    if not text.isascii():
        text = joined[text]
    return f"{text}~" if text == _RESERVED and not at_top else text


class _Bare:
    """The key of a tensor that is the whole checkpoint."""

    def __str__(self) -> str:
        return _BARE
