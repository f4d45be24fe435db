"""Objects travel with a transfer agent of the user's, without any server of Git LFS."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.support import models, transfer_agent
from tests.support.repository import Repository

pytestmark = pytest.mark.needs_git_lfs

DATA = models.safetensors_bytes(models.state_dict(1))


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """Return where the agent keeps objects."""
    folder = tmp_path / "kept"
    folder.mkdir()
    return folder


@pytest.fixture(params=["for all", "for the URL", "for all, to a path"])
def source(repository: Repository, tmp_path: Path, kept: Path, request: pytest.FixtureRequest) -> Repository:
    """Return a repository with a model and an agent for its remote, nothing pushed."""
    server = Repository.init(tmp_path / "server", repository.environment, "--bare")
    url = server.path.as_uri()
    if request.param == "for all, to a path":
        url = str(server.path)
    key = f"lfs.{url}.standalonetransferagent" if request.param == "for the URL" else "lfs.standalonetransferagent"
    repository.git("config", "--global", key, "folder")
    repository.git("config", "--global", "lfs.customtransfer.folder.path", sys.executable)
    use(repository, kept)
    repository.git("remote", "add", "origin", url)
    repository.git("theta", "install")
    repository.git("theta", "track", "*.safetensors")
    repository.write("model.safetensors", DATA)
    repository.commit("a model")
    return repository


def use(repository: Repository, kept: Path, refused: str = "") -> None:
    repository.git(
        "config", "--global", "lfs.customtransfer.folder.args", f"{transfer_agent.__file__} {kept} {refused}"
    )


def objects(repository: Repository) -> set[str]:
    return {path.name for path in (repository.git_directory / "lfs" / "objects").glob("??/??/*")}


def test_push_and_clone(source: Repository, kept: Path, tmp_path: Path) -> None:
    source.git("push", "--quiet", "origin", "main")
    assert {path.name for path in kept.iterdir()} == objects(source)
    source.git("theta", "push", "--all")
    source.git("clone", "--quiet", source.git("remote", "get-url", "origin"), str(tmp_path / "clone"))
    assert (tmp_path / "clone" / "model.safetensors").read_bytes() == DATA


def test_what_the_agent_refuses_stops_the_push(source: Repository, kept: Path) -> None:
    refused = min(objects(source))
    use(source, kept, refused)
    said = source.git_fails("push", "--quiet", "origin", "main")
    assert f"it does not take {refused}" in said
    assert source.git("ls-remote", "origin") == ""
