"""Repositories as git-theta 0.2.0 writes them, with its type `sparse`, in seconds instead of hours.

git-theta takes seconds to add a file of few parameters once. Here its metadata and objects are written directly
(protocol/metadata.md, protocol/payload.md): without anything of ours, each update naming the commit before it. Where
git-theta itself takes part in a case it has to check them out to the very values.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from bench.measure import WorkTree
from bench.updates.changes import Weights
from theta_daemon.metadata import lsh, text
from theta_daemon.metadata.entries import LFS_VERSION, Entry, Metadata, ObjectRef
from theta_daemon.store import payload
from theta_daemon.store.arrays import encode_arrays
from theta_daemon.store.codec import Codec
from theta_daemon.store.payload import Piece
from theta_daemon.updates.array import Array

_CODEC = "blosc:lz4:5:shuffle"  # git-theta's
# Metadata that git is to store as it is.
_AS_IT_IS = ("-c", "filter.theta.process=", "-c", "filter.theta.required=false")


def build(tree: WorkTree, weights: Weights, updates: int) -> list[str]:
    """Commit the files of `weights` and then `updates` changes of them; return the commits, the base first.

    Only the hashes of the first and the last value are the right ones: nobody looks at the others.
    """
    entries = [
        {name: _dense(tree, tensor, _signature(tensor)) for name, tensor in tensors.items()}
        for tensors in weights.files
    ]
    commits = [_commit(tree, weights, entries)]
    for step in range(1, updates + 1):
        before = [{name: tensor.clone() for name, tensor in tensors.items()} for tensors in weights.files]
        weights.touch(step)
        for known, old, new in zip(entries, before, weights.files, strict=True):
            for name, tensor in new.items():
                signature = _signature(tensor) if step == updates else known[name].hash
                known[name] = _sparse(tree, old[name], tensor, commits[-1], signature)
        commits.append(_commit(tree, weights, entries))
    return commits


def _signature(tensor: torch.Tensor) -> tuple[int, ...]:
    return lsh.signature(_raw(tensor.numpy()), "float32")


def _dense(tree: WorkTree, tensor: torch.Tensor, signature: tuple[int, ...]) -> Entry:
    shape = tuple(tensor.shape)
    ref = _store(tree, payload.encode(_raw(tensor.numpy()), "float32", shape, Codec.parse(_CODEC)))
    return Entry(shape, "float32", signature, LFS_VERSION, ref.oid, ref.size, "dense", None, None)


def _sparse(
    tree: WorkTree, before: torch.Tensor, after: torch.Tensor, last_commit: str, signature: tuple[int, ...]
) -> Entry:
    shape = tuple(after.shape)
    difference = (after - before).view(-1).numpy()
    (at,) = np.nonzero(difference)
    arrays = {
        "data": _array("float32", difference[at]),
        "indices": _array("int32", at.astype(np.int32)),
        "indptr": _array("int32", np.array([0, len(at)], np.int32)),
        "shape": _array("int64", np.array(shape, np.int64)),
    }
    ref = _store(tree, encode_arrays(arrays, Codec.parse(_CODEC)))
    return Entry(shape, "float32", signature, LFS_VERSION, ref.oid, ref.size, "sparse", last_commit, None)


def _array(dtype: str, values: npt.NDArray[Any]) -> Array:
    return Array(dtype, values.shape, _raw(values))


def _raw(values: npt.NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(values).data.cast("B")


def _store(tree: WorkTree, pieces: Sequence[Piece]) -> ObjectRef:
    data = b"".join(pieces)
    oid = hashlib.sha256(data).hexdigest()
    place = tree.path / ".git" / "lfs" / "objects" / oid[:2] / oid[2:4] / oid
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    return ObjectRef(oid, len(data))


def _commit(tree: WorkTree, weights: Weights, entries: Sequence[dict[str, Entry]]) -> str:
    for file, known in zip(weights.names(), entries, strict=True):
        metadata = Metadata({(name,): entry for name, entry in sorted(known.items())}, None)
        (tree.path / file).unlink(missing_ok=True)  # it may be another name of a file that is kept
        (tree.path / file).write_bytes(text.serialize(metadata))
    tree.git(*_AS_IT_IS, "add", "--all")
    tree.git("commit", "--quiet", "--message", "version")
    return tree.git("rev-parse", "HEAD").strip()
