"""When the daemon shows how far it is: while git itself says nothing, and where nobody has forbidden it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import cast

import pytest

from tests.support.repository import Repository
from tests.support.streams import Pieces
from theta_daemon.daemon import handlers
from theta_daemon.formats.source import Readable
from theta_daemon.pipelines import clean
from theta_daemon.pipelines.checkout import Checkout
from theta_daemon.pipelines.services import Services


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Return a list to which every clean adds whether it is shown; nothing is cleaned."""
    found: list[bool] = []

    @contextmanager
    def watched(_path: bytes, content: Readable, *, shown: bool) -> Iterator[Readable]:
        found.append(shown)
        yield content

    monkeypatch.setattr(handlers, "watched", watched)
    monkeypatch.setattr(clean, "clean", lambda *_: [])
    monkeypatch.setattr(handlers.PipelineHandlers, "_see_to_the_hook", lambda _: None)
    return found


def services(*, progress: bool) -> Services:
    return cast(Services, SimpleNamespace(settings=SimpleNamespace(progress=progress)))


@pytest.mark.parametrize("progress", [True, False])
def test_an_add(shown: list[bool], progress: bool) -> None:
    handlers.PipelineHandlers(services(progress=progress)).clean(b"a.pt", Pieces(b""))
    assert shown == [progress]


def test_a_clean_during_a_checkout(shown: list[bool]) -> None:
    serving = handlers.PipelineHandlers(services(progress=True))
    serving._checkout = cast(Checkout, SimpleNamespace(pause=lambda: None))
    serving.clean(b"a.pt", Pieces(b""))
    assert shown == [False]


@pytest.mark.parametrize("wanted", [True, False])
@pytest.mark.parametrize("unwanted", [True, False])
def test_git_that_was_asked_to_be_quiet(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, wanted: bool, unwanted: bool
) -> None:
    repository.git("config", "theta.progress", str(wanted))
    monkeypatch.chdir(repository.path)
    monkeypatch.setattr(handlers, "is_unwanted", lambda: unwanted)
    made = handlers.make_handlers()
    assert made._services.settings.progress is (wanted and not unwanted)
    made.close()
