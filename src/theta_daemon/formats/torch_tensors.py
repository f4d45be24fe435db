"""What a tensor in a pickle claims of its storage: an element type, a shape, and which bytes.

Torch rebuilds a tensor from `(storage, offset, size, stride, ...)`, all in elements (torch/_utils.py). Nothing here is
as large as the tensor says it is: an expanded tensor of 4 TB is a few numbers.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

from theta_daemon.dtypes import MAX_BYTES, MAX_RANK, count
from theta_daemon.errors import CheckpointError
from theta_daemon.formats.pickle_values import Dict, Global, Object, PersistentId
from theta_daemon.formats.torch_storages import ELEMENTS, Storage, parse_storage
from theta_daemon.frozen import Frozen

if TYPE_CHECKING:
    from collections.abc import Sequence


class Claim(Frozen):
    """The bytes `start` to `end` of storage `key`, as a tensor of `dtype` and `shape`.

    `fills`: its elements are exactly these bytes, each once, in the order of `axes` (as in parts.Tensor); otherwise it
    only lies within them. An empty tensor fills nothing, at 0. `strides` are in bytes, None for what is carried as
    bytes; claims are equal whatever they are, because those of axes of size 1 say nothing.
    """

    key: str
    dtype: str
    shape: tuple[int, ...]
    axes: tuple[int, ...] | None
    start: int
    end: int
    fills: bool
    strides: tuple[int, ...] | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Claim) and _but_strides(self) == _but_strides(other)

    def __hash__(self) -> int:
        return hash(_but_strides(self))


_but_strides = attrgetter(*Claim.__match_args__[:-1])

RAW = "uint8"  # the dtype of tensors that are carried as bytes


def claim_storage(persistent: PersistentId) -> Claim:
    """Return the claim of a storage that is saved by itself: all its bytes, as one axis of elements."""
    storage = parse_storage(persistent)
    if storage.element is None or storage.element.dtype is None:
        return _claim_all(storage)
    nbytes = storage.nbytes or 0
    return Claim(storage.key, storage.element.dtype, (nbytes // storage.element.size,), None, 0, nbytes, fills=True)


def claim_tensor(
    storage_id: object, offset: object, size: object, stride: object, dtype: object = None, *, raw: bool = False
) -> Claim:
    """Return the claim of a tensor from what the pickle gives torch to rebuild it.

    `dtype` is a `torch.<dtype>` where the storage is untyped, None where its class gives the type. `raw` tensors
    (quantised, with conjugate or negative bit) are claimed as bytes, because their elements are not their values.
    Raises CheckpointError where something is of the wrong type, negative, or outside the storage.
    """
    if not isinstance(storage_id, PersistentId):
        raise CheckpointError("it has something other than a storage")
    storage = parse_storage(storage_id)
    shape, strides = _integers(size), _integers(stride)
    if type(offset) is not int or not 0 <= offset <= MAX_BYTES or len(shape) != len(strides):
        raise CheckpointError("its offset or strides make no sense")
    elements = count(shape)
    element = storage.element
    if dtype is not None:
        element = ELEMENTS.get(dtype.name) if isinstance(dtype, Global) else None
    if element is None or element.packed or storage.nbytes is None:
        return _claim_all(storage) if not offset else Claim(storage.key, RAW, shape, None, 0, 0, fills=False)
    raw = raw or element.dtype is None
    name = RAW if raw or element.dtype is None else element.dtype
    if not elements:
        return Claim(storage.key, name, (0,) if raw else shape, None, 0, 0, fills=True)
    axes, dense = _order(shape, strides)
    last = elements - 1 if dense else sum((n - 1) * step for n, step in zip(shape, strides, strict=True))
    start, end = offset * element.size, (offset + last + 1) * element.size
    if end > storage.nbytes:
        raise CheckpointError(
            f"its last element ends at byte {end} of storage {storage.key!r}, which has {storage.nbytes}"
        )
    if raw:
        return Claim(storage.key, name, (elements * element.size,), None, start, end, fills=dense)
    return Claim(storage.key, name, shape, axes, start, end, dense, tuple([step * element.size for step in strides]))


def _claim_all(storage: Storage) -> Claim:
    """Return the claim of the whole storage as bytes: all that is known where a shape does not tell."""
    if storage.nbytes is None:
        return Claim(storage.key, RAW, (0,), None, 0, 0, fills=False)
    return Claim(storage.key, RAW, (storage.nbytes,), None, 0, storage.nbytes, fills=True)


def _integers(value: object) -> tuple[int, ...]:
    """Return the sizes or strides that `value` lists: a tuple, a list, or torch.Size of one."""
    if isinstance(value, Object) and isinstance(value.constructor, Global) and value.constructor.name == "Size":
        value = value.arguments[0] if value.arguments else ()
    if not isinstance(value, (tuple, list)) or len(value) > MAX_RANK:
        raise CheckpointError("its shape is no short list")
    for n in value:
        if type(n) is not int or not 0 <= n <= MAX_BYTES:
            raise CheckpointError("its sizes or strides are not all sensible integers")
    return tuple(value)


def _order(shape: Sequence[int], strides: Sequence[int]) -> tuple[tuple[int, ...] | None, bool]:
    """Return the order of the axes in the storage (None for C order), and whether the elements are contiguous in it.

    Axes of size 1 have no say: torch gives them any stride. Out of C order they come first, so that the answer is one.
    """
    expected = 1
    for n, step in zip(reversed(shape), reversed(strides), strict=True):
        if n != 1 and step != expected:
            break
        expected *= n
    else:
        return None, True
    long = [axis for axis, n in enumerate(shape) if n != 1]
    order = sorted(long, key=strides.__getitem__, reverse=True)
    expected = 1
    for axis in reversed(order):
        if strides[axis] != expected:
            return None, False
        expected *= shape[axis]
    return (*(axis for axis, n in enumerate(shape) if n == 1), *order), True


def has_bits(metadata: object) -> bool:
    """Whether a tensor's metadata says that its elements are not its values (conjugate bit, negative bit, or more)."""
    return metadata is not None and not (isinstance(metadata, Dict) and not metadata.items)
