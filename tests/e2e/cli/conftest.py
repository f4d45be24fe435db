"""Nearly every test of a verb starts from an installed repository: install once, and copy what it wrote."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.support import environment
from tests.support.repository import Repository


@pytest.fixture(scope="session")
def installed_configuration(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """Return the configuration of an empty repository after `git theta install --local`."""
    place = tmp_path_factory.mktemp("installed")
    made = Repository.init(place / "repository", environment.isolated(place))
    made.git("theta", "install", "--local")
    return made.read(".git/config")


@pytest.fixture
def repository(new_repository: Callable[[str], Repository], installed_configuration: bytes) -> Repository:
    """Return an empty repository with the filter installed, nothing tracked yet."""
    made = new_repository("repository")
    made.write(".git/config", installed_configuration)
    return made
