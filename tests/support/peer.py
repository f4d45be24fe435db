"""git-theta 0.2.0 at work in a repository: what its filter answers, and commits made of that."""

from __future__ import annotations

import itertools
import json
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.support import environment, models
from tests.support.repository import Repository

DRIVER = Path(__file__).with_name("peer_driver.py")
_KINDS = {".pt": "pytorch", ".safetensors": "safetensors"}


class PeerError(Exception):
    """git-theta's filter failed; the traceback."""


@dataclass(slots=True)
class Filter:
    """git-theta's filter in a process of its own (peer_driver.py), for any number of repositories."""

    process: subprocess.Popen[str]
    scratch: Path
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    @classmethod
    def start(cls, directory: Path) -> Self:
        """Start it; `directory` takes its files."""
        home = directory / "home"
        home.mkdir(parents=True)
        settings = environment.with_peer(environment.isolated(home)) | {"NUMBA_NUM_THREADS": "1", "TMPDIR": str(home)}
        subprocess.run(["git", "lfs", "install", "--skip-repo"], env=settings, check=True, capture_output=True)
        command = [str(environment.PEER / "bin" / "python"), str(DRIVER)]
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, env=settings, stdin=pipe, stdout=pipe, text=True, cwd=directory)
        return cls(process, directory)

    def close(self) -> None:
        """End it."""
        self.process.communicate(timeout=60)

    def clean(
        self, repository: Repository, path: str, content: bytes, update_type: str, updates: bytes | None = None
    ) -> bytes:
        """Return the metadata for `content` at `path`. Raises PeerError.

        git-theta opens a file of updates for every type but dense, so an empty one is there where `updates` is not.
        """
        with tempfile.NamedTemporaryFile(dir=self.scratch, suffix=Path(path).suffix) as file:
            file.write(save(path, {}) if updates is None else updates)
            file.flush()
            extra = {"GIT_THETA_UPDATE_TYPE": update_type, "GIT_THETA_UPDATE_DATA_PATH": file.name}
            return self._ask("clean", repository, path, content, extra)

    def smudge(self, repository: Repository, path: str, metadata: bytes) -> bytes:
        """Return the checkpoint for `metadata` at `path`. Raises PeerError."""
        return self._ask("smudge", repository, path, metadata, {})

    def _ask(self, verb: str, repository: Repository, path: str, content: bytes, extra: Mapping[str, str]) -> bytes:
        number = next(self._numbers)
        source, target = self.scratch / f"{number}.in", self.scratch / f"{number}.out"
        source.write_bytes(content)
        request = {
            "verb": verb,
            "directory": str(repository.path),
            "path": path,
            "source": str(source),
            "target": str(target),
            "environment": {"GIT_THETA_CHECKPOINT_TYPE": _KINDS[Path(path).suffix], **extra},
        }
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        complaint = json.loads(self.process.stdout.readline())
        if complaint is not None:
            raise PeerError(complaint)
        return target.read_bytes()


def save(path: str, tensors: models.StateDict) -> bytes:
    """Write a checkpoint in the format that its extension names."""
    return models.torch_bytes(tensors) if path.endswith(".pt") else models.safetensors_bytes(tensors)


def load(content: bytes) -> models.StateDict:
    """Return the tensors of a checkpoint of either format."""
    return models.torch_loaded(content) if content.startswith(b"PK") else models.safetensors_loaded(content)


def commit(repository: Repository, metadata: Mapping[str, bytes], message: str) -> str:
    """Commit `metadata` at its paths as HEAD, without any filter, and return the commit's id."""
    for path, data in metadata.items():
        blob = repository.git("hash-object", "-w", "--stdin", stdin=data)
        repository.git("update-index", "--add", "--cacheinfo", f"100644,{blob},{path}")
    tree = repository.git("write-tree")
    parents = repository.run("git", "rev-parse", "--quiet", "--verify", "HEAD").stdout.decode().split()
    arguments = [argument for parent in parents for argument in ("-p", parent)]
    made = repository.git("commit-tree", "-m", message, *arguments, tree)
    repository.git("update-ref", "HEAD", made)
    return made
