"""Repositories that git-theta 0.2.0 made with updates of all its types, and what it makes of each of their commits.

git-theta is slow, so each story is made once for all tests, by whichever of pytest's processes comes first.
"""

from __future__ import annotations

import fcntl
import json
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from tests.support import models, peer
from tests.support.repository import Repository

ATTRIBUTES = b"*.pt filter=theta\n*.safetensors filter=theta\n"
NESTED = "deep/down/other"


@dataclass(frozen=True, slots=True)
class Told:
    """A commit, and the files that git-theta makes of it, by path."""

    commit: str
    files: Mapping[str, bytes]


@dataclass(frozen=True, slots=True)
class Story:
    """What was committed, by label, in order."""

    repository: Repository
    path: str
    commits: Mapping[str, Told]


class _Teller:
    def __init__(self, repository: Repository, path: str, theirs: peer.Filter) -> None:
        self.repository = repository
        self.path = path
        self.commits: dict[str, Told] = {}
        self.now: models.StateDict = {}
        self._theirs = theirs
        self._files: dict[str, bytes] = {}

    def tell(self, label: str, update_type: str, changed: models.StateDict, updates: models.StateDict | None) -> None:
        """Commit the model with `changed` groups, or with `updates` of their own."""
        content = peer.save(self.path, self.now | changed)
        loaded = None if updates is None else peer.save(self.path, updates)
        metadata = self._theirs.clean(self.repository, self.path, content, update_type, loaded)
        self.commit(label, {self.path: metadata})
        made = peer.load(self._files[self.path])
        self.now = {name: value.to((self.now | changed)[name].dtype) for name, value in made.items()}

    def commit(self, label: str, metadata: Mapping[str, bytes]) -> None:
        commit = peer.commit(self.repository, metadata, label)
        for path, data in metadata.items():
            self._files[path] = self._theirs.smudge(self.repository, path, data)
        self.commits[label] = Told(commit, dict(self._files))


def noise(rng: np.random.Generator, *shape: int) -> torch.Tensor:
    """Return float32 values like those of weights."""
    return torch.from_numpy(rng.normal(0, 0.02, shape).astype(np.float32))


def sparse(positions: list[int], data: torch.Tensor, shape: tuple[int, ...]) -> models.StateDict:
    """Return the arrays of a sparse update with 64-bit positions."""
    return {
        "data": data,
        "indices": torch.tensor(positions),
        "indptr": torch.tensor([0, len(positions)]),
        "shape": torch.tensor(shape),
    }


def tell(repository: Repository, suffix: str, theirs: peer.Filter) -> Story:
    """Make commits of every type of update, inferred and side-loaded, on top of each other and of values made anew."""
    rng = np.random.default_rng(5)
    teller = _Teller(repository, f"model{suffix}", theirs)
    repository.write(".gitattributes", ATTRIBUTES)
    repository.commit("track")
    base: models.StateDict = {
        "w": noise(rng, 24, 16),
        "bias": noise(rng, 20),
        "double": torch.from_numpy(rng.normal(size=(6, 5))),
        "zeros": noise(rng, 4, 4),
        "ids": torch.from_numpy(rng.integers(-9, 9, (3, 4)).astype(np.int32)),
        "step": torch.tensor(3),
    }
    base["zeros"][0, 0] = base["zeros"][1, 1] = -0.0
    other = base | {"w": noise(rng, 5, 5)}
    teller.now = base
    paths = {teller.path: base, NESTED + suffix: other, f"second{suffix}": other}
    teller.commit(
        "dense", {path: theirs.clean(repository, path, peer.save(path, each), "dense") for path, each in paths.items()}
    )

    def with_elements(name: str, positions: list[int], values: torch.Tensor) -> models.StateDict:
        changed = teller.now[name].clone()
        changed.view(-1)[positions] = values.to(changed.dtype)
        return {name: changed}

    few = with_elements("w", [3, 7, 300], noise(rng, 3)) | with_elements("zeros", [10], torch.ones(1))
    teller.tell("sparse", "sparse", few | with_elements("ids", [5], torch.tensor([77])), None)
    now = teller.now
    teller.tell(
        "low-rank",
        "low-rank",
        {
            "w": now["w"] + noise(rng, 24, 2) @ noise(rng, 2, 16),
            "bias": now["bias"] + noise(rng, 20),
            "double": now["double"] + 0.1,
        },
        None,
    )
    teller.tell("ia3 loaded", "ia3", {}, {"w/ia3": 1 + noise(rng, 1, 16), "bias/ia3": 1 + noise(rng, 20)})
    factors = {"w/R": noise(rng, 24, 8), "w/C": noise(rng, 8, 16), "double/R": noise(rng, 6, 1)}
    teller.tell("low-rank loaded", "low-rank", {}, factors | {"double/C": noise(rng, 1, 5)})
    loaded = sparse([5, 9, 200], noise(rng, 3), (24, 16))
    teller.tell("sparse loaded", "sparse", {}, {f"w/{name}": value for name, value in loaded.items()})
    teller.commit(
        "second file",
        {
            f"second{suffix}": theirs.clean(
                repository, f"second{suffix}", peer.save(suffix, other | {"w": noise(rng, 5, 5)}), "low-rank"
            )
        },
    )
    wide = sparse([0, 383], noise(rng, 2).double(), (24, 16))
    teller.tell("float64", "sparse", {}, {f"w/{name}": value for name, value in wide.items()})
    teller.tell("dense again", "dense", {"w": noise(rng, 24, 16), "ids": now["ids"] + 1}, None)
    teller.tell("low-rank again", "low-rank", {"w": noise(rng, 24, 16)}, None)
    teller.tell("sparse again", "sparse", {"zeros": -teller.now["zeros"], "double": teller.now["double"] * 2}, None)
    return Story(repository, teller.path, teller.commits)


def told_once(directory: Path, suffix: str, environment: Mapping[str, str], theirs: Callable[[], peer.Filter]) -> Story:
    """Return the story below `directory`, which all processes share; the first one makes it."""
    place = directory / f"story{suffix}"
    place.mkdir(exist_ok=True)
    kept = place / "told.json"
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            story = tell(Repository.init(place / "repository", environment), suffix, theirs())
            told = {
                label: (each.commit, {path: b64encode(data).decode() for path, data in each.files.items()})
                for label, each in story.commits.items()
            }
            kept.write_text(json.dumps(told))
    commits = {
        label: Told(commit, {path: b64decode(data) for path, data in files.items()})
        for label, (commit, files) in json.loads(kept.read_text()).items()
    }
    return Story(Repository(place / "repository", environment), f"model{suffix}", commits)
