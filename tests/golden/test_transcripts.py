"""Replays protocol/transcripts: from git's side against the session, and from the filter's against the client.

Each is replayed whole, byte by byte, and cut at random; the bytes that come out must be the transcript's, and none
of them may come too early.
"""

from __future__ import annotations

import codecs
import itertools
from collections.abc import Iterable, Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import transcript
from tests.support.transcript import Transcript, Turn
from theta_daemon.daemon.channel import Channel
from theta_daemon.daemon.report import Reporter
from theta_daemon.daemon.serve import serve
from theta_daemon.errors import CheckpointError, ProtocolError
from theta_daemon.formats.source import Readable
from theta_daemon.wire.client import FilterClient
from theta_daemon.wire.endpoint import Endpoint
from theta_daemon.wire.events import (
    NEED_DATA,
    Agreed,
    Available,
    Closed,
    Content,
    ContentEnd,
    FinalStatus,
    ListAvailable,
    Outcome,
    Reply,
    Request,
    Status,
)
from theta_daemon.wire.session import FilterSession
from theta_daemon.wire.states import SPEAKER

TRANSCRIPTS = {name: transcript.load(name) for name in transcript.NAMES}
SHORT = [name for name, loaded in TRANSCRIPTS.items() if len(loaded.from_git) < 4096]
# What only a later git would send, and what the client (which sends as git does) therefore cannot.
NOT_SENT_BY_GIT = {
    "handshake-clean-only",
    "handshake-old-git",
    "handshake-several-versions",
    "handshake-unknown-capabilities",
    "empty-packets",
    "lengths-in-either-case",
    "lines-without-lf",
    "list-without-delay",
    "delay-not-offered",
    "unknown-keys",
    "unknown-commands",
}
SENT_BY_GIT = [name for name, loaded in TRANSCRIPTS.items() if loaded.exit_code == 0 and name not in NOT_SENT_BY_GIT]
# The daemon itself aborts nothing; everything else it must do as the transcripts say.
SERVED = [name for name in TRANSCRIPTS if name not in ("abort", "late-abort")]


def cut(data: bytes, size: int) -> list[bytes]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def test_there_are_transcripts() -> None:
    assert len(TRANSCRIPTS) > 50


@pytest.mark.parametrize("name", TRANSCRIPTS)
def test_whole(name: str) -> None:
    play_git(TRANSCRIPTS[name], [TRANSCRIPTS[name].from_git])


@pytest.mark.parametrize("name", SHORT)
def test_byte_by_byte(name: str) -> None:
    play_git(TRANSCRIPTS[name], cut(TRANSCRIPTS[name].from_git, 1))


@pytest.mark.parametrize("name", sorted(set(TRANSCRIPTS) - set(SHORT)))
@pytest.mark.parametrize("size", [3, 4096, 65516, 65520, 65521])
def test_cut_in_equal_parts(name: str, size: int) -> None:
    play_git(TRANSCRIPTS[name], cut(TRANSCRIPTS[name].from_git, size))


@settings(max_examples=200)
@given(st.sampled_from(sorted(TRANSCRIPTS)), st.data())
def test_cut_at_random(name: str, data: st.DataObject) -> None:
    wire = TRANSCRIPTS[name].from_git
    play_git(TRANSCRIPTS[name], cut_somewhere(wire, data))


@pytest.mark.parametrize("name", SENT_BY_GIT)
def test_client_whole(name: str) -> None:
    play_filter(TRANSCRIPTS[name], [TRANSCRIPTS[name].from_filter])


@pytest.mark.parametrize("name", sorted(set(SENT_BY_GIT) & set(SHORT)))
def test_client_byte_by_byte(name: str) -> None:
    play_filter(TRANSCRIPTS[name], cut(TRANSCRIPTS[name].from_filter, 1))


@settings(max_examples=100)
@given(st.sampled_from(SENT_BY_GIT), st.data())
def test_client_cut_at_random(name: str, data: st.DataObject) -> None:
    play_filter(TRANSCRIPTS[name], cut_somewhere(TRANSCRIPTS[name].from_filter, data))


