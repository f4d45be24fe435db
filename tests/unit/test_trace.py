"""THETA_TRACE: what is written, where, and that nothing of it ever fails or gets into git's pipes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from theta_daemon.trace import OFF, Trace, open_trace

STAMP = re.compile(r"^\d\d:\d\d:\d\d\.\d{6} theta-daemon: ", re.MULTILINE)

Opened = Callable[[str | None], Trace]


class Pipe:
    """What a trace takes for standard error."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        os.set_blocking(self.reading, False)

    def read(self) -> str:
        """Return what was written since the last time."""
        try:
            return os.read(self.reading, 1 << 16).decode()
        except BlockingIOError:
            return ""

    def lines(self) -> list[str]:
        """Return that as lines without their stamps."""
        text = self.read()
        assert len(STAMP.findall(text)) == text.count("\n")
        return STAMP.sub("", text).splitlines()


@pytest.fixture
def stderr() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    os.close(pipe.reading)
    os.close(pipe.writing)


@pytest.fixture
def opened(stderr: Pipe) -> Iterator[Opened]:
    """Return a function that opens a trace whose standard error is `stderr`; all are closed at the end."""
    traces: list[Trace] = []

    def opened(value: str | None) -> Trace:
        traces.append(open_trace(value, stderr.writing))
        return traces[-1]

    yield opened
    for trace in traces:
        trace.close()


def objects(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text("ascii").splitlines()]


