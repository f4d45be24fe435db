"""Record the objects of updates as git-theta 0.2.0 and theta-daemon write them. Run by hand, never by a test:

    .venv-git-theta/bin/python tests/golden/record_update_payloads.py git-theta protocol/fixtures/payload/updates
    .venv/bin/python tests/golden/record_update_payloads.py theta-daemon protocol/fixtures/payload/updates

Each run fills the folder of its program: `<case>.msgpack`, and `expected.json` with dtype, shape and SHA-256 of the raw
bytes of each array, and where these are few the bytes themselves in hexadecimal. git-theta's updates are those that it
computes itself, in whatever order its dependencies make the arrays; recorded files stay as they are.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = Mapping[str, npt.NDArray[Any]]


def main() -> None:
    """Write the cases of the program named first into the folder named second."""
    program, folder = sys.argv[1], Path(sys.argv[2])
    if program == "git-theta":
        write(folder / "git-theta-0.2.0", from_git_theta())
    else:
        write(folder / "theta-daemon-1", from_theta_daemon())


def changed(count: int, shape: tuple[int, ...], dtype: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """Return a value of `shape`, and another one that differs from it in `count` places."""
    generator = np.random.default_rng(count)
    previous = (generator.standard_normal(shape) * 10).astype(dtype)
    new = previous.copy()
    places = generator.choice(new.size, count, replace=False)
    new.reshape(-1)[places] += np.arange(1, count + 1).astype(dtype)
    return previous, new


def from_git_theta() -> dict[str, tuple[Arrays, bytes]]:
    """Return the updates that git-theta computes, and what it makes of them."""
    serializer = importlib.import_module("git_theta.params").get_update_serializer()
    sparse = importlib.import_module("git_theta.updates.sparse").SparseUpdate(serializer)
    low_rank = importlib.import_module("git_theta.updates.low_rank").LowRankUpdate(serializer)
    ia3 = importlib.import_module("git_theta.updates.ia3").IA3Update(serializer)

    def computed(handler: Any, previous: Any, new: Any, *arguments: Any) -> Arrays:
        update = asyncio.run(handler.calculate_update(new, previous, *arguments))
        return update if isinstance(update, dict) else {"parameter": update}

    base, _ = changed(0, (30, 50), "float32")
    rank_one = base + np.outer(np.arange(30), np.arange(50)).astype("float32")
    updates: dict[str, Arrays] = {
        "sparse": computed(sparse, *changed(192, (64, 48), "float32")),
        "sparse-float64": computed(sparse, *changed(3, (2, 3, 4), "float64")),
        "sparse-int64": computed(sparse, *changed(5, (40,), "int64")),
        "sparse-unchanged": computed(sparse, *changed(0, (7, 3), "float32")),
        "sparse-long-indices": {
            "data": np.arange(3, dtype="float32"),
            "indices": np.array([1, 1 << 20, 1 << 40]),
            "indptr": np.array([0, 3]),
            "shape": np.array([1 << 21, 1 << 21]),
        },
        "low-rank": computed(low_rank, base, rank_one),
        "low-rank-unchanged": computed(low_rank, base, base),
        "low-rank-vector": computed(low_rank, *changed(9, (100,), "float32")),
        "ia3": computed(ia3, base, base * 3, [1]),
        "ia3-scalar": {"ia3": np.array(0.5, "float32")},
        # More than 1 Mi elements: tensorstore cuts it into 2 x 2 chunks.
        "ia3-grid": {"ia3": np.ones((1500, 1500), "float16")},
    }
    return {name: (update, asyncio.run(serializer.serialize(update))) for name, update in updates.items()}


def from_theta_daemon() -> dict[str, tuple[Arrays, bytes]]:
    """Return updates of every type, and what theta-daemon makes of them."""
    from theta_daemon.store.arrays import encode_arrays
    from theta_daemon.store.codec import DEFAULT, Codec
    from theta_daemon.updates.array import Array
    from theta_daemon.updates.bundle import pack
    from theta_daemon.updates.exact_sparse import changes

    def listed(dtype: str, previous: npt.NDArray[Any], new: npt.NDArray[Any]) -> Any:
        found = changes(memoryview(previous.tobytes()), memoryview(new.tobytes()), dtype, 1 << 20)
        assert found is not None
        return found

    exact = pack(
        [
            ([("a", "weight"), ("tied",)], listed("float32", *changed(3, (4, 5), "float32"))),
            ([("b",)], listed("uint8", *changed(2, (7,), "uint8"))),
            ([("c\u00fc",)], listed("float32", *changed(2, (9,), "float32"))),
            ([("d",)], listed("complex128", *changed(1, (2, 2), "complex128"))),
            ([("e",)], listed("int64", *changed(0, (3,), "int64"))),
        ]
    )
    generator = np.random.default_rng(0)
    updates: dict[str, Arrays] = {
        "sparse": {
            "data": np.arange(200, dtype="<f4") / 8,
            "indices": np.arange(200, dtype="<i4") * 3,
            "indptr": np.array([0, 200], "<i4"),
            "shape": np.array([30, 40]),
        },
        "low-rank": {
            "R": generator.standard_normal((60, 2)).astype("<f4"),
            "C": generator.standard_normal((2, 50)).astype("<f4"),
        },
        "low-rank-vector": {"parameter": np.arange(5, dtype="<f8")},
        "low-rank-empty": {"R": np.zeros((3, 0), "<f4"), "C": np.zeros((0, 4), "<f4")},
        "ia3": {"ia3": np.linspace(0, 1, 9, dtype="<f4").reshape(1, 9)},
        "ia3-scalar": {"ia3": np.array(0.5, "<f2")},
        "exact-sparse": {name: numpy_of(array) for name, array in exact.items()},
    }
    cases = {}
    for name, update in updates.items():
        arrays = {
            each: Array(str(value.dtype), value.shape, memoryview(value.tobytes())) for each, value in update.items()
        }
        for codec in (Codec.parse("none"), DEFAULT):
            data = b"".join(encode_arrays(arrays, codec))
            cases[f"{name}-{codec.name.split(':')[0]}"] = update, data
    return cases


def numpy_of(array: Any) -> npt.NDArray[Any]:
    """Return an array of an update as numpy has it."""
    return np.frombuffer(array.raw, array.dtype).reshape(array.shape)


def write(folder: Path, cases: dict[str, tuple[Arrays, bytes]]) -> None:
    """Write the payloads, and what they hold."""
    folder.mkdir(parents=True, exist_ok=True)
    expected: dict[str, dict[str, dict[str, object]]] = {}
    for name, (arrays, data) in cases.items():
        (folder / f"{name}.msgpack").write_bytes(data)
        expected[name] = {}
        for each, value in arrays.items():
            raw = value.tobytes()
            expected[name][each] = {
                "dtype": str(value.dtype),
                "shape": value.shape,
                "sha256": hashlib.sha256(raw).hexdigest(),
            }
            if len(raw) <= 64:
                expected[name][each]["raw"] = raw.hex()
    (folder / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


if __name__ == "__main__":
    main()
