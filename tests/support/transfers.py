"""A repository with checkpoints that is published: commits in a bare repository, objects on a Git LFS server."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from tests.support import models
from tests.support.lfs_server import Hosted
from tests.support.repository import Repository

PATHS = ("model.pt", "model.safetensors", "sub/other.pt")


@dataclass(frozen=True, slots=True)
class Published:
    """`versions[n]` holds the files of the commit with the tag `v<n>`; the last one is the tip of `main`.

    `address` is what a clone gets as `lfs.url`: the server's, or a proxy's; empty: nothing.
    """

    source: Repository
    remote: Path
    hosted: Hosted
    versions: list[Mapping[str, bytes]]
    address: str

    @property
    def tip(self) -> Mapping[str, bytes]:
        """The files of the tip of `main`."""
        return self.versions[-1]

    def at(self, address: str) -> Published:
        """Return the same, for clones with another address, or none."""
        return replace(self, address=address)

    def through(self, proxy_url: str) -> Published:
        """Return the same, for clones that ask a proxy."""
        return self.at(proxy_url + self.hosted.path)

    def command(self, *arguments: str, url: str | None = None, name: str = "clone") -> tuple[Repository, list[str]]:
        """Return the `git clone` to run, and where the clone will be."""
        target = self.source.at(self.source.path.parent / name)
        settings = ["--config", f"lfs.url={self.address}"] if self.address else []
        return target, ["git", "clone", "--quiet", *settings, *arguments, url or str(self.remote), str(target.path)]

    def clone(
        self, *arguments: str, url: str | None = None, name: str = "clone", **environment: str
    ) -> tuple[Repository, subprocess.CompletedProcess[bytes]]:
        """Run `git clone`; return where the clone is, or would be, and what came of it."""
        target, command = self.command(*arguments, url=url, name=name)
        target = target.in_environment(**environment)
        return target, target.run(*command, cwd=self.source.path)

    def cloned(self, *arguments: str, url: str | None = None, name: str = "clone", **environment: str) -> Repository:
        """Return a clone, made without an error."""
        target, done = self.clone(*arguments, url=url, name=name, **environment)
        assert done.returncode == 0, done.stderr.decode()
        return target


def versions(count: int) -> list[Mapping[str, bytes]]:
    """Return the files of so many commits; each changes a group or two of every file."""
    made: list[Mapping[str, bytes]] = []
    tensors = {path: models.state_dict(seed, width=64) for seed, path in enumerate(PATHS)}
    for number in range(count):
        for path in PATHS:
            layer = f"layers.{number % 3}.weight"
            tensors[path] = {**tensors[path], layer: tensors[path][layer] + torch.tensor(number)}
        made.append({path: written(path, tensors[path]) for path in PATHS})
    return made


def written(path: str, tensors: models.StateDict) -> bytes:
    """Return a checkpoint in the format that its name says."""
    return models.safetensors_bytes(tensors) if path.endswith(".safetensors") else models.torch_bytes(tensors)


def write(source: Repository, remote: Path, contents: list[Mapping[str, bytes]]) -> None:
    """Commit `contents` in a new repository, and push the commits alone."""
    source.git("theta", "install")
    source.git("config", "theta.packs", "false")  # the objects of these tests are counted one by one
    source.git("theta", "track", "*.pt", "*.safetensors")
    for number, files in enumerate(contents):
        for path, data in files.items():
            source.write(path, data)
        source.commit(f"version {number}")
        source.git("tag", f"v{number}")
    source.git("push", "--quiet", "--no-verify", "--tags", str(remote), "main")


def upload(source: Repository, hosted: Hosted) -> None:
    """Put the objects on the server as they lie, without Git LFS."""
    hosted.folder.mkdir(parents=True)
    for file in (source.git_directory / "lfs" / "objects").glob("??/??/*"):
        shutil.copyfile(file, hosted.folder / file.name)


def wrong_files(repository: Repository, files: Mapping[str, bytes]) -> dict[str, str]:
    """Return what is not as it should be in a work tree: each path that is missing, or holds other bytes."""
    found = {}
    for path, data in files.items():
        file = repository.path / path
        if not file.exists():
            found[path] = "missing"
        elif file.read_bytes() != data:
            found[path] = f"other bytes: {file.read_bytes()[:40]!r}"
    return found
