"""`theta-daemon` as a process: descriptors, signals, start and end, with a scripted git at the other end.

The names are those of the checklist in protocol/filter-process.md.
"""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.fake_git import PATIENCE, TOY, Answer, FakeGit
from theta_daemon import __version__
from theta_daemon.errors import ProtocolError
from theta_daemon.wire.events import Content, ContentEnd, ListAvailable, Outcome, Request

OK = Outcome.SUCCESS


@pytest.fixture
def git() -> Iterator[FakeGit]:
    with FakeGit() as running:
        running.shake_hands()
        yield running


def clean(path: bytes) -> Request:
    return Request("clean", path)


def run_toy(
    *arguments: str | bytes, stdin: bytes = b"", environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, str(TOY), *arguments],
        input=stdin,
        capture_output=True,
        check=False,
        timeout=PATIENCE,
        env={**os.environ, **(environment or {})},
    )


def test_a_hundred_requests_in_one_process(git: FakeGit) -> None:
    for number in range(100):
        content = b"%d" % number * number * 50
        assert git.ask(clean(b"%d.txt" % number), content).content == content
    assert git.end() == (0, "a stray print while the handlers are made\n")


def test_H2_the_handshake_is_answered_before_the_handlers_are_made(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with FakeGit(environment={"TOY_MARK": str(mark)}) as git:
        git.shake_hands()
        assert not mark.exists()
        git.ask(clean(b"a"))
        assert mark.exists()


def test_F3_nothing_but_the_protocol_gets_to_stdout(git: FakeGit) -> None:
    assert git.ask(clean(b"a.print"), b"content") == Answer(OK, b"content", (7,))
    assert git.ask(clean(b"b"), b"content").content == b"content"
    code, errors = git.end()
    assert code == 0
    for stray in ("a stray print\n", "a stray write\n", "a child ''\n", "a stray print while the handlers are made\n"):
        assert stray in errors


def test_F3_every_byte_value_passes_unchanged(git: FakeGit) -> None:
    content = bytes(range(256)) * 600 + b"\r\n\x1a\n\r"
    assert git.ask(clean(b"a"), content).content == content


def test_F4_S1_the_end_of_the_input_between_requests_is_the_end(git: FakeGit) -> None:
    assert git.end() == (0, "")


def test_F4_the_end_of_the_input_inside_a_file_is_an_error(git: FakeGit) -> None:
    git.say(clean(b"a"), Content(b"x" * 70_000))
    code, errors = git.end()
    assert code == 1
    assert "theta-daemon: error: the stream ends inside a file's content\n" in errors


def test_F5_a_bad_length_is_one_line_and_exit_1(git: FakeGit) -> None:
    os.write(git.to_filter, b"+00fcommand=clean")
    code, errors = git.end()
    assert (code, errors.count("\n")) == (1, 1)
    assert "four hexadecimal digits" in errors


@pytest.mark.parametrize("path", [b"a.error", b"a.unread", b"a.bug", b"a.memory"])
def test_P2_after_an_error_the_next_file_is_served(git: FakeGit, path: bytes) -> None:
    assert git.ask(clean(path), b"x" * 200_000) == Answer(Outcome.ERROR, final=Outcome.ERROR)
    assert git.ask(clean(b"b"), b"content").content == b"content"
    code, errors = git.end()
    assert code == 0
    assert errors.count("theta-daemon: error: ") == 1
    assert errors.count("\n") == 2  # and the stray print
    assert "Traceback" not in errors


def test_P2_an_error_says_what_where_and_what_to_do_in_one_line(git: FakeGit) -> None:
    git.ask(clean(b"caf\xe9.error"))
    _, errors = git.end()
    assert "theta-daemon: error: caf\\xe9.error: it is damaged in two lines; write it again\n" in errors


def test_an_internal_error_asks_for_a_report(git: FakeGit) -> None:
    git.ask(clean(b"a.bug"))
    _, errors = git.end()
    assert "theta-daemon: error: a.bug: internal error: ValueError: what a bug says; please report it" in errors


def test_an_internal_error_is_traced_on_demand() -> None:
    with FakeGit(environment={"THETA_TRACE": "1"}) as git:
        git.shake_hands()
        git.ask(clean(b"a.bug"))
        _, errors = git.end()
    assert "Traceback" in errors
    assert "toy_filter.py" in errors


@pytest.mark.parametrize(("path", "received"), [(b"a.late", b"x" * 100_000), (b"a.latebug", b"x")])
def test_P3_a_late_error_takes_the_content_back(git: FakeGit, path: bytes, received: bytes) -> None:
    answer = git.ask(clean(path), b"content")
    assert (answer.status, answer.content, answer.final) == (OK, received, Outcome.ERROR)
    assert git.ask(clean(b"b"), b"content").content == b"content"
    code, errors = git.end()
    assert code == 0
    assert errors.count("theta-daemon: error: ") == 1


def test_a_handler_that_answers_before_it_has_read_everything_fails_loudly(git: FakeGit) -> None:
    answer = git.ask(clean(b"a.lazy"), b"content")
    assert (answer.status, answer.final) == (OK, Outcome.ERROR)
    assert git.ask(clean(b"a.lazy"), b"").final == OK  # nothing was lost here
    assert "before the reply began" in git.end()[1]


def test_handlers_that_cannot_be_made_fail_the_file_and_are_tried_again() -> None:
    with FakeGit(environment={"TOY_FAIL_FIRST": "1"}) as git:
        git.shake_hands()
        assert git.ask(clean(b"a"), b"content").status is Outcome.ERROR
        assert git.ask(clean(b"a"), b"content").content == b"content"
        assert git.end() == (
            0,
            "theta-daemon: error: a: no repository yet\na stray print while the handlers are made\n",
        )


def test_S4_a_handler_that_does_not_read_does_not_block_git(git: FakeGit) -> None:
    assert git.ask(clean(b"a.unread"), b"x" * 5_000_000).status is Outcome.ERROR
    assert git.ask(clean(b"a.skip"), b"x" * 5_000_000) == Answer(OK)


def test_R3_what_git_knows_gets_to_the_handler(git: FakeGit) -> None:
    asked = Request("smudge", b"a.meta", ref="refs/heads/main", treeish="1" * 40, blob="2" * 40)
    assert git.ask(asked).content == repr(("refs/heads/main", "1" * 40, "2" * 40, False)).encode()
    assert git.ask(Request("smudge", b"a.meta")).content == b"(None, None, None, False)"
    assert git.ask(Request("smudge", b"a.meta", can_delay=True)).content == b"(None, None, None, True)"


@pytest.mark.parametrize("path", [b"a", b"a.empty", b"a.nothing"])
def test_R4_P1_empty_in_empty_out(git: FakeGit, path: bytes) -> None:
    assert git.ask(clean(path)) == Answer(OK)


def test_R5_the_path_need_not_exist(git: FakeGit) -> None:
    assert git.ask(clean(b"no/such/\xff/file"), b"content").content == b"content"


def test_a_piece_may_be_a_buffer_that_is_used_again(git: FakeGit) -> None:
    expected = b"".join(bytes([letter]) * 10_010 for letter in b"abc")
    assert git.ask(clean(b"a.buffer")).content == expected


def test_small_pieces_travel_together(git: FakeGit) -> None:
    answer = git.ask(clean(b"a.many"))
    assert answer.content == b"".join(b"%d\n" % number for number in range(10_000))
    assert len(answer.packets) == 1


def test_large_pieces_fill_their_packets(git: FakeGit) -> None:
    assert git.ask(clean(b"a"), b"x" * (3 * 65516 + 1)).packets == (65516, 65516, 65516, 1)


class TestDelay:
    def test_D5_a_delayed_file_is_answered_when_git_asks_again(self, git: FakeGit) -> None:
        files = {b"later/b": b"x" * 200_000, b"a": b"at once", b"later/a.late": b"late", b"later/c.error": b"bad"}
        checkout = git.check_out(files)
        assert checkout.lists == [[b"later/a.late", b"later/b", b"later/c.error"]]
        assert checkout.answers[b"a"].content == b"at once"
        assert checkout.answers[b"later/b"].content == files[b"later/b"]
        assert checkout.failed == [b"later/a.late", b"later/c.error"]
        assert git.available() == []
        assert git.end()[0] == 0

    def test_D1_a_file_that_cannot_wait_fails(self, git: FakeGit) -> None:
        assert git.ask(Request("smudge", b"later/a"), b"content").status is Outcome.ERROR
        assert git.ask(clean(b"a"), b"content").content == b"content"
        code, errors = git.end()
        assert code == 0
        assert "theta-daemon: error: later/a: internal error: LocalProtocolError: git did not say that" in errors

    def test_D1_git_may_not_know_delay(self) -> None:
        with FakeGit(capabilities=("clean", "smudge")) as git:
            git.shake_hands()
            assert git.ask(Request("smudge", b"a.meta", can_delay=True)).content == b"(None, None, None, False)"
            assert git.available() == []
            assert git.end()[0] == 0

    def test_D1_a_handler_need_not_read_what_it_delays(self, git: FakeGit) -> None:
        asked = Request("smudge", b"later/a.forgets", can_delay=True)
        assert git.ask(asked, b"x" * 1_000_000).status is Outcome.DELAYED
        assert git.available() == [b"later/a.forgets"]

    def test_D3_nothing_is_delayed_before_the_handlers_are_made(self, tmp_path: Path) -> None:
        mark = tmp_path / "mark"
        with FakeGit(environment={"TOY_MARK": str(mark)}) as git:
            git.shake_hands()
            assert git.available() == []
            assert not mark.exists()

    def test_D8_git_may_go_while_files_wait(self, tmp_path: Path) -> None:
        mark = tmp_path / "mark"
        for asks in (False, True):
            with FakeGit(environment={"TOY_MARK": str(mark)}) as git:
                git.shake_hands()
                git.ask(Request("smudge", b"later/a", can_delay=True), b"content")
                assert not asks or git.available()
                assert git.end() == (0, "a stray print while the handlers are made\n")
            assert not mark.exists()

    def test_D8_a_signal_while_git_waits_for_the_list(self, tmp_path: Path) -> None:
        mark = tmp_path / "mark"
        with FakeGit(environment={"TOY_MARK": str(mark), "PYTHONUNBUFFERED": "1"}) as git:
            git.shake_hands()
            git.ask(Request("smudge", b"later/a.hanglist", can_delay=True), b"content")
            git.say(ListAvailable())
            git.wait_for_stderr(b"hanging\n")
            git.process.send_signal(signal.SIGTERM)
            assert git.process.wait(PATIENCE) == 143
        assert not mark.exists()

    def test_D11_a_bug_in_the_list_ends_it_with_one_line(self, tmp_path: Path) -> None:
        """Nothing can be said instead: git dies when it is not answered, so nobody waits."""
        mark = tmp_path / "mark"
        with FakeGit(environment={"TOY_MARK": str(mark)}) as git:
            git.shake_hands()
            git.ask(Request("smudge", b"later/a.listbug", can_delay=True), b"content")
            git.say(ListAvailable())
            code, errors = git.end()
        assert code == 1
        assert errors.count("theta-daemon: error: internal error: ValueError: what a bug in the list says") == 1
        assert "Traceback" not in errors
        assert not mark.exists()


def test_unknown_commands_fail_alone(git: FakeGit) -> None:
    assert git.ask(Request("textconv", b"a"), b"x" * 100_000).status is Outcome.ERROR
    assert git.ask(clean(b"a"), b"content").content == b"content"
    assert "'textconv'" in git.end()[1]


@pytest.mark.parametrize("when", ["before the handshake", "between two requests", "in a request", "in a handler"])
def test_S1_SIGTERM_ends_it_quietly_and_cleans_up(tmp_path: Path, when: str) -> None:
    mark = tmp_path / "mark"
    with FakeGit(environment={"TOY_MARK": str(mark), "PYTHONUNBUFFERED": "1"}) as git:
        if when != "before the handshake":
            git.shake_hands()
            git.ask(clean(b"a"))
            git.wait_for_stderr(b"a stray print while the handlers are made\n")
            assert mark.exists()
        if when == "in a request":
            git.say(clean(b"a"), Content(b"x" * 1_000_000))  # more than a pipe holds: somebody has read of it
        if when == "in a handler":
            git.say(clean(b"a.hang"), ContentEnd())
            git.wait_for_stderr(b"hanging\n")
        git.process.send_signal(signal.SIGTERM)
        code = git.process.wait(PATIENCE)
        assert git.process.stderr is not None
        assert git.process.stderr.read() == b""
    assert not mark.exists()
    # Before Python has come as far as our handler the system's default holds; it is as quiet.
    assert code == 143 or (when == "before the handshake" and code == -signal.SIGTERM)


def test_SIGINT_ends_it_quietly_and_cleans_up(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with FakeGit(environment={"TOY_MARK": str(mark), "PYTHONUNBUFFERED": "1"}) as git:
        git.shake_hands()
        git.say(clean(b"a.hang"), ContentEnd())
        git.wait_for_stderr(b"hanging\n")
        git.process.send_signal(signal.SIGINT)
        assert git.process.wait(PATIENCE) == 130
        assert git.process.stderr is not None
        assert git.process.stderr.read() == b""
    assert not mark.exists()


def test_S1_when_nobody_reads_the_answer_it_ends_quietly_and_cleans_up(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with FakeGit(environment={"TOY_MARK": str(mark)}) as git:
        git.shake_hands()
        git.say(clean(b"a.endless"), ContentEnd())
        git.next_event()
        assert git.process.stdout is not None
        git.process.stdout.close()
        assert git.process.wait(PATIENCE) == 141
        assert git.process.stderr is not None
        assert git.process.stderr.read() == b"a stray print while the handlers are made\n"
    assert not mark.exists()


def test_nobody_needs_to_read_stderr() -> None:
    with FakeGit(environment={"PYTHONUNBUFFERED": ""}) as git:  # the stray print of the handlers waits for the end
        git.shake_hands()
        assert git.process.stderr is not None
        git.process.stderr.close()
        assert git.ask(clean(b"a.error")).status is Outcome.ERROR
        assert git.ask(clean(b"a"), b"content").content == b"content"
        assert git.process.stdin is not None
        git.process.stdin.close()
        assert git.process.wait(PATIENCE) == 0


@pytest.mark.parametrize("closed", [0, 1, 2])
def test_a_standard_descriptor_may_be_closed(closed: int) -> None:
    redirect = {0: "<&-", 1: ">&-", 2: "2>&-"}[closed]
    done = subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {redirect}', "sh", sys.executable, str(TOY), "clean", "a"],
        input=b"content",
        capture_output=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.stdout == (b"content" if closed == 2 else b"")
    assert done.returncode == (1 if closed == 1 else 0)
    if closed == 1:
        assert b"cannot write the output" in done.stderr


def test_a_child_process_does_not_keep_the_pipe_open() -> None:
    with FakeGit() as git:
        git.shake_hands()
        git.ask(clean(b"a"))
        inherited = [
            number
            for number in os.listdir(f"/proc/{git.process.pid}/fdinfo")
            if int(number) > 2
            and not int((Path(f"/proc/{git.process.pid}/fdinfo") / number).read_text().split("flags:")[1].split()[0], 8)
            & os.O_CLOEXEC
        ]
    assert inherited == []


def test_H3_git_is_not_at_the_other_end(git: FakeGit) -> None:
    with FakeGit() as other:
        os.write(other.to_filter, b"HTTP/1.1 200 OK\r\n\r\n")
        code, errors = other.end()
    assert code == 1
    assert errors == "theta-daemon: error: the packet length b'HTTP' is not four hexadecimal digits\n"


def test_H3_an_empty_input_says_who_starts_this_program() -> None:
    done = run_toy()
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == (
        b"theta-daemon: error: the input ends before the handshake does; "
        b"git starts this program by itself, as filter.<name>.process\n"
    )


def test_H1_without_version_2_nothing_is_answered() -> None:
    done = run_toy(stdin=b"0016git-filter-client\n000eversion=3\n0000")
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"version 2" in done.stderr


def test_started_at_a_terminal_it_explains_itself() -> None:
    primary, terminal = pty.openpty()
    try:
        done = subprocess.run(
            [sys.executable, str(TOY)], stdin=terminal, capture_output=True, check=False, timeout=PATIENCE
        )
    finally:
        os.close(primary)
        os.close(terminal)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"git theta install" in done.stderr


def test_version_and_help() -> None:
    done = run_toy("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"theta-daemon {__version__}\n".encode(), b"")
    for argument in ("--help", "-h"):
        done = run_toy(argument)
        assert (done.returncode, done.stderr) == (0, b"")
        assert done.stdout.startswith(b"usage: theta-daemon ")


@pytest.mark.parametrize("arguments", [["clean"], ["smudge", "a", "b"], ["--nonsense"], ["filter-process"]])
def test_wrong_arguments_are_exit_2(arguments: list[str]) -> None:
    done = run_toy(*arguments)
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"usage: ")


@pytest.mark.parametrize("arguments", [["--version"], ["clean", "a"]])
def test_a_full_disk_is_an_error(arguments: list[str]) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            [sys.executable, str(TOY), *arguments],
            stdin=subprocess.DEVNULL if arguments == ["--version"] else None,
            input=b"content" if arguments == ["clean", "a"] else None,
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            timeout=PATIENCE,
        )
    assert done.returncode == 1
    assert b"theta-daemon: error: cannot write the output: No space left on device\n" in done.stderr


class TestOneFile:
    """H5: the commands that old versions of git use, and people."""

    @pytest.mark.parametrize("command", ["clean", "smudge"])
    def test_H5_stdin_to_stdout(self, command: str) -> None:
        content = bytes(range(256)) * 2000
        done = run_toy(command, "a.print", stdin=content)
        assert (done.returncode, done.stdout) == (0, content)
        assert b"a stray print\n" in done.stderr

    @pytest.mark.parametrize("path", ["--help", "-", "--", "it's $x.r", b"caf\xe9"])
    def test_any_path_is_a_path(self, path: str | bytes) -> None:
        done = run_toy("clean", path, stdin=b"content")
        assert (done.returncode, done.stdout) == (0, b"content")

    def test_the_path_is_raw_bytes(self) -> None:
        done = run_toy("clean", b"caf\xe9.error")
        assert b"caf\\xe9.error: it is damaged" in done.stderr

    @pytest.mark.parametrize("path", ["a.error", "a.unread", "a.bug", "a.memory"])
    def test_an_error_leaves_stdout_empty(self, path: str) -> None:
        done = run_toy("smudge", path, stdin=b"x" * 200_000)
        assert (done.returncode, done.stdout) == (1, b"")
        assert done.stderr.count(b"theta-daemon: error: a.") == 1

    def test_a_late_error_is_an_error(self) -> None:
        done = run_toy("smudge", "a.late", stdin=b"content")
        assert done.returncode == 1
        assert b"theta-daemon: error: a.late: late\n" in done.stderr

    def test_a_piece_may_be_a_buffer_that_is_used_again(self) -> None:
        assert run_toy("clean", "a.buffer").stdout == b"".join(bytes([letter]) * 10_010 for letter in b"abc")

    def test_S4_whoever_writes_is_not_stopped_by_a_handler_that_does_not_read(self) -> None:
        with FakeGit("clean", "a.skip") as other:
            left = memoryview(bytes(5_000_000))
            while left:
                left = left[os.write(other.to_filter, left) :]
            assert other.end()[0] == 0

    def test_nobody_reads(self) -> None:
        with FakeGit("clean", "a.endless") as other:
            assert other.process.stdin is not None
            assert other.process.stdout is not None
            other.process.stdin.close()
            assert other.read()[:1] == b"y"
            other.process.stdout.close()
            assert other.process.wait(PATIENCE) == 141
            assert other.process.stderr is not None
            assert b"rror" not in other.process.stderr.read()


def test_P7_no_byte_is_answered_before_the_content_has_ended() -> None:
    with FakeGit() as git:
        git.shake_hands()
        git.say(clean(b"a"), Content(b"x" * 3_000_000))  # more than both pipes hold: the filter has read most of it
        ready, _, _ = select.select([git.from_filter], [], [], 0)
        assert not ready
        git.say(ContentEnd())
        assert git.read().startswith(b"0013status=success\n0000")


def test_P5_each_start_is_independent() -> None:
    for _ in range(2):
        with FakeGit() as git:
            git.shake_hands()
            assert git.ask(clean(b"a"), b"content").content == b"content"
            git.process.kill()
            with pytest.raises((ProtocolError, BrokenPipeError)):
                git.ask(clean(b"a"), b"content")


LATE = """
import signal
from theta_daemon.daemon import entry

real = signal.signal

def late(number, handler):
    if handler is entry._ignore:
        signal.signal = real
        entry._interrupt(number, None)
    return real(number, handler)

signal.signal = late
entry.main = lambda *_: 7
entry.run()
"""


def test_an_interrupt_behind_the_last_answer_changes_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", LATE], capture_output=True, check=False, timeout=60)
    assert (done.returncode, done.stderr) == (7, b"")
