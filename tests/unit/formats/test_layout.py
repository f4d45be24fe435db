from __future__ import annotations

import pytest

from theta_daemon.errors import LayoutError
from theta_daemon.formats.layout import (
    LITERAL_LIMIT,
    OPAQUE_CHUNK,
    ChecksumOp,
    CombinedChecksumOp,
    Group,
    GroupOp,
    Layout,
    LiteralOp,
    Op,
    OpaqueOp,
    RegionEndOp,
    RegionStartOp,
    check,
    size,
)
from theta_daemon.formats.parts import Role

W = Group(("w",), "float32", (2, 3))
TRANSPOSED = Group(("t",), "int16", (4, 2), axes=(1, 0))
TIED = Group(("head", "w"), "float32", (2, 3), role=Role.ALIAS, owner=0)
SLICE = Group(("head", "slice"), "float32", (2,), role=Role.VIEW, owner=0)
ORPHAN = Group(("expanded",), "float32", (1 << 40,), role=Role.VIEW)

GOOD = Layout(
    "torch-zip",
    (W, TRANSPOSED, TIED, SLICE, ORPHAN),
    (
        LiteralOp(b"head"),
        RegionStartOp(),
        GroupOp(1),
        RegionEndOp(),
        ChecksumOp(0),
        OpaqueOp(5),
        RegionStartOp(),
        LiteralOp(b"x"),
        CombinedChecksumOp(),
        RegionEndOp(),
        GroupOp(0),
        ChecksumOp(1),
        ChecksumOp(0),
    ),
)


def groups(*changed: Group) -> Layout:
    return GOOD.replace(groups=(*changed, *GOOD.groups[len(changed) :]))


def ops(*new: Op) -> Layout:
    return Layout("torch-zip", (W,), new)


def test_size_is_that_of_the_file() -> None:
    assert size(GOOD) == 4 + 16 + 4 + 5 + 1 + 20 + 24 + 4 + 4


def test_a_well_formed_layout_passes() -> None:
    check(GOOD)
    check(Layout("x", (), ()))
    check(Layout("x", (), (LiteralOp(bytes(LITERAL_LIMIT)), OpaqueOp(OPAQUE_CHUNK), LiteralOp(b"1"))))


def test_an_alias_may_stand_before_its_owner() -> None:
    check(Layout("x", (TIED.replace(owner=1), W), (GroupOp(1),)))


@pytest.mark.parametrize("name", ["", "Torch", "-x", "torch zip", "x" * 65, "torch\n", "../x", "é"])
def test_the_format_is_a_plain_name(name: str) -> None:
    with pytest.raises(LayoutError, match="no name of a format"):
        check(GOOD.replace(format=name))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ([W.replace(name=())], "no name"),
        ([W.replace(name=("t",))], "same name"),
        ([W.replace(name=("head",))], "begins with it"),
        ([W.replace(dtype="float31")], "unknown dtype 'float31'"),
        ([W.replace(shape=(-1,))], "negative"),
        ([W.replace(shape=(1 << 61, 1 << 61))], "larger than any file"),
        ([W.replace(shape=(1,) * 65)], "rank 65"),
        ([W.replace(dtype="float4_e2m1fn", shape=(3,))], "do not end on a byte"),
        ([W.replace(axes=(0,))], "no order of 2 axes"),
        ([W.replace(axes=(1, 1))], "no order of 2 axes"),
        ([W.replace(axes=(1, 2))], "no order of 2 axes"),
        ([W.replace(dtype="float4_e2m1fn", axes=(1, 0))], "cannot be transposed"),
        ([W.replace(owner=1)], "an owner names another owner"),
        ([W, TRANSPOSED, TIED.replace(owner=None)], "names no owner"),
        ([W, TRANSPOSED, TIED.replace(owner=5)], "group 5"),
        ([W, TRANSPOSED, TIED.replace(owner=-5)], "group -5"),
        ([W, TRANSPOSED, TIED.replace(owner=3)], "group 3"),
        ([W, TRANSPOSED, TIED, SLICE.replace(owner=2)], "group 2"),
        ([W, TRANSPOSED, TIED.replace(owner=1)], "differs from its owner"),
        ([W, TRANSPOSED, TIED.replace(shape=(3, 2))], "differs from its owner"),
        ([W, TRANSPOSED, TIED.replace(dtype="int32")], "differs from its owner"),
        ([W, TRANSPOSED, TIED.replace(axes=(1, 0))], "differs from its owner"),
        ([W, TRANSPOSED, TIED, SLICE.replace(shape=(-1,))], "negative"),
        ([W, TRANSPOSED, TIED, SLICE.replace(dtype="object")], "unknown dtype"),
    ],
)
def test_groups_that_do_not_fit_are_refused(changed: list[Group], message: str) -> None:
    with pytest.raises(LayoutError, match=message):
        check(groups(*changed))


def test_the_error_names_the_group() -> None:
    with pytest.raises(LayoutError, match="parameter 'head/w'"):
        check(groups(W, TRANSPOSED, TIED.replace(owner=1)))


@pytest.mark.parametrize(
    ("new", "message"),
    [
        ([LiteralOp(b""), GroupOp(0)], "literal of 0 bytes"),
        ([LiteralOp(bytes(LITERAL_LIMIT + 1)), GroupOp(0)], "literal of 1048577 bytes"),
        ([LiteralOp(b"a"), LiteralOp(b"b"), GroupOp(0)], "not one run"),
        ([OpaqueOp(0), GroupOp(0)], "opaque chunk has 0"),
        ([OpaqueOp(OPAQUE_CHUNK + 1), GroupOp(0)], "opaque chunk has 4194305"),
        ([], "must have 1 holes"),
        ([GroupOp(0), GroupOp(0)], "must have 1 holes"),
        ([GroupOp(0), GroupOp(1)], "group 1, of only 1"),
        ([GroupOp(0), GroupOp(-1)], "group -1, of only 1"),
        ([RegionStartOp(), GroupOp(0)], "never ends"),
        ([RegionEndOp(), GroupOp(0)], "never started"),
        ([RegionStartOp(), RegionStartOp(), GroupOp(0)], "inside another"),
        ([RegionStartOp(), GroupOp(0), RegionEndOp(), RegionEndOp()], "never started"),
        ([RegionStartOp(), GroupOp(0), ChecksumOp(0), RegionEndOp()], "before that region's end"),
        ([GroupOp(0), ChecksumOp(0)], "before that region's end"),
        ([RegionStartOp(), GroupOp(0), RegionEndOp(), ChecksumOp(-1)], "before that region's end"),
        ([RegionStartOp(), GroupOp(0), RegionEndOp(), ChecksumOp(1)], "before that region's end"),
    ],
)
def test_operations_that_do_not_fit_are_refused(new: list[Op], message: str) -> None:
    with pytest.raises(LayoutError, match=message):
        check(ops(*new))


def test_an_alias_or_a_view_has_no_hole() -> None:
    with pytest.raises(LayoutError, match="must have 0 holes"):
        check(Layout("x", (W, TIED), (GroupOp(0), GroupOp(1))))
