"""Real git-theta 0.2.0, from its own environment, in the same repositories as ours."""

from __future__ import annotations

import functools
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.interop import stories
from tests.support import environment, peer
from tests.support.repository import Repository

# How git-theta's own `git theta install` configures it, with its programs by name: PATH decides whose they are.
_THEIRS = {
    "filter.theta.clean": "git-theta-filter clean %f",
    "filter.theta.smudge": "git-theta-filter smudge %f",
    "filter.theta.required": "true",
}
_OURS = {
    "filter.theta.process": "theta-daemon",
    "filter.theta.clean": "theta-daemon clean %f",
    "filter.theta.smudge": "theta-daemon smudge %f",
    "filter.theta.required": "true",
}


class Pair:
    """One repository, worked on by git-theta (`theirs`) and by us (`ours`) in turn."""

    def __init__(self, path: Path, base: dict[str, str]) -> None:
        peer = environment.with_peer(base) | {"NUMBA_NUM_THREADS": "2", "NUMBA_CACHE_DIR": base["HOME"]}
        self.ours = Repository.init(path, _configured(base, _OURS))
        self.theirs = Repository(path, _configured(peer, _THEIRS))
        self.ours.write(".gitattributes", b"*.pt filter=theta merge=theta diff=theta\n*.safetensors filter=theta\n")
        self.ours.commit("track")

    @staticmethod
    def view(repository: Repository) -> Repository:
        """Return git-theta's view of a repository that has no filter of its own."""
        return Repository(repository.path, _configured(environment.with_peer(dict(repository.environment)), _THEIRS))

    def theirs_as(self, kind: str) -> Repository:
        """Return git-theta's view with GIT_THETA_CHECKPOINT_TYPE set."""
        return self.theirs.in_environment(GIT_THETA_CHECKPOINT_TYPE=kind)

    def metadata(self, path: str, commit: str = "HEAD") -> dict[str, dict[str, dict[str, object]]]:
        """Return the metadata of a path as JSON."""
        return json.loads(self.ours.git("cat-file", "blob", f"{commit}:{path}"))  # type: ignore[no-any-return]


def _configured(base: dict[str, str], config: dict[str, str]) -> dict[str, str]:
    pairs = {"GIT_CONFIG_COUNT": str(len(config))}
    for number, (key, value) in enumerate(config.items()):
        pairs |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
    return {**base, **pairs}


@pytest.fixture
def pair(tmp_path: Path, git_environment: dict[str, str]) -> Pair:
    """Return a repository that tracks *.pt and *.safetensors, with nothing committed but that."""
    subprocess.run(["git", "lfs", "install", "--skip-repo"], env=git_environment, check=True, capture_output=True)
    return Pair(tmp_path / "shared", git_environment)


@pytest.fixture(scope="session")
def start_theirs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], peer.Filter]]:
    """Return a function that returns git-theta's filter: one process, started when it is first needed."""
    start = functools.cache(lambda: peer.Filter.start(tmp_path_factory.mktemp("git-theta")))
    yield start
    if start.cache_info().currsize:
        start().close()


@pytest.fixture
def theirs(start_theirs: Callable[[], peer.Filter]) -> peer.Filter:
    """Return git-theta's filter."""
    return start_theirs()


@pytest.fixture(scope="session", params=[".pt", ".safetensors"])
def story(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    start_theirs: Callable[[], peer.Filter],
) -> stories.Story:
    """Return what git-theta made of each kind of checkpoint. Clone it; nothing may be changed."""
    directory = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        directory = directory.parent  # that of the whole run
    home = tmp_path_factory.mktemp("home")
    return stories.told_once(directory, request.param, environment.isolated(home), start_theirs)


@pytest.fixture
def clone(tmp_path: Path, git_environment: dict[str, str]) -> Callable[..., Repository]:
    """Return a function that clones a repository for us, with its objects as alternates; nothing is checked out."""

    def make(source: Repository, name: str = "clone") -> Repository:
        made = Repository(tmp_path / name, git_environment)
        command = ["git", "clone", "--quiet", "--shared", "--no-checkout", str(source.path), str(made.path)]
        subprocess.run(command, env=git_environment, check=True, capture_output=True)
        made.git("theta", "install", "--local")
        return made

    return make
