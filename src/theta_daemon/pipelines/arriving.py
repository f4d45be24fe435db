"""Files that wait for objects from a remote: each goes on as soon as its own have come."""

from __future__ import annotations

from typing import TYPE_CHECKING

from theta_daemon.pipelines import smudge

if TYPE_CHECKING:
    from collections.abc import Iterator

    from theta_daemon.metadata.entries import ObjectRef
    from theta_daemon.pipelines.services import Services
    from theta_daemon.store.fetch import Batch


class _File:
    """What is known of a file, what was asked for it so far, and the last of it."""

    def __init__(self, services: Services, lacking: smudge.Lacking) -> None:
        self.asked: set[ObjectRef] = set()
        self.lacking = lacking
        self.batch: Batch = smudge.want(services, lacking, self.asked)

    def ask(self, services: Services, lacking: smudge.Lacking) -> None:
        """Ask for what turned out to be missing too."""
        self.lacking, self.batch = lacking, smudge.want(services, lacking, self.asked)


class Arriving:
    """Such files, in the order in which they were added."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._files: dict[bytes, _File] = {}
        self._is_first = True
        self._settled = 0

    def __bool__(self) -> bool:
        return bool(self._files)

    def add(self, lacking: smudge.Lacking) -> None:
        """Ask for what a file lacks."""
        self._files[lacking.path] = _File(self._services, lacking)

    @property
    def has_news(self) -> bool:
        """Whether something may have come for a file since `come` was asked last."""
        return bool(self._files) and self._services.fetcher.settled != self._settled

    def come(self) -> Iterator[tuple[bytes, smudge.Plan | Exception]]:
        """Take out the files whose objects have come, or will not come, and yield what becomes of each; never wait."""
        self._settled = self._services.fetcher.settled
        for path, file in list(self._files.items()):
            if not file.batch.is_settled:
                continue
            try:
                smudge.require(file.lacking, file.batch)
                plan = smudge.plan(self._services, path, file.lacking.held)
                if isinstance(plan, smudge.Lacking):
                    file.ask(self._services, plan)
                    continue
            except Exception as error:  # noqa: BLE001 - it is this file's, and is raised when git asks for it
                del self._files[path]
                yield path, error
            else:
                del self._files[path]
                yield path, plan

    def wait(self) -> None:
        """Wait until objects of some file have all come, or will not come."""
        # From git's first file on the terminal is git's: it shows a meter of its own there.
        shown = self._is_first and self._services.settings.progress
        self._is_first = False
        with self._services.fetcher.shown(shown=shown, lines=False):
            self._services.fetcher.wait([file.batch for file in self._files.values()])

    def take(self, path: bytes) -> smudge.Held | None:
        """Take out a file that has not come yet."""
        file = self._files.pop(path, None)
        return None if file is None else file.lacking.held
