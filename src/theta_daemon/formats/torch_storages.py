"""Torch's storages and element types, by the names under which pickles refer to them.

A storage is one record of a torch zip: `<archive>/data/<key>`. A pickle refers to it by a persistent id
`("storage", <class>, key, location, numel)` (torch/serialization.py, `_save`). The class gives the element type, so
`numel` times its size is the length of the record. `location` ("cpu", "cuda:0") is a string that changes nothing here.
"""

from __future__ import annotations

from theta_daemon.dtypes import DTYPES, MAX_BYTES
from theta_daemon.errors import CheckpointError
from theta_daemon.formats.pickle_values import Global, PersistentId
from theta_daemon.frozen import Frozen


class Element(Frozen):
    """An element type: `size` bytes each, `dtype` its name in the metadata.

    `dtype` is None where the metadata has no name for it: such tensors are carried as raw bytes. `packed` types put
    several elements into one byte, each row padded by itself, so that a shape does not tell a number of bytes.
    """

    size: int
    dtype: str | None
    packed: bool = False


_NOT_TORCH = {"float6_e2m3fn", "float6_e3m2fn", "float4_e2m1fn"}

# by the name of torch.<dtype> (c10/core/ScalarType.h)
ELEMENTS: dict[str, Element] = {
    **{name: Element(row.bits // 8, name) for name, row in DTYPES.items() if name not in _NOT_TORCH},
    **dict.fromkeys(("qint8", "quint8", "bits8", "float4_e2m1fn_x2"), Element(1, None)),
    "bits16": Element(2, None),
    "qint32": Element(4, None),
    **dict.fromkeys(("quint4x2", "quint2x4", "bits1x8", "bits2x4", "bits4x2"), Element(1, None, packed=True)),
}

# by the name of the storage class (torch/storage.py, `_dtype_to_storage_type_map`, which gets no new ones)
STORAGE_CLASSES: dict[str, Element] = {
    "DoubleStorage": ELEMENTS["float64"],
    "FloatStorage": ELEMENTS["float32"],
    "HalfStorage": ELEMENTS["float16"],
    "BFloat16Storage": ELEMENTS["bfloat16"],
    "LongStorage": ELEMENTS["int64"],
    "IntStorage": ELEMENTS["int32"],
    "ShortStorage": ELEMENTS["int16"],
    "CharStorage": ELEMENTS["int8"],
    "ByteStorage": ELEMENTS["uint8"],
    "BoolStorage": ELEMENTS["bool"],
    "ComplexDoubleStorage": ELEMENTS["complex128"],
    "ComplexFloatStorage": ELEMENTS["complex64"],
    "QInt8Storage": ELEMENTS["qint8"],
    "QUInt8Storage": ELEMENTS["quint8"],
    "QInt32Storage": ELEMENTS["qint32"],
    "QUInt4x2Storage": ELEMENTS["quint4x2"],
    "QUInt2x4Storage": ELEMENTS["quint2x4"],
    "UntypedStorage": ELEMENTS["uint8"],
    "_UntypedStorage": ELEMENTS["uint8"],
}


class Storage(Frozen):
    """One storage as a persistent id describes it: `nbytes` long, of elements `element`.

    For a class that is not known both are None: the file itself must say how long the record is.
    """

    key: str
    element: Element | None
    nbytes: int | None


def parse_storage(persistent: PersistentId) -> Storage:
    """Return the storage that a persistent id names.

    Raises CheckpointError for anything that is not torch's id of a storage.
    """
    if isinstance(persistent.meaning, Storage):
        return persistent.meaning
    match persistent.value:
        case ("storage", Global() as made_by, str(key), str(), int(numel)) if (
            type(numel) is int and 0 <= numel <= MAX_BYTES and key and key.isprintable()
        ):
            element = STORAGE_CLASSES.get(made_by.name)
            storage = Storage(key, element, None if element is None else numel * element.size)
            persistent.meaning = storage
            return storage
        case _:
            raise CheckpointError("the pickle holds a persistent id that is no storage's")


def parse_storages(persistent: list[PersistentId]) -> dict[str, Storage]:
    """Return every storage by its key.

    Raises CheckpointError where an id is not torch's, or one key names storages of two sizes.
    """
    storages: dict[str, Storage] = {}
    for one in persistent:
        storage = parse_storage(one)
        if storages.setdefault(storage.key, storage).nbytes != storage.nbytes:
            raise CheckpointError(f"storage {storage.key!r} has two sizes in the pickle")
    return storages
