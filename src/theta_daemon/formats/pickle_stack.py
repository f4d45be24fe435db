"""Pickle opcodes that frame the pickle, move the stack, or use the memo."""

from __future__ import annotations

import struct

from theta_daemon.formats.pickle_machine import Machine, Opcodes, PickleError, Stop
from theta_daemon.formats.pickle_scalars import integer

MAX_PROTOCOL = 5

_UINT32 = struct.Struct("<I")

opcode = Opcodes()


@opcode(b"\x80")
def _proto(m: Machine, at: int) -> int:
    if m.data[at] > MAX_PROTOCOL:
        raise PickleError(f"its protocol {m.data[at]} is unknown")
    return at + 1


@opcode(b"\x95")
def _frame(m: Machine, at: int) -> int:
    (size,) = struct.unpack_from("<Q", m.data, at)
    if size > len(m.data) - at - 8:
        raise PickleError("a frame is longer than the pickle")
    return at + 8


@opcode(b".")
def _stop(m: Machine, at: int) -> int:
    m.value = m.stack.pop()
    raise Stop(at)


@opcode(b"(")
def _mark(m: Machine, at: int) -> int:
    m.marks.append(len(m.stack))
    return at


@opcode(b"0")
def _pop(m: Machine, at: int) -> int:
    if m.marks and m.marks[-1] == len(m.stack):
        m.marks.pop()
    else:
        m.stack.pop()
    return at


@opcode(b"1")
def _pop_mark(m: Machine, at: int) -> int:
    del m.stack[m.marks.pop() :]
    return at


@opcode(b"2")
def _dup(m: Machine, at: int) -> int:
    m.stack.append(m.stack[-1])
    return at


@opcode(b"q")
def _binput(m: Machine, at: int) -> int:
    m.memo[m.data[at]] = m.stack[-1]
    return at + 1


@opcode(b"h")
def _binget(m: Machine, at: int) -> int:
    m.stack.append(m.memo[m.data[at]])
    return at + 1


@opcode(b"r")
def _long_binput(m: Machine, at: int) -> int:
    m.memo[_UINT32.unpack_from(m.data, at)[0]] = m.stack[-1]
    return at + 4


@opcode(b"j")
def _long_binget(m: Machine, at: int) -> int:
    m.stack.append(m.memo[_UINT32.unpack_from(m.data, at)[0]])
    return at + 4


@opcode(b"\x94")
def _memoize(m: Machine, at: int) -> int:
    m.memo[len(m.memo)] = m.stack[-1]
    return at


@opcode(b"p")
def _put(m: Machine, at: int) -> int:
    text, at = m.line(at)
    m.memo[integer(text)] = m.stack[-1]
    return at


@opcode(b"g")
def _get(m: Machine, at: int) -> int:
    text, at = m.line(at)
    m.stack.append(m.memo[integer(text)])
    return at
