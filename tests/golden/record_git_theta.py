"""Record what git-theta 0.2.0 writes and computes, for the tests to read. Run by hand, never by a test:

    .venv-git-theta/bin/python tests/golden/record_git_theta.py protocol/fixtures

It writes metadata/git-theta-0.2.0/ (a real `git add` of a model, one with a side-loaded update, nested names, an empty
model, and what git-theta makes of metadata/theta-daemon-1/) and lsh/ (its random numbers and signatures). Object ids
depend on the versions of its dependencies (constraints-git-theta.txt); recorded files stay as they are.
"""

from __future__ import annotations

import hashlib
import importlib
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

# Only git-theta's own environment has these; imported so, the type checker asks for nothing.
torch = importlib.import_module("torch")
lsh = importlib.import_module("git_theta.lsh")
Metadata = importlib.import_module("git_theta.metadata").Metadata
ParamMetadata = importlib.import_module("git_theta.metadata").ParamMetadata

FILTER = Path(sys.executable).parent / "git-theta-filter"
FIXED = {
    "GIT_AUTHOR_NAME": "A Tester",
    "GIT_AUTHOR_EMAIL": "tester@example.invalid",
    "GIT_AUTHOR_DATE": "2026-01-02T03:04:05+00:00",
    "GIT_COMMITTER_NAME": "A Tester",
    "GIT_COMMITTER_EMAIL": "tester@example.invalid",
    "GIT_COMMITTER_DATE": "2026-01-02T03:04:05+00:00",
    "PYTHONHASHSEED": "0",  # git-theta writes the parts of an update in the order of a set
}


def main() -> None:
    """Write every recording below the folder given as the only argument."""
    fixtures = Path(sys.argv[1]).resolve()
    theirs = fixtures / "metadata" / "git-theta-0.2.0"
    with tempfile.TemporaryDirectory() as scratch:
        first, second = add_twice(Path(scratch))
    (theirs / "torch.json").write_bytes(first)
    (theirs / "low-rank.json").write_bytes(second)
    (theirs / "nested.json").write_text(nested(json.loads(first)))
    Metadata().write(str(theirs / "empty.json"))
    seen = {
        path.name: walked(path)
        for path in sorted((fixtures / "metadata" / "theta-daemon-1").glob("*.json"))
        if not path.name.endswith(".values.json")
    }
    (theirs / "seen-of-ours.json").write_text(json.dumps(seen, indent=1) + "\n")
    record_signatures(fixtures / "lsh")


def add_twice(repository: Path) -> tuple[bytes, bytes]:
    """Return what clean writes for a model, and then with a side-loaded low-rank update of one parameter."""
    generator = torch.Generator().manual_seed(7)
    model = {
        "embed/tokens": torch.randn(6, 4, generator=generator),
        "layer.weight": torch.randn(3, 5, generator=generator, dtype=torch.float64),
        "layer.bias": torch.randn(5, generator=generator),
        "scale": torch.tensor(1.5),
        "nothing": torch.zeros(0, 4),
        "steps": torch.arange(7),
        "mask": torch.tensor([True, False]),
        "lfs_metadata": torch.ones(1, dtype=torch.uint8),
        "theta_daemon": torch.ones(2, dtype=torch.int16),
        "gewicht \u00fc \U0001f40d": torch.ones(1, dtype=torch.int8),
    }
    content = io.BytesIO()
    torch.save(model, content)
    git(repository, "init", "--quiet")
    git(repository, "config", "filter.theta.clean", f"{FILTER} clean %f")
    git(repository, "config", "filter.theta.smudge", f"{FILTER} smudge %f")
    git(repository, "config", "filter.theta.required", "true")
    (repository / ".gitattributes").write_text("*.pt filter=theta\n")
    (repository / "model.pt").write_bytes(content.getvalue())
    git(repository, "add", ".")
    git(repository, "-c", "core.hooksPath=/dev/null", "commit", "--quiet", "--message", "model")
    first = git(repository, "show", "HEAD:model.pt")

    update = repository / "update.pt"
    torch.save({"layer.weight/R": torch.ones(3, 1), "layer.weight/C": torch.full((1, 5), 0.5)}, update)
    side = {"GIT_THETA_UPDATE_TYPE": "low-rank", "GIT_THETA_UPDATE_DATA_PATH": str(update)}
    git(repository, "add", "--renormalize", "model.pt", **side)
    return first, git(repository, "show", ":model.pt")


def git(repository: Path, *arguments: str, **environment: str) -> bytes:
    """Run git in `repository` and return what it prints."""
    return subprocess.run(
        ["git", *arguments], cwd=repository, env=os.environ | FIXED | environment, check=True, capture_output=True
    ).stdout


def nested(flat: dict[str, Any]) -> str:
    """Return what git-theta writes for a nested model, its names sorted as its clean sorts them."""
    entries = [ParamMetadata.from_metadata_dict(entry) for entry in flat.values()]
    names = [
        ("params", "encoder", "layers_0", "kernel"),
        ("params", "encoder", "layers_10", "kernel"),
        ("params", "encoder", "layers_2", "kernel"),
        ("params", "Encoder", "scale"),
        ("params", "a", "b", "c", "d", "e", "f", "g", "h"),
        ("state", "step"),
        ("a",),
        ("tensor_metadata", "shape"),
        ("lfs_metadata", "oid"),
        ("", ""),
    ]
    metadata = Metadata()
    metadata.update(sorted(zip(names, entries, strict=True)))
    written = io.StringIO()
    metadata.unflatten().write(written)
    return written.getvalue()


