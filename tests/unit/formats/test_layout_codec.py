from __future__ import annotations

import time

import msgpack
import pytest

from tests.unit.formats.test_layout import GOOD, W
from theta_daemon.errors import LayoutError
from theta_daemon.formats.layout import GroupOp, Layout, LiteralOp
from theta_daemon.formats.layout_codec import decode, encode


def test_a_layout_comes_back() -> None:
    data = encode(GOOD)
    assert decode(data) == GOOD
    assert decode(memoryview(data)) == GOOD


def test_the_empty_layout_comes_back() -> None:
    empty = Layout("safetensors", (), ())
    assert decode(encode(empty)) == empty


@pytest.mark.parametrize(
    "layout",
    [
        GOOD.replace(format="safetensors"),
        GOOD.replace(groups=(W.replace(name=("v",)), *GOOD.groups[1:])),
        GOOD.replace(groups=(W.replace(name=("w", "")), *GOOD.groups[1:])),
        GOOD.replace(ops=(LiteralOp(b"hea\0"), *GOOD.ops[1:])),
        Layout("safetensors", (W,), (GroupOp(0),)),
    ],
)
def test_different_layouts_have_different_encodings(layout: Layout) -> None:
    assert encode(layout) != encode(GOOD)
    assert decode(encode(layout)) == layout


def test_equal_layouts_have_equal_encodings() -> None:
    assert encode(GOOD.replace()) == encode(GOOD)


@pytest.mark.parametrize("name", ["\ud800", "a\udfffb", "\udc00\ud800", "\U0001f600\ud800"])
def test_a_name_may_have_lone_surrogates(name: str) -> None:
    layout = Layout("x", (W.replace(name=(name,)),), (GroupOp(0),))
    assert decode(encode(layout)) == layout


def test_a_name_has_no_pair_of_surrogates() -> None:
    with pytest.raises(LayoutError, match="no encoding"):
        encode(Layout("x", (W.replace(name=("a\ud83d\ude00",)),), (GroupOp(0),)))


def test_a_size_must_have_64_bits() -> None:
    with pytest.raises(LayoutError, match="no encoding"):
        encode(Layout("x", (W.replace(shape=(0, 1 << 64)),), (GroupOp(0),)))


@pytest.mark.parametrize(("version", "advice"), [(0, "another commit or clone"), (2, "use a newer theta-daemon")])
def test_another_version_says_what_to_do(version: int, advice: str) -> None:
    items = msgpack.unpackb(encode(GOOD))
    items[1] = version
    with pytest.raises(LayoutError, match=f"version {version}, known is 1; .*{advice}"):
        decode(msgpack.packb(items))


def test_thousands_of_groups_are_small_and_quick() -> None:
    groups = tuple(
        W.replace(name=(f"model.layers.{index // 9}.self_attn.projection_{index % 9}.weight",), shape=(4096, 4096))
        for index in range(7400)
    )
    layout = Layout("safetensors", groups, (LiteralOp(b"{}"), *map(GroupOp, range(7400))))
    data = encode(layout)
    assert len(data) < 700_000
    started = time.process_time()
    assert decode(data) == layout
    assert time.process_time() - started < 1.0  # some 30 ms; a quadratic step would take minutes
