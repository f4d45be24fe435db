"""`git theta pull` ends in the middle, or somebody changes a file while it works."""

from __future__ import annotations

import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import models
from tests.support.checkouts import repository_below
from tests.support.pulls import clean_without_reading, litter, to_metadata
from tests.support.repository import Repository

CONTENTS = {
    "a.pt": models.torch_bytes(models.state_dict(1)),
    "b.safetensors": models.safetensors_bytes(models.state_dict(2, width=300)),
    "sub/c.pt": models.torch_bytes(models.state_dict(3)),
}

# Runs the real program in this process, with calls of the operating system counted. Just before call number $FAULT_CALL
# of those that $FAULT_NAMES names (just after it where the number is negative), it runs the Python statement $FAULT_DO.
# At its end it writes the number of calls.
_FAULTY = """
import atexit, itertools, os, signal, sys, threading
from theta_daemon.cli.main import run

exec(os.environ["FAULT_FIRST"])
chosen, do = int(os.environ["FAULT_CALL"]), compile(os.environ["FAULT_DO"], "fault", "exec")
numbers = itertools.count(1)
last = 0

def counted(call):
    def wrapped(*arguments, **options):
        global last
        last = number = next(numbers)
        if number == chosen:
            exec(do)
        try:
            return call(*arguments, **options)
        finally:
            if number == -chosen:
                exec(do)
    return wrapped

for name in os.environ["FAULT_NAMES"].split():
    setattr(os, name, counted(getattr(os, name)))
atexit.register(lambda: open(os.environ["FAULT_CALLS"], "w").write(str(last)))
run()
"""
CALLS = "open pwrite close dup utime link rename unlink fstat"


@dataclass(frozen=True, slots=True)
class Faulty:
    """Runs `git theta pull` with a fault."""

    repository: Repository
    directory: Path

    def pull(
        self, do: str = "", call: int = 0, names: str = CALLS, first: str = ""
    ) -> subprocess.CompletedProcess[bytes]:
        """Run it, and the statement `do` just before call number `call` of `names`; after call `-call` if negative.

        `first` is run before all.
        """
        script = self.directory / "git-theta"
        script.write_text(f"#!{sys.executable}\n{_FAULTY}")
        script.chmod(0o755)
        environment = {
            "PATH": f"{self.directory}:{self.repository.environment['PATH']}",
            "FAULT_FIRST": first,
            "FAULT_DO": do,
            "FAULT_CALL": str(call),
            "FAULT_NAMES": names,
            "FAULT_CALLS": str(self.directory / "calls"),
        }
        return self.repository.in_environment(**environment).run("git", "theta", "pull", "-q")

    def calls(self) -> int:
        """Return the number of calls of the last run."""
        return int((self.directory / "calls").read_text())


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    repository = repository_below(tmp_path_factory.mktemp("pulled"))
    repository.write(".gitattributes", b"*.pt filter=theta -text\n*.safetensors filter=theta -text\n")
    for name, content in CONTENTS.items():
        repository.write(name, content)
    repository.commit("all")
    return repository


@pytest.fixture
def faulty(stored: Repository, tmp_path: Path) -> Faulty:
    (stored.git_directory / "index.lock").unlink(missing_ok=True)
    to_metadata(stored)
    return Faulty(stored, tmp_path)


def assert_whole_or_metadata(repository: Repository) -> None:
    for name, content in CONTENTS.items():
        assert repository.read(name) in (content, repository.blob(name))


