"""The inert interpreter says what Python's pickles say, and does nothing of it."""

from __future__ import annotations

import collections
import fractions
import pickle
import pickletools
import struct
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theta_daemon.errors import CheckpointError
from theta_daemon.formats import pickle_reader
from theta_daemon.formats.pickle_reader import read_pickle
from theta_daemon.formats.pickle_values import Dict, Global, Object, PersistentId, Set

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(1 << 300), 1 << 300),
    st.floats(allow_nan=False),
    st.text(st.characters()),
    st.binary(),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner),
        st.lists(inner).map(tuple),
        st.dictionaries(SCALARS, inner),
        st.frozensets(SCALARS),
        st.sets(SCALARS),
    ),
    max_leaves=20,
)


def python(value: object) -> object:
    """Return `value` as Python's unpickler would have made it."""
    match value:
        case list():
            return [python(one) for one in value]
        case tuple():
            return tuple(python(one) for one in value)
        case Dict(items):
            return dict(zip(map(python, items[::2]), map(python, items[1::2]), strict=True))
        case Set(elements):
            return set(map(python, elements))
        case Object(Global(_, "set" | "frozenset"), (list(elements),)):
            return set(map(python, elements))
        case Object(Global("_codecs", "encode"), (str(text), "latin1")):
            return text.encode("latin1")
        case Object(Global("__builtin__", "bytes"), ()):
            return b""
        case _:
            assert value is None or isinstance(value, (bool, int, float, str, bytes)), value
            return value


@given(VALUES, st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_values_are_what_python_pickled(value: object, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    result = read_pickle(data)
    assert python(result.value) == value
    assert result.end == len(data)


def test_every_opcode_is_read_or_refused_by_name() -> None:
    refused = {"EXT1", "EXT2", "EXT4", "NEXT_BUFFER", "READONLY_BUFFER"}
    for opcode in pickletools.opcodes:
        code = opcode.code.encode("latin1")
        try:
            read_pickle(b"\x80\x05" + code + bytes(9))
        except CheckpointError as error:
            text = str(error)
        else:
            text = ""
        assert ("at 2 is not one that checkpoints hold" in text) == (opcode.name in refused), opcode.name


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (b"I12\n.", 12),
        (b"I01\n.", True),
        (b"I00\n.", False),
        (b"I-7\n.", -7),
        (b"L123456789012345678901234567890L\n.", 123456789012345678901234567890),
        (b"F1.5\n.", 1.5),
        (b"Fnan\n.", "nan"),
        (b"S'a\\n\\'b'\n.", "a\n'b"),
        (b'S"a"\r\n.', "a"),
        (b"U\x02ab.", "ab"),
        (b"U\x02\xff\xfe.", b"\xff\xfe"),
        (b"T\x02\0\0\0ab.", "ab"),
        (b"Va\\u00e9\n.", "aé"),
        (b"J\xff\xff\xff\xff.", -1),
        (b"M\x01\x02.", 513),
        (b"\x8a\x00.", 0),
        (b"\x8a\x02\x00\x80.", -32768),
        (b"\x8b\x02\0\0\0\x00\x80.", -32768),
        (b"G" + struct.pack(">d", -2.5) + b".", -2.5),
        (b"\x8d\x01" + bytes(7) + b"a.", "a"),
        (b"X\x03\0\0\0\xed\xa0\x80.", "\ud800"),
        (b"\x96\x01" + bytes(7) + b"a.", b"a"),
        (b"\x8e\x01" + bytes(7) + b"a.", b"a"),
        (b"(K\x01K\x02l.", [1, 2]),
        (b"(K\x01K\x02t.", (1, 2)),
        (b"K\x01\x85.", (1,)),
        (b"K\x01K\x02\x86.", (1, 2)),
        (b"K\x01K\x02K\x03\x87.", (1, 2, 3)),
        (b"]K\x01a(K\x02K\x03e.", [1, 2, 3]),
        (b"K\x012\x86.", (1, 1)),
        (b"K\x01K\x020.", 1),
        (b"K\x01(K\x02K\x031.", 1),
        (b"K\x01(0.", 1),
        (b"K\x01p5\nK\x02g5\n\x86\x86.", (1, (2, 1))),
        (b"K\x01q\xff0h\xff.", 1),
        (b"K\x01r\xff\xff\xff\xff0j\xff\xff\xff\xff.", 1),
        (b"K\x07\x940h\x00.", 7),
        (b"\x80\x04\x95\x02\0\0\0\0\0\0\0K\x01.", 1),
    ],
)
def test_opcodes(data: bytes, value: object) -> None:
    result = read_pickle(data)
    assert str(result.value) == "nan" if value == "nan" else result.value == value
    assert type(result.value) is (float if value == "nan" else type(value))
    assert result.end == len(data)