@pytest.mark.parametrize("name", SERVED)
@pytest.mark.parametrize("size", [1 << 20, 7])
def test_served(name: str, size: int) -> None:
    loaded = TRANSCRIPTS[name]
    channel = ScriptedChannel(loaded, size)
    assert serve(channel, Rot13(), Reporter(descriptor=-1)) == loaded.exit_code
    assert channel.written == loaded.from_filter


def cut_somewhere(wire: bytes, data: st.DataObject) -> list[bytes]:
    places = data.draw(st.lists(st.integers(0, len(wire)), max_size=20).map(sorted))
    edges = [0, *places, len(wire)]
    return [wire[start:end] for start, end in itertools.pairwise(edges) if start < end]


def play_git(loaded: Transcript, chunks: list[bytes]) -> None:
    """Feed git's bytes to a session, answer as the filter did, and compare everything that comes out."""
    offers_delay = b"capability=delay\n" in loaded.from_filter
    session = FilterSession(("clean", "smudge", "delay") if offers_delay else ("clean", "smudge"))
    answers = (answer(turn) for turn in loaded.turns[4:] if not turn.from_git)
    heard: list[object] = []
    written = pump(session, loaded, chunks, answers, heard)
    if loaded.exit_code == 0:
        assert heard == said_by_git(loaded)
        assert session.next_event() == Closed()
    else:
        assert ContentEnd() not in heard, "a broken file was taken for a whole one"
    assert written == loaded.from_filter


def play_filter(loaded: Transcript, chunks: list[bytes]) -> None:
    """Feed the filter's bytes to a client that asks as git did, and compare everything that comes out."""
    client = FilterClient(("clean", "smudge", "delay"))
    questions = (question(turn) for turn in loaded.turns[4:] if turn.from_git)
    heard: list[object] = []
    written = pump(client, loaded, chunks, questions, heard)
    assert written == loaded.from_git
    expected: list[object] = [Agreed(client.agreed)]
    for turn in loaded.turns[4:]:
        if not turn.from_git:
            expected += merged(answer(turn))
    assert heard == expected


def pump(
    end: FilterSession | FilterClient,
    loaded: Transcript,
    chunks: list[bytes],
    to_say: Iterator[Iterable[object]],
    heard: list[object],
) -> bytes:
    """Run one end until its bytes are used up; return what it sent. A refusal must come where the filter exits 1."""
    plays_git = isinstance(end, FilterClient)
    feed = iter(chunks)
    written = bytearray()
    fed = 0
    try:
        while True:
            if SPEAKER.get(end.state) is end.side:
                for event in next(to_say, ()):
                    end.send(event)  # type: ignore[arg-type]
                if SPEAKER.get(end.state) is end.side:
                    return bytes(written + taken(end))
            event = end.next_event()
            written += taken(end)
            assert len(written) <= loaded.sent_before(plays_git, fed)
            if event is NEED_DATA:
                chunk = next(feed, b"")
                fed += len(chunk)
                end.receive_data(bytearray(chunk))
            elif isinstance(event, Content) and heard and isinstance(heard[-1], Content):
                heard[-1] = Content(bytes(heard[-1].data) + bytes(event.data))
            elif isinstance(event, Content):
                heard.append(Content(bytes(event.data)))
            elif isinstance(event, Closed):
                return bytes(written + taken(end))
            else:
                heard.append(event)
    except ProtocolError:
        assert loaded.exit_code == 1
        with pytest.raises(ProtocolError):
            end.next_event()
        return bytes(written + taken(end))


def taken(end: Endpoint) -> bytes:
    return b"".join(end.data_to_send())


def question(turn: Turn, *, delay: bool = True) -> list[Request | ListAvailable | Content | ContentEnd]:
    """Return git's turn as events; without `delay`, nothing can be delayed whatever git says."""
    if not (lists := turn.lists()):
        return []  # the end
    pairs = dict(line.removesuffix(b"\n").split(b"=", 1) for line in lists[0] if b"=" in line)
    if pairs[b"command"] == b"list_available_blobs":
        return [ListAvailable()]
    text = {key: pairs[key].decode() if key in pairs else None for key in (b"ref", b"treeish", b"blob")}
    request = Request(
        pairs[b"command"].decode(),
        pairs.get(b"pathname", b""),
        text[b"ref"],
        text[b"treeish"],
        text[b"blob"],
        delay and pairs.get(b"can-delay") == b"1",
    )
    if len(lists) == 1:
        return [request]
    return [request, *(Content(part) for part in lists[1]), ContentEnd()]


