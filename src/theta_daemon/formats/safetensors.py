"""safetensors: u64 header length, JSON header, the tensors' bytes (https://github.com/huggingface/safetensors#format).

Reading is stricter than the format's own library where that leaves two readings of one file: a key occurs once,
an entry is an object, the header starts with "{". Everything the library writes is read.
Nothing is allocated by a length that the header only claims.
"""

from __future__ import annotations

import json
import re
import struct
from collections import Counter
from typing import TYPE_CHECKING, Any, NoReturn

from theta_daemon.dtypes import MAX_BYTES, nbytes
from theta_daemon.errors import CheckpointError, UnsupportedError
from theta_daemon.formats.build import LayoutBuilder
from theta_daemon.formats.parts import Hole, Literal, Tensor, Tensors
from theta_daemon.formats.source import PEEK_LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from theta_daemon.formats.layout import CanonicalTensor, Layout
    from theta_daemon.formats.parts import Part
    from theta_daemon.formats.source import Source

NAME = "safetensors"
MAX_HEADER = 100_000_000  # bytes; the library's own limit, for reading and for writing
_METADATA = "__metadata__"
_ALIGNMENT = 8  # the writer pads the header with spaces so that the tensors start on a multiple of this
_MAX_DIGITS = 20  # of a 64-bit number
_SURROGATE = re.compile("[\ud800-\udfff]")
# In the text of JSON: a pair of surrogates, or any one escape.
_ESCAPE = re.compile(r"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|.)")
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]..")
_HINT = "the file is damaged or not a safetensors file: fetch or save it again"