class TestWhereItGoes:
    @pytest.mark.parametrize("value", [None, "", "0", "false", "FALSE", "no", "off"])
    def test_off(self, stderr: Pipe, value: str | None) -> None:
        assert open_trace(value, stderr.writing) is OFF
        assert stderr.read() == ""

    @pytest.mark.parametrize("value", ["1", "2", "true", "True", "yes", "on"])
    def test_standard_error(self, opened: Opened, stderr: Pipe, value: str) -> None:
        trace = opened(value)
        trace.event("started")
        assert trace.enabled
        assert stderr.lines() == ["started"]

    def test_a_file_is_appended_to(self, opened: Opened, stderr: Pipe, tmp_path: Path) -> None:
        file = tmp_path / "trace"
        file.write_text('{"event": "earlier"}\n')
        trace = opened(str(file))
        trace.event("started")
        assert trace.enabled
        assert [it["event"] for it in objects(file)] == ["earlier", "started"]
        assert stderr.read() == ""

    def test_a_directory_gets_a_file_for_each_process(self, opened: Opened, tmp_path: Path) -> None:
        opened(str(tmp_path)).event("first")
        opened(str(tmp_path)).event("second")
        files = sorted(tmp_path.iterdir())
        assert [[it["event"] for it in objects(file)] for file in files] == [["first"], ["second"]]
        assert all(re.fullmatch(rf"\d{{8}}T\d{{6}}\.\d{{6}}Z-P{os.getpid()}", file.name) for file in files)

    @pytest.mark.parametrize(
        "value", ["trace.txt", "./trace", "~/trace", "10", "03", "-1", "1k", " 1", "loud\n\x1b[1m"]
    )
    def test_anything_else_is_a_warning_and_off(
        self, stderr: Pipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert open_trace(value, stderr.writing) is OFF
        shown = value.encode("unicode_escape").decode()
        assert stderr.read() == (
            f"theta-daemon: warning: unknown trace value for THETA_TRACE: {shown}; "
            "to trace into a file, give an absolute path\n"
        )
        assert not list(tmp_path.iterdir())

    @pytest.mark.parametrize(
        ("file", "why"),
        [
            ("absent/trace", "No such file or directory"),
            ("file/trace", "Not a directory"),
            ("fifo", "No such device or address"),  # nobody reads it: it is not waited for
        ],
    )
    def test_what_cannot_be_opened_is_a_warning_and_off(
        self, stderr: Pipe, tmp_path: Path, file: str, why: str
    ) -> None:
        (tmp_path / "file").touch()
        os.mkfifo(tmp_path / "fifo")
        path = tmp_path / file
        assert open_trace(str(path), stderr.writing) is OFF
        assert stderr.read() == f"theta-daemon: warning: could not open {path} for tracing: {why}: {path}\n"

    def test_a_path_that_is_no_utf_8(self, opened: Opened, tmp_path: Path) -> None:
        path = os.fsencode(tmp_path / "tr") + b"\xe9"
        opened(os.fsdecode(path)).event("started")
        assert b'"started"' in Path(os.fsdecode(path)).read_bytes()

    def test_a_full_disk_is_one_warning_and_off(self, opened: Opened, stderr: Pipe) -> None:
        trace = opened("/dev/full")
        trace.event("first")
        trace.event("second")
        trace.close()
        assert not trace.enabled
        assert stderr.read() == (
            "theta-daemon: warning: unable to write trace for THETA_TRACE: No space left on device\n"
        )

    def test_nobody_reads_standard_error(self) -> None:
        trace = open_trace("1", -1)
        trace.event("first")
        assert not trace.enabled
        trace.close()


TRACES = """\
import os, sys
from theta_daemon.trace import open_trace
trace = open_trace(sys.argv[1])
first = os.open(os.devnull, os.O_WRONLY)  # in the lowest place that is free
trace.event("started", enabled=str(trace.enabled), first=first)
trace.close()
"""


def run(value: str, redirections: str) -> subprocess.CompletedProcess[str]:
    """Run a process that traces one event to `value`, with its descriptors redirected."""
    return subprocess.run(
        ["/bin/sh", "-c", f'exec "$@" {redirections}', "sh", sys.executable, "-c", TRACES, value],
        stdin=subprocess.PIPE,
        capture_output=True,
        check=True,
        text=True,
        timeout=60,
    )


class TestDescriptors:
    @pytest.mark.parametrize("value", ["3", "9"])
    def test_a_descriptor_gets_lines_for_people(self, tmp_path: Path, value: str) -> None:
        done = run(value, f"{value}>{tmp_path}/out")
        assert (done.stdout, done.stderr) == ("", "")
        lines = STAMP.sub("", (tmp_path / "out").read_text()).splitlines()
        assert lines[0].startswith("started: enabled True, ")
        assert lines[1].startswith("summary: ")

    def test_a_descriptor_that_is_not_open_is_a_warning_and_off(self) -> None:
        done = run("7", "7>&-")
        assert done.stdout == ""
        assert done.stderr == "theta-daemon: warning: could not open 7 for tracing: Bad file descriptor\n"

    @pytest.mark.parametrize(("value", "redirection"), [("/dev/stdout", ""), ("3", "3>&1"), ("/dev/stdin", "")])
    def test_F3_the_pipes_to_git_are_never_traced_to(self, value: str, redirection: str) -> None:
        done = run(value, redirection)
        assert done.stdout == ""
        assert done.stderr == (
            f"theta-daemon: warning: could not open {value} for tracing: "
            "the filter's standard input and output are git's\n"
        )

    @pytest.mark.parametrize("closed", ["0<&-", "1>&-", "2>&-"])
    def test_a_trace_takes_no_place_of_a_standard_descriptor(self, tmp_path: Path, closed: str) -> None:
        file = tmp_path / "trace"
        run(str(file), closed)
        assert objects(file)[0]["first"] == int(closed[0])


class TestLinesForPeople:
    def test_what_is_said_of_a_file(self, opened: Opened, stderr: Pipe) -> None:
        opened("1").event(
            "smudge",
            path=b"models/a.safetensors",
            groups=74,
            bytes=57_300_000,
            seconds=0.0314,
            codec="none",
            ratio=1 / 3,
        )
        assert stderr.lines() == ["smudge models/a.safetensors: 74 groups, 57.3 MB, 0.031 s, codec none, ratio 0.3333"]

    def test_small_sizes_are_exact(self, opened: Opened, stderr: Pipe) -> None:
        opened("1").event("stored", bytes=4840, cache_hits=0)
        assert stderr.lines() == ["stored: 4840 bytes, 0 cache hits"]

    def test_what_is_not_known_is_left_out(self, opened: Opened, stderr: Pipe) -> None:
        opened("1").event("smudge", path=b"a", blob=None)
        opened("1").event("smudge", path=None, groups=None)
        assert stderr.lines() == ["smudge a", "smudge"]

    def test_no_control_character_gets_to_a_terminal(self, opened: Opened, stderr: Pipe) -> None:
        opened("1").event("smudge", path=b"caf\xe9\n\x1b[1m", codec="\x1b\udce9")
        assert stderr.lines() == ["smudge caf\\xe9\\n\\x1b[1m: codec \\x1b\\xe9"]

    def test_the_summary_is_a_table_the_longest_stage_first(self, opened: Opened, stderr: Pipe) -> None:
        trace = opened("1")
        trace.add("decode", 0.5, 250_000_000)
        trace.add("decode", 0.5, 250_000_000)
        trace.add("wait for git", 2.0)
        trace.count("cache.hit", 3)
        trace.count("cache.hit")
        trace.close()
        first, *rest = stderr.lines()
        assert re.fullmatch(r"summary: \d+\.\d{3} s, \d+\.\d{3} s of processor time", first)
        assert rest == [
            "  stage           calls   seconds        MB    MB/s",
            "  wait for git        1     2.000",
            "  decode              2     1.000     500.0     500",
            "  cache.hit           4",
        ]

    def test_a_summary_of_nothing(self, opened: Opened, stderr: Pipe) -> None:
        opened("1").close()
        (line,) = stderr.lines()
        assert line.startswith("summary: ")


class TestJson:
    def test_an_event(self, opened: Opened, tmp_path: Path) -> None:
        file = tmp_path / "trace"
        before = time.time()
        opened(str(file)).event("smudge", path=b"a/b", groups=74, seconds=0.25, codec="none", blob=None)
        (found,) = objects(file)
        when = found.pop("time")
        assert isinstance(when, str)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", when)
        assert time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(before)) <= when
        assert found == {
            "pid": os.getpid(),
            "event": "smudge",
            "path": "a/b",
            "groups": 74,
            "seconds": 0.25,
            "codec": "none",
            "blob": None,
        }

    @pytest.mark.parametrize("path", [b"caf\xe9", b'\n"\\\x00\x7f', "größe".encode(), b"\xed\xa0\x80"])
    def test_any_path_is_one_line_of_json_and_comes_back(self, opened: Opened, tmp_path: Path, path: bytes) -> None:
        file = tmp_path / "trace"
        opened(str(file)).event("smudge", path=path)
        (found,) = objects(file)
        assert str(found["path"]).encode("utf-8", "surrogateescape") == path

    def test_the_summary(self, opened: Opened, tmp_path: Path) -> None:
        file = tmp_path / "trace"
        trace = opened(str(file))
        with trace.stage("decode", 1000):
            time.monotonic()
        with pytest.raises(KeyError), trace.stage("decode", 500):
            raise KeyError
        trace.add("read", 2.5)
        trace.count("cache.miss", 2)
        trace.close()
        (found,) = objects(file)
        assert {"time", "pid", "event", "seconds", "cpu_seconds", "stages", "counts"} == set(found)
        assert found["event"] == "summary"
        stages = found["stages"]
        assert isinstance(stages, dict)
        spent = stages["decode"].pop("seconds")
        assert 0 < spent < 60
        assert stages == {
            "read": {"calls": 1, "seconds": 2.5, "bytes": 0},
            "decode": {"calls": 2, "bytes": 1500},
        }
        assert found["counts"] == {"cache.miss": 2}
        assert isinstance(found["seconds"], float)
        assert isinstance(found["cpu_seconds"], float)

    def test_after_the_end_nothing_is_written(self, opened: Opened, tmp_path: Path) -> None:
        file = tmp_path / "trace"
        trace = opened(str(file))
        trace.close()
        other = os.open(tmp_path / "other", os.O_WRONLY | os.O_CREAT)  # may get the trace's descriptor
        trace.event("late")
        with trace.stage("late"):
            trace.count("late")
        trace.close()
        os.close(other)
        assert not trace.enabled
        assert [it["event"] for it in objects(file)] == ["summary"]
        assert (tmp_path / "other").read_bytes() == b""


