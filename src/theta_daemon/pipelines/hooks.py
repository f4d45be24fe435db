"""The pre-push hook, beside whatever else is there.

git pushes commits and knows nothing of objects; a hook sends these first. There can be one pre-push hook, and it may be
git-lfs's, the user's own, or that of a program that manages hooks. So ours is a block of lines with marks around it:
alone in a new file, or in front of the others in a script for the shell. It reads git's list of refs from standard
input, and gives the same list to what follows. What cannot be chained so is left alone, and `Hook.advice` says what to
add by hand.
"""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING, Final

from theta_daemon import durable, gitcmd
from theta_daemon.errors import RepositoryError, reason
from theta_daemon.frozen import Frozen

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_NAME: Final = "pre-push"
_BEGIN: Final = "# >>> theta-daemon >>>"
_END: Final = "# <<< theta-daemon <<<"

BLOCK: Final = f"""{_BEGIN}
# Sends the objects of checkpoints (git theta install). The list of refs on standard input is for others as well.
theta_refs=$(cat)
if ! command -v git-theta >/dev/null 2>&1; then
    echo >&2 "This repository keeps checkpoints with theta-daemon, and git-theta is not on PATH: nothing is pushed."
    echo >&2 "Install it, or, where it is not used any more, remove its lines from the pre-push hook."
    exit 2
fi
printf '%s\\n' "$theta_refs" | git theta pre-push "$@" || exit $?
if [ -n "$theta_refs" ]; then
    exec <<THETA_REFS
$theta_refs
THETA_REFS
else
    exec </dev/null
fi
{_END}
"""

_SHELL: Final = re.compile(rb"#!\s*(?:/\S*/)?(?:env\s+)?(?:\S*/)?(?:ba|da|k|z|a)?sh\b[^\n]*\n")
_CALLS_US: Final = re.compile(rb"^[^#\n]*\bgit[ -]theta(?: [^\n|&;]*)? pre-push\b", re.MULTILINE)
_BLOCK: Final = re.compile(re.escape(_BEGIN.encode()) + rb"\n.*?" + re.escape(_END.encode()) + rb"\n", re.DOTALL)
_LINE: Final = 'git theta pre-push "$@"'

# Programs that write hooks themselves, and lose what others add to them: how to tell them what to run.
_MANAGERS: Final = {
    b"pre-commit": (
        "add to .pre-commit-config.yaml, below `repos`: `- {repo: local, hooks: [{id: theta, name: theta, language: "
        "system, entry: git theta push, pass_filenames: false, always_run: true, stages: [pre-push]}]}`"
    ),
    b"lefthook": (
        "add to lefthook.yml, below `pre-push: commands:`: `theta: {run: git theta pre-push {0}, use_stdin: true}`"
    ),
    b"husky": f"add to .husky/pre-push, before all that reads standard input: `{_LINE}`",
}


class Hook(Frozen):
    """A pre-push hook: where it lies, what it should hold (None: no change), and what is to be done by hand."""

    path: Path
    content: bytes | None
    advice: str | None

    @property
    def is_ours(self) -> bool:
        """Whether it sends objects already."""
        return self.content is None and self.advice is None


def look(environment: Mapping[str, str], directory: Path) -> Hook:
    """Return what is to be done about the hook of the repository that `directory` is in.

    Raises RepositoryError where there is none.
    """
    lines = gitcmd.output(
        ["rev-parse", "--path-format=absolute", "--git-path", f"hooks/{_NAME}", "--git-common-dir"],
        environment,
        directory,
    ).split(b"\n")
    from pathlib import Path

    path, common = Path(os.fsdecode(lines[0])), Path(os.fsdecode(lines[1]))
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        status = None
    except OSError as error:
        return Hook(path, None, f"it cannot be read ({error.strerror})")
    present, is_executable = b"", True
    if status is not None:
        if not stat.S_ISREG(status.st_mode):
            return Hook(path, None, _by_hand("it is no file of its own"))
        present, is_executable = path.read_bytes(), bool(status.st_mode & stat.S_IXUSR)
    return planned(path, present if status is not None else None, is_executable, path.parent.parent == common)


def planned(path: Path, present: bytes | None, is_executable: bool, is_own: bool) -> Hook:
    """Return what is to be done about a hook with the content `present`, None where there is no file.

    `is_own` tells that it is this repository's alone: not in a directory that `core.hooksPath` names.
    """
    manager = _manager(path, present or b"")
    if present is not None and is_executable and (_CALLS_US.search(present) or b"git theta push" in present):
        fresh = _BLOCK.sub(lambda _: BLOCK.encode(), present, count=1)
        return Hook(path, None if fresh == present or not is_own else fresh, None)
    if manager is not None:
        return Hook(path, None, manager)
    if not is_own:
        return Hook(path, None, _by_hand(f"core.hooksPath names {path.parent}, which may be shared"))
    if present is None:
        return Hook(path, b"#!/bin/sh\n" + BLOCK.encode(), None)
    if not is_executable:
        return Hook(path, None, _by_hand("it is not executable, so git does not run it"))
    shebang = _SHELL.match(present)
    if shebang is None or b"\r" in present or b"\0" in present:
        return Hook(path, None, _by_hand("it is no script for the shell"))
    return Hook(path, present[: shebang.end()] + BLOCK.encode() + present[shebang.end() :], None)


def write(hook: Hook) -> None:
    """Give the hook its content. Raises RepositoryError where it cannot be written."""
    if hook.content is None:
        return
    try:
        hook.path.parent.mkdir(parents=True, exist_ok=True)
        durable.write(hook.path, [hook.content], temporary=hook.path.parent, replace=True, mode=0o755)
        hook.path.chmod(0o755)
    except OSError as error:
        raise RepositoryError(f"the pre-push hook cannot be written: {reason(error)}", hint=_by_hand("")) from error


def without(present: bytes) -> bytes | None:
    """Return a hook without our block, None where nothing is left; as it is where it has none."""
    left = _BLOCK.sub(b"", present)
    return None if left != present and not left.removeprefix(b"#!/bin/sh\n").strip() else left


def _manager(path: Path, present: bytes) -> str | None:
    if b"generated by pre-commit" in present.lower():
        return _MANAGERS[b"pre-commit"]
    if b"lefthook" in present.lower():
        return _MANAGERS[b"lefthook"]
    if ".husky" in path.parts or b"husky" in present.lower():
        return _MANAGERS[b"husky"]
    return None


def _by_hand(why: str) -> str:
    what = f"add the line `{_LINE}` to it, with git's standard input, or send objects with `git theta push`"
    return f"{why}: {what}" if why else what
