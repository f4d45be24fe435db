"""Record chains of updates, and the values that come out of them. Run by hand, never by a test:

    .venv/bin/python tests/golden/record_chains.py protocol/fixtures/replay/theta-daemon-1

The values are computed here, one element at a time, as protocol/replay.md says, and not by what the tests compare with
them. Writes `metadata.json`, a metadata file as it is on disk; `objects/`, what it names; and `values.json` with dtype,
shape and bytes of each value.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from theta_daemon.metadata import text
from theta_daemon.metadata.entries import LFS_VERSION, NO_HASH, Entry, Metadata, ObjectRef, Update
from theta_daemon.store import payload
from theta_daemon.store.arrays import encode_arrays
from theta_daemon.store.codec import DEFAULT
from theta_daemon.updates.array import Array
from theta_daemon.updates.bundle import pack
from theta_daemon.updates.exact_sparse import Changes

Values = NDArray[Any]
BF16 = np.dtype(ml_dtypes.bfloat16)
NAN = np.float32("nan")


class Recorder:
    """Objects that were written, and entries that name them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.entries: dict[tuple[str, ...], Entry] = {}
        self.values: dict[str, dict[str, object]] = {}

    def object(self, data: bytes) -> ObjectRef:
        """Write an object."""
        ref = ObjectRef(hashlib.sha256(data).hexdigest(), len(data))
        (self.folder / "objects" / ref.oid).write_bytes(data)
        return ref

    def dense(self, value: Values) -> Update:
        """Write a base."""
        raw = memoryview(value.tobytes())
        ref = self.object(b"".join(payload.encode(raw, value.dtype.name, value.shape, DEFAULT)))
        return Update("dense", ref.oid, ref.size)

    def update(self, update_type: str, arrays: Mapping[str, Values]) -> Update:
        """Write an update."""
        packed = {name: Array(each.dtype.name, each.shape, memoryview(each.tobytes())) for name, each in arrays.items()}
        ref = self.object(b"".join(encode_arrays(packed, DEFAULT)))
        return Update(update_type, ref.oid, ref.size)

    def bundle(self, changes: Mapping[str, tuple[Sequence[int], Values]]) -> Update:
        """Write an exact-sparse update of several groups."""
        listed = []
        for name, (at, new) in changes.items():
            unit = new.dtype.itemsize
            bits = new.view(f"<u{unit}")
            listed.append(([(name,)], Changes(unit, np.array(at, "<u4"), bits)))
        ref = self.object(b"".join(encode_arrays(pack(listed), DEFAULT)))
        return Update("exact-sparse", ref.oid, ref.size)

    def entry(self, name: str, value: Values, *chain: Update) -> None:
        """Note that `chain` makes `value`."""
        *replay, own = chain
        raw = value.tobytes()
        self.entries[(name,)] = Entry(
            shape=value.shape,
            dtype=value.dtype.name,
            hash=NO_HASH,
            version=LFS_VERSION,
            oid=own.oid,
            size=own.size,
            update_type=own.update_type,
            last_commit=None,
            digest=blake3(raw).hexdigest(),
            replay=tuple(replay),
        )
        self.values[name] = {"dtype": value.dtype.name, "shape": value.shape, "raw": raw.hex()}


def sparse(at: Sequence[int], data: Values, shape: tuple[int, ...]) -> dict[str, Values]:
    """Return the arrays of a sparse update."""
    return {
        "data": data,
        "indices": np.array(at, "<i4"),
        "indptr": np.array([0, len(at)], "<i4"),
        "shape": np.array(shape, "<i8"),
    }


def added(value: Values, at: Sequence[int], data: Values, number: type[np.floating[Any]]) -> Values:
    """Return `value` with a sparse update, computed in `number`."""
    total = [data.dtype.type(0)] * value.size
    for place, each in zip(at, data, strict=True):
        total[place] = data.dtype.type(total[place] + each)
    flat = value.reshape(-1)
    new = [old if old != old else number(each) + number(old) for each, old in zip(total, flat, strict=True)]
    return np.array(new).astype(value.dtype).reshape(value.shape)