def moments(calls: int, number: int) -> list[int]:
    """Return `number` moments of so many calls, evenly spread."""
    return sorted({max(1, calls * step // number) for step in range(1, number + 1)})


def killed_at(faulty: Faulty, number: int) -> None:
    repository = faulty.repository
    assert faulty.pull().returncode == 0
    for call in moments(faulty.calls(), number):
        to_metadata(repository)
        done = faulty.pull("os.kill(os.getpid(), signal.SIGKILL)", call)
        assert done.returncode != 0
        assert_whole_or_metadata(repository)
        (repository.git_directory / "index.lock").unlink(missing_ok=True)
        assert repository.status() == ""
        assert faulty.pull().returncode == 0
        assert all(repository.read(name) == content for name, content in CONTENTS.items())
        assert clean_without_reading(repository)
        assert litter(repository) == []


def test_killed(faulty: Faulty) -> None:
    killed_at(faulty, 8)


@pytest.mark.heavy
@pytest.mark.timeout(900)
def test_killed_at_every_call(faulty: Faulty) -> None:
    killed_at(faulty, 10_000)


def test_ctrl_c(faulty: Faulty) -> None:
    repository = faulty.repository
    assert faulty.pull().returncode == 0
    for call in moments(faulty.calls() - 10, 6):
        to_metadata(repository)
        done = faulty.pull("os.kill(os.getpid(), signal.SIGINT)", call)
        assert done.returncode == 128 + signal.SIGINT
        assert done.stderr == b""
        assert_whole_or_metadata(repository)
        assert not (repository.git_directory / "index.lock").exists()
        assert litter(repository) == []
        assert repository.status() == ""


# What systems, and file systems, without O_TMPFILE have.
NAMED = "from theta_daemon.pipelines import worktree; worktree._UNNAMED = 0"


@pytest.mark.parametrize(
    ("names", "first"),
    [("link", ""), ("open", NAMED), ("unlink rename mkdir", ""), ("unlink rename mkdir", NAMED)],
    ids=["link", "open-named", "others", "others-named"],
)
def test_a_signal_right_after_a_file_was_made_or_removed(faulty: Faulty, names: str, first: str) -> None:
    """Just after the call, before the program can have noted what it made; and again while it is cleaning up."""
    repository = faulty.repository
    without_sub(repository)
    assert faulty.pull(names=names, first=first).returncode == 0
    for call in moments(faulty.calls(), 4)[:3]:
        for number, times in ((signal.SIGINT, 1), (signal.SIGTERM, 3)):
            without_sub(repository)
            done = faulty.pull(f"[signal.raise_signal({number}) for _ in range({times})]", -call, names, first)
            assert_left_nothing(repository, done, number)
    assert faulty.pull(first=first).returncode == 0
    assert all(repository.read(name) == content for name, content in CONTENTS.items())


def without_sub(repository: Repository) -> None:
    to_metadata(repository)
    (repository.path / "sub/c.pt").unlink()
    (repository.path / "sub").rmdir()


def assert_left_nothing(
    repository: Repository, done: subprocess.CompletedProcess[bytes], number: signal.Signals
) -> None:
    told = {signal.SIGINT: b"", signal.SIGTERM: b"error: git-theta died of signal 15\n"}  # by git
    assert (done.returncode, done.stderr) == (128 + number, told[number])
    assert not (repository.git_directory / "index.lock").exists()
    assert litter(repository) == []
    for name, content in CONTENTS.items():
        assert not (repository.path / name).exists() or repository.read(name) in (content, repository.blob(name))


@pytest.mark.parametrize(
    "change", ["open(r'{}', 'ab').write(b'mine')", "open(r'{}.x', 'wb').write(b'mine'); os.replace(r'{}.x', r'{}')"]
)
def test_what_somebody_changes_just_before_it_is_replaced_stays(faulty: Faulty, change: str) -> None:
    """Just before a file gets its temporary name it has been looked at for the last time."""
    repository = faulty.repository
    for number, name in enumerate(CONTENTS, 1):
        to_metadata(repository)
        path = repository.path / name
        metadata = path.read_bytes()
        done = faulty.pull(change.replace("{}", str(path)), number, "link")
        assert (done.returncode, done.stderr.decode()) == (
            1,
            f"git-theta: error: {name}: it was changed meanwhile, and stays as it is\n",
        )
        assert path.read_bytes() in (b"mine", metadata + b"mine")
        assert all(repository.read(other) == CONTENTS[other] for other in CONTENTS if other != name)
        assert litter(repository) == []


def test_what_somebody_puts_where_nothing_was_stays(faulty: Faulty) -> None:
    repository = faulty.repository
    path = repository.path / "a.pt"
    path.unlink()
    done = faulty.pull(f"open(r'{path}', 'wb').write(b'mine')", 1, "link")
    assert (done.returncode, done.stderr) == (
        1,
        b"git-theta: error: a.pt: it was changed meanwhile, and stays as it is\n",
    )
    assert path.read_bytes() == b"mine"


def test_a_change_before_the_index_is_told_is_seen(faulty: Faulty) -> None:
    repository = faulty.repository
    path = repository.path / "b.safetensors"
    change = f"file = open(r'{path}', 'r+b'); file.seek(-1, 2); file.write(b'!'); file.close()"
    assert faulty.pull().returncode == 0
    renames = 2  # of the index: before the first file, and after the last
    to_metadata(repository)
    assert faulty.pull(change, renames, "rename").returncode == 0
    assert repository.git("diff", "--name-only") == "b.safetensors"


def test_another_commit_is_checked_out_meanwhile(faulty: Faulty) -> None:
    """The index has another blob then, and what is told of the old one must not be noted for it."""
    repository = faulty.repository
    other = repository.blob("sub/c.pt")
    blob = repository.git("hash-object", "-w", "--stdin", stdin=other)
    command = f"os.system('cd {repository.path} && git update-index --cacheinfo 100644,{blob},a.pt')"
    assert faulty.pull(command, 1, "utime").returncode == 0
    assert repository.read("a.pt") == CONTENTS["a.pt"]
    assert repository.git("diff", "--name-only", "--cached") == "a.pt"
    assert "a.pt" in repository.git("diff", "--name-only").splitlines()
    repository.git("reset", "--quiet")
    assert repository.status() == ""


def test_a_lock_that_appears_meanwhile(faulty: Faulty) -> None:
    repository = faulty.repository
    lock = repository.git_directory / "index.lock"
    assert faulty.pull().returncode == 0
    to_metadata(repository)
    done = faulty.pull(f"open(r'{lock}', 'wb').close()", 1, "utime")
    assert done.returncode == 1
    assert done.stderr.decode().startswith("git-theta: error: the index is locked: ")
    assert all(repository.read(name) == content for name, content in CONTENTS.items())
    lock.unlink()
    assert repository.status() == ""


# Runs a command that can write no file of more than so many bytes.
_FULL = """
import os, resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
os.execvp(sys.argv[1], sys.argv[1:])
"""


def test_a_full_disk_stops_only_the_files_that_do_not_fit(faulty: Faulty) -> None:
    repository = faulty.repository
    done = repository.run(sys.executable, "-c", _FULL, "git", "theta", "pull", "-q")
    assert (done.returncode, done.stderr) == (
        1,
        b"git-theta: error: b.safetensors: the file cannot be written: File too large\n",
    )
    assert repository.read("b.safetensors") == repository.blob("b.safetensors")
    assert repository.read("sub/c.pt") == CONTENTS["sub/c.pt"]
    assert litter(repository) == []
    assert repository.status() == ""
