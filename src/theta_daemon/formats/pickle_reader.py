"""The inert pickle interpreter: what a pickle says, without doing any of it.

It reads protocols 0 to 5 (Python's pickletools documents the opcodes), resolves no global, calls, hashes and compares
nothing, and never recurses. A pickle cannot amplify itself: an operation makes at most one small object, or takes over
bytes that are really there. Time and memory are bounded by the pickle's length and by three constants:

* MAX_OPERATIONS in all,
* MAX_CONTAINERS lists, tuples, dicts, sets and objects, and no more than one for two bytes (no pickler writes more),
* MAX_MEMO entries in the memo.

Far above them: the pickle of 1000 tensors with AdamW's state has 135 thousand operations and 30 thousand containers.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from theta_daemon.errors import CheckpointError
from theta_daemon.formats import pickle_containers, pickle_scalars, pickle_stack
from theta_daemon.formats.pickle_machine import Machine, PickleError, Stop
from theta_daemon.formats.pickle_values import Pickle

if TYPE_CHECKING:
    from theta_daemon.formats.pickle_machine import Handler

MAX_OPERATIONS = 1 << 25
MAX_CONTAINERS = 1 << 22
MAX_MEMO = 1 << 22

_SPARE_CONTAINERS = 4096  # on top of one for two bytes, for small pickles written without a memo
_STRIDE = 1 << 14  # operations between two looks at the limits that nothing counts

# what the handlers raise where a damaged pickle takes from an empty stack, ends early, or spells a number wrongly
_DAMAGE = (IndexError, KeyError, ValueError, OverflowError, struct.error)


def read_pickle(data: bytes, start: int = 0) -> Pickle:
    """Return the pickle that begins at `start`; bytes behind its STOP are left alone.

    Raises CheckpointError where it is damaged, ends early, uses an opcode that is not read (extension registry,
    out-of-band buffers), or exceeds a limit.
    """
    machine = Machine(data, min(MAX_CONTAINERS, (len(data) - start) // 2 + _SPARE_CONTAINERS))
    try:
        end = _run(machine, start)
    except PickleError as error:
        raise CheckpointError(f"the pickle is damaged: {error}") from error
    except _DAMAGE as error:
        raise CheckpointError(f"the pickle is damaged: {_reason(error)}") from error
    return Pickle(machine.value, machine.persistent, end)


def _run(machine: Machine, at: int) -> int:
    data, handlers = machine.data, _HANDLERS
    try:
        for _ in range(0, MAX_OPERATIONS, _STRIDE):
            for _ in range(_STRIDE):
                at = handlers[data[at]](machine, at + 1)
            if len(machine.memo) > MAX_MEMO:
                raise PickleError("its memo is larger than any real one's")
    except Stop as stop:
        return stop.at
    raise PickleError("it has more operations than any real one")


def _reason(error: Exception) -> str:
    if isinstance(error, KeyError):
        return "it asks for a memo entry that it never made"
    if isinstance(error, IndexError):
        return "it ends early, or takes from an empty stack"
    return "a number or a string in it is not well formed"


def _unread(m: Machine, at: int) -> int:
    raise PickleError(f"opcode 0x{m.data[at - 1]:02x} at {at - 1} is not one that checkpoints hold")


_TABLE = pickle_stack.opcode.handlers | pickle_scalars.opcode.handlers | pickle_containers.opcode.handlers
_HANDLERS: tuple[Handler, ...] = tuple(_TABLE.get(code, _unread) for code in range(256))
