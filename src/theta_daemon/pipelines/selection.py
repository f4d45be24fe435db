"""Which files a checkout leaves as metadata, to be filled in later (`git theta pull`)."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from theta_daemon.errors import RepositoryError

if TYPE_CHECKING:
    from pathspec import GitIgnoreSpec

    from theta_daemon.settings import Settings


class Selection:
    """What settings say about paths; patterns are read when the first path is asked for."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def leaves(self, path: bytes) -> bool:
        """Whether the file at `path`, from the top of the work tree, stays metadata in a checkout.

        Raises RepositoryError for a pattern that is none.
        """
        return self._settings.skip_smudge or not self.includes(path)

    def includes(self, path: bytes) -> bool:
        """Whether theta.fetchInclude and theta.fetchExclude let the file at `path` be filled in."""
        settings = self._settings
        if not settings.fetch_include and not settings.fetch_exclude:
            return True
        included, excluded = self._patterns
        name = path.decode("utf-8", "surrogateescape")
        return (included is None or included.match_file(name)) and not (
            excluded is not None and excluded.match_file(name)
        )

    @cached_property
    def _patterns(self) -> tuple[GitIgnoreSpec | None, GitIgnoreSpec | None]:
        return (
            _spec(self._settings.fetch_include, "theta.fetchInclude"),
            _spec(self._settings.fetch_exclude, "theta.fetchExclude"),
        )


def _spec(patterns: tuple[str, ...], key: str) -> GitIgnoreSpec | None:
    from pathspec import GitIgnoreSpec  # 30 ms, and few have such patterns

    try:
        return GitIgnoreSpec.from_lines(patterns) if patterns else None
    except ValueError as error:
        raise RepositoryError(f"{key} = {','.join(patterns)!r:.80} is no list of patterns: {error}") from None
