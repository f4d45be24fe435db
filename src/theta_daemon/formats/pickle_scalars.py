"""Pickle opcodes that push one constant, number or string."""

from __future__ import annotations

import codecs
import struct

from theta_daemon.formats.pickle_machine import Machine, Opcodes, PickleError

MAX_DIGITS = 1024  # of an integer written as text: converting takes time that grows with the square

_UINT32, _INT32, _UINT64, _DOUBLE = map(struct.Struct, ("<I", "<i", "<Q", ">d"))

opcode = Opcodes()


@opcode(b"N")
def _none(m: Machine, at: int) -> int:
    m.stack.append(None)
    return at


@opcode(b"\x88")
def _true(m: Machine, at: int) -> int:
    m.stack.append(True)
    return at


@opcode(b"\x89")
def _false(m: Machine, at: int) -> int:
    m.stack.append(False)
    return at


@opcode(b"K")
def _binint1(m: Machine, at: int) -> int:
    m.stack.append(m.data[at])
    return at + 1


@opcode(b"M")
def _binint2(m: Machine, at: int) -> int:
    m.stack.append(m.data[at] | m.data[at + 1] << 8)
    return at + 2


@opcode(b"J")
def _binint(m: Machine, at: int) -> int:
    m.stack.append(_INT32.unpack_from(m.data, at)[0])
    return at + 4


@opcode(b"\x8a")
def _long1(m: Machine, at: int) -> int:
    return _long(m, at + 1, m.data[at])


@opcode(b"\x8b")
def _long4(m: Machine, at: int) -> int:
    return _long(m, at + 4, _INT32.unpack_from(m.data, at)[0])


def _long(m: Machine, at: int, n: int) -> int:
    m.stack.append(int.from_bytes(m.take(at, n), "little", signed=True))
    return at + n


@opcode(b"I")
def _int(m: Machine, at: int) -> int:
    text, at = m.line(at)
    # protocols 0 and 1 spell the booleans so
    m.stack.append(text == "01" if text in {"00", "01"} else integer(text))
    return at


@opcode(b"L")
def _long_text(m: Machine, at: int) -> int:
    text, at = m.line(at)
    m.stack.append(integer(text.removesuffix("L")))
    return at


def integer(text: str) -> int:
    """Return the integer that `text` spells, if it has at most MAX_DIGITS."""
    if len(text) > MAX_DIGITS:
        raise PickleError(f"an integer has {len(text)} digits")
    return int(text)


@opcode(b"F")
def _float(m: Machine, at: int) -> int:
    text, at = m.line(at)
    m.stack.append(float(text))
    return at


@opcode(b"G")
def _binfloat(m: Machine, at: int) -> int:
    m.stack.append(_DOUBLE.unpack_from(m.data, at)[0])
    return at + 8


@opcode(b"X")
def _binunicode(m: Machine, at: int) -> int:
    return _text(m, at + 4, _UINT32.unpack_from(m.data, at)[0])


@opcode(b"\x8c")
def _short_binunicode(m: Machine, at: int) -> int:
    return _text(m, at + 1, m.data[at])


@opcode(b"\x8d")
def _binunicode8(m: Machine, at: int) -> int:
    return _text(m, at + 8, _UINT64.unpack_from(m.data, at)[0])


def _text(m: Machine, at: int, n: int) -> int:
    m.stack.append(str(m.take(at, n), "utf-8", "surrogatepass"))
    return at + n


@opcode(b"V")
def _unicode(m: Machine, at: int) -> int:
    end = m.data.index(b"\n", at)
    m.stack.append(str(m.data[at:end], "raw-unicode-escape"))
    return end + 1


@opcode(b"C")
def _short_binbytes(m: Machine, at: int) -> int:
    return _bytes(m, at + 1, m.data[at])


@opcode(b"B")
def _binbytes(m: Machine, at: int) -> int:
    return _bytes(m, at + 4, _UINT32.unpack_from(m.data, at)[0])


@opcode(b"\x8e")
@opcode(b"\x96")  # BYTEARRAY8: that it could be changed matters to nobody here
def _binbytes8(m: Machine, at: int) -> int:
    return _bytes(m, at + 8, _UINT64.unpack_from(m.data, at)[0])


def _bytes(m: Machine, at: int, n: int) -> int:
    m.stack.append(m.take(at, n))
    return at + n


@opcode(b"U")
def _short_binstring(m: Machine, at: int) -> int:
    return _string(m, at + 1, m.data[at])


@opcode(b"T")
def _binstring(m: Machine, at: int) -> int:
    return _string(m, at + 4, _INT32.unpack_from(m.data, at)[0])


def _string(m: Machine, at: int, n: int) -> int:
    m.stack.append(_python2(m.take(at, n)))
    return at + n


@opcode(b"S")
def _string_text(m: Machine, at: int) -> int:
    end = m.data.index(b"\n", at)
    quoted = m.data[at:end].rstrip(b"\r")
    if len(quoted) < 2 or quoted[:1] != quoted[-1:] or quoted[:1] not in {b"'", b'"'}:
        raise PickleError("a string has no quotes")
    m.stack.append(_python2(codecs.escape_decode(quoted[1:-1])[0]))
    return end + 1


def _python2(data: bytes) -> str | bytes:
    """Return Python 2's kind of string as torch reads it: UTF-8, but never an error."""
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError:
        return data
