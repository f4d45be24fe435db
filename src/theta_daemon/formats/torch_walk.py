"""Find every tensor in an unpickled checkpoint, and the keys that lead to it.

Keys are those of dicts, positions in lists, tuples and sets, and the attributes of objects, from the outside in. For a
flat dict of tensors that is the dict's own keys, as git-theta names them. What makes up one tensor of torch (a
parameter, a subclass) adds no key; a tensor made of several (sparse, nested, quantised by channel) the name of each.

A tensor under two keys is listed twice. Every container is entered once, under the first keys that lead to it, and not
below MAX_DEPTH, so that neither sharing nor cycles nor nesting make the list long; what is not listed stays
bytes of the file. The walk keeps its own stack: nothing here recurses over the input.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import chain

from theta_daemon.errors import CheckpointError
from theta_daemon.formats.parts import Key, OtherKey
from theta_daemon.formats.pickle_values import Dict, Global, Object, PersistentId, Set
from theta_daemon.formats.torch_tensors import Claim, claim_storage, claim_tensor, has_bits
from theta_daemon.frozen import Frozen

MAX_DEPTH = 128  # containers inside each other that lead to a listed tensor
MAX_WRAPPERS = 8  # rebuild functions around each other that make one tensor
MAX_KEY_TEXT = 100  # characters of a key that is no string

_KEY_TEXT_PER_BYTE = 32  # the keys of all tensors together may be so much longer than the pickle
_SPARE_KEY_TEXT = 1 << 20

Children = Iterable[tuple[object, object]]  # keys as the pickle has them, and values


class Found(Frozen):
    """One named tensor."""

    keys: tuple[Key, ...]
    claim: Claim


def find_tensors(root: object, pickle_size: int) -> list[Found]:
    """Return the tensors in `root`, the value of a pickle of `pickle_size` bytes, in the pickle's order.

    Raises CheckpointError, naming the parameter, for a tensor that its storage cannot hold, and where the names are
    longer than any real file's.
    """
    found: list[Found] = []
    entered: set[int] = set()
    levels: list[tuple[Iterator[tuple[object, object]], tuple[Key, ...]]] = []
    text = _SPARE_KEY_TEXT + _KEY_TEXT_PER_BYTE * pickle_size

    def visit(value: object, keys: tuple[Key, ...]) -> bool:
        """List `value` if it is a tensor; begin a level, and return True, if there may be more inside."""
        nonlocal text
        try:
            claim, children = _look(value)
        except CheckpointError as error:
            error.at(parameter=parameter_text(keys))
            raise
        if claim is not None:
            found.append(Found(keys, claim))
            text -= sum(len(key) if isinstance(key, str) else MAX_KEY_TEXT for key in keys)
            if text < 0:
                raise CheckpointError("the names of its tensors are longer than any real checkpoint's")
        if children is None or id(value) in entered or len(levels) == MAX_DEPTH:
            return False
        entered.add(id(value))
        levels.append((iter(children), keys))
        return True

    visit(root, ())
    while levels:
        children, keys = levels[-1]
        for key, value in children:
            if type(value) in _WALKED and visit(value, (*keys, _key(key))):
                break
        else:
            levels.pop()
    return found


def parameter_text(keys: tuple[Key, ...]) -> str:
    """Return `keys` for people."""
    return "/".join(str(key)[:MAX_KEY_TEXT] for key in keys)


_WALKED = frozenset((list, tuple, Dict, Set, Object, PersistentId))


def _look(value: object) -> tuple[Claim | None, Children | None]:
    """Return what `value` claims if it is a tensor, and what else may hold tensors."""
    match value:
        case Object():
            return _look_object(value)
        case list() | tuple():
            return None, enumerate(value) if value else None
        case Dict():
            return None, _pairs(value.items)
        case Set():
            return None, enumerate(value.elements)
        case PersistentId():
            return claim_storage(value), None
    return None, None


def _look_object(value: Object) -> tuple[Claim | None, Children | None]:
    more: list[Children] = []
    for _ in range(MAX_WRAPPERS):
        more += _contents(value)
        function = _torch_function(value)
        if function not in _WRAPPERS:
            break
        match function, value.arguments:
            case "_rebuild_parameter" | "_rebuild_device_tensor_from_cpu_tensor", (Object() as value, *_):
                continue
            case "_rebuild_parameter_with_state", (Object() as value, _, _, state):
                more.append(_attributes(state))
                continue
            case "_rebuild_from_type_v2" | "_rebuild_from_type", (inner, _, tuple(arguments), state):
                more.append(_attributes(state))
                value = Object(inner, arguments)
                continue
        break
    claim, children = _look_function(_torch_function(value), value.arguments)
    if children is not None:
        more.insert(0, children)
    return claim, chain.from_iterable(more) if more else None


_WRAPPERS = {
    "_rebuild_parameter",
    "_rebuild_device_tensor_from_cpu_tensor",
    "_rebuild_parameter_with_state",
    "_rebuild_from_type_v2",
    "_rebuild_from_type",
}


def _torch_function(value: Object) -> str:
    constructor = value.constructor
    if isinstance(constructor, Global) and constructor.module.startswith("torch."):
        return constructor.name
    return ""


def _look_function(name: str, arguments: tuple[object, ...]) -> tuple[Claim | None, Children | None]:
    """Return the claim of torch's rebuild function `name`, and what else `arguments` hold (see torch/_utils.py)."""
    match name, arguments:
        case "_rebuild_tensor_v2", (storage, offset, size, stride, _, _, *rest):
            return claim_tensor(storage, offset, size, stride, raw=_has_bits(rest)), None
        case "_rebuild_tensor_v3", (storage, offset, size, stride, _, _, dtype, *rest):
            return claim_tensor(storage, offset, size, stride, dtype, raw=_has_bits(rest)), None
        case "_rebuild_tensor", (storage, offset, size, stride):
            return claim_tensor(storage, offset, size, stride), None
        case "_rebuild_qtensor", (storage, offset, size, stride, (_, scales, zeros, *_), *_):
            claim = claim_tensor(storage, offset, size, stride, raw=True)
            return claim, (("scales", scales), ("zero_points", zeros))
        case "_rebuild_sparse_tensor", (Global(name=layout) | Object(arguments=(str(layout),)), tuple(data)):
            # "sparse_csr" or "torch.sparse_csr"; what follows the named ones is the shape
            names = _SPARSE.get(layout.removeprefix("torch."), ("indices", "values"))
            return None, zip(names, data, strict=False)
        case "_rebuild_nested_tensor", (_, _, _, _):
            return None, zip(("values", "sizes", "strides", "offsets"), arguments, strict=True)
    return None, enumerate(arguments) if arguments else None


