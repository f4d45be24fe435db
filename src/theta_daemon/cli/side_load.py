"""`git theta add FILE --update-path UPDATES`: the file gets the updates, in the work tree and in the index.

All is worked out and written beside the file before anything is replaced. Then the index gets the metadata, the file
its new content, and git looks at it once, so that nothing is left to do for `git status`.
"""

from __future__ import annotations

import io
import json
import os
import stat
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, cast

from theta_daemon import durable, gitcmd
from theta_daemon.cli.terminal import shown, warn
from theta_daemon.errors import RepositoryError, UsageError, reason
from theta_daemon.updates.kinds import DENSE, IA3, LOW_RANK, SPARSE

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from theta_daemon.cli.verb import Place
    from theta_daemon.metadata.entries import Name
    from theta_daemon.pipelines.services import Services
    from theta_daemon.pipelines.sideload import Parameters, Updates
    from theta_daemon.updates.array import Array

_TYPES = (SPARSE, LOW_RANK, IA3)
_ADAPTER, _CONFIG = "adapter_model.safetensors", "adapter_config.json"
_MOST_CONFIG = 16 << 20
_REGULAR = ("100644", "100755")


def side_load(place: Place, left: Sequence[str], updates: str, update_type: str | None) -> int:
    """Do it. Raises UsageError, and whatever makes it impossible; then nothing was staged."""
    from theta_daemon.pipelines.services import open_services
    from theta_daemon.pipelines.sideload import sideload

    file = _one_file(left)
    mode, path = _staged(place, file)
    find = _finder(place.directory / updates, update_type)
    services = open_services(place.settings(), lambda path, text: warn(f"{shown(path)}: {text}"))
    try:
        with _opened(place.directory / file) as content:
            metadata = sideload(services, path, cast("io.RawIOBase", content), find)
        _replace(services, place, place.directory / file, (mode, path), metadata)
    finally:
        services.close()
    return gitcmd.hand_over(["--literal-pathspecs", "add", "--", file], place.git.environment, place.directory)


def _one_file(left: Sequence[str]) -> str:
    files = [argument for argument in left if argument != "--"]
    if len(files) != 1 or (files[0].startswith("-") and "--" not in left):
        raise UsageError(
            "updates from a file of their own are for one FILE, without options of git add",
            hint="git theta add FILE --update-type TYPE --update-path UPDATES",
        )
    return files[0]


def _staged(place: Place, file: str) -> tuple[str, bytes]:
    """Return mode and path, as git names it, of a tracked file."""
    rows = place.git.items("ls-files", "-z", "--stage", "--full-name", "--", f":(literal){file}")
    if len(rows) != 1:
        what = "git does not track it yet" if not rows else "it is in conflict, or a directory"
        raise UsageError(f"{shown(os.fsencode(file))}: {what}", hint="add and commit the checkpoint first")
    facts, _, path = rows[0].partition(b"\t")
    mode = facts.split(b" ")[0].decode("ascii")
    if mode not in _REGULAR or (place.directory / file).is_symlink():
        raise UsageError(f"{shown(os.fsencode(file))} is no regular file")
    answer = place.git.items("check-attr", "-z", "filter", "--", file)
    if answer[2] != b"theta":
        raise UsageError(f"{shown(os.fsencode(file))} is not tracked by theta", hint="git theta track it first")
    return mode, path


def _finder(updates: Path, update_type: str | None) -> partial[Updates]:
    """Return what makes updates of the file's tensors, once the parameters are known."""
    from theta_daemon.formats.source import Source
    from theta_daemon.pipelines.loose import arrays

    file = updates / _ADAPTER if updates.is_dir() else updates
    config = _config(file.with_name(_CONFIG))
    if config is None and update_type not in _TYPES:
        raise UsageError("say of which type the updates are", hint=f"--update-type {'|'.join(_TYPES)}")
    with _opened(file) as content:
        found = arrays(Source(cast("io.RawIOBase", content)))
    if config is None:
        return partial(_named, update_type or "", found)
    return partial(_adapter, config, update_type, {"/".join(name): array for name, array in found.items()})


def _named(
    update_type: str, arrays: Mapping[Name, Array], parameters: Parameters, _holds: Callable[[Name, Array], bool]
) -> Updates:
    from theta_daemon.updates.named import named

    return {name: (update_type, found) for name, found in named(update_type, arrays, parameters).items()}


def _adapter(
    config: Mapping[str, object],
    update_type: str | None,
    arrays: Mapping[str, Array],
    parameters: Parameters,
    holds: Callable[[Name, Array], bool],
) -> Updates:
    from theta_daemon.updates.peft import adapter

    found = adapter(config, arrays, parameters, holds)
    types = {each for each, _ in found.values()} - {DENSE}
    if update_type is not None and types - {update_type}:
        raise UsageError(f"the adapter holds {', '.join(sorted(types))} updates, not {update_type}")
    return found


def _config(file: Path) -> Mapping[str, object] | None:
    """Return what an adapter's configuration says; None where the updates are no adapter."""
    if not file.exists():
        return None
    with _opened(file) as content:
        data = content.read(_MOST_CONFIG + 1)
    try:
        config = json.loads(data) if len(data) <= _MOST_CONFIG else None
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise UsageError(f"{shown(os.fsencode(file))} is no adapter configuration")
    return config


def _opened(file: Path) -> io.FileIO:
    try:
        return io.FileIO(os.fspath(file), "rb")
    except OSError as error:
        raise UsageError(f"cannot read updates or checkpoint: {reason(error)}") from error


def _replace(services: Services, place: Place, file: Path, staged: tuple[str, bytes], metadata: bytes) -> None:
    """Give the index the metadata, and the file the content that it describes."""
    from theta_daemon.pipelines.smudge import smudge

    mode, path = staged
    temporary = None
    try:
        temporary = durable.temporary_name(_beside(file, services.settings.temporary))
        with open(temporary, "xb") as target:
            os.fchmod(target.fileno(), stat.S_IMODE(file.stat().st_mode))
            target.writelines(smudge(services, path, io.BytesIO(metadata)))
        blob = place.git.output("hash-object", "-w", "--stdin", stdin=metadata).strip()
        row = mode.encode("ascii") + b" " + blob + b"\t" + path + b"\0"
        place.git.at_top().output("update-index", "-z", "--index-info", stdin=row)
        os.replace(temporary, file)
    except OSError as error:
        raise RepositoryError(f"cannot write {shown(os.fsencode(file))}: {reason(error)}", hint="make room") from error
    finally:
        if temporary is not None:
            with suppress(FileNotFoundError):
                os.unlink(temporary)


def _beside(file: Path, preferred: Path) -> Path:
    """Return a directory on the file system of `file`: `preferred`, which is swept, or its own."""
    preferred.mkdir(parents=True, exist_ok=True)
    return preferred if preferred.stat().st_dev == file.parent.stat().st_dev else file.parent