def test_a_dict_keeps_pairs_in_order_and_keys_that_come_twice() -> None:
    result = read_pickle(b"(K\x01K\x02d]K\x03s(K\x01K\x05K\x01K\x06u.").value
    assert isinstance(result, Dict)
    assert result.items == [1, 2, [], 3, 1, 5, 1, 6]


def test_a_set_keeps_elements_that_cannot_be_hashed() -> None:
    result = read_pickle(b"\x8f(]K\x01K\x01\x90.").value
    assert isinstance(result, Set)
    assert result.elements == [[], 1, 1]


def test_a_pickle_ends_at_its_stop() -> None:
    result = read_pickle(b"junkK\x01.K\x02.", 4)
    assert result.value == 1
    assert result.end == 7


class Tripwire:
    """Its pickle calls `trip`, and its state would set an attribute."""

    tripped = False

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...], dict[str, int]]:
        return Tripwire.trip, ("now",), {"state": 1}

    @staticmethod
    def trip(_: str) -> Tripwire:
        Tripwire.tripped = True
        return Tripwire()


def test_nothing_is_called() -> None:
    result = read_pickle(pickle.dumps(Tripwire(), 2)).value
    assert isinstance(result, Object)
    assert result.arguments == ("now",)
    assert isinstance(result.state, Dict)
    assert result.state.items == ["state", 1]
    assert not Tripwire.tripped


def test_no_global_is_resolved() -> None:
    result = read_pickle(b"cthis.is.no.module\nand no name\n.").value
    assert isinstance(result, Global)
    assert (result.module, result.name) == ("this.is.no.module", "and no name")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_objects_note_what_was_done_to_them(protocol: int) -> None:
    ordered = read_pickle(pickle.dumps(collections.OrderedDict(a=1, b=2), protocol)).value
    assert isinstance(ordered, Object)
    assert isinstance(ordered.constructor, Global)
    assert ordered.constructor.name == "OrderedDict"
    assert ordered.items == ["a", 1, "b", 2]
    queue = read_pickle(pickle.dumps(collections.deque([1, 2]), protocol)).value
    assert isinstance(queue, Object)
    assert queue.elements == [1, 2]
    fraction = read_pickle(pickle.dumps(fractions.Fraction(1, 3), protocol)).value
    assert isinstance(fraction, Object)
    assert fraction.arguments == (1, 3) or fraction.arguments == ("1/3",)


@pytest.mark.parametrize("data", [b"(cm\nC\nK\x01K\x02o.", b"(K\x01K\x02im\nC\n.", b"cm\nC\nK\x01K\x02\x86\x81."])
def test_every_way_to_make_an_object(data: bytes) -> None:
    made = read_pickle(data).value
    assert isinstance(made, Object)
    assert isinstance(made.constructor, Global)
    assert (made.constructor.module, made.constructor.name, made.arguments) == ("m", "C", (1, 2))


def test_keywords_of_a_class() -> None:
    made = read_pickle(b"cm\nC\n)}K\x01K\x02s\x92.").value
    assert isinstance(made, Object)
    assert made.keywords is not None
    assert made.keywords.items == [1, 2]


def test_a_second_state_is_kept_beside_the_first() -> None:
    made = read_pickle(b"cm\nC\n)\x81K\x01bK\x02b.").value
    assert isinstance(made, Object)
    assert made.state == (1, 2)


