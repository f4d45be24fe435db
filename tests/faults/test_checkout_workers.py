"""A worker fails in the middle of a delayed checkout: its file fails, in one line, and all others are on disk.

Real git and the real filter process; the n-th call of something that workers do fails, whichever file's that is.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.git.conftest import leftovers
from tests.support import models
from tests.support.checkouts import Delayed, Faulty, noise, of_size, repository_below
from tests.support.repository import Repository
from theta_daemon.wire.events import Outcome

# What a worker does for every group: open its object, decode its chunks, hash what came out.
PLACES = {
    "open": ("theta_daemon.store.objects:ObjectStore.open",),
    "decode": ("theta_daemon.store.payload:Chunk.decode_into",),
    "digest": ("theta_daemon.pipelines.load:digest_of",),
}

# what is raised -> what the one line says of it
FAULTS = {
    "raise errors.CorruptObject('object 123 is damaged', hint='restore it')": "object 123 is damaged; restore it",
    "raise MemoryError": "not enough memory",
    "raise OSError(errno.EIO, 'Input/output error')": "Input/output error",
    "raise RuntimeError('what a bug says')": "internal error: RuntimeError: what a bug says; please report it",
}

CONTENTS = {
    "a.safetensors": models.safetensors_bytes(of_size(3 << 20, seed=1)),
    "b.pt": models.torch_bytes(of_size(2 << 20, seed=2)),
    "c/d.safetensors": models.safetensors_bytes({"chunks": noise(5 << 18, seed=3), "z": noise(9)}),
    "e.safetensors": models.safetensors_bytes(of_size(1 << 20, seed=4)),
    "f.pt": models.torch_bytes(of_size(1 << 20, seed=5)),
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """Return a repository with some checkpoints committed; nothing here changes what is in it."""
    made = repository_below(tmp_path_factory.mktemp("workers"))
    made.git("theta", "track", "*.pt", "*.safetensors")
    for name, content in CONTENTS.items():
        made.write(name, content)
    made.commit("all")
    return made


@pytest.fixture
def emptied(repository: Repository) -> Repository:
    """Return the repository without the files."""
    for name in CONTENTS:
        (repository.path / name).unlink(missing_ok=True)
    return repository


def on_disk(repository: Repository) -> dict[str, bytes]:
    """Return the checkpoints that are in the work tree."""
    return {name: repository.read(name) for name in CONTENTS if (repository.path / name).exists()}


def the_failed(said: str, text: str) -> str:
    """Return the file that the one line of ours names, which must say `text`."""
    ours = [line for line in said.splitlines() if line.startswith("theta-daemon: ")]
    assert len(ours) == 1, said
    name, _, rest = ours[0].removeprefix("theta-daemon: error: ").partition(": ")
    assert text in rest
    assert "Traceback" not in said
    return name


def assert_one_failed(repository: Repository, said: str, text: str) -> None:
    """Fail unless one file is missing, the one that the error names, and the others are right."""
    name = the_failed(said, text)
    assert name in CONTENTS
    assert on_disk(repository) == {other: content for other, content in CONTENTS.items() if other != name}
    assert leftovers(repository) == []
    repository.git("checkout", "--", ".")
    assert on_disk(repository) == CONTENTS
    assert repository.status() == ""


@pytest.fixture(scope="module")
def calls(repository: Repository, tmp_path_factory: pytest.TempPathFactory) -> dict[str, int]:
    """Return how often each place is called in a checkout of all files."""
    faulty = Faulty(repository, tmp_path_factory.mktemp("counting"))
    counted = {}
    for place, functions in PLACES.items():
        for name in CONTENTS:
            (repository.path / name).unlink()
        faulty.with_fault(functions, 0, "").git("checkout", "--", ".")
        assert on_disk(repository) == CONTENTS
        counted[place] = faulty.calls()
    return counted


@pytest.mark.parametrize("moment", [0.0, 0.5, 1.0], ids=["first", "middle", "last"])
@pytest.mark.parametrize("place", PLACES)
def test_the_others_are_there(
    emptied: Repository, calls: dict[str, int], tmp_path: Path, place: str, moment: float
) -> None:
    for name in CONTENTS:
        (emptied.path / name).unlink(missing_ok=True)  # `calls` has brought them
    assert calls[place] > len(CONTENTS)
    fault = list(FAULTS)[(list(PLACES).index(place) + round(2 * moment)) % len(FAULTS)]
    faulty = Faulty(emptied, tmp_path / "faulty")
    broken = faulty.with_fault(PLACES[place], 1 + round(moment * (calls[place] - 1)), fault)
    assert_one_failed(emptied, broken.git_fails("checkout", "--", "."), FAULTS[fault])


@pytest.mark.parametrize("fault", FAULTS)
def test_every_kind_of_failure(emptied: Repository, tmp_path: Path, fault: str) -> None:
    broken = Faulty(emptied, tmp_path / "faulty").with_fault(PLACES["decode"], 2, fault)
    assert_one_failed(emptied, broken.git_fails("checkout", "--", "."), FAULTS[fault])


def test_a_trace_says_where_it_came_from(emptied: Repository, tmp_path: Path) -> None:
    faulty = Faulty(emptied, tmp_path / "faulty")
    broken = faulty.with_fault(PLACES["digest"], 3, "raise RuntimeError('what a bug says')")
    said = broken.in_environment(THETA_TRACE="1").git_fails("checkout", "--", ".")
    assert said.count("theta-daemon: error: ") == 1
    assert said.count("Traceback (most recent call last)") == 1
    assert "load.py" in said


def test_every_group_fails(emptied: Repository, tmp_path: Path) -> None:
    faulty = Faulty(emptied, tmp_path / "faulty")
    broken = faulty.with_fault(PLACES["decode"], -1, "raise errors.CorruptObject('it is damaged')")
    said = broken.git_fails("checkout", "--", ".")
    assert the_failed(said, "it is damaged") in CONTENTS  # git gives up at the first
    assert on_disk(emptied) == {}
    assert leftovers(emptied) == []


def test_the_process_goes_on(repository: Repository, tmp_path: Path) -> None:
    """Two files fail in one process: both are listed after the others, and both can be had at the second attempt."""
    faulty = Faulty(repository, tmp_path / "faulty")
    twice = "if not globals().get('done'): done = 1; chosen += 1\nraise errors.CorruptObject('it is damaged')"
    broken = faulty.with_fault(PLACES["digest"], 1, twice)
    metadata = {name.encode(): repository.blob(name, "HEAD") for name in CONTENTS}
    with Delayed(broken, faulty.program) as git:
        failed: list[bytes] = []
        for attempt in range(2):
            for path in metadata if attempt == 0 else list(failed):
                git.delay(path, metadata[path])
            for path, answer in git.all_in_order():
                if answer.final is Outcome.SUCCESS:
                    assert answer.content == CONTENTS[path.decode()]
                    assert attempt or not failed, "a good file was listed after a failed one"
                else:
                    assert (attempt, answer.status, answer.content) == (0, Outcome.ERROR, b"")
                    failed.append(path)
        assert 1 <= len(failed) <= 2  # the two calls may be those of one file
        code, said = git.end()
    assert code == 0
    assert said.count("theta-daemon: error: ") == said.count("it is damaged") == said.count("\n") == len(failed)
