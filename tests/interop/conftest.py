"""Real git-theta 0.2.0, from its own environment, in the same repositories as ours."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.support import environment
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