def multiplied(value: Values, left: Values, right: Values) -> Values:
    """Return `value` with a low-rank update of float32."""
    new = np.empty(value.shape, np.float32)
    for i in range(value.shape[0]):
        for j in range(value.shape[1]):
            total = 0.0
            for k in range(len(right)):
                total = total + float(left[i, k]) * float(right[k, j])
            new[i, j] = np.float32(total) + np.float32(value[i, j])
    return new.astype(value.dtype)


def replaced(value: Values, at: Sequence[int], new: Values) -> Values:
    """Return `value` with an exact-sparse update."""
    result = value.copy()
    for place, each in zip(at, new, strict=True):
        result.reshape(-1)[place : place + 1] = each
    return result


def record(made: Recorder) -> None:
    """Record chains of all types."""
    rng = np.random.default_rng(1)

    def noise(*shape: int) -> Values:
        return rng.standard_normal(shape).astype(np.float32)

    w, h, z = noise(6, 8), noise(4, 4).astype(BF16), (noise(2, 2) + 1j * noise(2, 2)).astype(np.complex64)
    w[0, :2] = -0.0, 1e-42
    i = np.array([0, 1, -1, 2**31 - 1, -(2**31)], np.int32)
    n = np.array([0x7FC12345, 0x7F800000, 0x00000001, 0x80000000], np.uint32).view(np.float32)
    last = {
        "w": ([1, 2, 47], np.array([NAN, -0.0, 1e-40], np.float32)),
        "h": ([0, 15], noise(2).astype(BF16)),
        "z": ([3], np.array([complex(-0.0, 1)], np.complex64)),
    }
    bundle = made.bundle(last)

    at, data = [3, 9, 3, 40], noise(4)
    left, right, factor = noise(6, 3), noise(3, 8), noise(1, 8)
    value = multiplied(added(w, at, data, np.float32), left, right)
    value = (value * factor).astype(np.float32)
    made.entry(
        "w",
        replaced(value, *last["w"]),
        made.dense(w),
        made.update("sparse", sparse(at, data, w.shape)),
        made.update("low-rank", {"R": left, "C": right}),
        made.update("ia3", {"ia3": factor}),
        bundle,
    )
    left, right = noise(4, 2), noise(2, 4)
    made.entry(
        "h",
        replaced(multiplied(h, left, right), *last["h"]),
        made.dense(h),
        made.update("low-rank", {"R": left, "C": right}),
        bundle,
    )
    made.entry("z", replaced(z, *last["z"]), made.dense(z), bundle)
    whole = np.array([1, 0, -1, 5, -5], np.int32)
    made.entry(
        "i",
        ((i.astype(np.int64) + whole + 2**31) % 2**32 - 2**31).astype(np.int32),
        made.dense(i),
        made.update("sparse", sparse([0, 2, 3, 4], whole[[0, 2, 3, 4]], i.shape)),
    )
    wide, narrow = np.array([0.1, -0.3]), np.array([1, 2, 3, 4], np.float32)
    made.entry(
        "n",
        np.where(np.isnan(n), n, added(n, [1, 3], wide, np.float64) + narrow).astype(np.float32),
        made.dense(n),
        made.update("sparse", sparse([1, 3], wide, n.shape)),
        made.update("low-rank", {"parameter": narrow}),
    )


def main() -> None:
    """Write the vectors."""
    folder = Path(sys.argv[1])
    (folder / "objects").mkdir(parents=True, exist_ok=True)
    made = Recorder(folder)
    with np.errstate(all="ignore"):
        record(made)
    (folder / "metadata.json").write_bytes(text.serialize(Metadata(made.entries, None)))
    (folder / "values.json").write_text(json.dumps(made.values, indent=1) + "\n")


if __name__ == "__main__":
    main()
