"""The pre-push hook, beside whatever else is there.

git pushes commits and knows nothing of objects; a hook sends these first. There can be one pre-push hook, and it may be
git-lfs's, the user's own, or that of a program that manages hooks. So ours is a block of lines with marks around it:
alone in a new file, or in front of the others in a script for the shell. It reads git's list of refs from standard
input, and gives the same list to what follows. pre-commit runs the hook that it found when it came, and ours goes
there. What cannot be chained so is left alone, and `Hook.advice` says what to add by hand, until that is done.

git-lfs, whose filter installs its hook wherever there is none, puts none beside ours. So where there was none, ours
sends its files too: nobody's push may leave them behind because of us.
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

_HEAD: Final = """# Sends the objects of checkpoints (git theta install). The list of refs is for others as well.
theta_refs=$(cat)
"""
_OURS: Final = """if ! command -v git-theta >/dev/null 2>&1; then
    echo >&2 "This repository keeps checkpoints with theta-daemon, and git-theta is not on PATH: nothing is pushed."
    echo >&2 "Install it, or, where it is not used any more, remove its lines from the pre-push hook."
    exit 2
fi
[ -z "$theta_refs" ] || printf '%s\\n' "$theta_refs" | git theta pre-push "$@" || exit $?
"""
_GIT_LFS: Final = """# Git LFS puts no hook of its own beside this one: the objects of its files are sent from here.
if [ -n "$theta_refs" ] && command -v git-lfs >/dev/null 2>&1 &&
    { git config --get filter.lfs.process || git config --get filter.lfs.clean; } >/dev/null; then
    printf '%s\\n' "$theta_refs" | git lfs pre-push "$@" || exit $?
fi
"""
_TAIL: Final = """if [ -n "$theta_refs" ]; then
    exec <<THETA_REFS
$theta_refs
THETA_REFS
else
    exec </dev/null
fi
"""

BLOCK: Final = f"{_BEGIN}\n{_HEAD}{_OURS}{_TAIL}{_END}\n"
# Where no hook was before: Git LFS would have put its own there, and puts none beside another.
BLOCK_WITH_LFS: Final = f"{_BEGIN}\n{_HEAD}{_OURS}{_GIT_LFS}{_TAIL}{_END}\n"
_LFS_PART: Final = f"# Git LFS's part of what theta-daemon wrote here.\ntheta_refs=$(cat)\n{_GIT_LFS}{_TAIL}"
LFS_ALONE: Final = f"#!/bin/sh\n{_LFS_PART}".encode()

_SHELL: Final = re.compile(rb"#!\s*(?:/\S*/)?(?:env\s+)?(?:\S*/)?(?:ba|da|k|z|a)?sh\b[^\n]*\n")
# Also in other languages than the shell's: ["git", "theta", "pre-push"].
_CALLS_US: Final = re.compile(rb"^[^#\n]*\bgit(?:-|[ \"',]+)theta\b[^\n|&;#]*\b(?:pre-)?push\b", re.MULTILINE)
_CALLS_LFS: Final = re.compile(rb"^[^#\n]*\bgit(?:-|[ \"',]+)lfs\b[^\n|&;#]*\bpre-push\b", re.MULTILINE)
_BLOCK: Final = re.compile(re.escape(_BEGIN.encode()) + rb"\n.*?" + re.escape(_END.encode()) + rb"\n", re.DOTALL)
_PIPE: Final = 'printf "%s\\n" "$refs" |'
_LINES: Final = (
    f'`refs=$(cat)`, then `{_PIPE} git theta pre-push "$@" || exit 1`, and put `{_PIPE}` before what else reads the '
    "list of refs there, such as `git lfs pre-push`"
)

# Programs that write hooks themselves, and lose what others add to them: how to tell them what to run.
_MANAGERS: Final = {
    "pre-commit": "let `pre-commit install --hook-type pre-push` write a file of its own, and run this again",
    "lefthook": (
        'add to lefthook.yml, below `pre-push: commands:`: `theta: {run: "git theta pre-push {0}", use_stdin: true}`'
    ),
    "husky": f"add to .husky/pre-push {_LINES}",
}
_LEGACY: Final = f"{_NAME}.legacy"  # what pre-commit found in its place; it runs that first, with the list of refs


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

    Where pre-commit wrote the hook, that is the one which pre-commit runs first.

    Raises RepositoryError where there is no repository.
    """
    lines = gitcmd.output(
        ["rev-parse", "--path-format=absolute", "--git-path", "hooks", "--git-common-dir"],
        environment,
        directory,
    ).split(b"\n")
    from pathlib import Path

    path, common = Path(os.fsdecode(lines[0]), _NAME), Path(os.fsdecode(lines[1]))
    is_own = os.path.realpath(path.parent) == os.path.join(os.path.realpath(common), "hooks")
    found = _at(path, is_own)
    if found.advice is None:
        return found
    manager = _manager(path, _read(path))
    if manager == "pre-commit" and is_own:
        return _at(path.with_name(_LEGACY), is_own)
    if manager is not None and _is_told(manager, path, environment, directory):
        return Hook(path, None, None)
    return found