def walked(path: Path) -> dict[str, Any]:
    """Return what git-theta sees in one of our files: its names, what it writes back, and its diff with itself."""
    metadata = Metadata.from_file(str(path))
    written = io.StringIO()
    metadata.write(written)
    added, removed, modified = metadata.diff(Metadata.from_file(str(path)))
    return {
        "names": [list(name) for name in metadata.flatten()],
        "written": written.getvalue(),
        "diff": [len(side.flatten()) for side in (added, removed, modified)],
    }


def record_signatures(folder: Path) -> None:
    """Write pool.bin (10000 doubles, 16 int64, little-endian) and the signatures of inputs that anyone can rebuild."""
    hasher = lsh.get_lsh()
    pool = np.asarray(hasher.pool.pool, "<f8").tobytes() + np.asarray(hasher.pool.signature_offsets, "<i8").tobytes()
    (folder / "pool.bin").write_bytes(pool)
    cases = [recorded(hasher.hash, case) for case in inputs()]
    (folder / "signatures.json").write_text(json.dumps({"cases": cases}, indent=1) + "\n")


def inputs() -> list[dict[str, Any]]:
    """Return the inputs: `hex` bytes, or `bytes` of SHAKE-256 of `seed` with each value's bits masked."""
    cases: list[dict[str, Any]] = [
        {"why": "no values", "dtype": "float32", "hex": ""},
        {"why": "the scalar 1.5", "dtype": "float32", "hex": "0000c03f"},
        {"why": "minus zero", "dtype": "float64", "hex": "0000000000000080"},
        {"why": "NaN", "dtype": "float32", "hex": "0000803f0000c07f"},
        {"why": "infinity", "dtype": "float32", "hex": "0000807f"},
        {"why": "both infinities", "dtype": "float64", "hex": "000000000000f07f000000000000f0ff"},
        {"why": "the largest double: the bucket overflows", "dtype": "float64", "hex": "ffffffffffffef7f"},
        {"why": "about 1e11: on either side of the largest bucket", "dtype": "float64", "hex": "0000ac51da453742" * 3},
        {"why": "the smallest subnormal", "dtype": "float64", "hex": "0100000000000000"},
        {"why": "true, false, true", "dtype": "bool", "hex": "010001"},
        {"why": "2**64 - 1", "dtype": "uint64", "hex": "ffffffffffffffff"},
        {"why": "-2**63", "dtype": "int64", "hex": "0000000000000080"},
        {"why": "-1", "dtype": "int8", "hex": "ff"},
    ]
    for dtype, size in (("int8", 1), ("uint8", 1), ("int16", 2), ("uint16", 2), ("int32", 4), ("uint32", 4)):
        cases.append(masked("any values", dtype, size, 1000))
    cases += [
        masked("values below 2**24", "int64", 8, 1000, "0000000000ffffff"),
        masked("values below 2**24", "uint64", 8, 1000, "0000000000ffffff"),
        masked("any values: overflows", "int64", 8, 1000),
        masked("finite, below 2, of all magnitudes", "float32", 4, 15, "bfffffff"),
        masked("finite, below 2, of all magnitudes", "float32", 4, 16, "bfffffff"),
        masked("finite, below 2, of all magnitudes", "float32", 4, 17, "bfffffff"),
        masked("below 2 or so, hidden bits vary", "float64", 8, 4095, "803fffffffffffff", "3fc0000000000000"),
        masked("one more than a power of two", "float32", 4, 4097, "807fffff", "3f000000"),
        masked("more values than the pool has", "float32", 4, 20_011, "80ffffff", "3f000000"),
        masked("large values: the order of the sum shows", "float32", 4, 70_001, "83ffffff", "48000000"),
        masked("small and large integers", "int16", 2, 70_001),
    ]
    return cases


def masked(why: str, dtype: str, size: int, count: int, mask: str = "", fixed: str = "") -> dict[str, Any]:
    """Return an input of `count` values: SHAKE-256 of the seed, then (bits & `and`) | `or` for each value."""
    return {
        "why": why,
        "dtype": dtype,
        "seed": f"{dtype}/{count}/{mask}/{fixed}",
        "bytes": size * count,
        "and": mask or "ff" * size,
        "or": fixed or "00" * size,
    }


def recorded(signature: Callable[[Any], Any], case: dict[str, Any]) -> dict[str, Any]:
    """Return `case` with git-theta's signature, as strings."""
    if "hex" in case:
        raw = bytes.fromhex(case["hex"])
    else:
        raw = hashlib.shake_256(case["seed"].encode()).digest(case["bytes"])
        unsigned = f"<u{len(case['and']) // 2}"
        bits = np.frombuffer(raw, unsigned) & int(case["and"], 16) | int(case["or"], 16)
        raw = bits.astype(unsigned).tobytes()
    value = np.frombuffer(raw, np.dtype(case["dtype"]).newbyteorder("<").str)
    with np.errstate(all="ignore"):
        numbers = signature(value.astype(case["dtype"])).tolist()
    return {**case, "signature": [str(number) for number in numbers]}


if __name__ == "__main__":
    main()