# The format's names, in the order of the library's enumeration: its writer sorts by it, descending.
_DTYPES = {
    "BOOL": "bool",
    "F4": "float4_e2m1fn",
    "F6_E2M3": "float6_e2m3fn",
    "F6_E3M2": "float6_e3m2fn",
    "U8": "uint8",
    "I8": "int8",
    "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E8M0": "float8_e8m0fnu",
    "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz",
    "I16": "int16",
    "U16": "uint16",
    "F16": "float16",
    "BF16": "bfloat16",
    "I32": "int32",
    "U32": "uint32",
    "F32": "float32",
    "C64": "complex64",
    "F64": "float64",
    "I64": "int64",
    "U64": "uint64",
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
_ORDER = {dtype: place for place, dtype in enumerate(_DTYPES.values())}


def read(source: Source) -> Iterator[Part]:
    """Yield the parts of a safetensors file.

    Raises CheckpointError for a file that breaks the format, naming the tensor where there is one, and TruncatedError
    for one that ends too early.
    """
    prefix = source.read(8)
    (length,) = struct.unpack("<Q", prefix)
    if length > MAX_HEADER:
        raise _damaged(f"its header claims {length} bytes; the format allows {MAX_HEADER}")
    if not length or source.peek(1) not in (b"{", b""):
        raise _damaged("its header does not start with '{'")
    header = source.read(length)
    tensors, order = _parse(header)
    yield Tensors(tensors)
    yield Literal(prefix)
    yield Literal(header)
    del header
    for index in order:
        yield Hole(index)
    if source.peek(1):
        rest = len(source.peek(PEEK_LIMIT))
        extent = f"at least {rest}" if rest == PEEK_LIMIT else f"{rest}"
        raise _damaged(f"{extent} bytes follow the last tensor, at {source.position}")


def canonical(tensors: Sequence[CanonicalTensor], opaque: Callable[[bytes], None]) -> Layout:
    """Return the layout of the file that `safetensors.numpy.save` (0.8) writes for `tensors`, without metadata.

    A header over the limit for literals goes to `opaque` in chunks, as when it is read. Raises UnsupportedError where
    a name, a dtype or the number of tensors cannot be in a safetensors file.
    """
    for tensor in tensors:
        _require_writable(tensor)
    ordered = sorted(tensors, key=lambda tensor: (-_ORDER[tensor.dtype], tensor.name))
    entries = {}
    begin = 0
    for tensor in ordered:
        end = begin + nbytes(tensor.dtype, tensor.shape)
        entries[tensor.name[0]] = {
            "dtype": _CODES[tensor.dtype],
            "shape": tensor.shape,
            "data_offsets": (begin, end),
        }
        begin = end
    header = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    header += b" " * (-len(header) % _ALIGNMENT)
    if len(header) > MAX_HEADER:
        raise UnsupportedError(
            f"{len(tensors)} tensors need a safetensors header of {len(header)} bytes, over the limit of {MAX_HEADER}",
            hint="keep the checkpoint in several files",
        )
    builder = LayoutBuilder(opaque)
    builder.tensors(
        [tensor.name for tensor in ordered],
        [Tensor(tensor.name, tensor.dtype, tensor.shape) for tensor in ordered],
    )
    builder.literal(struct.pack("<Q", len(header)))
    builder.literal(header)
    for index in range(len(ordered)):
        builder.put_group(index)
    return builder.finish(NAME)


def _require_writable(tensor: CanonicalTensor) -> None:
    name = "/".join(tensor.name)
    hint = "choose another checkpoint format for this file"
    if len(tensor.name) != 1:
        raise UnsupportedError("safetensors files have no nested names", parameter=name, hint=hint)
    if name == _METADATA:
        raise UnsupportedError("no tensor of a safetensors file can have this name", parameter=name, hint=hint)
    if _SURROGATE.search(name):
        raise UnsupportedError("a safetensors file cannot hold a name with a lone surrogate", parameter=name, hint=hint)
    if tensor.dtype not in _CODES:
        raise UnsupportedError(f"safetensors has no dtype {tensor.dtype}", parameter=name, hint=hint)


def _parse(header: bytes) -> tuple[tuple[Tensor, ...], list[int]]:
    """Return the tensors in the order of the header, and their indices in the order of their bytes."""
    entries = _load(header)
    metadata = entries.pop(_METADATA, None)
    if metadata is not None:
        _check_metadata(metadata)
    tensors = []
    spans = []
    for name, entry in entries.items():
        dtype, shape, span = _entry(name, entry)
        tensors.append(Tensor((name,), dtype, shape))
        spans.append(span)
    # Empty tensors share their offset with what follows; the library sorts by both offsets, too.
    order = sorted(range(len(spans)), key=lambda index: (spans[index], index))
    end = 0
    for index in order:
        if spans[index][0] != end:
            raise _damaged(
                f"its bytes begin at {spans[index][0]}, but those before them end at {end}",
                str(tensors[index].keys[0]),
            )
        end = spans[index][1]
    return tuple(tensors), order


def _entry(name: str, entry: object) -> tuple[str, tuple[int, ...], tuple[int, int]]:
    """Return dtype, shape and data offsets of one entry; keys that the format does not know are ignored."""
    if not isinstance(entry, dict):
        raise _damaged("its entry in the header is not an object", name)
    code, shape, offsets = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(code, str):
        raise _damaged("its entry has no dtype that is a string", name)
    if code not in _DTYPES:
        raise _damaged(f"the format has no dtype {code[:40]!r}", name)
    if not isinstance(shape, list) or not all(type(n) is int and 0 <= n <= MAX_BYTES for n in shape):
        raise _damaged("its shape is not a list of sizes", name)
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(type(n) is int and n >= 0 for n in offsets):
        raise _damaged("its data_offsets are not two offsets", name)
    try:
        size = nbytes(_DTYPES[code], tuple(shape))
    except CheckpointError as error:
        raise _damaged(error.message, name) from error
    begin, end = offsets
    if end - begin != size:
        raise _damaged(f"its data_offsets {offsets} span {end - begin} bytes, but {code} {shape} fills {size}", name)
    return _DTYPES[code], tuple(shape), (begin, end)


def _check_metadata(metadata: object) -> None:
    if not isinstance(metadata, dict):
        raise _damaged("its __metadata__ is not an object")
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise _damaged(f"its __metadata__ has a value that is not a string, for {key[:40]!r}")


def _load(header: bytes) -> dict[str, Any]:
    """Parse the header's JSON object; padding may be any white space of JSON."""
    decoder = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer, parse_constant=_constant)
    try:
        text = header.decode()
        entries = decoder.decode(text)
    except UnicodeDecodeError as error:
        raise _damaged(f"its header is not UTF-8 at byte {error.start}") from error
    except RecursionError as error:  # raised by the parser itself, at the interpreter's limit
        raise _damaged("its header is nested too deeply") from error
    except json.JSONDecodeError as error:
        raise _damaged(f"its header is not JSON: {error}") from error
    for escape in _ESCAPE.finditer(text):
        if _SURROGATE_ESCAPE.fullmatch(escape[0]):  # Python's parser lets it through, others do not
            raise _damaged(f"its header has the lone surrogate {escape[0]}")
    return dict(entries)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        [(twice, _)] = Counter(key for key, _ in pairs).most_common(1)
        raise _damaged("its header has a key twice", twice)
    return entries


def _integer(text: str) -> int:
    if len(text) > _MAX_DIGITS or text == "-0":  # "-0" is a float to other parsers
        raise _damaged(f"its header has the number {text[:_MAX_DIGITS]}, of {len(text)} digits")
    return int(text)


def _constant(text: str) -> NoReturn:
    raise _damaged(f"its header is not JSON: {text}")


def _damaged(message: str, name: str | None = None) -> CheckpointError:
    shown = name if name is None or len(name) <= 200 else f"{name[:200]}..."
    return CheckpointError(message, parameter=shown, hint=_HINT)
