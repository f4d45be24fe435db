"""Repositories in every state that git knows, with plain metadata in them and no filter installed.

No installed program is needed here, only git: the environment is the test's own.
"""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.repository import Repository
from theta_daemon import settings
from theta_daemon.history.record import GitRecord
from theta_daemon.settings import Settings


def git_version() -> tuple[int, ...]:
    said = subprocess.run(["git", "version"], capture_output=True, check=True, text=True).stdout
    return tuple(int(number) for number in re.findall(r"[0-9]+", said)[:2])


# What `git init` is told. reftable is tried wherever git has it (2.45 and newer).
STORAGE = {"sha1": [], "sha256": ["--object-format=sha256"]}
if git_version() >= (2, 45):
    STORAGE["reftable"] = ["--ref-format=reftable"]

Open = Callable[..., GitRecord]


@pytest.fixture
def git_environment(tmp_path: Path) -> dict[str, str]:
    """Return an environment in which git sees no configuration but the test's own."""
    home = tmp_path / "home"
    home.mkdir()
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": str(home / ".gitconfig"),
        "GIT_AUTHOR_NAME": "A Tester",
        "GIT_AUTHOR_EMAIL": "tester@example.invalid",
        "GIT_COMMITTER_NAME": "A Tester",
        "GIT_COMMITTER_EMAIL": "tester@example.invalid",
    }


@pytest.fixture(params=list(STORAGE))
def stored(request: pytest.FixtureRequest, tmp_path: Path, git_environment: dict[str, str]) -> Repository:
    """Return an empty repository in each way that git has to store objects and references."""
    return Repository.init(tmp_path / "repository", git_environment, *STORAGE[request.param])


@pytest.fixture
def repository(tmp_path: Path, git_environment: dict[str, str]) -> Repository:
    """Return an empty repository."""
    return Repository.init(tmp_path / "repository", git_environment)


@pytest.fixture
def open_record() -> Iterator[Open]:
    """Return a function that opens the record of a repository, and close them all."""
    opened = []

    def open_record(repository: Repository) -> GitRecord:
        record = GitRecord(settings_of(repository))
        opened.append(record)
        return record

    yield open_record
    for record in opened:
        record.close()


def settings_of(repository: Repository) -> Settings:
    return settings.load(repository.environment, repository.path)


def metadata(value: int) -> bytes:
    """Return something that looks like metadata, different for each `value`."""
    return b'{\n    "w": {\n        "lfs_metadata": {\n            "oid": "%064d"\n        }\n    }\n}\n' % value


def values(record: GitRecord, path: bytes) -> list[tuple[str, int]]:
    """Return the origins and values of all candidates for `path`."""
    return [(it.origin, int(it.data.split(b'"')[7])) for it in record.candidates(path)]
