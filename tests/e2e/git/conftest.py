"""A tracked repository in both formats: the stories of this folder run on each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.support import models
from tests.support.repository import Repository


@dataclass(frozen=True, slots=True)
class Model:
    """A kind of checkpoint: the file it goes by, and how to write one."""

    path: str
    write: Callable[[models.StateDict], bytes]

    def version(self, seed: int, changed: int | None = None) -> bytes:
        """Return the bytes of model `seed`; `changed` gives one bias another value."""
        tensors = models.state_dict(seed)
        if changed is not None:
            tensors["layers.1.bias"] = tensors["layers.1.bias"] + changed
        return self.write(tensors)


KINDS = {
    "safetensors": Model("model.safetensors", lambda tensors: models.safetensors_bytes(tensors, {"format": "pt"})),
    "torch": Model("model.pt", models.torch_bytes),
}


@pytest.fixture(params=list(KINDS))
def model(request: pytest.FixtureRequest) -> Model:
    """Return each kind of checkpoint in turn."""
    return KINDS[request.param]


@pytest.fixture
def tracked(repository: Repository) -> Repository:
    """Return a repository that tracks *.pt and *.safetensors, with that committed."""
    repository.git("theta", "track", "*.pt", "*.safetensors")
    repository.commit("track checkpoints", ".gitattributes")
    return repository


def assert_clean(repository: Repository) -> None:
    """Fail unless `git status` is clean, also after every tracked file was touched."""
    assert repository.git("status", "--porcelain") == ""
    for name in repository.git_bytes("ls-files", "-z").split(b"\0")[:-1]:
        (repository.path / name.decode("utf-8", "surrogateescape")).touch()
    assert repository.git("status", "--porcelain") == ""


def objects(repository: Repository) -> set[str]:
    """Return the ids of all objects in the store."""
    common = repository.git("rev-parse", "--path-format=absolute", "--git-common-dir")
    root = repository.at(repository.path / common).path / "lfs" / "objects"
    return {file.name for file in root.rglob("*") if file.is_file()}


def leftovers(repository: Repository) -> list[str]:
    """Return what stands in the stores' temporary directories."""
    common = repository.path / repository.git("rev-parse", "--path-format=absolute", "--git-common-dir")
    found = []
    for directory in (common / "theta" / "tmp", common / "lfs" / "tmp"):
        if directory.exists():
            found += [str(file) for file in directory.rglob("*") if file.is_file()]
    return found