_SPARSE = {
    **dict.fromkeys(("sparse_csr", "sparse_bsr"), ("crow_indices", "col_indices", "values")),
    **dict.fromkeys(("sparse_csc", "sparse_bsc"), ("ccol_indices", "row_indices", "values")),
}


def _has_bits(rest: list[object]) -> bool:
    return bool(rest) and has_bits(rest[0])


def _contents(value: Object) -> list[Children]:
    """Return what was put into an object after it was made."""
    contents: list[Children] = []
    if value.keywords is not None:
        contents.append(_pairs(value.keywords.items))
    if value.elements is not None:
        contents.append(enumerate(value.elements))
    if value.items is not None:
        contents.append(_pairs(value.items))
    if value.state is not None:
        contents.append(_attributes(value.state))
    return contents


def _attributes(state: object) -> Children:
    """Return the attributes that an object's state gives it: a dict, or a pair of dicts where it has slots."""
    match state:
        case Dict():
            return _pairs(state.items)
        case (Dict() | None as first, Dict() | None as second):
            return chain(_pairs(first.items if first else []), _pairs(second.items if second else []))
    return (("state", state),)


def _pairs(items: list[object]) -> Children:
    turns = iter(items)
    return zip(turns, turns, strict=True)


def _key(key: object) -> Key:
    match key:
        case str():
            return key if key.isascii() or _is_unicode(key) else OtherKey(ascii(key[:MAX_KEY_TEXT])[:MAX_KEY_TEXT])
        case bool():
            return OtherKey(str(key))
        case int() if key.bit_length() < 64:
            return key
        case tuple():
            return OtherKey(f"({', '.join(_key_text(one) for one in key[:MAX_KEY_TEXT])})"[:MAX_KEY_TEXT])
    return OtherKey(_key_text(key))


def _key_text(key: object) -> str:
    """Return a text for a key, of bounded length, without looking into containers."""
    match key:
        case None | bool() | float():
            return repr(key)
        case int():
            return str(key) if key.bit_length() < 64 else f"int of {key.bit_length()} bits"
        case str() | bytes():
            return ascii(key[:MAX_KEY_TEXT])[:MAX_KEY_TEXT]
        case Global():
            return f"{key.module}.{key.name}"[:MAX_KEY_TEXT]
    return type(key).__name__


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
