"""A disk that is full during a delayed checkout: where git writes the files, and where we spool large groups.

A limit on the size of written files (setrlimit(2)) stands for the full disk, as in test_pipeline_no_space.py.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from tests.e2e.git.conftest import leftovers
from tests.faults.test_checkout_memory import in_other_chunks
from tests.faults.test_pipeline_no_space import limited, the_one_line
from tests.support import models, tensorstore_payload
from tests.support.checkouts import Ended, of_size, repository_below, run_in_session
from tests.support.pipelines import Bench
from tests.support.repository import Repository

LIMIT = 2 << 20

# Runs a command that can write no file of more than LIMIT bytes: it is told so, or killed, as the system does unless
# SIGXFSZ is ignored.
FULL = """
import os, resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.{action})
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
os.execvp(sys.argv[1], sys.argv[1:])
"""

# In git's order, which is that of their paths, large ones stand between small ones.
CONTENTS = {
    "a.safetensors": models.safetensors_bytes(of_size(1 << 20, seed=1)),
    "b.pt": models.torch_bytes(of_size(12 << 20, seed=2)),
    "c.pt": models.torch_bytes(of_size(1 << 20, seed=3)),
    "d.safetensors": models.safetensors_bytes(of_size(12 << 20, seed=4)),
    "e.safetensors": models.safetensors_bytes(of_size(1 << 20, seed=5)),
}
SMALL = [name for name, content in CONTENTS.items() if len(content) < LIMIT]


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    """Return a repository with the files committed, and as little memory as may be."""
    repository = repository_below(tmp_path_factory.mktemp("full"))
    repository.git("config", "theta.memoryLimit", "64m")
    repository.git("theta", "track", "*.pt", "*.safetensors")
    for name, content in CONTENTS.items():
        repository.write(name, content)
    repository.commit("all")
    return repository


@pytest.fixture
def emptied(stored: Repository) -> Repository:
    """Return the repository without the files."""
    for name in CONTENTS:
        (stored.path / name).unlink(missing_ok=True)
    (stored.path / ".git" / "index.lock").unlink(missing_ok=True)
    return stored


def checked_out_where_it_is_full(repository: Repository, action: str) -> Ended:
    """Run a checkout on a full disk; fail where it hangs, or where anything of it stays behind."""
    program = FULL.format(action=action, limit=LIMIT)
    ended = run_in_session(repository, sys.executable, "-c", program, "git", "checkout", "--", ".")
    assert ended.code != 0
    assert ended.left == []
    assert "Traceback" not in ended.said
    assert leftovers(repository) == []
    return ended


def assert_works_now(repository: Repository) -> None:
    """Fail unless the same checkout succeeds once there is room."""
    (repository.path / ".git" / "index.lock").unlink(missing_ok=True)
    repository.git("checkout", "--", ".")
    assert {name: repository.read(name) for name in CONTENTS} == CONTENTS
    assert repository.status() == ""


def test_git_cannot_write_some_of_the_files(emptied: Repository) -> None:
    """Git goes on with the others; none of it is the filter's business."""
    ended = checked_out_where_it_is_full(emptied, "SIG_IGN")
    assert "theta-daemon: " not in ended.said
    for name, content in CONTENTS.items():
        assert (f"unable to write file {name}" in ended.said) is (name not in SMALL)
        assert content.startswith(emptied.read(name))
    assert {name: emptied.read(name) for name in SMALL} == {name: CONTENTS[name] for name in SMALL}
    assert_works_now(emptied)


def test_git_is_killed_where_it_writes_too_much(emptied: Repository) -> None:
    ended = checked_out_where_it_is_full(emptied, "SIG_DFL")
    assert "theta-daemon: " not in ended.said
    assert emptied.read("a.safetensors") == CONTENTS["a.safetensors"]
    assert_works_now(emptied)


def in_another_order() -> torch.Tensor:
    """Return 10 MiB whose bytes stand in another order in the file, and 20 MiB would be needed to turn them."""
    return torch.arange(10 << 18).to(torch.float32).reshape(1280, -1).t()


@pytest.fixture
def repository(repository: Repository) -> Repository:
    """Return an empty repository with as little memory as may be."""
    repository.git("config", "theta.memoryLimit", "64m")
    repository.git("theta", "track", "*.pt", "*.safetensors")
    return repository


def assert_a_group_cannot_be_spooled(repository: Repository, contents: dict[str, bytes], large: int) -> None:
    """Fail unless m.pt alone fails, whatever it is that cannot be written, and comes when it can be."""
    for limit in (0, LIMIT, large - 1):
        for name in contents:
            (repository.path / name).unlink(missing_ok=True)
        said = limited(repository, limit).git_fails("checkout", "--", ".")
        expected = f"theta-daemon: error: m.pt: parameter 'large': cannot spool a parameter group of {large} bytes: "
        line = the_one_line(said)
        assert line.startswith(expected)
        assert line.endswith("File too large; make room, or raise theta.memoryLimit")
        assert not (repository.path / "m.pt").exists()
        for name, content in contents.items():
            assert not (repository.path / name).exists() or repository.read(name) == content
        assert leftovers(repository) == []
    repository.git("checkout", "--", ".")
    assert {name: repository.read(name) for name in contents} == contents
    assert repository.status() == ""


OTHERS = {
    "a.safetensors": models.safetensors_bytes(of_size(1 << 20, seed=1)),
    "z.pt": models.torch_bytes(of_size(1 << 20, seed=5)),
}


def test_a_permuted_group_cannot_be_spooled(repository: Repository) -> None:
    contents = {**OTHERS, "m.pt": models.torch_bytes({"first": torch.ones(9), "large": in_another_order()})}
    for name, content in contents.items():
        repository.write(name, content)
    repository.commit("all")
    assert_a_group_cannot_be_spooled(repository, contents, 10 << 20)


def test_the_chunks_of_another_writer_cannot_be_spooled(repository: Repository, tmp_path: Path) -> None:
    value = torch.arange(18 << 18).to(torch.float32).reshape(2048, -1)
    contents = {**OTHERS, "m.pt": models.torch_bytes({"first": torch.ones(9), "large": value})}
    for name, content in contents.items():
        repository.write(name, content)
    repository.commit("all")
    bench = Bench.at(repository.path)
    payload = tensorstore_payload.write(value.numpy(), chunks=(512, 500))
    repository.write("m.pt", in_other_chunks(bench, repository.blob("m.pt"), "large", payload))
    bench.close()
    repository.commit("in other chunks")
    assert_a_group_cannot_be_spooled(repository, contents, 18 << 20)


def test_a_file_stands_where_large_groups_are_spooled(repository: Repository, tmp_path: Path) -> None:
    content = models.torch_bytes({"first": torch.ones(9), "large": in_another_order()})
    repository.write("m.pt", content)
    repository.commit("large")
    (repository.path / "m.pt").unlink()
    temporary = repository.path / ".git" / "theta" / "tmp"
    aside = temporary.rename(tmp_path / "aside")
    temporary.write_text("in the way")
    line = the_one_line(repository.git_fails("checkout", "--", "."))
    assert line.startswith("theta-daemon: error: m.pt: parameter 'large': cannot spool a parameter group of ")
    assert str(temporary) in line
    temporary.unlink()
    aside.rename(temporary)
    repository.git("checkout", "--", ".")
    assert repository.read("m.pt") == content