def test_a_global_by_two_strings() -> None:
    made = read_pickle(b"\x8c\x01m\x8c\x01n\x93.").value
    assert isinstance(made, Global)
    assert (made.module, made.name) == ("m", "n")


def test_persistent_ids_in_order() -> None:
    result = read_pickle(b"PK1\n0(K\x02K\x03tQ.")
    assert isinstance(result.value, PersistentId)
    assert [one.value for one in result.persistent] == ["K1", (2, 3)]
    assert result.persistent[1] is result.value


def test_what_is_shared_stays_shared() -> None:
    shared: list[object] = []
    first, second = python_list(read_pickle(pickle.dumps([shared, shared])).value)
    assert first is second


def test_cycles() -> None:
    cyclic: list[object] = []
    cyclic.append(cyclic)
    result = python_list(read_pickle(pickle.dumps(cyclic)).value)
    assert result[0] is result


def python_list(value: object) -> list[object]:
    assert isinstance(value, list)
    return value


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "it ends early"),
        (b".", "takes from an empty stack"),
        (b"K", "it ends early"),
        (b"M\x01", "it ends early"),
        (b"G\0", "not well formed"),
        (b"\x80\x06N.", "protocol 6 is unknown"),
        (b"\x95\xff\xff\xff\xff\xff\xff\xff\xffN.", "a frame is longer"),
        (b"X\x05\0\0\0ab.", "a value of 5 bytes has only 3"),
        (b"X\x01\0\0\0\xff.", "not well formed"),
        (b"T\xff\xff\xff\xff", "a value of -1 bytes"),
        (b"\x8b\xff\xff\xff\xff", "a value of -1 bytes"),
        (b"I12", "not well formed"),
        (b"Ix\n.", "not well formed"),
        (b"I" + b"1" * 1025 + b"\n.", "an integer has 1025 digits"),
        (b"Np" + b"1" * 5000 + b"\n.", "an integer has 5000 digits"),
        (b"Fx\n.", "not well formed"),
        (b"Sab\n.", "a string has no quotes"),
        (b"S'\n.", "a string has no quotes"),
        (b"S'\\x'\n.", "not well formed"),
        (b"Nh\x07.", "a memo entry that it never made"),
        (b"t.", "takes from an empty stack"),
        (b"}(K\x01u.", "a key without a value"),
        (b"(K\x01d.", "a key without a value"),
        (b"NK\x01a.", "adds elements to a NoneType"),
        (b")(K\x01e.", "adds elements to a tuple"),
        (b"]K\x01K\x02s.", "sets items of a list"),
        (b"]K\x01b.", "sets attributes of a list"),
        (b"cm\nC\n]R.", "arguments that are no tuple"),
        (b"cm\nC\n)]\x92.", "keywords that are no dict"),
        (b"NN\x93.", "something other than strings"),
        (b"(o.", "takes from an empty stack"),
        (b"\x82\x01.", "opcode 0x82 at 0"),
        (b"N\x97.", "opcode 0x97 at 1"),
        (b"\xff", "opcode 0xff at 0"),
    ],
)
def test_damage_is_named(data: bytes, reason: str) -> None:
    with pytest.raises(CheckpointError) as caught:
        read_pickle(data)
    assert str(caught.value).startswith("the pickle is damaged: ")
    assert reason in str(caught.value)


def test_the_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickle_reader, "_STRIDE", 10)
    monkeypatch.setattr(pickle_reader, "MAX_OPERATIONS", 100)
    monkeypatch.setattr(pickle_reader, "MAX_MEMO", 15)
    assert read_pickle(b"N" * 90 + b".").value is None
    with pytest.raises(CheckpointError, match="more operations than any real one"):
        read_pickle(b"N" * 100 + b".")
    with pytest.raises(CheckpointError, match="its memo is larger"):
        read_pickle(b"N" + b"\x94" * 30 + b".")
    monkeypatch.setattr(pickle_reader, "MAX_CONTAINERS", 5)
    assert read_pickle(b"]" * 5 + b".").value == []
    with pytest.raises(CheckpointError, match="more objects than its length explains"):
        read_pickle(b"]" * 6 + b".")
