"""What every test may use, and the two rules of this suite: same input every time, no silent skips.

Random input is drawn from fixed seeds (`make test`: some hundred examples a property, `make test-heavy`: thousands).
To look for new failures: `pytest --hypothesis-profile=explore tests/property`.
"""

from __future__ import annotations

import functools
import itertools
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import hypothesis
import pytest

from tests.support import environment, fault_proxy, lfs_server, models, ssh_server, transfers
from tests.support.repository import Repository

# How fast an example comes says something about the machine, nothing about the code.
_SLOW = [hypothesis.HealthCheck.too_slow]
hypothesis.settings.register_profile(
    "fixed", derandomize=True, deadline=None, database=None, suppress_health_check=_SLOW
)
hypothesis.settings.register_profile("thorough", parent=hypothesis.settings.get_profile("fixed"), max_examples=1000)
hypothesis.settings.register_profile(
    "explore", deadline=None, max_examples=5000, print_blob=True, suppress_health_check=_SLOW
)
hypothesis.settings.load_profile("fixed")

# A shell starts what it puts in the background with Ctrl-C ignored, and so would we start every program we test. A
# handler of our own is not passed on: they begin with what a terminal gives them.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@functools.cache
def _git_lfs_is_missing() -> bool:
    return subprocess.run(["git", "lfs", "version"], capture_output=True, check=False).returncode != 0


# marker -> (is it missing?, what to do)
_NEEDS: dict[str, tuple[Callable[[], bool], str]] = {
    "needs_git_lfs": (_git_lfs_is_missing, "git-lfs is not installed (apt-get install git-lfs)"),
    "needs_git_theta": (
        lambda: not environment.peer_is_installed(),
        "git-theta 0.2.0 is not installed (scripts/setup git-theta .venv-git-theta)",
    ),
    "needs_lfs_server": (
        lambda: not lfs_server.is_installed(),
        "giftless is not installed (scripts/setup giftless .venv-giftless)",
    ),
    "needs_sshd": (
        lambda: ssh_server.program() is None,
        "OpenSSH's server is not installed (apt-get install openssh-server)",
    ),
}


_IN_CI = os.environ.get("CI") == "true"


def _what_is_missing(item: pytest.Item) -> str | None:
    for marker, (is_missing, reason) in _NEEDS.items():
        if item.get_closest_marker(marker) is not None and is_missing():
            return reason
    return None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, each with its place and reason, what this machine cannot run; but in CI nothing."""
    for item in items:
        if not _IN_CI and (reason := _what_is_missing(item)) is not None:
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """In CI (CI=true) what would be skipped fails: CI must run everything."""
    if _IN_CI and (reason := _what_is_missing(item)) is not None:
        pytest.fail(f"CI must not skip this test: {reason}", pytrace=False)


@pytest.fixture
def git_environment(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which git sees no configuration but the test's own."""
    home = tmp_path / "home"
    home.mkdir()
    return environment.isolated(home)


@pytest.fixture
def new_repository(tmp_path: Path, git_environment: dict[str, str]) -> Callable[[str], Repository]:
    """Return a function that makes an empty repository of the given name, with nothing installed."""

    def make(name: str) -> Repository:
        return Repository.init(tmp_path / name, git_environment)

    return make


@pytest.fixture
def repository(new_repository: Callable[[str], Repository]) -> Repository:
    """Return an empty repository with the filter installed (`git theta install --local`), nothing tracked yet."""
    made = new_repository("repository")
    made.git("theta", "install", "--local")
    return made


@pytest.fixture(scope="session")
def minilm() -> Path:
    """Return the path of a real model file: MiniLM-L6, safetensors, 90 MB. Read it, never write it."""
    return models.minilm()


@pytest.fixture(scope="session")
def git_lfs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[lfs_server.LfsServer]:
    """Return a real Git LFS server on a loopback port; every test takes a repository of its own there: `hosted`."""
    with lfs_server.running(tmp_path_factory.mktemp("lfs-server")) as server:
        yield server


_HOSTED = itertools.count()


@pytest.fixture
def hosted(git_lfs_server: lfs_server.LfsServer) -> lfs_server.Hosted:
    """Return a repository on the server that nobody else uses: its `url` is for `lfs.url`."""
    return git_lfs_server.repository(f"models-{next(_HOSTED)}")


@pytest.fixture
def proxy(git_lfs_server: lfs_server.LfsServer) -> Iterator[fault_proxy.FaultProxy]:
    """Return a proxy before the server: `proxy.url + hosted.path` is for `lfs.url`."""
    with fault_proxy.running(git_lfs_server.port) as running:
        yield running


@pytest.fixture
def bare(tmp_path: Path, git_environment: dict[str, str]) -> Path:
    """Return the path of an empty bare repository, to push to."""
    return Repository.init(tmp_path / "remote.git", git_environment, "--bare").path


@pytest.fixture(scope="session")
def _written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Mapping[str, bytes]]]:
    """Return a folder with `home`, `source`, `remote.git`, and what the commits hold: for `published` to copy."""
    folder, contents = tmp_path_factory.mktemp("written"), transfers.versions(2)
    (folder / "home").mkdir()
    source = Repository.init(folder / "source", environment.isolated(folder / "home"))
    remote = Repository.init(folder / "remote.git", source.environment, "--bare")
    transfers.write(source, remote.path, contents)
    return folder, contents


@pytest.fixture
def published(
    _written: tuple[Path, list[Mapping[str, bytes]]],
    tmp_path: Path,
    git_environment: dict[str, str],
    hosted: lfs_server.Hosted,
) -> transfers.Published:
    """Return checkpoints in two commits, in a bare repository and on the Git LFS server; the filter stands globally."""
    folder, contents = _written
    for name in ("home", "source", "remote.git"):
        shutil.copytree(folder / name, tmp_path / name, dirs_exist_ok=True)
    source = Repository(tmp_path / "source", git_environment)
    transfers.upload(source, hosted)
    return transfers.Published(source, tmp_path / "remote.git", hosted, contents, hosted.url)
