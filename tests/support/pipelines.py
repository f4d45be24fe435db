"""The pipelines without git: a store in a folder, and a record that the test writes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

from tests.support.streams import Pieces
from theta_daemon.pipelines.ancestors import Ancestors
from theta_daemon.pipelines.clean import clean
from theta_daemon.pipelines.services import Services, open_services
from theta_daemon.pipelines.smudge import smudge
from theta_daemon.settings import Settings


@dataclass(frozen=True, slots=True)
class Earlier:
    """One earlier content of a path."""

    origin: str
    data: bytes


@dataclass(slots=True)
class WrittenRecord:
    """A record that holds, for every path, what the test put into it; `commits` by their ids, the last one is HEAD."""

    contents: list[bytes] = field(default_factory=list)
    commits: dict[str, bytes] = field(default_factory=dict)

    def candidates(self, path: bytes) -> Iterator[Earlier]:
        del path
        return (Earlier(f"number {number}", data) for number, data in enumerate(self.contents))

    def commit(self, data: bytes) -> str:
        """Put metadata into a new commit at HEAD, and into the index; return the commit's id."""
        commit = f"{len(self.commits) + 1:040x}"
        self.commits[commit] = data
        self.contents = [data]
        return commit

    def head(self, path: bytes) -> Earlier | None:
        return self.version(next(reversed(self.commits)), path) if self.commits else None

    def blob(self, commit: str, path: bytes) -> str | None:
        version = self.version(commit, path)
        return sha256(version.data).hexdigest() if version is not None else None

    def version(self, commit: str, path: bytes) -> Earlier | None:
        del path
        return Earlier(commit, self.commits[commit]) if commit in self.commits else None

    def is_here(self, commit: str) -> bool:
        return commit in self.commits

    def close(self) -> None:
        """Nothing is open."""


@dataclass(slots=True)
class WrittenAttributes:
    """Attributes that the test writes: git-theta's name of a format, by path."""

    checkpoint_types: dict[bytes, str] = field(default_factory=dict)

    def checkpoint_type(self, path: bytes) -> str | None:
        return self.checkpoint_types.get(path)


@dataclass(slots=True)
class Bench:
    """A pair of pipelines over one store."""

    services: Services
    record: WrittenRecord
    warnings: list[str]

    @classmethod
    def at(cls, directory: Path, **changes: object) -> Bench:
        """Make one below `directory`; `changes` are settings."""
        return cls.over(plain_settings(directory).replace(**changes))

    @classmethod
    def over(cls, settings: Settings) -> Bench:
        """Make one with these settings."""
        warnings: list[str] = []
        record = WrittenRecord()
        services = open_services(settings, lambda path, text: warnings.append(f"{path.decode()}: {text}"))
        ancestors = Ancestors(record, services.parsed, services.trace, 1000, lambda commit, path: "there is no remote")
        services = services.replace(record=record, attributes=WrittenAttributes(), ancestors=ancestors)
        return cls(services, record, warnings)

    def clean(self, content: bytes, path: bytes = b"model", sizes: tuple[int, ...] = ()) -> bytes:
        """Return the metadata for `content`, read in short pieces where `sizes` are given."""
        readable = Pieces(content, sizes) if sizes else io.BytesIO(content)
        return b"".join(clean(self.services, path, readable))

    def smudge(self, metadata: bytes, path: bytes = b"model") -> bytes:
        """Return the checkpoint for `metadata`."""
        return b"".join(bytes(piece) for piece in smudge(self.services, path, io.BytesIO(metadata)))

    def fresh(self) -> Bench:
        """Return pipelines over the same store in what would be another process: nothing is remembered."""
        mine = self.services
        other = Bench.over(mine.settings)
        ancestors = Ancestors(self.record, other.services.parsed, mine.trace, 1000, lambda commit, path: "no remote")
        other.services = other.services.replace(record=self.record, attributes=mine.attributes, ancestors=ancestors)
        return other

    def close(self) -> None:
        """End the workers."""
        self.services.close()


def plain_settings(directory: Path) -> Settings:
    """Return settings for a repository in `directory`, with everything at its default."""
    return Settings(
        directory=directory,
        git_dir=directory / ".git",
        common_dir=directory / ".git",
        work_tree=directory,
        index_file=directory / ".git" / "index",
        lfs_storage=directory / ".git" / "lfs",
        alternates=(),
        compatible="auto",
        fsync=False,
        file_mode=None,
        checkpoint_type=None,
        compression=None,
        update_type="dense",
        max_chain=32,
        fetch_history=True,
        skip_smudge=False,
        fetch_include=(),
        fetch_exclude=(),
        transfer_timeout=120,
        transfer_retries=0,
        packs=True,
        progress=True,
        workers=2,
        memory_limit=64 << 20,
        cache_size=16 << 20,
        child_environment={},
    )
