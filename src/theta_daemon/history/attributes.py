"""What .gitattributes says of a path, as git itself tells it.

One short child a question: the answer must not be older than the question, because a checkout writes .gitattributes
and what it speaks of by turns. It is asked rarely, for metadata that git-theta wrote.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from theta_daemon import gitcmd
from theta_daemon.history.catfile import local_environment

if TYPE_CHECKING:
    from theta_daemon.settings import Settings

CHECKPOINT_TYPE = "theta-format"

_NONE = {b"unspecified", b"unset", b"set"}  # not there, `-theta-format`, and without a value


class GitAttributes:
    """The attributes of a real repository. May be used from any thread."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def checkpoint_type(self, path: bytes) -> str | None:
        """Return the value of `theta-format` for `path` (as git names it: from the top of the work tree).

        None where there is none, and in a bare repository as far as git reads no attributes there.
        Raises RepositoryError when git fails.
        """
        if b"\0" in path:
            return None  # no path in git
        top = self._settings.work_tree
        environment = local_environment(self._settings)
        if top is not None:  # where the filter was started elsewhere, paths must still start from the top
            environment |= {"GIT_DIR": str(self._settings.git_dir), "GIT_WORK_TREE": str(top)}
        arguments = ["check-attr", "-z", CHECKPOINT_TYPE, "--", os.fsdecode(path)]
        code, out, err = gitcmd.collect(gitcmd.start(arguments, environment, top or self._settings.directory))
        if code != 0:
            if top is None or gitcmd.lacks_what_was_promised(err):
                return None
            raise gitcmd.failure("git check-attr", code, err)
        value = out.split(b"\0")[2]
        return None if value in _NONE else os.fsdecode(value)
