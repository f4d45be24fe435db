"""What the daemon answers requests with: the pipelines, wired to one repository.

Imported at the first request, after the handshake was answered: git waits for nothing heavy. The child
processes that find the repository and its configuration run while the heavy modules are imported.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from theta_daemon import settings
from theta_daemon.daemon.report import Reporter
from theta_daemon.daemon.watched import watched
from theta_daemon.errors import ThetaError
from theta_daemon.progress import is_unwanted
from theta_daemon.trace import OFF

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from theta_daemon.formats.source import Readable
    from theta_daemon.pipelines.checkout import Checkout
    from theta_daemon.pipelines.services import Services
    from theta_daemon.trace import Trace


class PipelineHandlers:
    """Clean and smudge for one repository."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._checkout: Checkout | None = None
        self._is_hooked = False

    def clean(self, path: bytes, content: Readable) -> Iterable[bytes | memoryview]:
        """Return the metadata for a checkpoint."""
        from theta_daemon.pipelines.clean import clean  # a checkout needs no format reader, and an add no emitter

        if self._checkout is not None:
            self._checkout.pause()
        self._see_to_the_hook()
        # A checkout has a meter of git's, and cleans files too where it refreshes the index.
        shown = self._services.settings.progress and self._checkout is None
        with watched(path, content, shown=shown) as content:
            return clean(self._services, path, content)

    def smudge(
        self,
        path: bytes,
        content: Readable,
        *,
        ref: str | None = None,
        treeish: str | None = None,
        blob: str | None = None,
        can_delay: bool = False,
    ) -> Iterator[bytes | memoryview] | None:
        """Return the checkpoint for metadata; None where it comes later."""
        if self._checkout is None:
            from theta_daemon.pipelines.checkout import Checkout

            self._checkout = Checkout(self._services)
        if can_delay:
            return self._checkout.delay(path, content)
        return self._checkout.smudge(path, content, treeish)

    def available(self) -> list[bytes]:
        """Return the paths of the delayed files that git may ask for now."""
        return [] if self._checkout is None else self._checkout.available()

    def _see_to_the_hook(self) -> None:
        """Make sure that what is committed here is pushed with its objects: in a clone nobody ran `git theta install`.

        As git-lfs's filter does. What cannot be chained is left alone, as is everything that cannot be written.
        """
        if self._is_hooked:
            return
        self._is_hooked = True
        settings = self._services.settings
        from theta_daemon.pipelines import hooks

        with suppress(OSError):
            if hooks.is_current((settings.common_dir / "hooks" / "pre-push").read_bytes()):
                return
        with suppress(OSError, ThetaError):
            hooks.write(hooks.look(settings.child_environment, settings.directory))

    def close(self) -> None:
        """End everything that is under way, and the child process that reads the record."""
        self._services.close()


def make_handlers(
    trace: Trace = OFF, command: str = "", is_abandoned: Callable[[], bool] = lambda: False
) -> PipelineHandlers:
    """Open the repository of the current directory and environment; `command` is what will be asked for first.

    `is_abandoned` tells whether nobody waits for the answers any more: then nothing more is fetched.

    Raises RepositoryError, ThetaError when there is none or its settings are wrong.
    """
    pending = settings.begin(os.environ, Path.cwd())
    from theta_daemon.pipelines.services import open_services

    if command == "clean":
        import theta_daemon.pipelines.clean
    elif command == "smudge":
        import theta_daemon.pipelines.checkout  # noqa: F401 - while git's processes run
    here = pending.result()
    here = here.replace(progress=here.progress and not is_unwanted())
    return PipelineHandlers(open_services(here, Reporter().warning, trace, is_abandoned))
