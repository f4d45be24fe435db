"""`python -m bench.codecs`: what each codec makes of weights: size, and speed on one thread, through our own payloads.

Encoding is from the raw bytes to the pieces of a payload, decoding from a payload into a reused buffer. A codec is
worth its time where it is faster than the disk or the network that it saves, and both ways count: a checkpoint
is added once and checked out often. The weights are drawn from a normal distribution with the deviation of trained
ones, or are those of a file (`--safetensors`).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from theta_daemon import dtypes
from theta_daemon.store import payload
from theta_daemon.store.codec import DEFAULT, Codec

# The first is git-theta's.
CODECS = (
    "blosc:lz4:5:shuffle",
    "blosc:lz4:1:bitshuffle",
    "blosc:lz4:5:bitshuffle",
    "blosc:lz4:9:bitshuffle",
    "blosc:zstd:1:bitshuffle",
    "blosc:zstd:1:shuffle",
    "none",
)
VALUES = 16 << 20
ROUNDS = 5


def weights(path: Path | None, count: int) -> npt.NDArray[np.float32]:
    """Return float32 weights: all those in the file `path`, or `count` random ones."""
    if path is None:
        return (np.random.default_rng(0).standard_normal(count) * 0.02).astype(np.float32)
    from safetensors.numpy import load_file

    found = [value.ravel() for value in load_file(path).values() if value.dtype == np.float32]
    return np.concatenate(found)


def data(values: npt.NDArray[np.float32]) -> Iterator[tuple[str, str, bytes]]:
    """Yield the values as checkpoints hold them: a name, the dtype, the raw bytes."""
    bits = values.view(np.uint32)
    rounded = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)  # to the nearest bfloat16, ties to even
    yield "float32", "float32", values.tobytes()
    yield "bfloat16", "bfloat16", rounded.tobytes()
    yield "bfloat16 as float32", "float32", (rounded.astype(np.uint32) << 16).tobytes()


def main() -> None:
    """Print one line for each codec and each kind of data."""
    parser = argparse.ArgumentParser(prog="python -m bench.codecs", description=__doc__)
    parser.add_argument("--safetensors", type=Path, help="take the float32 weights of this file")
    parser.add_argument("--quick", action="store_true", help="little data, few rounds")
    options = parser.parse_args()
    rounds = 2 if options.quick else ROUNDS
    values = weights(options.safetensors, VALUES // 4 if options.quick else VALUES)

    print(f"{values.size} weights; MB/s of raw bytes, one thread, best of {rounds} rounds; * is the default")
    for name, dtype, raw in data(values):
        print(f"\n{name:<24} {'size':>7} {'encode':>8} {'decode':>8}")
        for codec in map(Codec.parse, CODECS):
            size, encode, decode = measure(codec, dtype, raw, rounds)
            mark = "*" if codec == DEFAULT else ""
            print(f"{codec.name + mark:<24} {size:7.4f} {encode:8.0f} {decode:8.0f}")


def measure(codec: Codec, dtype: str, raw: bytes, rounds: int) -> tuple[float, float, float]:
    """Return the size of the payload against the raw bytes, and the speeds of both ways in MB/s."""
    shape = (len(raw) // (dtypes.DTYPES[dtype].bits // 8),)
    out = memoryview(bytearray(len(raw)))
    stored = memoryview(b"".join(payload.encode(memoryview(raw), dtype, shape, codec)))
    encode = _best(rounds, lambda: payload.encode(memoryview(raw), dtype, shape, codec))
    decode = _best(rounds, lambda: payload.decode_into(stored, dtype, shape, out))
    assert out == raw, f"{codec.name}: not the bytes that were encoded"
    return len(stored) / len(raw), len(raw) / encode / 1e6, len(raw) / decode / 1e6


def _best(rounds: int, action: Callable[[], object]) -> float:
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


if __name__ == "__main__":
    main()