def test_any_thread_may_use_it(opened: Opened, tmp_path: Path) -> None:
    file = tmp_path / "trace"
    trace = opened(str(file))
    together = threading.Barrier(8)

    def work() -> None:
        together.wait(60)
        for number in range(200):
            with trace.stage("decode", 3):
                trace.count("hits")
            trace.event("group", number=number)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    trace.close()
    *events, summary = objects(file)
    assert len(events) == 1600
    assert summary["counts"] == {"hits": 1600}
    assert isinstance(stages := summary["stages"], dict)
    assert (stages["decode"]["calls"], stages["decode"]["bytes"]) == (1600, 4800)


MANY = """\
import sys
from theta_daemon.trace import open_trace
trace = open_trace(sys.argv[1])
for number in range(300):
    trace.event("group", number=number, padding="x" * (number * 13 % 700))
"""


def test_processes_share_a_file_line_by_line(tmp_path: Path) -> None:
    file = tmp_path / "trace"
    running = [subprocess.Popen([sys.executable, "-c", MANY, str(file)]) for _ in range(4)]
    for process in running:
        assert process.wait(60) == 0
    found = objects(file)
    for process in running:
        assert [it["number"] for it in found if it["pid"] == process.pid] == list(range(300))


def test_off_does_nothing_and_holds_nothing() -> None:
    with closing(OFF) as trace, trace.stage("decode", 5):
        trace.event("smudge", path=b"a")
        trace.add("decode", 1.0)
        trace.count("hits")
    assert not trace.enabled
    assert vars(OFF) == {}
    assert OFF.stage("a") is OFF.stage("b", 3)


def test_off_imports_nothing() -> None:
    program = "from theta_daemon.trace import open_trace; import sys; open_trace('0'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    assert not {"json", "threading", "datetime"} & set(done.stdout.split())
