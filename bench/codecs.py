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

from theta_daemon.store import payload
from theta_daemon.store.codec import DEFAULT, Codec

Value = npt.NDArray[np.float32]

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


def weights(path: Path | None, count: int) -> list[Value]:
    """Return float32 tensors: those of the file `path`, or random ones of `count` elements together."""
    if path is None:
        generator = np.random.default_rng(0)
        shape = (count // 4 // 1024, 1024)
        return [(generator.standard_normal(shape) * 0.02).astype(np.float32) for _ in range(4)]
    from safetensors.numpy import load_file

    return [value for value in load_file(path).values() if value.dtype == np.float32]


def data(values: list[Value]) -> Iterator[tuple[str, str, list[bytes]]]:
    """Yield the values as checkpoints hold them: a name, the dtype, the raw bytes of each."""
    rounded = [_as_bfloat16(value) for value in values]
    yield "float32", "float32", [value.tobytes() for value in values]
    yield "bfloat16", "bfloat16", [bits.tobytes() for bits in rounded]
    yield "bfloat16 as float32", "float32", [(bits.astype(np.uint32) << 16).tobytes() for bits in rounded]


def main() -> None:
    """Print one line for each codec and each kind of data."""
    parser = argparse.ArgumentParser(prog="python -m bench.codecs", description=__doc__)
    parser.add_argument("--safetensors", type=Path, help="take the float32 tensors of this file")
    parser.add_argument("--quick", action="store_true", help="little data, few rounds")
    options = parser.parse_args()
    rounds = 2 if options.quick else ROUNDS
    values = weights(options.safetensors, VALUES // 4 if options.quick else VALUES)
    shapes = [value.shape for value in values]

    print(f"{len(values)} tensors; MB/s of raw bytes, one thread, best of {rounds} rounds; * is the default")
    for name, dtype, raws in data(values):
        print(f"\n{name:<24} {'size':>7} {'encode':>8} {'decode':>8}")
        for codec in map(Codec.parse, CODECS):
            size, encode, decode = measure(codec, dtype, shapes, raws, rounds)
            mark = "*" if codec == DEFAULT else ""
            print(f"{codec.name + mark:<24} {size:7.4f} {encode:8.0f} {decode:8.0f}")


def measure(
    codec: Codec, dtype: str, shapes: list[tuple[int, ...]], raws: list[bytes], rounds: int
) -> tuple[float, float, float]:
    """Return the size of the payloads against the raw bytes, and the speeds of both ways in MB/s."""
    outs = [memoryview(bytearray(len(raw))) for raw in raws]

    def encode() -> None:
        for raw, shape in zip(raws, shapes, strict=True):
            payload.encode(memoryview(raw), dtype, shape, codec)

    def decode() -> None:
        for data, shape, out in zip(stored, shapes, outs, strict=True):
            payload.decode_into(data, dtype, shape, out)

    stored = [
        memoryview(b"".join(payload.encode(memoryview(raw), dtype, shape, codec)))
        for raw, shape in zip(raws, shapes, strict=True)
    ]
    total = sum(map(len, raws))
    encoding, decoding = _best(rounds, encode), _best(rounds, decode)
    assert outs == raws, f"{codec.name}: not the bytes that were encoded"
    return sum(map(len, stored)) / total, total / encoding / 1e6, total / decoding / 1e6


def _as_bfloat16(value: Value) -> npt.NDArray[np.uint16]:
    bits = value.view(np.uint32)
    nearest: npt.NDArray[np.uint16] = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)  # ties to even
    return nearest


def _best(rounds: int, action: Callable[[], object]) -> float:
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


if __name__ == "__main__":
    main()