def _at(path: Path, is_own: bool) -> Hook:
    if not os.path.lexists(path):
        return planned(path, None, True, is_own)
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            return Hook(path, None, _by_hand("it is no file"))
        present = path.read_bytes()
    except OSError as error:
        return Hook(path, None, _by_hand(f"it cannot be read ({error.strerror})"))
    return planned(path, present, bool(mode & stat.S_IXUSR), is_own, is_link=path.is_symlink())


def _is_told(manager: str, path: Path, environment: Mapping[str, str], directory: Path) -> bool:
    """Tell whether the configuration of a manager of hooks has it call us."""
    if manager == "husky":
        files = [path.parent.parent / _NAME]
    else:
        try:
            top = gitcmd.output(["rev-parse", "--show-toplevel"], environment, directory).removesuffix(b"\n")
        except RepositoryError:
            return False
        from pathlib import Path

        files = [*Path(os.fsdecode(top)).glob("*lefthook*.*"), *Path(os.fsdecode(top)).glob(".config/*lefthook*.*")]
    return any(_CALLS_US.search(_read(file)) for file in files)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def planned(path: Path, present: bytes | None, is_executable: bool, is_own: bool, *, is_link: bool = False) -> Hook:
    """Return what is to be done about a hook with the content `present`, None where there is no file.

    `is_own` tells that it is this repository's alone: not in a directory that `core.hooksPath` names.
    """
    manager = _MANAGERS.get(_manager(path, present or b"") or "")
    if present is None:
        advice = manager or (None if is_own else _by_hand(f"core.hooksPath names {path.parent}"))
        return Hook(path, None if advice else b"#!/bin/sh\n" + BLOCK_WITH_LFS.encode(), advice)
    if not is_executable:
        return Hook(path, None, _by_hand("it is not executable, so git does not run it"))
    may_write = is_own and not is_link
    if _CALLS_US.search(present):
        fresh = _renewed(present)
        return Hook(path, fresh if may_write and fresh != present else None, None)
    advice = manager
    if advice is None and not may_write:
        advice = _by_hand("it is a symbolic link" if is_own else f"core.hooksPath names {path.parent}")
    shebang = _SHELL.match(present)
    if advice is None and (shebang is None or b"\r" in present or b"\0" in present):
        advice = _by_hand("it is no script for the shell")
    if advice is not None or shebang is None:
        return Hook(path, None, advice)
    return Hook(path, present[: shebang.end()] + BLOCK.encode() + present[shebang.end() :], None)


def is_current(present: bytes) -> bool:
    """Tell, without a look at anything else, whether a hook's content holds our lines as they should be."""
    return BLOCK.encode() in present or BLOCK_WITH_LFS.encode() in present


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


def without(present: bytes, *, sends_lfs: bool) -> bytes | None:
    """Return a hook without our lines, None where nothing is left; as it is where it has none.

    `sends_lfs` tells that Git LFS's part, which may stand among our lines, is to stay where others follow.
    """
    block = _BLOCK.search(present)
    if block is None:
        return present
    rest = _BLOCK.sub(b"", present, count=1)
    if not rest.removeprefix(b"#!/bin/sh\n").strip():
        return None
    if sends_lfs and _CALLS_LFS.search(block[0]) and not _CALLS_LFS.search(rest):
        return _BLOCK.sub(lambda _: _LFS_PART.encode(), present, count=1)
    return rest


def _renewed(present: bytes) -> bytes:
    """Return a hook with our lines as they are today; as it is where others call us."""
    block = _BLOCK.search(present)
    if block is None:
        return present
    rest = _BLOCK.sub(b"", present, count=1)
    is_alone = not rest.removeprefix(b"#!/bin/sh\n").strip()
    sends_lfs = not _CALLS_LFS.search(rest) and (is_alone or _CALLS_LFS.search(block[0]) is not None)
    return _BLOCK.sub(lambda _: (BLOCK_WITH_LFS if sends_lfs else BLOCK).encode(), present, count=1)


def _manager(path: Path, present: bytes) -> str | None:
    if b"generated by pre-commit" in present.lower():
        return "pre-commit"
    if b"lefthook" in present.lower():
        return "lefthook"
    if ".husky" in path.parts or b"husky" in present.lower():
        return "husky"
    return None


def _by_hand(why: str) -> str:
    what = (
        "have it run `git theta pre-push` with its own arguments and standard input (in a script for the shell: add "
        f"{_LINES}); or send objects with `git theta push`"
    )
    return f"{why}: {what}" if why else what
