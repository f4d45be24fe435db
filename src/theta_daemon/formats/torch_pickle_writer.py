"""The data.pkl that torch 2.13 writes for nested dicts of tensors, opcode by opcode (pickle protocol 2).

Python's pickler writes a dict's items in batches of 1000, notes (memoises) every container, class and string it has
written, and refers to it when it comes again; integers take their shortest form. All tensors are contiguous, begin
at the start of a storage of their own, and their storages are numbered in the order of the pickle.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from theta_daemon.dtypes import count
from theta_daemon.errors import LayoutError, UnsupportedError
from theta_daemon.formats.torch_storages import ELEMENTS, STORAGE_CLASSES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from theta_daemon.formats.layout import CanonicalTensor

_BATCH = 1000
_CLASSES = {e.dtype: name for name, e in reversed(STORAGE_CLASSES.items()) if not name.endswith("UntypedStorage")}

Tree = dict[str, "Tree | CanonicalTensor"]


def pickle_tensors(tensors: Sequence[CanonicalTensor]) -> tuple[bytes, list[CanonicalTensor]]:
    """Return the pickle of `tensors`, and the tensors in its order: that of their nested dicts.

    Raises UnsupportedError for a dtype that torch lacks, LayoutError for names that are empty, come twice or begin
    others.
    """
    writer = _Writer()
    writer.tree(_nest(tensors))
    return bytes(writer.out), writer.tensors


def _nest(tensors: Sequence[CanonicalTensor]) -> Tree:
    root: Tree = {}
    for tensor in tensors:
        name = "/".join(tensor.name)
        element = ELEMENTS.get(tensor.dtype)
        if element is None or element.dtype is None:
            raise UnsupportedError(f"torch has no dtype {tensor.dtype}", parameter=name)
        if not tensor.name:
            raise LayoutError("a tensor has no name")
        level = root
        for key in tensor.name[:-1]:
            inner = level.setdefault(key, {})
            if not isinstance(inner, dict):
                raise LayoutError("its name begins with another's", parameter=name)
            level = inner
        if level.setdefault(tensor.name[-1], tensor) is not tensor:
            raise LayoutError("its name is another's, or another's begins with it", parameter=name)
    return root


class _Level:
    """A dict that is being written: what is left, how many it has in all and in the batch so far."""

    def __init__(self, tree: Tree) -> None:
        self.items = iter(tree.items())
        self.size = len(tree)
        self.batch = 0


class _Writer:
    def __init__(self) -> None:
        self.out = bytearray(b"\x80\x02")
        self.memo: dict[object, int] = {}
        self.entries = 0
        self.tensors: list[CanonicalTensor] = []

    def tree(self, root: Tree) -> None:
        levels = [self._begin(root)]
        while levels:
            level = levels[-1]
            if level.batch == _BATCH:
                self.out += b"u("
                level.batch = 0
            item = next(level.items, None)
            if item is None:
                levels.pop()
                if level.size:
                    self.out += b"s" if level.size == 1 else b"u"
                continue
            level.batch += 1
            key, value = item
            self._string(key, "name")
            if isinstance(value, dict):
                levels.append(self._begin(value))
            else:
                self._tensor(value)
        self.out += b"."

    def _begin(self, tree: Tree) -> _Level:
        self.out += b"}"
        self._memoise()
        if len(tree) > 1:
            self.out += b"("
        return _Level(tree)

    def _tensor(self, tensor: CanonicalTensor) -> None:
        storage_class = _CLASSES.get(tensor.dtype)
        elements = count(tensor.shape)
        self._global("torch._utils", "_rebuild_tensor_v2" if storage_class else "_rebuild_tensor_v3")
        self.out += b"(("
        self._string("storage", "torch")
        if storage_class:
            self._global("torch", storage_class)
        else:
            self._global("torch.storage", "UntypedStorage")
        self._string(str(len(self.tensors)), "key")
        self._string("cpu", "torch")
        self._integer(elements if storage_class else elements * ELEMENTS[tensor.dtype].size)
        self.out += b"t"
        self._memoise()
        self.out += b"Q"
        self._integer(0)
        self._tuple(tensor.shape)
        self._tuple(_strides(tensor.shape))
        self.out += b"\x89"
        self._global("collections", "OrderedDict")
        self.out += b")R"
        self._memoise()
        if not storage_class:
            self._global("torch", tensor.dtype)
        self.out += b"t"
        self._memoise()
        self.out += b"R"
        self._memoise()
        self.tensors.append(tensor)

    def _string(self, text: str, kind: str) -> None:
        """Write a string; equal ones of another kind are other objects to Python, so are written again."""
        if not self._recall((kind, text)):
            data = text.encode("utf-8", "surrogatepass")
            self.out += struct.pack("<cI", b"X", len(data)) + data
            self._memoise((kind, text))

    def _global(self, module: str, name: str) -> None:
        if not self._recall((module, name)):
            self.out += f"c{module}\n{name}\n".encode()
            self._memoise((module, name))

    def _tuple(self, values: Sequence[int]) -> None:
        if not values:
            self.out += b")"
            return
        if len(values) > 3:
            self.out += b"("
        for value in values:
            self._integer(value)
        self.out += b"t" if len(values) > 3 else (b"\x85", b"\x86", b"\x87")[len(values) - 1]
        self._memoise()

    def _integer(self, value: int) -> None:
        if value < 1 << 8:
            self.out += struct.pack("<cB", b"K", value)
        elif value < 1 << 16:
            self.out += struct.pack("<cH", b"M", value)
        elif value < 1 << 31:
            self.out += struct.pack("<ci", b"J", value)
        else:
            data = value.to_bytes(value.bit_length() // 8 + 1, "little")
            self.out += struct.pack("<cB", b"\x8a", len(data)) + data

    def _memoise(self, what: object = None) -> None:
        self._memo_opcode(b"q", b"r", self.entries)
        if what is not None:
            self.memo[what] = self.entries
        self.entries += 1

    def _recall(self, what: object) -> bool:
        entry = self.memo.get(what)
        if entry is not None:
            self._memo_opcode(b"h", b"j", entry)
        return entry is not None

    def _memo_opcode(self, short: bytes, long: bytes, entry: int) -> None:
        self.out += struct.pack("<cB", short, entry) if entry < 1 << 8 else struct.pack("<cI", long, entry)


def _strides(shape: Sequence[int]) -> list[int]:
    """Return torch's contiguous strides: those of an empty axis are as if it had one element."""
    strides = []
    step = 1
    for size in reversed(shape):
        strides.append(step)
        step *= max(size, 1)
    return strides[::-1]