def answer(turn: Turn) -> list[Reply]:
    """Return the filter's turn as events."""
    lists = [[line.removesuffix(b"\n") for line in lines] for lines in turn.lists()]
    if len(lists) == 2:
        return [Available(tuple(line.removeprefix(b"pathname=") for line in lists[0]))]
    status = Status(Outcome(lists[0][0].removeprefix(b"status=").decode()))
    if len(lists) == 1:
        return [status]
    _, content, last = turn.lists()
    final = FinalStatus(None)
    if last == [b"status=error\n"]:
        final = FinalStatus(Outcome.ERROR)
    elif last == [b"status=abort\n"]:
        final = FinalStatus(Outcome.ABORT)
    return [status, *(Content(part) for part in content), ContentEnd(), final]


def said_by_git(loaded: Transcript) -> list[object]:
    delay = b"capability=delay\n" in loaded.from_filter
    return [event for turn in loaded.turns[4:] if turn.from_git for event in merged(question(turn, delay=delay))]


def merged(events: Iterable[object]) -> list[object]:
    """Join the content, and leave out what is empty: how it is divided means nothing."""
    result: list[object] = []
    for event in events:
        if isinstance(event, Content) and result and isinstance(result[-1], Content):
            result[-1] = Content(bytes(result[-1].data) + bytes(event.data))
        elif not isinstance(event, Content) or event.data:
            result.append(event)
    return result


class ScriptedChannel(Channel):
    """A channel that git's bytes come from in parts of `size`, and that checks that no answer comes too early."""

    def __init__(self, loaded: Transcript, size: int) -> None:
        self._loaded = loaded
        self._size = size
        self._fed = 0
        self._buffer = memoryview(bytearray(size))
        self.written = bytearray()

    def scatter(self, views: Sequence[memoryview]) -> int:
        part = memoryview(self._loaded.from_git)[self._fed :][: min(self._size, sum(map(len, views)))]
        self._fed += len(part)
        left = part
        for view in views:
            view[: len(left)] = left[: len(view)]
            left = left[len(view) :]
        return len(part)

    def write(self, pieces: Iterable[bytes | bytearray | memoryview]) -> None:
        self.written += b"".join(pieces)
        assert len(self.written) <= self._loaded.sent_before(False, self._fed)


class Rot13:
    """The example filter of protocol/filter-process.md."""

    def __init__(self) -> None:
        self._waiting: dict[bytes, bytes] = {}
        self._offered: dict[bytes, bytes] = {}

    def clean(self, path: bytes, content: Readable) -> Iterator[bytes]:
        return turned(path, read_all(content))

    def smudge(
        self,
        path: bytes,
        content: Readable,
        *,
        ref: str | None,
        treeish: str | None,
        blob: str | None,
        can_delay: bool,
    ) -> Iterator[bytes] | None:
        whole = read_all(content)
        self._waiting.pop(path, None)
        offered = self._offered.pop(path, b"")
        if can_delay and path.startswith(b"later/"):
            self._waiting[path] = whole
            return None
        return turned(path, whole or offered)

    def available(self) -> list[bytes]:
        first = min(map(turn_of, self._waiting), default=0)
        paths = sorted(path for path in self._waiting if turn_of(path) == first)
        for path in paths:
            self._offered[path] = self._waiting.pop(path)
        return paths

    def close(self) -> None:
        raise AssertionError("whoever made the handlers closes them")


def turn_of(path: bytes) -> int:
    """Return in which of the lists a path stands: what fails comes last."""
    return 2 if path.endswith(b".error") else int(path.startswith(b"later/still/"))


def read_all(content: Readable) -> bytes:
    buffer = bytearray(8192)
    whole = b""
    while count := content.readinto(memoryview(buffer)):
        whole += buffer[:count]
    return whole


def turned(path: bytes, whole: bytes) -> Iterator[bytes]:
    if path.endswith(b".error"):
        raise CheckpointError("fails as it should")
    answer = codecs.encode(whole.decode("ascii"), "rot13").encode("ascii")
    if path.endswith(b".late"):
        yield answer[:5]
        raise CheckpointError("fails late, as it should")
    yield answer
