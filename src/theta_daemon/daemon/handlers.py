"""What the daemon answers requests with: the pipelines, wired to one repository.

Imported at the first request, after the handshake was answered: git waits for nothing heavy. The child
processes that find the repository and its configuration run while the heavy modules are imported.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from theta_daemon import settings
from theta_daemon.daemon.report import Reporter

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from theta_daemon.formats.source import Readable
    from theta_daemon.pipelines.services import Services


class PipelineHandlers:
    """Clean and smudge for one repository."""

    def __init__(self, services: Services) -> None:
        self._services = services

    def clean(self, path: bytes, content: Readable) -> Iterable[bytes | memoryview]:
        """Return the metadata for a checkpoint."""
        from theta_daemon.pipelines.clean import clean  # a checkout needs no format reader, and an add no emitter

        return clean(self._services, path, content)

    def smudge(
        self,
        path: bytes,
        content: Readable,
        *,
        ref: str | None = None,
        treeish: str | None = None,
        blob: str | None = None,
    ) -> Iterator[bytes | memoryview]:
        """Yield the checkpoint for metadata."""
        from theta_daemon.pipelines.smudge import smudge

        return smudge(self._services, path, content)

    def close(self) -> None:
        """End the child process that reads the record."""
        self._services.close()


def make_handlers() -> PipelineHandlers:
    """Open the repository of the current directory and environment.

    Raises RepositoryError, ThetaError when there is none or its settings are wrong.
    """
    pending = settings.begin(os.environ, Path.cwd())
    from theta_daemon.pipelines.services import open_services

    return PipelineHandlers(open_services(pending.result(), Reporter().warning))
