"""Laws of the metadata file: one encoding, nothing lost, and no input that ends in anything but an answer."""

from __future__ import annotations

import json
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theta_daemon.errors import MetadataError, ThetaError, UnsupportedError
from theta_daemon.metadata import names, text
from theta_daemon.metadata.entries import LFS_VERSION, NO_HASH, Entry, FileEntry, Metadata, ObjectRef, Update

_hex = st.text("0123456789abcdef", min_size=64, max_size=64)
_sizes = st.integers(0, 2**63 - 1)
_tokens = st.text("abcdefghijklmnopqrstuvwxyz0123456789_-", min_size=1, max_size=12)
_formats = st.from_regex(r"[a-z0-9][a-z0-9-]{0,9}", fullmatch=True)
_refs = st.builds(ObjectRef, _hex, _sizes)
_digests_and_replays = st.one_of(
    st.just((None, ())), st.tuples(_hex, st.lists(st.builds(Update, _tokens, _hex, _sizes), max_size=3).map(tuple))
)


@st.composite
def _entries(draw: st.DrawFn) -> Entry:
    digest, replay = draw(_digests_and_replays)
    return Entry(
        shape=tuple(draw(st.lists(st.integers(0, 9), max_size=4))),
        dtype=draw(st.sampled_from(["float32", "bfloat16", "bool", "complex128"])),
        hash=draw(st.one_of(st.just(NO_HASH), st.tuples(*[st.integers(-(2**63), 2**63 - 1)] * 16))),
        version=draw(st.one_of(st.just(LFS_VERSION), st.text('!"#\\~azAZ/:', min_size=1, max_size=9))),
        oid=draw(_hex),
        size=draw(_sizes),
        update_type=draw(_tokens),
        last_commit=draw(st.one_of(st.none(), st.text("0123456789abcdef", min_size=40, max_size=40), _hex)),
        digest=digest,
        replay=replay,
    )


# Few and awkward texts, so that names collide and nest; the rest of Unicode too, lone surrogates included.
_keys = st.one_of(
    st.sampled_from(["theta_daemon", "theta_daemon~", "lfs_metadata", "tensor_metadata", "version", "", "a", "a~2"]),
    st.text(st.characters(), max_size=4),
    st.integers(0, 2),
)


@st.composite
def metadata(draw: st.DrawFn) -> Metadata:
    """Draw any metadata that the pipelines could make."""
    named = names.assign(draw(st.lists(st.lists(_keys, max_size=4), max_size=6)))
    entries = {name: draw(_entries()) for name in named}
    file = st.builds(FileEntry, _formats, _refs, st.lists(_refs, max_size=12).map(tuple))
    return Metadata(entries, draw(st.one_of(st.none(), file)))


@given(metadata())
def test_parse_undoes_serialize(value: Metadata) -> None:
    data = text.serialize(value)
    parsed = text.parse(data)
    assert parsed == value
    assert list(parsed.entries) == sorted(value.entries)
    assert text.serialize(parsed) == data
    assert text.kind(data) is text.Kind.METADATA


@given(metadata())
def test_serialize_writes_what_git_thetas_encoder_writes(value: Metadata) -> None:
    data = text.serialize(value)
    assert data == json.dumps(json.loads(data), indent=4).encode("ascii")


@given(metadata())
def test_serialize_does_not_depend_on_the_order_of_the_entries(value: Metadata) -> None:
    backwards = Metadata(dict(reversed(list(value.entries.items()))), value.file)
    assert text.serialize(backwards) == text.serialize(value)


@st.composite
def _damaged(draw: st.DrawFn) -> bytes:
    """Draw metadata of which a piece was flipped, lost, repeated or spelled in another way."""
    good = text.serialize(draw(metadata()))
    start = draw(st.integers(0, len(good)))
    end = draw(st.integers(start, min(len(good), start + 40)))
    kept = good[start:end]
    other = [
        b"{}",
        b"[]",
        b"null",
        b"0",
        b"NaN",
        b"{",
        b"}",
        b'"',
        b'": {',
        b"\\u0030",
        b" \r\n\t",
        kept.replace(b" ", b""),
    ]
    put = draw(st.one_of(st.binary(max_size=3), st.just(kept * 2), st.sampled_from(other)))
    return good[:start] + put + good[end:]


@given(_damaged())
def test_damaged_metadata_is_refused_or_means_what_it_says(damaged: bytes) -> None:
    """It is either an error of ours, or metadata that survives another round."""
    try:
        parsed = text.parse(damaged)
    except (MetadataError, UnsupportedError):
        return
    assert text.parse(text.serialize(parsed)) == parsed
    assert text.kind(damaged) is text.Kind.METADATA


_json = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-2, 2), st.just(1.5), st.sampled_from(["", "1", "a" * 64])),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(
            st.sampled_from(["lfs_metadata", "theta_daemon", "tensor_metadata", "version", "opaque", "1", "a"]),
            inner,
            max_size=4,
        ),
    ),
    max_leaves=20,
)


@given(_json)
def test_any_json_is_parsed_or_refused(tree: object) -> None:
    data = json.dumps(tree).encode()
    try:
        parsed = text.parse(data)
    except (MetadataError, UnsupportedError):
        return
    assert text.kind(data) is text.Kind.METADATA
    assert text.parse(text.serialize(parsed)) == parsed


@given(st.binary(max_size=300))
def test_any_bytes_have_a_kind(data: bytes) -> None:
    assert text.kind(data) in text.Kind
    assert text.kind(b"{" + data) in text.Kind


def _said(data: bytes) -> object:
    """Return what `parse` says of `data`: a value, with the order of its entries, or the error."""
    try:
        parsed = text.parse(data)
    except ThetaError as error:
        return type(error), str(error)
    return parsed, list(parsed.entries)


def _refuse(_text: str) -> NoReturn:
    raise ValueError("nothing is lifted")


@given(st.one_of(metadata().map(text.serialize), _damaged()), st.sampled_from([0, 1, 2]))
def test_the_short_way_and_the_long_way_say_the_same(data: bytes, spelling: int) -> None:
    if spelling:
        try:
            tree = json.loads(data)
        except ValueError:
            tree = None
        data = json.dumps(tree, indent=None if spelling == 1 else "\t", separators=(",", ": ")).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "lift", _refuse)
        long = _said(data)
    assert _said(data) == long


@given(st.one_of(metadata().map(text.serialize), _damaged(), st.binary(max_size=200)))
def test_read_is_kind_and_parse(data: bytes) -> None:
    kind = text.kind(data)
    if kind is not text.Kind.METADATA:
        assert text.read(data) is kind
        return
    try:
        parsed = text.parse(data)
    except ThetaError as error:
        with pytest.raises(type(error)) as caught:
            text.read(data)
        assert str(caught.value) == str(error)
        return
    assert text.read(data) == parsed
