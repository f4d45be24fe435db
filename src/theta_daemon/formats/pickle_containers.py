"""Pickle opcodes that make containers, globals and objects, or put something into them."""

from __future__ import annotations

from theta_daemon.formats.pickle_machine import Machine, Opcodes, PickleError
from theta_daemon.formats.pickle_values import Dict, Global, Object, PersistentId, Set

opcode = Opcodes()


@opcode(b")")
def _empty_tuple(m: Machine, at: int) -> int:
    m.stack.append(())
    return at


@opcode(b"t")
def _tuple(m: Machine, at: int) -> int:
    m.count()
    m.stack.append(tuple(m.since_mark()))
    return at


@opcode(b"\x85")
def _tuple1(m: Machine, at: int) -> int:
    m.count()
    m.stack[-1] = (m.stack[-1],)
    return at


@opcode(b"\x86")
def _tuple2(m: Machine, at: int) -> int:
    m.count()
    second = m.stack.pop()
    m.stack[-1] = (m.stack[-1], second)
    return at


@opcode(b"\x87")
def _tuple3(m: Machine, at: int) -> int:
    m.count()
    third, second = m.stack.pop(), m.stack.pop()
    m.stack[-1] = (m.stack[-1], second, third)
    return at


@opcode(b"]")
def _empty_list(m: Machine, at: int) -> int:
    m.count()
    m.stack.append([])
    return at


@opcode(b"l")
def _list(m: Machine, at: int) -> int:
    m.count()
    m.stack.append(m.since_mark())
    return at


@opcode(b"a")
def _append(m: Machine, at: int) -> int:
    value = m.stack.pop()
    _elements(m.stack[-1]).append(value)
    return at


@opcode(b"e")
def _appends(m: Machine, at: int) -> int:
    values = m.since_mark()
    _elements(m.stack[-1]).extend(values)
    return at


@opcode(b"\x8f")
def _empty_set(m: Machine, at: int) -> int:
    m.count()
    m.stack.append(Set())
    return at


@opcode(b"\x90")
def _additems(m: Machine, at: int) -> int:
    values = m.since_mark()
    _elements(m.stack[-1]).extend(values)
    return at


@opcode(b"\x91")
def _frozenset(m: Machine, at: int) -> int:
    m.count()
    m.stack.append(Set(m.since_mark()))
    return at


def _elements(target: object) -> list[object]:
    if isinstance(target, list):
        return target
    if isinstance(target, Set):
        return target.elements
    if isinstance(target, Object):
        if target.elements is None:
            target.elements = []
        return target.elements
    raise PickleError(f"it adds elements to a {type(target).__name__}")


@opcode(b"}")
def _empty_dict(m: Machine, at: int) -> int:
    m.count()
    m.stack.append(Dict())
    return at


@opcode(b"d")
def _dict(m: Machine, at: int) -> int:
    m.count()
    m.stack.append(Dict(_pairs(m.since_mark())))
    return at


@opcode(b"s")
def _setitem(m: Machine, at: int) -> int:
    value, key = m.stack.pop(), m.stack.pop()
    _items(m.stack[-1]).extend((key, value))
    return at


@opcode(b"u")
def _setitems(m: Machine, at: int) -> int:
    pairs = _pairs(m.since_mark())
    _items(m.stack[-1]).extend(pairs)
    return at


def _pairs(values: list[object]) -> list[object]:
    if len(values) % 2:
        raise PickleError("a dict has a key without a value")
    return values


def _items(target: object) -> list[object]:
    if isinstance(target, Dict):
        return target.items
    if isinstance(target, Object):
        if target.items is None:
            target.items = []
        return target.items
    raise PickleError(f"it sets items of a {type(target).__name__}")


@opcode(b"c")
def _global(m: Machine, at: int) -> int:
    module, at = m.line(at)
    name, at = m.line(at)
    m.count()
    m.stack.append(Global(module, name))
    return at


@opcode(b"\x93")
def _stack_global(m: Machine, at: int) -> int:
    name, module = m.stack.pop(), m.stack.pop()
    if not isinstance(name, str) or not isinstance(module, str):
        raise PickleError("a global is named by something other than strings")
    m.count()
    m.stack.append(Global(module, name))
    return at


@opcode(b"R")
@opcode(b"\x81")  # NEWOBJ differs in what it would call only
def _reduce(m: Machine, at: int) -> int:
    arguments = m.stack.pop()
    _push_object(m, m.stack.pop(), arguments)
    return at


@opcode(b"\x92")
def _newobj_ex(m: Machine, at: int) -> int:
    keywords, arguments = m.stack.pop(), m.stack.pop()
    if not isinstance(keywords, Dict):
        raise PickleError("a class is called with keywords that are no dict")
    _push_object(m, m.stack.pop(), arguments, keywords)
    return at


@opcode(b"o")
def _obj(m: Machine, at: int) -> int:
    values = m.since_mark()
    _push_object(m, values[0], tuple(values[1:]))
    return at


@opcode(b"i")
def _inst(m: Machine, at: int) -> int:
    module, at = m.line(at)
    name, at = m.line(at)
    m.count()
    _push_object(m, Global(module, name), tuple(m.since_mark()))
    return at


def _push_object(m: Machine, constructor: object, arguments: object, keywords: Dict | None = None) -> None:
    if not isinstance(arguments, tuple):
        raise PickleError("something is called with arguments that are no tuple")
    m.count()
    m.stack.append(Object(constructor, arguments, keywords))


@opcode(b"b")
def _build(m: Machine, at: int) -> int:
    state = m.stack.pop()
    target = m.stack[-1]
    if not isinstance(target, Object):
        raise PickleError(f"it sets attributes of a {type(target).__name__}")
    target.state = state if target.state is None else (target.state, state)
    return at


@opcode(b"P")
def _persid(m: Machine, at: int) -> int:
    text, at = m.line(at)
    _push_persistent(m, text)
    return at


@opcode(b"Q")
def _binpersid(m: Machine, at: int) -> int:
    _push_persistent(m, m.stack.pop())
    return at


def _push_persistent(m: Machine, value: object) -> None:
    m.count()
    persistent = PersistentId(value)
    m.persistent.append(persistent)
    m.stack.append(persistent)
