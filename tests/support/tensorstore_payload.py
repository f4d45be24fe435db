"""Payloads by tensorstore and msgpack, called as git-theta 0.2.0 calls them: what ours are compared with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgpack
import numpy as np
import numpy.typing as npt
import tensorstore


def pack(entries: dict[str, bytes], name: str = "parameter") -> bytes:
    """Return the payload that holds one array."""
    packed: bytes = msgpack.packb({name: entries}, use_bin_type=True)
    return packed


def unpack(payload: bytes) -> dict[str, bytes]:
    """Return the entries of the one array."""
    entries: dict[str, bytes] = msgpack.unpackb(payload, raw=False)["parameter"]
    return entries


def write(value: npt.NDArray[Any], **metadata: object) -> bytes:
    """Return `value` as git-theta would write it; `metadata` are zarr's settings, which it leaves to tensorstore."""
    return pack(entries_of(value, **metadata))


def write_all(values: Mapping[str, npt.NDArray[Any]], **metadata: object) -> bytes:
    """Return the payload of several arrays; `metadata` is for all of them."""
    packed: bytes = msgpack.packb(
        {name: entries_of(value, **metadata) for name, value in values.items()}, use_bin_type=True
    )
    return packed


def entries_of(value: npt.NDArray[Any], **metadata: object) -> dict[str, bytes]:
    """Return what zarr stores of `value`, by key."""
    store = tensorstore.open(
        {
            "driver": "zarr",
            "kvstore": {"driver": "memory"},
            "metadata": {"shape": value.shape, "dtype": value.dtype.str, **metadata},
            "create": True,
        }
    ).result()
    store.write(value).result()
    keys = store.kvstore
    assert keys is not None
    return {key.decode(): keys[key] for key in keys.list().result()}


def read(payload: bytes) -> npt.NDArray[Any]:
    """Return the value as git-theta would read it."""
    return read_all(payload)["parameter"]


def read_all(payload: bytes) -> dict[str, npt.NDArray[Any]]:
    """Return every array of a payload as git-theta would read it."""
    return {name: _read(entries) for name, entries in msgpack.unpackb(payload, raw=False).items()}


def _read(entries: dict[str, bytes]) -> npt.NDArray[Any]:
    context = tensorstore.Context()
    keys = tensorstore.KvStore.open("memory://", context=context).result()
    for key, data in entries.items():
        keys[key] = data
    store = tensorstore.open({"driver": "zarr", "kvstore": "memory://"}, context=context).result()
    value: npt.NDArray[Any] = np.asarray(store.read().result())
    return value
